package filter

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"brane/frame"
	"brane/internal/verdict"
)

// guard keeps what a port sends to its gateway away from the host: the first
// line of defence, DenySet at the dialler being the second. It judges frames to
// the router's MAC, and IP packets to one station in frames to a group, which
// the router hears too. It looks at the destination, and at ports only where
// the destination is the gateway or the host itself.
type guard struct {
	router  frame.MAC
	deny    *DenySet
	own     addrSet   // the gateway's addresses
	link    number128 // its link-local IPv6 address, made from its MAC
	ports   []uint16  // ascending
	replies []uint16  // ascending
}

// NewGuard makes the rule guard from Router, Routers, Bound, Ports and Replies.
func NewGuard(p Params) Rule {
	g := &guard{
		router: p.Router, deny: NewDenySet(p.Bound, p.Routers),
		ports: slices.Sorted(slices.Values(p.Ports)), replies: slices.Sorted(slices.Values(p.Replies)),
	}
	g.own = g.deny.alias
	ll := frame.EUI64(netip.MustParseAddr("fe80::"), p.Router).As16()
	g.link = from6(&ll)
	return g
}

func (g *guard) Judge(p *frame.Packet) verdict.Reason {
	group := p.Dst.IsMulticast()
	switch {
	case p.Fault == frame.Runt:
		return verdict.Runt
	case p.Dst != g.router && !group:
		return verdict.Delivered
	case p.Tags != 0 || p.LLC:
		return verdict.Undecidable
	case p.Type == frame.TypeIPv4:
		return g.inet4(p, group)
	case p.Type == frame.TypeIPv6:
		return g.inet6(p, group)
	}
	return verdict.Delivered
}

func (g *guard) inet4(p *frame.Packet, group bool) verdict.Reason {
	if p.L3 == 0 || p.Fault == frame.BadLength {
		return verdict.Undecidable
	}
	const limitedBroadcast = 0xffffffff
	dst := binary.BigEndian.Uint32(p.DstIP[:])
	switch {
	case group && (dst>>28 == 0xe || dst == limitedBroadcast):
		return verdict.Delivered // for the stations of the link, not to be routed
	case p.Routed:
		return verdict.Host
	case g.own.has4(dst):
		return g.service(p)
	case dst == limitedBroadcast && p.L4 != 0 && p.Proto == frame.ProtoUDP:
		if sport, dport, _ := p.Ports(); sport == dhcp4Client && dport == dhcp4Server {
			return verdict.Delivered
		}
		return verdict.Host
	case g.deny.always.has4(dst):
		return verdict.Host
	case g.deny.host.has4(dst):
		return g.hostPort(p)
	}
	return verdict.Delivered
}

func (g *guard) inet6(p *frame.Packet, group bool) verdict.Reason {
	if p.L3 == 0 || p.Fault == frame.BadLength {
		return verdict.Undecidable
	}
	dst := from6(&p.DstIP)
	switch {
	case group && p.DstIP[0] == 0xff:
		return verdict.Delivered
	case p.Routed:
		return verdict.Host
	case g.own.has6(dst):
		return g.service(p)
	case dst == g.link && p.Proto == frame.ProtoICMPv6:
		return g.service(p)
	case g.deny.always.has6(dst):
		return verdict.Host
	case g.deny.host.has6(dst):
		return g.hostPort(p)
	case g.deny.inside(&p.DstIP):
		return verdict.Host
	}
	return verdict.Delivered
}

// service judges a packet to the gateway itself.
func (g *guard) service(p *frame.Packet) verdict.Reason {
	const domain = 53
	icmp := p.Type == frame.TypeIPv4 && p.Proto == frame.ProtoICMP || p.Type == frame.TypeIPv6 && p.Proto == frame.ProtoICMPv6
	if p.L4 == 0 {
		// The rest of a long echo; the first fragment was judged, and no other can
		// change its type.
		if icmp && p.Fragment == frame.Later && p.Fault == frame.OK {
			return verdict.Delivered
		}
		return verdict.Undecidable
	}
	sport, dport, _ := p.Ports()
	switch {
	case icmp:
		if serviceICMP(p) {
			return verdict.Delivered
		}
	case p.Proto == frame.ProtoTCP && p.Fragment != frame.Whole:
		return verdict.Undecidable // a later fragment could overwrite the flags
	case p.Proto == frame.ProtoTCP:
		// Connections that the gateway opened, for forwards, go on: what they carry
		// from here has ACK or RST, which opens none.
		flags, _ := p.TCPFlags()
		if dport == domain || flags&(frame.ACK|frame.RST) != 0 || g.open(dport) {
			return verdict.Delivered
		}
	case p.Proto == frame.ProtoUDP:
		_, reply := slices.BinarySearch(g.replies, sport)
		if dport == domain || reply || dport == dhcp4Server && p.Type == frame.TypeIPv4 || g.open(dport) {
			return verdict.Delivered
		}
	}
	return verdict.Host
}

// serviceICMP says whether a message is one that the gateway answers, or an
// error about what it sent (RFC 792, RFC 4443), or discovery of it.
func serviceICMP(p *frame.Packet) bool {
	kind, _, _ := p.ICMP()
	if p.Type == frame.TypeIPv4 {
		switch kind {
		case 0, 3, 8, 11, 12: // echo reply, unreachable, echo, time exceeded, parameter problem
			return true
		}
		return false
	}
	switch kind {
	case 1, 2, 3, 4, 128, 129, frame.RouterSolicitation, frame.NeighborSolicitation, frame.NeighborAdvertisement:
		return true
	}
	return false
}

func (g *guard) open(port uint16) bool {
	_, ok := slices.BinarySearch(g.ports, port)
	return ok
}

// hostPort judges a packet to an address of the host: open ports only.
func (g *guard) hostPort(p *frame.Packet) verdict.Reason {
	switch _, dport, ok := p.Ports(); {
	case len(g.ports) == 0:
		return verdict.Host
	case p.L4 == 0:
		return verdict.Undecidable
	case ok && p.Proto != frame.ProtoSCTP && g.open(dport):
		return verdict.Delivered
	}
	return verdict.Host
}
