// Package userspace is the datapath of a process without privilege: a switch
// between descriptors.
//
// Theory of operation. Each attached port has one goroutine that waits on Go's
// poller and then takes up to 64 frames: read one, parse it once, run the
// port's send filters, look up who it is for, run each receiver's filters and
// write it to the receiver's descriptor, there and then. No queue and no second
// goroutine lies between two ports, so nothing wakes anybody but the kernel,
// and a frame's bytes are still in the cache when they are written. The calls
// never wait (internal/linux/rawio): a receiver that is slow loses its own
// frames with the reason queue-full and delays nobody.
//
// A frame inside is a virtio-net header of 12 bytes and the Ethernet frame. The
// header that a client sent is checked against the frame and written anew; a
// receiver that cannot take superframes or partial checksums gets the frame cut
// and completed in software.
//
// A plan is compiled into one immutable value per mux behind an atomic pointer.
// Whoever handles frames does so in a lane, whose state is odd while a batch is
// in hand. Apply stores the new plan and then waits for each lane that is odd
// to leave that state once: a batch that begins later finds the new plan. So
// when Apply returns nothing is judged by the old one, and no reader ever
// waited. Descriptors are closed after the same wait, so that no lane writes to
// a number that has become somebody else's.
//
// Why this way and not with threads of our own around epoll: it was measured.
// With everything on one CPU a goroutine per port and calls hidden from the
// scheduler gave 39 thousand round trips a second, a C program with blocking
// calls 39, own loops in two threads 16 to 33: a thread that blocks in a call
// keeps its share of GOMAXPROCS from the others until the monitor takes it away.
package userspace

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/mux"
	"brane/internal/plan"
	"brane/internal/verdict"
)

// Switch is a datapath.Datapath.
type Switch struct {
	events   datapath.Events
	log      *slog.Logger
	start    time.Time // of the clock that frames are stamped with
	drops    ring
	buffers  buffers
	backlogs backlogs

	muxes   atomic.Pointer[map[string]*network] // a new map for each change
	senders [senders]lane                       // for callers of Send

	control sync.Mutex // held by Apply, Remove, Attach and Close; never by a lane
	closed  bool
	running sync.WaitGroup // the goroutines of ports

	lanesMu sync.Mutex // after control in order
	lanes   map[*lane]struct{}
}

var _ datapath.Datapath = (*Switch)(nil)

// senders is how many callers of Send can be inside at the same time; more
// take turns.
const senders = 16

// network is one mux as long as it lives.
type network struct {
	name string
	core *mux.Core
	plan atomic.Pointer[compiled]
}

// New makes a Switch without muxes. Without a log it says nothing.
func New(ev datapath.Events, log *slog.Logger) *Switch {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Switch{events: ev, log: log, start: time.Now(), lanes: map[*lane]struct{}{}}
	s.muxes.Store(&map[string]*network{})
	for i := range s.senders {
		s.senders[i].init(s)
		s.senders[i].quiet = true
	}
	return s
}

func (s *Switch) now() time.Duration { return time.Since(s.start) }

// Apply is datapath.Datapath's.
func (s *Switch) Apply(m *plan.Mux) error {
	const op = "apply plan"
	s.control.Lock()
	defer s.control.Unlock()
	if s.closed {
		return closedFault(op, m.Name)
	}
	if err := s.admit(m); err != nil {
		return err
	}
	muxes := *s.muxes.Load()
	n := muxes[m.Name]
	if n == nil {
		n = &network{name: m.Name, core: mux.New(mux.TableLimit)}
	}
	old := n.plan.Load()
	rules, err := buildRules(m, old)
	if err != nil {
		return err
	}
	// From here on nothing fails.
	next := n.compile(m, rules)
	n.plan.Store(next)
	if muxes[m.Name] == nil {
		muxes = with(muxes, n)
		s.muxes.Store(&muxes)
	}
	gone := old.without(next)
	connect(muxes)
	s.retire(gone)
	n.core.Settle(next.view)
	return nil
}

// admit says whether m can run beside the other muxes.
func (s *Switch) admit(m *plan.Mux) error {
	if err := plan.Check(m); err != nil {
		return err
	}
	all := []*plan.Mux{m}
	for name, n := range *s.muxes.Load() {
		if name != m.Name {
			all = append(all, n.plan.Load().source)
		}
	}
	return plan.CheckNesting(all)
}

