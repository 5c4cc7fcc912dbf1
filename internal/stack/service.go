package stack

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"

	"brane/frame"
	"brane/internal/fault"
)

// Bounds of a UDP service of the gateway's own.
const (
	serviceQueue     = 1024 // datagrams waiting to be read
	servicePerSource = 128
	servicePeers     = 4096 // that an answer can go to: the latest to ask
)

// udpService is a socket for one of the gateway's own services, on all its
// addresses and on broadcast. It answers those who asked.
type udpService struct {
	g     *Gateway
	port  uint16
	queue *fairQueue[netip.Addr, query]

	mu       sync.Mutex
	peers    [2]map[netip.AddrPort]peer // recent, and before that
	deadline time.Time
	moved    chan struct{} // closed when the deadline changes
}

type query struct {
	from netip.AddrPort
	body []byte
}

// peer is where an answer goes, and which address of the gateway's was asked.
type peer struct {
	mac  frame.MAC
	self netip.Addr
}

var _ net.PacketConn = (*udpService)(nil)

// ListenUDP opens a port on all of the gateway's addresses, present and to
// come. WriteTo answers those from whom a datagram was read lately, from the
// address that they asked. The error is of kind Exists, Invalid or Unavailable.
func (g *Gateway) ListenUDP(port uint16) (net.PacketConn, error) {
	s := &udpService{g: g, port: port, queue: newFairQueue[netip.Addr, query](serviceQueue, servicePerSource), moved: make(chan struct{})}
	s.peers[0] = make(map[netip.AddrPort]peer)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.mayListen(port, g.services[port] != nil); err != nil {
		return nil, err
	}
	g.services[port] = s
	g.publish()
	return s, nil
}

func (g *Gateway) mayListen(port uint16, taken bool) error {
	const op = "listen on gateway"
	name := g.policy.Load().Name
	switch {
	case g.closing:
		return fault.New(fault.Unavailable, op, name, "the gateway is closed")
	case port == 0:
		return fault.New(fault.Invalid, op, name, "port 0")
	case taken:
		return fault.New(fault.Exists, op, name, "port %d has a service", port)
	}
	return nil
}

// publish copies the services for Deliver to read without a lock; g.mu is held.
func (g *Gateway) publish() {
	m := make(map[uint16]*udpService, len(g.services))
	for p, s := range g.services {
		m[p] = s
	}
	g.served.Store(&m)
}

// serve gives a datagram to the service on its port, if there is one.
func (g *Gateway) serve(src, dst netip.AddrPort, mac frame.MAC, body []byte, size int) bool {
	s := (*g.served.Load())[dst.Port()]
	if s == nil {
		return false
	}
	self := dst.Addr()
	if pol := g.policy.Load(); !pol.isOwn(self) {
		self, _ = pol.self(src.Addr())
	}
	if self.IsValid() && src.Port() != 0 {
		s.learn(src, peer{mac, self})
		if !s.queue.push(src.Addr(), query{src, append([]byte(nil), body[:min(size, len(body))]...)}) {
			g.count.serviceDrops.Add(1)
		}
	}
	return true
}

func (s *udpService) learn(from netip.AddrPort, p peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.peers[0]) >= servicePeers/2 {
		s.peers[1], s.peers[0] = s.peers[0], make(map[netip.AddrPort]peer)
	}
	s.peers[0][from] = p
}

// ReadFrom implements net.PacketConn; addr is a *net.UDPAddr.
func (s *udpService) ReadFrom(b []byte) (n int, addr net.Addr, err error) {
	for {
		q, ok, closed := s.queue.pop()
		if ok {
			return copy(b, q.body), net.UDPAddrFromAddrPort(q.from), nil
		}
		if closed {
			s.queue.wake() // for the next reader
			return 0, nil, s.fail("read", net.ErrClosed)
		}
		if !s.wait() {
			return 0, nil, s.fail("read", os.ErrDeadlineExceeded)
		}
	}
}

// wait returns when there may be something to read; false at the deadline.
func (s *udpService) wait() bool {
	s.mu.Lock()
	deadline, moved := s.deadline, s.moved
	s.mu.Unlock()
	var expired <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-s.queue.ready:
	case <-moved:
	case <-expired:
		return false
	}
	return true
}

func (s *udpService) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Addr: s.LocalAddr(), Err: err}
}

