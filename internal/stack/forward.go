package stack

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"brane/frame"
	"brane/internal/fault"
)

// forward is a host port that leads to a guest.
type forward interface{ close() }

// ForwardTCP carries what connects to l to a guest. The listener is the
// gateway's from then on, also when ForwardTCP fails: Unforward or Close closes
// it. To the guest the client is the gateway. Errors are of kind Exists,
// Invalid (no address of that family) or Unavailable.
func (g *Gateway) ForwardTCP(id uint64, l net.Listener, to netip.AddrPort) error {
	f := &tcpForward{g: g, l: l, to: to}
	return g.addForward(id, f, to, f.run)
}

// ForwardUDP does for datagrams what ForwardTCP does for connections.
func (g *Gateway) ForwardUDP(id uint64, c net.PacketConn, to netip.AddrPort) error {
	f := &udpForward{g: g, c: c, to: to, clients: make(map[netip.AddrPort]*session)}
	if err := f.open(); err != nil {
		c.Close()
		return fault.New(fault.Invalid, "forward port", to.String(), "the host socket cannot serve: %v", err)
	}
	return g.addForward(id, f, to, f.run)
}

// Unforward ends a forward: its host port closes, its connections go on, its
// UDP clients are forgotten. An unknown id is fine.
func (g *Gateway) Unforward(id uint64) {
	g.mu.Lock()
	f := g.forwards[id]
	delete(g.forwards, id)
	g.mu.Unlock()
	if f != nil {
		f.close()
	}
}

func (g *Gateway) addForward(id uint64, f forward, to netip.AddrPort, run func()) error {
	const op = "forward port"
	pol := g.policy.Load()
	_, ok := pol.self(to.Addr())
	g.mu.Lock()
	var err error
	switch {
	case g.closing:
		err = fault.New(fault.Unavailable, op, to.String(), "the gateway of %s is closed", pol.Name)
	case !ok || !pol.guest(to.Addr()) || to.Port() == 0:
		err = fault.New(fault.Invalid, op, to.String(), "not an address and port in the subnets of %s", pol.Name)
	case g.forwards[id] != nil:
		err = fault.New(fault.Exists, op, to.String(), "forward %d exists", id)
	default:
		g.forwards[id] = f
	}
	g.mu.Unlock()
	if err == nil && !g.begin(run) {
		err = fault.New(fault.Unavailable, op, to.String(), "the gateway of %s is closed", pol.Name)
	}
	if err != nil {
		f.close()
	}
	return err
}

type tcpForward struct {
	g  *Gateway
	l  net.Listener
	to netip.AddrPort
}

func (f *tcpForward) close() { f.l.Close() }

// acceptPause is how long a listener rests after an error such as too many open files.
const acceptPause = 50 * time.Millisecond

func (f *tcpForward) run() {
	for {
		c, err := f.l.Accept()
		if errors.Is(err, net.ErrClosed) || f.g.closed.Load() {
			return
		}
		if err != nil {
			time.Sleep(acceptPause)
			continue
		}
		tc, ok := c.(*net.TCPConn)
		if !ok || !f.g.begin(func() { f.carry(tc) }) {
			c.Close()
		}
	}
}

// carry connects a client to the guest; one that cannot be is reset.
func (f *tcpForward) carry(c *net.TCPConn) {
	g, guest := f.g, f.to.Addr()
	pol := g.policy.Load()
	host, herr := wrapHost(c)
	if herr != nil {
		c.Close()
		return
	}
	from, ok := pol.self(guest)
	if !ok || !g.admitConn(pol, guest) {
		host.reset()
		return
	}
	rl := &relay{g: g, source: guest, host: host}
	err := g.connect(rl, from, f.to)
	g.dialing.give(guest, 1)
	if err != nil {
		g.log.Debug("forward failed", "network", pol.Name, "to", f.to, "err", err)
		host.reset()
		g.conns.give(guest, 1)
		return
	}
	g.count.connsIn.Add(1)
	rl.run()
}

// udpForward gives each client on the host a port of the gateway's.
type udpForward struct {
	g   *Gateway
	c   net.PacketConn
	rc  syscall.RawConn // of c
	is6 bool            // c's family
	to  netip.AddrPort

	mu      sync.Mutex
	clients map[netip.AddrPort]*session
	next    uint16
}

// session is one client of a udpForward.
type session struct {
	f      *udpForward
	client netip.AddrPort
	addr   syscall.Sockaddr // the client's
	key    flowKey          // as a packet of the guest's has it: from the guest, to the gateway's port
}