// Remove is datapath.Datapath's.
func (s *Switch) Remove(name string) error {
	s.control.Lock()
	defer s.control.Unlock()
	muxes := *s.muxes.Load()
	n := muxes[name]
	if n == nil {
		return unknownMux("remove mux", name)
	}
	muxes = without(muxes, name)
	s.muxes.Store(&muxes)
	s.shut(n, muxes)
	return nil
}

// shut ends a mux that is no longer in muxes.
func (s *Switch) shut(n *network, muxes map[string]*network) {
	empty := &compiled{network: n, source: &plan.Mux{Name: n.name}}
	gone := n.plan.Swap(empty).without(empty)
	for _, p := range gone {
		p.peer.Store(nil)
	}
	connect(muxes)
	s.retire(gone)
}

// Attach is datapath.Datapath's.
func (s *Switch) Attach(name string, id plan.PortID, e datapath.Endpoint) error {
	const op = "attach port"
	s.control.Lock()
	defer s.control.Unlock()
	p, err := s.vacant(op, name, id)
	if err != nil {
		discard(e)
		return err
	}
	end, err := newEndpoint(s, p, e)
	if err != nil {
		return err
	}
	if len(e.Greeting) > 0 {
		end.hello = e.Greeting
	}
	p.end.Store(end)
	if end.hello != nil {
		end.greet()
	}
	if end.file != nil {
		s.enlist(&end.lane)
		s.running.Go(end.run)
	}
	return nil
}

// vacant gives a port that waits for its endpoint.
func (s *Switch) vacant(op, name string, id plan.PortID) (*port, error) {
	if s.closed {
		return nil, closedFault(op, name)
	}
	p := s.port(name, id)
	switch {
	case p == nil:
		return nil, fault.New(fault.NotFound, op, name, "port %d is not in the plan", id)
	case p.end.Load() != nil:
		return nil, fault.New(fault.Exists, op, name, "port %d is attached already", id)
	case p.peer.Load() != nil:
		return nil, fault.New(fault.Busy, op, name, "port %d is the end of an uplink", id)
	}
	return p, nil
}

// port gives a port of a plan in force, or nil.
func (s *Switch) port(name string, id plan.PortID) *port {
	n := (*s.muxes.Load())[name]
	if n == nil {
		return nil
	}
	if j := n.plan.Load().find(id); j != nil {
		return j.port
	}
	return nil
}

// Send is datapath.Datapath's. It may be called by many goroutines at once.
func (s *Switch) Send(name string, id plan.PortID, buf []byte) (r verdict.Reason) {
	p := s.port(name, id)
	if p == nil {
		return verdict.Closed
	}
	l := s.borrow()
	defer func() {
		if cause := recover(); cause != nil {
			r = s.isolated(p, cause)
		}
		l.leave()
	}()
	if e := p.end.Load(); e == nil || e.kind != datapath.Local {
		return verdict.Closed
	}
	return l.receive(p, buf)
}

// Close is datapath.Datapath's.
func (s *Switch) Close() error {
	s.control.Lock()
	s.closed = true
	muxes := *s.muxes.Load()
	s.muxes.Store(&map[string]*network{})
	for _, n := range muxes {
		s.shut(n, nil)
	}
	s.control.Unlock()
	s.running.Wait() // not under the lock: one of them may be telling its owner, who calls
	return nil
}

func closedFault(op, subject string) error {
	return fault.New(fault.Unavailable, op, subject, "the datapath is closing")
}

func unknownMux(op, name string) error {
	return fault.New(fault.NotFound, op, name, "there is no such mux")
}

func with(muxes map[string]*network, n *network) map[string]*network {
	out := make(map[string]*network, len(muxes)+1)
	for k, v := range muxes {
		out[k] = v
	}
	out[n.name] = n
	return out
}

func without(muxes map[string]*network, name string) map[string]*network {
	out := make(map[string]*network, len(muxes))
	for k, v := range muxes {
		if k != name {
			out[k] = v
		}
	}
	return out
}
