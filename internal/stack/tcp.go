package stack

import (
	"errors"
	"net/netip"
	"os"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Sizes in bytes and times of TCP towards guests. The path to a guest has no
// delay worth a buffer: what a long path outside needs is in the host's socket.
const (
	tcpBuffer    = 4 << 20
	tcpBufferMin = 32 << 10

	// A guest's port may be dialed again soon: the sequence numbers of netstack
	// advance past what a second could leave in flight between two namespaces.
	timeWait       = time.Second
	keepaliveIdle  = 2 * time.Minute
	keepaliveEvery = 15 * time.Second
	keepaliveCount = 8
	userTimeout    = 2 * time.Minute // for what a guest does not acknowledge
	guestTimeout   = 10 * time.Second
)

func (g *Gateway) tuneTCP() tcpip.Error {
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(false)
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	linger := tcpip.TCPLingerTimeoutOption(time.Minute)
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4096, Default: tcpBuffer, Max: tcpBuffer}
	recv := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4096, Default: tcpBuffer, Max: tcpBuffer}
	retries := tcpip.TCPSynRetriesOption(5)
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &wait, &linger, &send, &recv, &retries} {
		if err := g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return err
		}
	}
	return nil
}

// handleTCP makes every connection that a guest starts, to whatever address,
// the gateway's to complete.
func (g *Gateway) handleTCP() {
	const inFlight = 1 << 16 // our own limits are lower, and answer
	f := tcp.NewForwarder(g.stack, tcpBuffer, inFlight, func(r *tcp.ForwarderRequest) {
		if !g.begin(func() { g.accept(r) }) {
			r.Complete(true)
		}
	})
	g.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		const kind = header.TCPFlagSyn | header.TCPFlagAck | header.TCPFlagFin | header.TCPFlagRst
		if header.TCP(pkt.TransportHeader().Slice()).Flags()&kind != header.TCPFlagSyn {
			return false // the stack answers with a reset
		}
		return f.HandlePacket(id, pkt)
	})
}

// accept carries a connection that a guest asks for. The outside is dialed
// first: the guest's handshake completes only when the outside has accepted.
func (g *Gateway) accept(r *tcp.ForwarderRequest) {
	id := r.ID()
	src := fromAddress(id.RemoteAddress)
	dst := netip.AddrPortFrom(fromAddress(id.LocalAddress), id.LocalPort)
	pol := g.policy.Load()
	to, d := pol.admit(src, dst)
	if d != allowed {
		if d != refused {
			g.count.denied.Add(1)
		}
		r.Complete(true)
		return
	}
	if !g.admitConn(pol, src) {
		r.Complete(true)
		return
	}
	host, err := g.dial(pol, to)
	if err != nil {
		g.dialing.give(src, 1)
		g.conns.give(src, 1)
		// Silence outside is silence inside: the guest asks again until its own patience ends.
		r.Complete(!errors.Is(err, os.ErrDeadlineExceeded))
		return
	}
	rl := &relay{g: g, source: src, host: host}
	g.waiting(&rl.wq, true)
	ep, terr := r.CreateEndpoint(&rl.wq)
	g.waiting(&rl.wq, false)
	r.Complete(false)
	g.dialing.give(src, 1)
	if terr != nil {
		host.reset()
		g.conns.give(src, 1)
		return
	}
	rl.ep = ep
	g.count.connsOut.Add(1)
	rl.run()
}

// admitConn charges a connection to its guest, as dialing and as such.
func (g *Gateway) admitConn(pol *policy, guest netip.Addr) bool {
	l := &pol.Limits
	if g.dialing.take(guest, 1, l.DialingPerSource, l.Dialing) {
		if g.conns.take(guest, 1, l.ConnsPerSource, l.Conns) {
			return true
		}
		g.dialing.give(guest, 1)
	}
	g.count.limited.Add(1)
	return false
}

// dial opens a connection to the outside. What listens on the host's loopback
// may do so in the other family only.
func (g *Gateway) dial(pol *policy, to netip.AddrPort) (*hostConn, error) {
	c, err := g.dialHost(pol.Limits.DialTimeout, to)
	if err == syscall.ECONNREFUSED && to.Addr() == loopback(to.Addr()) {
		other := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if to.Addr().Is4() {
			other = netip.IPv6Loopback()
		}
		if second, err := g.dialHost(pol.Limits.DialTimeout, netip.AddrPortFrom(other, to.Port())); err == nil {
			return second, nil
		}
	}
	return c, err
}

// connect opens a connection from the gateway's own address to a guest.
func (g *Gateway) connect(rl *relay, from netip.Addr, to netip.AddrPort) tcpip.Error {
	proto := ipv4.ProtocolNumber
	if to.Addr().Is6() {
		proto = ipv6.ProtocolNumber
	}
	ep, err := g.stack.NewEndpoint(tcp.ProtocolNumber, proto, &rl.wq)
	if err != nil {
		return err
	}
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	rl.wq.EventRegister(&entry)
	defer rl.wq.EventUnregister(&entry)
	g.waiting(&rl.wq, true)
	defer g.waiting(&rl.wq, false)
	err = ep.Bind(tcpip.FullAddress{NIC: nicID, Addr: toAddress(from)})
	if err == nil {
		err = ep.Connect(tcpip.FullAddress{NIC: nicID, Addr: toAddress(to.Addr()), Port: to.Port()})
	}
	if _, started := err.(*tcpip.ErrConnectStarted); started {
		t := time.NewTimer(guestTimeout)
		defer t.Stop()
		select {
		case <-ready:
			err = ep.LastError()
		case <-t.C:
			err = &tcpip.ErrTimeout{}
		}
		if err == nil && g.closed.Load() {
			err = &tcpip.ErrAborted{}
		}
	}
	if err != nil {
		ep.Abort()
		ep.Close()
		return err
	}
	rl.ep = ep
	return nil
}

// waiting notes that a handshake with a guest waits on wq, so that Close can end it.
func (g *Gateway) waiting(wq *waiter.Queue, is bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if is {
		g.handshakes[wq] = struct{}{}
	} else {
		delete(g.handshakes, wq)
	}
}

// tune sets what an established connection to a guest has of its own.
func (rl *relay) tune(pol *policy) {
	l := &pol.Limits
	rl.sendBuf = rl.g.sendBuf.takePart(rl.source, tcpBuffer, tcpBufferMin, l.BuffersPerSource, l.Buffers)
	rl.recvBuf = rl.g.recvBuf.takePart(rl.source, tcpBuffer, tcpBufferMin, l.BuffersPerSource, l.Buffers)
	o := rl.ep.SocketOptions()
	o.SetSendBufferSize(int64(rl.sendBuf), true) // also ends its tuning
	if rl.recvBuf != tcpBuffer {
		o.SetReceiveBufferSize(int64(rl.recvBuf), true)
	}
	o.SetDelayOption(false)
	o.SetKeepAlive(true)
	idle, every := tcpip.KeepaliveIdleOption(keepaliveIdle), tcpip.KeepaliveIntervalOption(keepaliveEvery)
	patience := tcpip.TCPUserTimeoutOption(userTimeout)
	rl.ep.SetSockOpt(&idle)
	rl.ep.SetSockOpt(&every)
	rl.ep.SetSockOpt(&patience)
	rl.ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepaliveCount)
}
