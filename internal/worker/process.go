package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"brane/internal/datapath"
	"brane/internal/datapath/userspace"
	"brane/internal/fault"
	"brane/internal/linux/confine"
	"brane/internal/linux/unixmsg"
	"brane/internal/plan"
)

// Main is the worker process: its first act is to give everything up.
func Main() int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "worker")
	c, err := unixmsg.FromFD(3)
	if err != nil {
		fmt.Fprintln(os.Stderr, "brane worker: started by hand: it is the daemon that starts it")
		return 64
	}
	if err := confine.Worker(); err != nil {
		log.Error("not confined", "err", err)
		return 70
	}
	p := newProcess(unixmsg.NewConn(unixmsg.NewStream(c, MaxMessage)), log)
	err = p.conn.Serve(p.serve)
	p.close()
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
		log.Error("daemon lost", "err", err)
	}
	return 0
}

// process is what lives in the worker: one datapath, a gateway for each mux
// whose plan has one.
type process struct {
	conn *unixmsg.Conn
	log  *slog.Logger
	path datapath.Datapath

	mu       sync.Mutex // one plan at a time
	gateways map[string]*gateway
	plans    map[string]*plan.Mux // in force; never changed
}

func newProcess(conn *unixmsg.Conn, log *slog.Logger) *process {
	p := &process{conn: conn, log: log, gateways: map[string]*gateway{}, plans: map[string]*plan.Mux{}}
	p.path = userspace.New(datapath.Events{Closed: p.closed}, log)
	return p
}

func (p *process) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.path.Close()
	for _, g := range p.gateways {
		g.close()
	}
}

// closed tells the daemon without waiting for it.
func (p *process) closed(mux string, id plan.PortID, cause error) {
	note := closed{Mux: mux, Port: id}
	if cause != nil {
		note.Cause = cause.Error()
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = p.conn.Notify(ctx, noteClosed, note, nil)
	}()
}

// serve answers the daemon.
func (p *process) serve(_ context.Context, r *unixmsg.Request) (any, []int, error) {
	switch r.Verb {
	case verbPlan:
		var m plan.Mux
		if err := r.Decode(&m); err != nil {
			return nil, nil, err
		}
		return nil, nil, p.apply(&m)
	case verbChange:
		var c change
		if err := r.Decode(&c); err != nil {
			return nil, nil, err
		}
		return nil, nil, p.change(&c)
	case verbRemove:
		var n muxName
		if err := r.Decode(&n); err != nil {
			return nil, nil, err
		}
		return nil, nil, p.remove(n.Mux)
	case verbAttach:
		var a attach
		if err := r.Decode(&a); err != nil {
			return nil, nil, err
		}
		fds := r.Claim()
		if len(fds) != 1 {
			unixmsg.CloseFDs(fds)
			return nil, nil, fault.New(fault.Invalid, "attach port", a.Mux, "%d descriptors, not one", len(fds))
		}
		return nil, nil, p.path.Attach(a.Mux, a.Port, datapath.Endpoint{Kind: a.Kind, FD: fds[0], Greeting: a.Greeting})
	case verbForward:
		var f forward
		if err := r.Decode(&f); err != nil {
			return nil, nil, err
		}
		fds := r.Claim()
		if len(fds) != 1 {
			unixmsg.CloseFDs(fds)
			return nil, nil, fault.New(fault.Invalid, "forward", f.Mux, "%d descriptors, not one", len(fds))
		}
		return nil, nil, p.forward(f, fds[0])
	case verbCounters:
		var n muxName
		if err := r.Decode(&n); err != nil {
			return nil, nil, err
		}
		return p.path.Counters(n.Mux), nil, nil
	case verbDrops:
		var s since
		if err := r.Decode(&s); err != nil {
			return nil, nil, err
		}
		return p.path.Drops(s.Seq), nil, nil
	}
	return nil, nil, fault.New(fault.Invalid, "serve daemon", r.Verb, "no such verb")
}

// apply puts a plan in force and brings the gateway to it: the gateway learns
// of new addresses before frames for them arrive, and of gone ones after.
func (p *process) apply(m *plan.Mux) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.enforce(m)
}

// change is apply for a plan that comes as its difference from the one in force.
func (p *process) change(c *change) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := c.on(p.plans[c.Plan.Name])
	if err != nil {
		return err
	}
	return p.enforce(m)
}

func (p *process) enforce(m *plan.Mux) error {
	g := p.gateways[m.Name]
	if g != nil && (m.Gateway == nil || g.port != m.Gateway.Port) {
		g.close()
		delete(p.gateways, m.Name)
		g = nil
	}
	fresh := g == nil && m.Gateway != nil
	if m.Gateway != nil {
		var err error
		if fresh {
			g, err = newGateway(p, m)
		} else {
			err = g.update(m)
		}
		if err != nil {
			return err
		}
	}
	if err := p.path.Apply(m); err != nil {
		if fresh {
			g.close()
		}
		return err
	}
	p.plans[m.Name] = m
	if fresh {
		if err := p.path.Attach(m.Name, g.port, datapath.Endpoint{Kind: datapath.Local, FD: -1, Deliver: g.deliver}); err != nil {
			g.close()
			return err
		}
		p.gateways[m.Name] = g
		g.start()
	}
	return nil
}

func (p *process) remove(mux string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.plans, mux)
	err := p.path.Remove(mux)
	if g := p.gateways[mux]; g != nil {
		g.close()
		delete(p.gateways, mux)
	}
	return err
}

func (p *process) forward(f forward, fd int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.gateways[f.Mux]
	if g == nil {
		unixmsg.CloseFDs([]int{fd})
		return fault.New(fault.NotFound, "forward", f.Mux, "it has no gateway")
	}
	return g.forward(f, fd)
}
