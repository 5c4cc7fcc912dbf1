// Package server is the doors of a daemon: the HTTP API, the device socket, and
// the one question that may be asked from inside a brane. Each door asks who is
// at the other end before it reads a byte of a request.
//
// Theory of operation. A request is admitted by its peer (same user, not
// inside a brane), becomes a transaction of network.Service, and is answered
// when the controller has brought the worker to it: after the answer no frame
// is judged by the old plan. The device socket hands the accepted descriptor,
// or the one that came with the request, on to the worker; a TAP's connection
// stays here as the sign of life of its client.
package server

import (
	"context"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"brane/client"
	"brane/internal/broker"
	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/linux/nsexec"
	"brane/internal/linux/peer"
	"brane/internal/network"
	"brane/internal/plan"
	"brane/internal/store"
)

// Worker is what the doors ask of the worker process.
type Worker interface {
	// Attach hands a descriptor over; it belongs to the worker afterwards and is
	// closed here in every case.
	Attach(ctx context.Context, mux string, id plan.PortID, e datapath.Endpoint) error
	Counters(ctx context.Context, mux string) ([]datapath.Counters, error)
	Drops(ctx context.Context, since uint64) ([]datapath.Drop, error)
	PID() int
}

// Broker is what the doors ask of the broker process.
type Broker interface {
	Namespaces(ctx context.Context) (nsexec.Outer, error)
	Veth(ctx context.Context, netns *os.File, v broker.Veth) (*os.File, error)
	PID() int
}

// Listeners holds the published ports of the host.
type Listeners interface {
	// Open listens; the host's port being taken is an error of kind Busy.
	Open(p network.Publish) error
	// Settle closes the listeners that no brane wants and opens those that one
	// does, then hands the new ones to the worker.
	Settle(ctx context.Context)
}

// Server is the doors. All fields are set before Serve.
type Server struct {
	Service    *network.Service
	Controller *network.Controller
	Worker     Worker
	Broker     Broker
	Listeners  Listeners
	Events     *Events
	Log        *slog.Logger
	Release    string
	UID        uint32 // whose daemon it is
	Shutdown   func() // ends the daemon
	// Handover gives copies of the listening sockets, by name, to the daemon that
	// takes this one's place; this one leaves their names alone when it ends.
	Handover func() (names []string, fds []int, err error)

	mu    sync.Mutex
	lives map[plan.PortID]*life
	grace map[string]*time.Timer // branes whose runner is expected back
	known map[plan.PortID]opened // ports of late, for drops that are older than their end
	order []plan.PortID          // of known, oldest first
	wg    sync.WaitGroup

	waiting callers // at the device socket, for their request to be read
	talking callers // at the API
}

// opened is what is said of a port that may be gone.
type opened struct{ device, brane string }

// maxKnown ports are remembered, as many as there are drops.
const maxKnown = 1024

// remember keeps the name of a port for its drops.
func (s *Server) remember(p network.Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = map[plan.PortID]opened{}
	}
	if len(s.order) >= maxKnown {
		delete(s.known, s.order[0])
		s.order = s.order[1:]
	}
	s.known[p.ID], s.order = opened{p.Device(), p.Brane}, append(s.order, p.ID)
}

// comeBack is how long a brane whose runner lost the daemon is kept for it.
const comeBack = 15 * time.Second

// patience bounds how long a request waits for the worker.
const patience = 15 * time.Second

// settle waits until a change is in force, listeners included.
func (s *Server) settle(ctx context.Context, rev store.Revision) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.Controller.Wait(ctx, rev); err != nil {
		return err
	}
	s.Listeners.Settle(ctx)
	return nil
}

// classify asks the kernel who is at the other end of a connection.
func (s *Server) classify(c net.Conn) (peer.Peer, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return peer.Peer{}, fault.New(fault.Internal, "classify peer", "", "not a Unix socket")
	}
	return peer.Of(u)
}

// admit refuses who is inside a brane, and other users.
func (s *Server) admit(p peer.Peer, op string) error {
	if p.Inside {
		return fault.New(fault.Denied, op, "", "this program is inside a brane: it may only ask who it is").
			WithRemedy("run this outside, or ask with: brane id")
	}
	if p.UID != s.UID && p.UID != 0 {
		return fault.New(fault.Denied, op, "", "this daemon belongs to uid %d, not to uid %d", s.UID, p.UID).
			WithRemedy("each user has a daemon of their own; it starts by itself")
	}
	return nil
}

// identity answers "who am I".
func (s *Server) identity(p peer.Peer) client.Identity {
	id := client.Identity{UID: p.UID, Inside: p.Inside}
	if !p.Inside {
		return id
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lives {
		if l.netns != 0 && l.netns == p.NetNS {
			id.Brane, id.Network = l.brane, l.network
		}
	}
	return id
}
