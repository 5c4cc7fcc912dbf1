package worker

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"brane/frame"
	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/linux/unixmsg"
	"brane/internal/network"
	"brane/internal/plan"
	"brane/internal/store"
	"brane/internal/verdict"
)

// TestMain is the worker too, without what shuts it in: the road from the
// daemon is under test here, the walls are in internal/linux/confine.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Mode {
		c, err := unixmsg.FromFD(3)
		if err != nil {
			os.Exit(64)
		}
		p := newProcess(unixmsg.NewConn(unixmsg.NewStream(c, MaxMessage)), slog.New(slog.DiscardHandler))
		_ = p.conn.Serve(p.serve)
		p.close()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// pair is a handle and a process in one test, with a socket between them.
func pair(t *testing.T, o Owner) *Handle {
	t.Helper()
	if o.Closed == nil { // a client may leave before the test has ended
		o.Closed = func(string, plan.PortID) {}
	}
	ours, theirs, err := unixmsg.Pair(syscall.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.FileConn(theirs)
	_ = theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	h := NewHandle(o, log)
	conn := unixmsg.NewConn(unixmsg.NewStream(ours, MaxMessage))
	h.set(conn, os.Getpid())
	p := newProcess(unixmsg.NewConn(unixmsg.NewStream(other.(*net.UnixConn), MaxMessage)), log)
	var wg sync.WaitGroup
	wg.Go(func() { _ = conn.Serve(h.serve) })
	wg.Go(func() { _ = p.conn.Serve(p.serve); p.close() })
	t.Cleanup(func() { _ = conn.Close(); wg.Wait() })
	return h
}

// lan is a started network as the daemon would plan it.
type lan struct {
	svc *network.Service
	t   *testing.T
}

var lanGateway = netip.MustParsePrefix("10.123.0.1/24")

func newLAN(t *testing.T) *lan {
	t.Helper()
	s := store.NewMemory()
	t.Cleanup(func() { _ = s.Close() })
	l := &lan{&network.Service{Store: s, Now: time.Now}, t}
	_, err := l.svc.Up("uid:1", network.Definition{Name: "lan", Forward: network.NAT, Subnets: []network.Subnet{{
		Gateway: lanGateway, DHCP: true, Ranges: []network.Range{{Start: netip.MustParseAddr("10.123.0.10"), End: netip.MustParseAddr("10.123.0.99")}},
	}}}, false, false)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lan) plan() *plan.Mux {
	l.t.Helper()
	st, err := l.svc.State()
	if err != nil {
		l.t.Fatal(err)
	}
	m := network.Build(st, "lan", network.Host{})
	if m == nil {
		l.t.Fatal("no plan")
	}
	return m
}

// port writes a port down and gives both ends of its descriptor.
func (l *lan) port(name string) (network.Port, netip.Addr, *net.UnixConn, int) {
	l.t.Helper()
	p, lease, _, err := l.svc.Attach("uid:1", network.Open{Network: "lan", Interface: name, Kind: datapath.SeqPacket})
	if err != nil {
		l.t.Fatal(err)
	}
	c, other, err := unixmsg.Pair(syscall.SOCK_SEQPACKET)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = c.Close() })
	fd, err := syscall.Dup(int(other.Fd()))
	_ = other.Close()
	if err != nil {
		l.t.Fatal(err)
	}
	return p, lease.Addrs[0], c, fd
}

// hear reads frames until one satisfies want.
func hear(t *testing.T, c *net.UnixConn, what string, want func(p *frame.Packet) bool) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 65536)
	for {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatalf("no %s came: %v", what, err)
		}
		var p frame.Packet
		if p.Parse(buf[:n]); want(&p) {
			return
		}
	}
}

