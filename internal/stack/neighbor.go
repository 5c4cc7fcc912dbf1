package stack

import (
	"encoding/binary"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"brane/frame"
)

// ARP operations (RFC 826).
const (
	arpRequest = 1
	arpReply   = 2
	arpLen     = 28
)

// arp answers requests for the gateway's own addresses and hands replies to
// the stack. It is no proxy: other addresses are not its to name.
func (g *Gateway) arp(pol *policy, p *frame.Packet) {
	a, ok := p.ARP()
	switch {
	case !ok || a.SenderMAC != p.Src || p.Src.IsMulticast():
	case a.Op == arpReply && p.Dst == pol.MAC:
		g.link.inject(frame.TypeARP, p.Frame[p.L3:p.End])
	case a.Op == arpRequest && pol.isOwn(a.TargetIP):
		var b [linkLen + arpLen]byte
		frame.Vnet{}.Put(b[:frame.VnetLen])
		e := b[frame.VnetLen:]
		copy(e, p.Src[:])
		copy(e[6:], pol.MAC[:])
		binary.BigEndian.PutUint16(e[12:], frame.TypeARP)
		m := e[frame.EthernetLen:]
		copy(m, p.Frame[p.L3:p.L3+6]) // hardware and protocol types and lengths
		binary.BigEndian.PutUint16(m[6:], arpReply)
		target, sender := a.TargetIP.As4(), a.SenderIP.As4()
		copy(m[8:], pol.MAC[:])
		copy(m[14:], target[:])
		copy(m[18:], p.Src[:])
		copy(m[24:], sender[:])
		g.later(p.Src, b[:])
	}
}

// Flags of a neighbour advertisement (RFC 4861 section 4.4).
const (
	ndRouter    = 0x80
	ndSolicited = 0x40
	ndOverride  = 0x20
	ndLen       = 24 + 8 // with one link-layer address option
	ndHopLimit  = 255
)

// answerND answers a solicitation for one of the gateway's addresses (RFC 4861
// section 7.2.4). Duplicate address detection is answered to all nodes, which
// defends the address.
func (g *Gateway) answerND(pol *policy, p *frame.Packet) {
	nd, ok := p.ND()
	if !ok || nd.Malformed || nd.HopLimit != ndHopLimit || !pol.isOwn(nd.Target) || p.Src.IsMulticast() {
		return
	}
	flags := byte(ndRouter | ndSolicited | ndOverride)
	d := datagram{mac: p.Src, src: nd.Target, dst: p.Source(), proto: frame.ProtoICMPv6, ttl: ndHopLimit, csumAt: icmpCsumAt}
	if d.dst.IsUnspecified() {
		d.dst, d.mac = netip.IPv6LinkLocalAllNodes(), frame.MAC{0x33, 0x33, 0, 0, 0, 1}
		flags &^= ndSolicited
	}
	b := g.bufs.get()
	defer g.bufs.put(b)
	t := b[headroom : headroom+ndLen]
	clear(t)
	t[0], t[4] = frame.NeighborAdvertisement, flags
	target := nd.Target.As16()
	copy(t[8:], target[:])
	t[24], t[25] = frame.OptTargetLinkAddr, 1
	copy(t[26:], pol.MAC[:])
	g.build(b, ndLen, &d, g.later)
}

// resolveTimeout is longer than the stack's own attempts take.
const resolveTimeout = 5 * time.Second

// resolve finds the MAC of a guest, and waits for it where it must ask. It is
// not for goroutines that deliver frames.
func (g *Gateway) resolve(self, guest netip.Addr) (frame.MAC, bool) {
	proto := tcpip.NetworkProtocolNumber(frame.TypeIPv4)
	if guest.Is6() {
		proto = frame.TypeIPv6
	}
	found := make(chan stack.LinkResolutionResult, 1)
	err := g.stack.GetLinkAddress(nicID, toAddress(guest), toAddress(self), proto, func(r stack.LinkResolutionResult) { found <- r })
	if _, wait := err.(*tcpip.ErrWouldBlock); err != nil && !wait {
		return frame.MAC{}, false
	}
	t := time.NewTimer(resolveTimeout)
	defer t.Stop()
	select {
	case r := <-found:
		if r.Err != nil || len(r.LinkAddress) != len(frame.MAC{}) {
			return frame.MAC{}, false
		}
		return frame.MAC([]byte(r.LinkAddress)), true
	case <-g.done:
	case <-t.C:
	}
	return frame.MAC{}, false
}