// WriteTo implements net.PacketConn; addr is a *net.UDPAddr.
func (s *udpService) WriteTo(b []byte, addr net.Addr) (int, error) {
	a, ok := addr.(*net.UDPAddr)
	if !ok || len(b) > maxIP-ipv6Len-udpLen {
		return 0, s.fail("write", net.InvalidAddrError("not a UDP address, or more than a datagram"))
	}
	to := a.AddrPort()
	to = netip.AddrPortFrom(to.Addr().Unmap().WithZone(""), to.Port())
	s.mu.Lock()
	p, ok := s.peers[0][to]
	if !ok {
		p, ok = s.peers[1][to]
	}
	s.mu.Unlock()
	if !ok || s.g.closed.Load() {
		return 0, s.fail("write", net.ErrClosed)
	}
	buf := s.g.bufs.get()
	defer s.g.bufs.put(buf)
	n := udpLen + copy(buf[headroom+udpLen:], b)
	putUDP(buf[headroom:], s.port, to.Port(), n)
	s.g.build(buf, n, &datagram{mac: p.mac, src: p.self, dst: to.Addr(), proto: frame.ProtoUDP, ttl: 64, csumAt: udpCsumAt}, s.g.now)
	return len(b), nil
}

// LocalAddr implements net.PacketConn.
func (s *udpService) LocalAddr() net.Addr {
	return &net.UDPAddr{IP: net.IPv6unspecified, Port: int(s.port)}
}

// SetReadDeadline implements net.PacketConn.
func (s *udpService) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	close(s.moved)
	s.moved = make(chan struct{})
	return nil
}

// SetDeadline implements net.PacketConn.
func (s *udpService) SetDeadline(t time.Time) error { return s.SetReadDeadline(t) }

// SetWriteDeadline implements net.PacketConn; writes do not wait.
func (s *udpService) SetWriteDeadline(time.Time) error { return nil }

// Close implements net.PacketConn.
func (s *udpService) Close() error {
	s.g.mu.Lock()
	if s.g.services[s.port] == s {
		delete(s.g.services, s.port)
		s.g.publish()
	}
	s.g.mu.Unlock()
	s.queue.close()
	return nil
}

// tcpService is a listener on all of the gateway's addresses.
type tcpService struct {
	g     *Gateway
	port  uint16
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	each  map[netip.Addr]*gonet.TCPListener // under g.config
}

var _ net.Listener = (*tcpService)(nil)

// ListenTCP opens a port on all of the gateway's addresses, present and to
// come. The error is of kind Exists, Invalid, Unavailable or Internal.
func (g *Gateway) ListenTCP(port uint16) (net.Listener, error) {
	s := &tcpService{g: g, port: port, conns: make(chan net.Conn), done: make(chan struct{}), each: make(map[netip.Addr]*gonet.TCPListener)}
	g.config.Lock()
	defer g.config.Unlock()
	g.mu.Lock()
	err := g.mayListen(port, g.listeners[port] != nil)
	if err == nil {
		g.listeners[port] = s
	}
	g.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := s.rebind(g.policy.Load()); err != nil {
		s.forget()
		return nil, err
	}
	return s, nil
}

// rebind follows the gateway's addresses; g.config is held.
func (s *tcpService) rebind(pol *policy) error {
	for _, a := range pol.own {
		if s.each[a.Addr()] != nil {
			continue
		}
		proto := tcpip.NetworkProtocolNumber(ipv4.ProtocolNumber)
		if a.Addr().Is6() {
			proto = ipv6.ProtocolNumber
		}
		l, err := gonet.ListenTCP(s.g.stack, tcpip.FullAddress{NIC: nicID, Addr: toAddress(a.Addr()), Port: s.port}, proto)
		if err != nil {
			return fault.New(fault.Internal, "listen on gateway", pol.Name, "%v port %d: %v", a.Addr(), s.port, err)
		}
		s.each[a.Addr()] = l
		if !s.g.begin(func() { s.accept(l) }) {
			l.Close()
			break
		}
	}
	for a, l := range s.each {
		if !pol.isOwn(a) {
			l.Shutdown()
			l.Close()
			delete(s.each, a)
		}
	}
	return nil
}

func (s *tcpService) accept(l *gonet.TCPListener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		select {
		case s.conns <- c:
		case <-s.done:
			c.Close()
		}
	}
}

// Accept implements net.Listener.
func (s *tcpService) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.done:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: s.Addr(), Err: net.ErrClosed}
	}
}

// Addr implements net.Listener.
func (s *tcpService) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv6unspecified, Port: int(s.port)} }

// Close implements net.Listener; connections accepted before go on.
func (s *tcpService) Close() error {
	s.g.config.Lock()
	defer s.g.config.Unlock()
	s.forget()
	return nil
}

// forget ends the listener and frees its port; g.config is held.
func (s *tcpService) forget() {
	s.g.mu.Lock()
	if s.g.listeners[s.port] == s {
		delete(s.g.listeners, s.port)
	}
	s.g.mu.Unlock()
	s.shut()
}

// shut ends the listener; g.config is held.
func (s *tcpService) shut() {
	s.once.Do(func() {
		close(s.done)
		for _, l := range s.each {
			l.Shutdown()
			l.Close()
		}
	})
}
