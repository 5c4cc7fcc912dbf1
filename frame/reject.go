package frame

import (
	"encoding/binary"
	"net/netip"
)

// Longest packets that carry an error: what every host takes (RFC 1812 section
// 4.3.2.3, RFC 4443 section 2.4).
const (
	maxError4 = 576
	maxError6 = 1280
)

// ICMP types and codes that a refusal is made of.
const (
	unreachable4      = 3  // RFC 792
	filtered4         = 13 // communication administratively prohibited, RFC 1812
	unreachable6      = 1  // RFC 4443
	filtered6         = 1  // communication administratively prohibited
	icmpEchoRequest   = 8
	icmp6EchoRequest  = 128
	icmpEchoReply     = 0
	icmp6EchoReply    = 129
	icmpTimestamp     = 13
	icmpExtendedEcho  = 42
	icmp6ExtendedEcho = 160
)

// Reject appends to dst the Ethernet frame that tells the sender of p at once
// that it was refused, from srcMAC to p.Src: for TCP a reset that belongs to
// the segment (RFC 9293 section 3.10.7.1), for anything else ICMP type 3 code
// 13 or ICMPv6 type 1 code 1, with the start of the packet. The network source
// is the address that p was for: the refusal speaks in its place, and so passes
// rules that let only its answers through. Where no station can have that
// address (net 0, loopback, the reserved class E) the receiver would drop such a
// packet, so the refusal is ICMP in any case, from the dummy address of
// RFC 7600. VLAN tags are kept.
//
// It appends nothing where an answer is forbidden, useless or could be turned
// against others (RFC 1122 section 3.2.2, RFC 4443 section 2.4): to a reset, an
// ICMP error, an ICMP message that asks nothing; to a group, or from one; to a
// Later fragment, a Routed packet, a frame with a Fault or without IP; to a
// packet whose source and destination are the same. How many are sent a second
// is for the caller to bound. dst may not overlap p.Frame.
func Reject(dst []byte, p *Packet, srcMAC MAC) []byte {
	if !p.answerable() {
		return dst
	}
	if p.Proto == ProtoTCP && unicast(p.Destination()) {
		return p.appendReset(dst, srcMAC)
	}
	flags, _ := p.TCPFlags()
	kind, _, icmp := p.ICMP()
	switch {
	case flags&RST != 0:
		return dst
	case icmp && p.Type == TypeIPv4 && kind != icmpEchoRequest && kind != icmpTimestamp && kind != icmpExtendedEcho:
		return dst
	case icmp && p.Type == TypeIPv6 && kind != icmp6EchoRequest && kind != icmp6ExtendedEcho:
		return dst
	}
	return p.appendProhibited(dst, srcMAC)
}

// answerable says whether p came from one station, for one station, and is
// understood up to its transport header.
func (p *Packet) answerable() bool {
	if p.Fault != OK || p.L4 == 0 || p.Routed || p.Dst.IsMulticast() || p.Src.IsMulticast() || p.Src.IsZero() {
		return false
	}
	from, to := p.Source(), p.Destination()
	return unicast(from) && (unicast(to) || nowhere(to)) && from != to
}

// nowhere says that an IPv4 address is no station's and no group's, yet one
// that hosts let out to the wire.
func nowhere(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	b := a.As4()
	return (b[0] == 0 || b[0] == 127 || b[0] >= 240) && !a.IsUnspecified() && b != [4]byte{255, 255, 255, 255}
}

func unicast(a netip.Addr) bool {
	if a.Is4() {
		b := a.As4()
		return b[0] > 0 && b[0] < 224 && b[0] != 127
	}
	return a.IsValid() && !a.IsMulticast() && !a.IsUnspecified() && !a.IsLoopback() && !a.Is4In6()
}

func (p *Packet) appendReset(dst []byte, srcMAC MAC) []byte {
	h := p.Frame[p.L4:p.End]
	flags := h[13]
	if flags&RST != 0 || p.Fragment != Whole {
		return dst // of a first fragment the length of the segment is unknown
	}
	reset := TCP{Flags: RST, Seq: binary.BigEndian.Uint32(h[8:])}
	if flags&ACK == 0 {
		// SYN and FIN take a sequence number each.
		length := uint32(len(p.Payload())) + uint32(flags>>1&1) + uint32(flags&1)
		reset = TCP{Flags: RST | ACK, Ack: binary.BigEndian.Uint32(h[4:]) + length}
	}
	src, to, _ := p.Ports()
	at := len(dst)
	dst = AppendTCP(dst, srcMAC, p.Src, netip.AddrPortFrom(p.Destination(), to),
		netip.AddrPortFrom(p.Source(), src), reset, nil)
	return p.copyTags(dst, at)
}

func (p *Packet) appendProhibited(dst []byte, srcMAC MAC) []byte {
	const unused = 4 // bytes after the checksum
	room, kind, code := maxError4-ipv4Len-8, uint8(unreachable4), uint8(filtered4)
	if p.Type == TypeIPv6 {
		room, kind, code = maxError6-ipv6Len-8, unreachable6, filtered6
	}
	var body [unused + maxError6]byte
	n := copy(body[unused:], p.Frame[p.L3:min(p.L3+room, p.End)])
	at, from := len(dst), p.Destination()
	if !unicast(from) {
		from = netip.AddrFrom4([4]byte{192, 0, 0, 8}) // RFC 7600
	}
	dst = AppendICMP(dst, srcMAC, p.Src, from, p.Source(), kind, code, body[:unused+n])
	return p.copyTags(dst, at)
}

// copyTags gives the frame that begins at at in b the VLAN tags of p.
func (p *Packet) copyTags(b []byte, at int) []byte {
	if p.Tags == 0 {
		return b
	}
	const macs = 12
	tags := p.Frame[macs : macs+tagLen*int(p.Tags)]
	b = append(b, tags...) // room for them
	copy(b[at+macs+len(tags):], b[at+macs:])
	copy(b[at+macs:], tags)
	return b
}
