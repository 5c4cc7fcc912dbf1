package stack

import (
	"encoding/binary"
	"net/netip"

	"brane/frame"
)

// ICMP and ICMPv6 types that the gateway reads or writes (RFC 792, RFC 4443).
const (
	echoReply4, echoRequest4   = 0, 8
	echoReply6, echoRequest6   = 129, 128
	unreachable4, tooBig6      = 3, 2
	fragNeeded4                = 4 // a code of unreachable4
	timeExceeded4, paramProb6  = 11, 4
	unreachable6, timeExceeds6 = 1, 3
)

// icmpError is what an error message says, in both families (RFC 792, RFC 1812
// section 5.2.7, RFC 4443 section 3).
type icmpError struct {
	type4, code4, type6, code6 uint8
	info                       uint32 // the header's last 4 bytes, both families
}

func portUnreachable() icmpError  { return icmpError{unreachable4, 3, unreachable6, 4, 0} }
func adminProhibited() icmpError  { return icmpError{unreachable4, 13, unreachable6, 1, 0} }
func hostUnreachable() icmpError  { return icmpError{unreachable4, 1, unreachable6, 3, 0} }
func protoUnreachable() icmpError { return icmpError{unreachable4, 2, paramProb6, 1, 6} } // 6: where the next header field is
func ttlExceeded() icmpError      { return icmpError{timeExceeded4, 0, timeExceeds6, 0, 0} }
func (d decision) icmp() icmpError {
	switch d {
	case refused:
		return portUnreachable()
	case unreachable:
		return hostUnreachable()
	}
	return adminProhibited()
}

// quote4 and quote6 bound what an error repeats of its cause, so that it fits
// any path (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4).
const (
	quote4 = 576 - ipv4Len - icmpLen
	quote6 = minMTU - ipv6Len - icmpLen
)

// refuse answers the packet p with an error from the gateway's own address, or
// not at all where no error may be sent (RFC 1122 section 3.2.2).
func (g *Gateway) refuse(pol *policy, p *frame.Packet, e icmpError) {
	self, ok := pol.self(p.Source())
	if !ok || p.Dst.IsMulticast() || p.Destination().IsMulticast() || !pol.guest(p.Source()) || isICMPError(p) {
		return
	}
	g.count.refused.Add(1)
	g.sendError(self, p.Source(), p.Src, e, p.Frame[p.L3:p.End], g.later)
}

func isICMPError(p *frame.Packet) bool {
	kind, _, ok := p.ICMP()
	switch {
	case !ok:
		return false
	case p.Type == frame.TypeIPv6:
		return kind < 128
	}
	return kind != echoRequest4 && kind != echoReply4
}

// sendError makes an error about the packet quoted, network header first.
func (g *Gateway) sendError(src, dst netip.Addr, mac frame.MAC, e icmpError, quoted []byte, send func(frame.MAC, []byte)) {
	b := g.bufs.get()
	defer g.bufs.put(b)
	t := b[headroom:]
	d := datagram{mac: mac, src: src, dst: dst, proto: frame.ProtoICMP, ttl: 64, csumAt: icmpCsumAt}
	t[0], t[1] = e.type4, e.code4
	limit := quote4
	if src.Is6() {
		d.proto, limit = frame.ProtoICMPv6, quote6
		t[0], t[1] = e.type6, e.code6
	}
	binary.BigEndian.PutUint32(t[4:], e.info)
	if src.Is4() && e.type4 == unreachable4 && e.code4 != fragNeeded4 {
		clear(t[4:8])
	}
	n := copy(t[icmpLen:], quoted[:min(len(quoted), limit)])
	g.build(b, icmpLen+n, &d, send)
}

// icmp handles a whole ICMP or ICMPv6 datagram whose checksum is right.
func (g *Gateway) icmp(pol *policy, p *frame.Packet) {
	kind, code, ok := p.ICMP()
	if !ok {
		return
	}
	is6 := p.Type == frame.TypeIPv6
	switch {
	case is6 && kind == frame.NeighborSolicitation:
		g.answerND(pol, p)
	case is6 && kind == frame.NeighborAdvertisement:
		if p.Dst == pol.MAC {
			g.link.inject(frame.TypeIPv6, p.Frame[p.L3:p.End])
		}
	case is6 && kind == tooBig6, !is6 && kind == unreachable4 && code == fragNeeded4:
		g.tooBig(pol, p)
	case p.Dst != pol.MAC:
	case is6 && kind == echoRequest6, !is6 && kind == echoRequest4:
		g.echo(pol, p)
	}
}

// tooBig lets a path MTU message through to the TCP stack, which checks that it
// is about a connection of its own, when the guest that sent it is the one
// whose packet was too big.
func (g *Gateway) tooBig(pol *policy, p *frame.Packet) {
	q := p.Frame[p.L4:p.End]
	if len(q) < icmpLen {
		return
	}
	q = q[icmpLen:]
	var to netip.Addr
	switch {
	case p.Type == frame.TypeIPv4 && len(q) >= ipv4Len && q[0]>>4 == 4 && q[9] == frame.ProtoTCP:
		to = netip.AddrFrom4([4]byte(q[16:20]))
	case p.Type == frame.TypeIPv6 && len(q) >= ipv6Len && q[0]>>4 == 6 && q[6] == frame.ProtoTCP:
		to = netip.AddrFrom16([16]byte(q[24:40]))
	}
	if to.IsValid() && to == p.Source() && p.Dst == pol.MAC && pol.guest(to) {
		g.injectIP(p)
	}
}
