package publish

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"brane/internal/fault"
	"brane/internal/network"
	"brane/internal/plan"
	"brane/internal/store"
)

// fake is a worker that takes plans and sockets.
type fake struct {
	mu     sync.Mutex
	handed []string // mux and protocol of each socket
	refuse error
}

func (*fake) Apply(context.Context, *plan.Mux) error { return nil }
func (*fake) Remove(context.Context, string) error   { return nil }

func (f *fake) Forward(_ context.Context, mux string, _ uint64, proto string, fd int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return f.refuse
	}
	f.handed = append(f.handed, mux+"/"+proto)
	return nil
}

// world is a Set over a store with one running network.
type world struct {
	*Set
	t   *testing.T
	svc *network.Service
	ctl *network.Controller
	w   *fake
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, w, log := store.NewMemory(), &fake{}, slog.New(slog.DiscardHandler)
	ctl := network.NewController(s, w, func() network.Host { return network.Host{} }, log)
	v := &world{New(ctl, w, log), t, &network.Service{Store: s, Now: time.Now}, ctl, w}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ctl.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; v.Close(); _ = s.Close() })
	v.settle(v.svc.Up("uid:1", network.Definition{
		Name: "lan", Forward: network.NAT, Subnets: []network.Subnet{{Gateway: netip.MustParsePrefix("10.124.0.1/24")}},
	}, false, false))
	return v
}

// settle waits for a change to be seen, then settles.
func (v *world) settle(rev store.Revision, err error) {
	v.t.Helper()
	if err == nil {
		err = v.ctl.Wait(v.t.Context(), rev)
	}
	if err != nil {
		v.t.Fatal(err)
	}
	v.Settle(v.t.Context())
}

func (v *world) brane(p ...network.Publish) {
	v.t.Helper()
	made, err := v.svc.CreateBrane("uid:1", network.Create{Name: "web", Network: "lan", Publish: p})
	v.settle(made.Revision, err)
}

// free is a port of the loopback that nobody has at the moment.
func free(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func answers(p netip.AddrPort) bool {
	c, err := net.Dial("tcp", p.String())
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// TestLife: opened, handed over once, again to the next worker, closed with its brane.
func TestLife(t *testing.T) {
	v := newWorld(t)
	tcp, udp := network.Publish{Proto: "tcp", Host: free(t), Port: 80}, network.Publish{Proto: "udp", Host: free(t), Port: 53}
	for _, p := range []network.Publish{tcp, udp, tcp} { // twice is as good as once
		if err := v.Open(p); err != nil {
			t.Fatal(err)
		}
	}
	v.brane(tcp, udp)
	v.Settle(t.Context())
	if len(v.w.handed) != 2 || !answers(tcp.Host) {
		t.Errorf("handed over: %v", v.w.handed)
	}
	v.WorkerGone()
	if !answers(tcp.Host) {
		t.Error("refused while the worker is away")
	}
	v.Settle(t.Context())
	if len(v.w.handed) != 4 {
		t.Errorf("handed over to the next worker: %v", v.w.handed)
	}
	v.settle(v.svc.DeleteBrane("uid:1", "web"))
	if answers(tcp.Host) {
		t.Error("it listens for a brane that is gone")
	}
	if l, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(udp.Host)); err != nil {
		t.Errorf("the UDP port is still held: %v", err)
	} else {
		_ = l.Close()
	}
}

// TestTaken: what cannot be had is said before anything is written down, with the way out.
func TestTaken(t *testing.T) {
	v := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken := network.Publish{Proto: "tcp", Host: l.Addr().(*net.TCPAddr).AddrPort(), Port: 80}
	if err := v.Open(taken); fault.KindOf(err) != fault.Busy || fault.As(err).Remedy == "" {
		t.Errorf("a port that somebody has: %v", err)
	}
	foreign := network.Publish{Proto: "udp", Host: netip.MustParseAddrPort("192.0.2.7:4711"), Port: 80}
	if err := v.Open(foreign); fault.KindOf(err) != fault.Busy || fault.As(err).Remedy == "" {
		t.Errorf("an address that the host has not: %v", err)
	}
	_ = l.Close()
	if err := v.Open(taken); err != nil {
		t.Errorf("free again: %v", err)
	}
}

// TestRefused: what was opened for a brane that was then refused is closed,
// but not by the settling of others that comes first.
func TestRefused(t *testing.T) {
	v := newWorld(t)
	p := network.Publish{Proto: "tcp", Host: free(t), Port: 80}
	if err := v.Open(p); err != nil {
		t.Fatal(err)
	}
	v.Settle(t.Context()) // another request's
	if !answers(p.Host) {
		t.Error("closed before its record could be written")
	}
	v.Settle(t.Context())
	if answers(p.Host) {
		t.Error("it listens for nobody")
	}
}

// TestWorkerRefuses: a socket that the worker does not take is offered again;
// a stopped network's ports are closed.
func TestWorkerRefuses(t *testing.T) {
	v := newWorld(t)
	p := network.Publish{Proto: "tcp", Host: free(t), Port: 80}
	v.w.refuse = fault.New(fault.Unavailable, "ask worker", "forward", "the worker is starting again")
	v.brane(p) // its record alone opens it
	if len(v.w.handed) != 0 || !answers(p.Host) {
		t.Error("it does not listen while the worker is away")
	}
	v.w.refuse = nil
	v.Settle(t.Context())
	if len(v.w.handed) != 1 {
		t.Errorf("handed over: %v", v.w.handed)
	}
	v.settle(v.svc.Stop("uid:1", "lan"))
	if answers(p.Host) {
		t.Error("it listens for a stopped network")
	}
}