func write(t *testing.T, c *net.UnixConn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRoad: plan, ports, frames between them, counters, drops, the end of a
// client, the end of the mux.
func TestRoad(t *testing.T) {
	closed := make(chan plan.PortID, 4)
	h := pair(t, Owner{Closed: func(_ string, id plan.PortID) { closed <- id }})
	l, ctx := newLAN(t), t.Context()
	a, aAddr, aConn, aFD := l.port("a")
	b, bAddr, bConn, bFD := l.port("b")
	do(t, h.Apply(ctx, l.plan()))
	do(t, h.Attach(ctx, "lan", a.ID, datapath.Endpoint{Kind: datapath.SeqPacket, FD: aFD}))
	do(t, h.Attach(ctx, "lan", b.ID, datapath.Endpoint{Kind: datapath.SeqPacket, FD: bFD}))
	to := netip.AddrPortFrom(bAddr, 7)
	write(t, aConn, frame.AppendUDP(nil, a.MAC, b.MAC, netip.AddrPortFrom(aAddr, 9), to, []byte("hello")))
	hear(t, bConn, "datagram", func(p *frame.Packet) bool { return bytes.Equal(p.Payload(), []byte("hello")) })
	write(t, aConn, frame.AppendUDP(nil, b.MAC, b.MAC, netip.AddrPortFrom(aAddr, 9), to, []byte("forged")))
	write(t, aConn, frame.AppendUDP(nil, a.MAC, b.MAC, netip.AddrPortFrom(aAddr, 9), to, []byte("after")))
	hear(t, bConn, "datagram", func(p *frame.Packet) bool {
		if bytes.Equal(p.Payload(), []byte("forged")) {
			t.Error("a forged frame came through")
		}
		return bytes.Equal(p.Payload(), []byte("after"))
	})
	counters, err := h.Counters(ctx, "lan")
	do(t, err)
	for _, c := range counters {
		if c.Port == a.ID && (c.From[verdict.SourceMAC] != 1 || c.From[verdict.Delivered] != 2) {
			t.Errorf("counters of a: %v", c.From)
		}
	}
	drops, err := h.Drops(ctx, 0)
	do(t, err)
	if len(drops) != 1 || drops[0].Port != a.ID || drops[0].Reason != verdict.SourceMAC || drops[0].Mux != "lan" {
		t.Fatalf("drops: %+v", drops)
	}
	if rest, err := h.Drops(ctx, drops[0].Seq); err != nil || len(rest) != 0 {
		t.Errorf("drops after the last: %v %+v", err, rest)
	}
	_ = aConn.Close()
	select {
	case id := <-closed:
		if id != a.ID {
			t.Errorf("port %d closed, want %d", id, a.ID)
		}
	case <-time.After(10 * time.Second):
		t.Error("nobody was told of the client's end")
	}
	do(t, h.Remove(ctx, "lan"))
	_ = bConn.SetReadDeadline(time.Now().Add(10 * time.Second))
	for err = nil; err == nil; {
		_, err = bConn.Read(make([]byte, 65536))
	}
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Error("the ports outlive their mux")
	}
}

// TestLease: a DHCP client's request reaches the daemon, and its answer the client.
func TestLease(t *testing.T) {
	asks := make(chan LeaseAsk, 8)
	want := netip.MustParseAddr("10.123.0.42")
	h := pair(t, Owner{
		Lease: func(_ context.Context, a LeaseAsk) (Lease, error) { asks <- a; return Lease{"pc", want}, nil },
	})
	l, ctx := newLAN(t), t.Context()
	p, _, c, fd := l.port("pc")
	do(t, h.Apply(ctx, l.plan()))
	do(t, h.Attach(ctx, "lan", p.ID, datapath.Endpoint{Kind: datapath.SeqPacket, FD: fd}))
	m, err := dhcpv4.NewDiscovery(net.HardwareAddr(p.MAC[:]), dhcpv4.WithOption(dhcpv4.OptHostName("pc")))
	do(t, err)
	all := frame.MAC{255, 255, 255, 255, 255, 255}
	write(t, c, frame.AppendUDP(nil, p.MAC, all, netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), m.ToBytes()))
	hear(t, c, "offer", func(k *frame.Packet) bool {
		r, err := dhcpv4.FromBytes(k.Payload())
		return err == nil && r.MessageType() == dhcpv4.MessageTypeOffer && r.TransactionID == m.TransactionID && r.YourIPAddr.String() == want.String()
	})
	if a := <-asks; a.Mux != "lan" || a.MAC != p.MAC || a.Host != "pc" {
		t.Errorf("the daemon was asked %+v", a)
	}
}

