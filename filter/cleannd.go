package filter

import (
	"net/netip"

	"brane/frame"
	"brane/internal/verdict"
)

// ICMPv6 types that clean tells apart, besides those of frame (RFC 2710,
// RFC 3810, RFC 2894, RFC 3122).
const (
	mldReport        = 131
	mldDone          = 132
	mld2Report       = 143
	routerRenumber   = 138
	inverseSolicit   = 141
	inverseAdvertise = 142
)

func (c *cleanSend) inet6(p *frame.Packet) verdict.Reason {
	if p.Fault != frame.OK {
		return faulty(p)
	}
	src := from6(&p.SrcIP)
	unspecified := src == number128{}
	if !unspecified && !c.own.addrs.has6(src) {
		return verdict.SourceIP
	}
	if p.L4 != 0 {
		switch p.Proto {
		case frame.ProtoUDP:
			if serves(p) {
				return verdict.DHCPServer
			}
		case frame.ProtoICMPv6:
			return c.icmp6(p, unspecified)
		}
	}
	if unspecified {
		return verdict.SourceIP
	}
	return verdict.Delivered
}

func (c *cleanSend) icmp6(p *frame.Packet, unspecified bool) verdict.Reason {
	kind, _, _ := p.ICMP()
	switch kind {
	case frame.RouterAdvertisement, frame.Redirect, routerRenumber:
		return verdict.RouterAdvert
	case frame.RouterSolicitation, frame.NeighborSolicitation, frame.NeighborAdvertisement:
		return c.discovery(p, unspecified)
	case inverseSolicit, inverseAdvertise:
		return verdict.ND
	case mldReport, mldDone, mld2Report:
		// Before it has an address, a host reports its groups from none (RFC 3590).
		if unspecified && (p.DstIP[0] != 0xff || p.Frame[p.L3+7] != 1) {
			return verdict.SourceIP
		}
		return verdict.Delivered
	}
	if unspecified {
		return verdict.SourceIP
	}
	return verdict.Delivered
}

// discovery judges a solicitation or a neighbour advertisement (RFC 4861
// section 7.1): on this link, whole, and naming the port itself.
func (c *cleanSend) discovery(p *frame.Packet, unspecified bool) verdict.Reason {
	nd, ok := p.ND()
	if !ok || nd.Malformed || nd.HopLimit != 255 || p.Fragment != frame.Whole {
		return verdict.ND
	}
	for _, addr := range nd.LinkAddrs {
		if addr != c.own.mac || unspecified {
			return verdict.ND
		}
	}
	switch {
	case nd.Type == frame.NeighborAdvertisement:
		if unspecified || !c.own.has(nd.Target) {
			return verdict.ND
		}
	case nd.Type == frame.NeighborSolicitation:
		if nd.Target.IsMulticast() {
			return verdict.ND
		}
		// Detection of duplicates asks for an own address, in the group of those who
		// may have it (RFC 4862 section 5.4.2): others would believe theirs is taken.
		if unspecified && (!c.own.has(nd.Target) || p.DstIP != solicitedNode(nd.Target)) {
			return verdict.ND
		}
	}
	return verdict.Delivered
}

// solicitedNode is the group in which a is asked for (RFC 4291 section 2.7.1).
func solicitedNode(a netip.Addr) [16]byte {
	b := a.As16()
	return [16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]}
}

// receivedND judges ICMPv6 on its way to a port. routed means that it comes
// from the router.
func receivedND(p *frame.Packet, routed bool) verdict.Reason {
	kind, _, ok := p.ICMP()
	switch {
	case !ok || kind < frame.RouterSolicitation || kind > frame.Redirect:
		return verdict.Delivered
	case !routed && (kind == frame.RouterAdvertisement || kind == frame.Redirect):
		return verdict.RouterAdvert
	}
	nd, _ := p.ND()
	if nd.Malformed || nd.HopLimit != 255 || p.Fragment != frame.Whole {
		return verdict.ND
	}
	return verdict.Delivered
}
