package worker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/linux/confine"
	"brane/internal/linux/unixmsg"
	"brane/internal/plan"
)

// Owner is what the handle tells the daemon.
type Owner struct {
	// Ready: a new worker runs and knows nothing yet. Gone: it ended.
	Ready, Gone func()
	// Lease answers a DHCP client; the answer is durable and in force.
	Lease   func(ctx context.Context, a LeaseAsk) (Lease, error)
	Release func(ctx context.Context, a LeaseAsk) error
	// Closed: the client of a port is gone.
	Closed func(mux string, id plan.PortID)
}

// Handle is the daemon's end: it keeps one worker running and speaks to it.
type Handle struct {
	owner Owner
	log   *slog.Logger

	mu    sync.Mutex
	conn  *unixmsg.Conn
	pid   int
	plans map[string]*plan.Mux // that the worker has, by mux
}

// NewHandle makes a handle; Run starts the worker.
func NewHandle(o Owner, log *slog.Logger) *Handle { return &Handle{owner: o, log: log} }

// Run keeps a worker running until ctx ends. A worker that keeps dying is
// started again more and more slowly, up to once in two seconds.
func (h *Handle) Run(ctx context.Context) error {
	wait := time.Duration(0)
	for ctx.Err() == nil {
		begun := time.Now()
		if err := h.once(ctx); err != nil && ctx.Err() == nil {
			h.log.Error("worker ended", "err", err)
		}
		if time.Since(begun) > 5*time.Second {
			wait = 0
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*time.Second, 2*wait+10*time.Millisecond)
	}
	return nil
}

// once runs one worker process to its end.
func (h *Handle) once(ctx context.Context) error {
	ours, theirs, err := unixmsg.Pair(syscall.SOCK_STREAM)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fault.From(err, "start worker", "")
	}
	c := exec.Command(self, Mode)
	c.Dir = "/"
	c.Env = []string{"GOMEMLIMIT=1GiB"}
	c.Stderr = os.Stderr
	c.ExtraFiles = []*os.File{theirs}
	c.SysProcAttr = confine.Spawn()
	err = c.Start()
	_ = theirs.Close()
	if err != nil {
		_ = ours.Close()
		return fault.New(fault.Unsupported, "start worker", self, "%v", err).WithRemedy("brane doctor says what this machine allows")
	}
	conn := unixmsg.NewConn(unixmsg.NewStream(ours, MaxMessage))
	h.set(conn, c.Process.Pid)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	go h.owner.Ready()
	err = conn.Serve(h.serve)
	stop()
	h.set(nil, 0)
	_ = conn.Close()
	_ = c.Process.Kill()
	_ = c.Wait()
	h.owner.Gone()
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (h *Handle) set(c *unixmsg.Conn, pid int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conn, h.pid, h.plans = c, pid, map[string]*plan.Mux{}
}

// PID is the process of the worker, 0 while there is none.
func (h *Handle) PID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pid
}

// serve answers what the worker asks.
func (h *Handle) serve(ctx context.Context, r *unixmsg.Request) (any, []int, error) {
	switch r.Verb {
	case verbLease, verbRelease:
		var a LeaseAsk
		if err := r.Decode(&a); err != nil {
			return nil, nil, err
		}
		if r.Verb == verbRelease {
			return nil, nil, h.owner.Release(ctx, a)
		}
		l, err := h.owner.Lease(ctx, a)
		return l, nil, err
	case noteClosed:
		var c closed
		if err := r.Decode(&c); err != nil {
			return nil, nil, err
		}
		go h.owner.Closed(c.Mux, c.Port)
		return nil, nil, nil
	}
	return nil, nil, fault.New(fault.Invalid, "serve worker", r.Verb, "no such verb")
}

func (h *Handle) call(ctx context.Context, verb string, in any, fds []int, out any) error {
	h.mu.Lock()
	c := h.conn
	h.mu.Unlock()
	if c == nil {
		return fault.New(fault.Unavailable, "ask worker", verb, "the worker is starting again").WithRemedy("try again")
	}
	more, err := c.Call(ctx, verb, in, fds, out)
	unixmsg.CloseFDs(more)
	return err
}

// Remove ends a mux.
func (h *Handle) Remove(ctx context.Context, mux string) error {
	h.mu.Lock()
	delete(h.plans, mux)
	h.mu.Unlock()
	return h.call(ctx, verbRemove, muxName{mux}, nil, nil)
}

// Attach hands a descriptor over. It is closed here in every case.
func (h *Handle) Attach(ctx context.Context, mux string, id plan.PortID, e datapath.Endpoint) error {
	defer unixmsg.CloseFDs([]int{e.FD})
	return h.call(ctx, verbAttach, attach{mux, id, e.Kind, e.Greeting}, []int{e.FD}, nil)
}

// Forward hands a listening socket over for a forward of the plan in force. The
// descriptor stays the caller's.
func (h *Handle) Forward(ctx context.Context, mux string, id uint64, proto string, fd int) error {
	return h.call(ctx, verbForward, forward{mux, id, proto}, []int{fd}, nil)
}

// Counters of one mux.
func (h *Handle) Counters(ctx context.Context, mux string) (out []datapath.Counters, err error) {
	return out, h.call(ctx, verbCounters, muxName{mux}, nil, &out)
}

// Drops after a sequence number.
func (h *Handle) Drops(ctx context.Context, seq uint64) (out []datapath.Drop, err error) {
	return out, h.call(ctx, verbDrops, since{seq}, nil, &out)
}