// TestForward: a listening socket goes to a forward of the plan and to no other.
func TestForward(t *testing.T) {
	h := pair(t, Owner{})
	l, ctx := newLAN(t), t.Context()
	made, err := l.svc.CreateBrane("uid:1", network.Create{
		Name: "web", Network: "lan", Publish: []network.Publish{{Proto: "tcp", Host: netip.MustParseAddrPort("127.0.0.1:4711"), Port: 80}},
	})
	do(t, err)
	do(t, h.Apply(ctx, l.plan()))
	s, err := net.Listen("tcp", "127.0.0.1:0")
	do(t, err)
	defer func() { _ = s.Close() }()
	f, err := s.(*net.TCPListener).File()
	do(t, err)
	defer func() { _ = f.Close() }()
	id, fd := made.Brane.Publish[0].ID, int(f.Fd())
	if err := h.Forward(ctx, "lan", id+100, "tcp", fd); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a forward that the plan has not: %v", err)
	}
	if err := h.Forward(ctx, "nowhere", id, "tcp", fd); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a mux that is not there: %v", err)
	}
	do(t, h.Forward(ctx, "lan", id, "tcp", fd))
	if _, err := f.Stat(); err != nil {
		t.Errorf("the descriptor did not stay the caller's: %v", err)
	}
}

// TestRefusals: what the worker cannot do is an error with its kind, and what
// the worker may not ask is one too.
func TestRefusals(t *testing.T) {
	h := pair(t, Owner{})
	ctx := t.Context()
	_, other, err := unixmsg.Pair(syscall.SOCK_SEQPACKET)
	do(t, err)
	defer func() { _ = other.Close() }()
	fd, err := syscall.Dup(int(other.Fd()))
	do(t, err)
	if err := h.Attach(ctx, "nowhere", 1, datapath.Endpoint{Kind: datapath.SeqPacket, FD: fd}); err == nil {
		t.Error("attached to nothing")
	}
	for _, verb := range []string{"fly", verbLease} {
		if err := h.call(ctx, verb, muxName{"x"}, nil, nil); fault.KindOf(err) != fault.Invalid {
			t.Errorf("verb %s: %v", verb, err)
		}
	}
	for _, verb := range []string{verbAttach, verbForward} {
		if err := h.call(ctx, verb, attach{Mux: "x"}, nil, nil); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s without a descriptor: %v", verb, err)
		}
	}
	if err := h.Apply(ctx, &plan.Mux{}); err == nil {
		t.Error("an empty plan is in force")
	}
	if err := NewHandle(Owner{}, slog.New(slog.DiscardHandler)).Remove(ctx, "x"); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("no worker: %v", err)
	}
}

// TestRestart: a worker that dies is followed by another, and the daemon is told of both.
func TestRestart(t *testing.T) {
	ready, gone := make(chan bool, 4), make(chan bool, 4)
	h := NewHandle(Owner{Ready: func() { ready <- true }, Gone: func() { gone <- true }}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	<-ready
	m := newLAN(t).plan()
	do(t, h.Apply(ctx, m))
	first := h.PID()
	do(t, syscall.Kill(first, syscall.SIGKILL))
	<-gone
	<-ready
	if pid := h.PID(); pid == first || pid == 0 {
		t.Errorf("process %d after %d", pid, first)
	}
	if c, err := h.Counters(ctx, "lan"); err != nil || len(c) != 0 {
		t.Errorf("a new worker knows of a mux: %v %+v", err, c)
	}
	do(t, h.Apply(ctx, m))
	cancel()
	if err := <-ended; err != nil || h.PID() != 0 {
		t.Errorf("after the end: %v, pid %d", err, h.PID())
	}
	<-gone
}