func (f *udpForward) close() {
	f.c.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.clients {
		f.g.sessions.drop(s.key, s)
	}
	clear(f.clients)
}

func (f *udpForward) open() error {
	sc, ok := f.c.(syscall.Conn)
	if !ok {
		return errors.New("not a socket")
	}
	var err error
	if f.rc, err = sc.SyscallConn(); err != nil {
		return err
	}
	var domain int
	if cerr := f.rc.Control(func(fd uintptr) {
		domain, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_DOMAIN)
	}); cerr != nil {
		return cerr
	}
	f.is6 = domain == syscall.AF_INET6
	return err
}

// sockaddr gives a client's address in the socket's own family.
func (f *udpForward) sockaddr(a *net.UDPAddr) syscall.Sockaddr {
	addr := a.AddrPort().Addr().Unmap()
	if !f.is6 {
		return sockaddr(netip.AddrPortFrom(addr, uint16(a.Port)))
	}
	sa := &syscall.SockaddrInet6{Port: a.Port, Addr: addr.As16()}
	if a.Zone != "" {
		if i, err := net.InterfaceByName(a.Zone); err == nil {
			sa.ZoneId = uint32(i.Index)
		}
	}
	return sa
}

func (f *udpForward) run() {
	b := new([bufSize]byte)
	for {
		n, from, err := f.c.ReadFrom(b[headroom+udpLen:])
		if errors.Is(err, net.ErrClosed) || f.g.closed.Load() {
			return
		}
		a, ok := from.(*net.UDPAddr)
		if err != nil || !ok {
			continue // an ICMP error of an earlier answer
		}
		if s := f.session(a); s != nil {
			s.send(b, n)
		}
	}
}

// Ports that sessions get, from the dynamic ones (RFC 6335).
const (
	sessionPort  = 49152
	sessionPorts = 16384
)

func (f *udpForward) session(a *net.UDPAddr) *session {
	client := a.AddrPort()
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if s := f.clients[client]; s != nil {
		if _, ok := f.g.sessions.get(now, s.key); ok {
			return s
		}
		delete(f.clients, client)
	}
	pol := f.g.policy.Load()
	self, ok := pol.self(f.to.Addr())
	if !ok {
		return nil
	}
	s := &session{f: f, client: client, addr: f.sockaddr(a)}
	for range 64 { // the ports taken are at most 1/8 of all: 64 tries do
		s.key = flowKey{f.to, netip.AddrPortFrom(self, sessionPort+f.next%sessionPorts), frame.ProtoUDP}
		f.next++
		evicted, added := f.g.sessions.put(now, s.key, s, pol.Limits.UDPIdle, pol.Limits.FlowsPerSource, pol.Limits.Flows)
		for _, e := range evicted {
			e.forget(f)
		}
		if added {
			f.clients[client] = s
			f.g.sweepLater()
			return s
		}
	}
	return nil
}

// forget takes s out of its forward; held is a forward whose lock the caller has.
func (s *session) forget(held *udpForward) {
	if s.f != held {
		s.f.g.begin(s.end) // the other's lock must not be taken under this one
		return
	}
	if s.f.clients[s.client] == s {
		delete(s.f.clients, s.client)
	}
}

func (s *session) end() {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	s.forget(s.f)
}

// send carries n bytes at b[headroom+udpLen] to the guest.
func (s *session) send(b *[bufSize]byte, n int) {
	mac, ok := s.f.g.resolve(s.key.dst.Addr(), s.key.src.Addr())
	if !ok || n > maxIP-ipv6Len-udpLen {
		return
	}
	putUDP(b[headroom:], s.key.dst.Port(), s.key.src.Port(), udpLen+n)
	s.f.g.build(b, udpLen+n, &datagram{
		mac: mac, src: s.key.dst.Addr(), dst: s.key.src.Addr(), proto: frame.ProtoUDP, ttl: 64, csumAt: udpCsumAt,
	}, s.f.g.now)
}

// answer carries what the guest sends to the client. It does not block: what
// the host socket does not take is dropped.
func (s *session) answer(body []byte, size int) {
	s.f.rc.Write(func(fd uintptr) bool {
		for {
			n := min(size, len(body))
			if err := syscall.Sendto(int(fd), body[:n], syscall.MSG_DONTWAIT, s.addr); err != nil {
				s.f.g.count.outDrops.Add(1)
			}
			if body = body[n:]; len(body) == 0 {
				return true
			}
		}
	})
}
