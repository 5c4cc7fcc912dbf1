package stack

import (
	"errors"
	"net/netip"
	"syscall"
	"time"

	"brane/frame"
)

// udp handles a whole UDP datagram, or a superframe of several, whose checksum
// is right or vouched for by v.
func (g *Gateway) udp(pol *policy, p *frame.Packet, v frame.Vnet) {
	sp, dp, ok := p.Ports()
	if !ok {
		return
	}
	src, dst := netip.AddrPortFrom(p.Source(), sp), netip.AddrPortFrom(p.Destination(), dp)
	body, size := p.Payload(), maxIP
	if v.GSOType == frame.GSOUDP {
		size = int(v.GSOSize)
	}
	own := pol.isOwn(dst.Addr())
	if own || dst.Addr().IsMulticast() || pol.broadcast(dst.Addr()) {
		if g.serve(src, dst, p.Src, body, size) || !own {
			return
		}
		if s, ok := g.sessions.get(time.Now(), flowKey{src, dst, frame.ProtoUDP}); ok {
			s.answer(body, size)
			return
		}
	}
	if p.Dst == pol.MAC && sp != 0 && dp != 0 {
		g.outward(pol, p, flowKey{src, dst, frame.ProtoUDP}, body, size)
	}
}

// echo handles an echo request: the gateway answers for itself, and ping
// sockets carry the rest.
func (g *Gateway) echo(pol *policy, p *frame.Packet) {
	t := p.Frame[p.L4:p.End]
	if len(t) < icmpLen {
		return
	}
	src, dst := p.Source(), p.Destination()
	if !pol.isOwn(dst) {
		id := uint16(t[4])<<8 | uint16(t[5])
		g.outward(pol, p, flowKey{netip.AddrPortFrom(src, id), netip.AddrPortFrom(dst, 0), p.Proto}, t, maxIP)
		return
	}
	if !pol.guest(src) {
		return
	}
	b := g.bufs.get()
	defer g.bufs.put(b)
	n := copy(b[headroom:], t)
	b[headroom] = echoReply4
	if p.Proto == frame.ProtoICMPv6 {
		b[headroom] = echoReply6
	}
	g.build(b, n, &datagram{mac: p.Src, src: dst, dst: src, proto: p.Proto, ttl: 64, csumAt: icmpCsumAt}, g.later)
}

// hops is the packet's time to live or hop limit.
func hops(p *frame.Packet) uint8 {
	if p.Type == frame.TypeIPv4 {
		return p.Frame[p.L3+8]
	}
	return p.Frame[p.L3+7]
}

// outward sends body along the flow of key, which it starts if it may.
func (g *Gateway) outward(pol *policy, p *frame.Packet, key flowKey, body []byte, size int) {
	now := time.Now()
	f, ok := g.flows.get(now, key)
	if !ok {
		var e icmpError
		if f, e, ok = g.startFlow(pol, now, key); !ok {
			if e != (icmpError{}) {
				g.refuse(pol, p, e)
			}
			return
		}
	}
	var errno syscall.Errno
	switch err := f.send(body, size, hops(p)-1, p.Src); {
	case !errors.As(err, &errno): // sent, or the flow was closed under us
	case errno == syscall.EPERM || errno == syscall.EACCES:
		g.refuse(pol, p, adminProhibited())
	default:
		g.refuse(pol, p, hostUnreachable())
	}
}

// startFlow makes the flow of key. When it does not, e is the answer for the
// guest; zero means none.
func (g *Gateway) startFlow(pol *policy, now time.Time, key flowKey) (f *outFlow, e icmpError, ok bool) {
	to, d := pol.admit(key.src.Addr(), key.dst)
	switch d {
	case allowed:
	case ignored:
		return nil, e, false
	default:
		g.count.denied.Add(1)
		return nil, d.icmp(), false
	}
	f, err := g.dialFlow(key, to)
	if err != nil {
		return nil, g.flowFailed(key, err), false
	}
	idle := pol.Limits.UDPIdle
	switch {
	case key.proto != frame.ProtoUDP:
		idle = pol.Limits.EchoIdle
	case key.dst.Port() == 53:
		idle = pol.Limits.DNSIdle
	}
	evicted, added := g.flows.put(now, key, f, idle, pol.Limits.FlowsPerSource, pol.Limits.Flows)
	for _, old := range evicted {
		old.file.Close()
		g.count.evicted.Add(1)
	}
	if !added || !g.begin(f.receive) { // another frame of the flow was faster, or the gateway closes
		f.file.Close()
		g.flows.drop(key, f)
		f, ok = g.flows.get(now, key)
		return f, e, ok
	}
	g.count.flows.Add(1)
	g.sweepLater()
	return f, e, true
}

func (g *Gateway) flowFailed(key flowKey, err error) icmpError {
	switch {
	case errors.Is(err, errNoPing):
		g.noPing.Do(func() {
			g.log.Warn("guests cannot ping the outside", "network", g.policy.Load().Name, "cause", err,
				"remedy", "sysctl net.ipv4.ping_group_range='0 2147483647'")
		})
		return adminProhibited()
	case err == syscall.EPERM || err == syscall.EACCES:
		return adminProhibited()
	}
	g.log.Debug("no flow", "network", g.policy.Load().Name, "to", key.dst, "err", err)
	return hostUnreachable()
}

// sweepEvery is how exact idle times are.
const sweepEvery = 5 * time.Second

// sweepLater arms the sweep of idle flows; it rests while there are none.
func (g *Gateway) sweepLater() {
	if g.sweeping.CompareAndSwap(false, true) {
		g.sweeper.Reset(sweepEvery)
	}
}

func (g *Gateway) sweep() {
	now := time.Now()
	gone, left := g.flows.expire(now)
	for _, f := range gone {
		f.file.Close()
	}
	ended, more := g.sessions.expire(now)
	for _, s := range ended {
		s.end()
	}
	g.sweeping.Store(false)
	if left+more > 0 {
		g.sweepLater()
	}
}
