package stack

import (
	"encoding/binary"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"brane/frame"
)

// Deliver takes a frame for the gateway, virtio-net header first. The buffer is
// the caller's again on return. It does not block, and does not call out: what
// it has to answer is sent by another goroutine. Any bytes are fine.
func (g *Gateway) Deliver(buf []byte) {
	if len(buf) < linkLen || g.closed.Load() {
		return
	}
	pol := g.policy.Load()
	b := buf[frame.VnetLen:]
	if mac := frame.MAC(b[:6]); mac != pol.MAC && !mac.IsMulticast() {
		return
	}
	var p frame.Packet
	p.Parse(b)
	if p.Fault != frame.OK || p.Tags > 0 || p.LLC || p.Src.IsMulticast() || p.Src == pol.MAC {
		g.count.malformed.Add(1)
		return
	}
	v, _ := frame.ParseVnet(buf)
	v, ok := v.Check(&p)
	if !ok {
		g.count.malformed.Add(1)
		return
	}
	switch p.Type {
	case frame.TypeARP:
		g.arp(pol, &p)
	case frame.TypeIPv4, frame.TypeIPv6:
		if p.Routed || pol.isOwn(p.Source()) || p.Source().IsMulticast() || !headerSum(&p) {
			g.count.malformed.Add(1)
			return
		}
		if p.Fragment != frame.Whole && !atomicFragment(&p) {
			g.fragment(pol, &p)
			return
		}
		g.datagram(pol, &p, v)
	}
}

// headerSum checks the IPv4 header's checksum; IPv6 has none.
func headerSum(p *frame.Packet) bool {
	return p.Type != frame.TypeIPv4 || checksum.Checksum(p.Frame[p.L3:p.L3+networkLen(p)], 0) == 0xffff
}

// atomicFragment says that p is a whole datagram with an IPv6 fragment header (RFC 6946).
func atomicFragment(p *frame.Packet) bool {
	h := p.Frame[p.L3:p.End]
	return p.Type == frame.TypeIPv6 && h[6] == frame.ProtoFragment && len(h) >= ipv6Len+fragLen &&
		binary.BigEndian.Uint16(h[ipv6Len+2:])&^6 == 0
}

// fragment keeps a fragment, and handles the datagram that it completes.
func (g *Gateway) fragment(pol *policy, p *frame.Packet) {
	if p.Dst != pol.MAC || !pol.guest(p.Source()) {
		return
	}
	g.fragMu.Lock()
	whole := g.frags.add(time.Now(), p)
	g.fragMu.Unlock()
	if whole == nil {
		return
	}
	var joined frame.Packet
	joined.Parse(whole)
	if joined.Fault == frame.OK && joined.Fragment == frame.Whole {
		g.datagram(pol, &joined, frame.Vnet{})
	}
}

// datagram handles a whole network datagram.
func (g *Gateway) datagram(pol *policy, p *frame.Packet, v frame.Vnet) {
	if v.Flags&frame.VnetNeedsCsum == 0 && !transportSum(p) {
		g.count.badSums.Add(1)
		return
	}
	if hops(p) <= 1 && p.Dst == pol.MAC && !pol.isOwn(p.Destination()) {
		g.refuse(pol, p, ttlExceeded())
		return
	}
	switch {
	case p.Proto == frame.ProtoTCP:
		if p.Dst == pol.MAC && pol.guest(p.Source()) && !p.Destination().IsMulticast() && !pol.broadcast(p.Destination()) {
			g.injectIP(p)
		}
	case p.Proto == frame.ProtoUDP:
		g.udp(pol, p, v)
	case p.Proto == frame.ProtoICMP && p.Type == frame.TypeIPv4, p.Proto == frame.ProtoICMPv6 && p.Type == frame.TypeIPv6:
		g.icmp(pol, p)
	case p.Dst == pol.MAC:
		g.refuse(pol, p, protoUnreachable())
	}
}

// injectIP hands a datagram to the TCP stack.
func (g *Gateway) injectIP(p *frame.Packet) {
	if p.Type == frame.TypeIPv4 {
		g.link.inject(frame.TypeIPv4, p.Frame[p.L3:p.End])
	} else {
		g.link.inject(frame.TypeIPv6, p.Frame[p.L3:p.End])
	}
}

// transportSum checks the checksum of TCP, UDP, ICMP and ICMPv6; other
// protocols go no further than a refusal.
func transportSum(p *frame.Packet) bool {
	t := p.Frame[p.L4:p.End]
	d := datagram{src: p.Source(), dst: p.Destination(), proto: p.Proto}
	switch p.Proto {
	case frame.ProtoTCP, frame.ProtoICMPv6, frame.ProtoICMP:
	case frame.ProtoUDP:
		if len(t) < udpLen {
			return false
		}
		t = t[:min(len(t), int(binary.BigEndian.Uint16(t[4:])))]
		if t[6] == 0 && t[7] == 0 {
			return p.Type == frame.TypeIPv4 // RFC 8200 section 8.1: not without a checksum
		}
	default:
		return true
	}
	return checksum.Checksum(t, d.pseudo(len(t))) == 0xffff
}
