package filter

import (
	"encoding/binary"
	"net/netip"

	"brane/frame"
)

// Builders of frames for tests: each puts its header before what it is given.

var (
	ownMAC    = frame.MAC{0x02, 0, 0, 0, 0, 0x0a}
	peerMAC   = frame.MAC{0x02, 0, 0, 0, 0, 0x0b}
	routerMAC = frame.MAC{0x02, 0, 0, 0, 0, 0x01}
	allMAC    = frame.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

func cat(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func eth(dst, src frame.MAC, kind uint16, payload []byte) []byte {
	return cat(dst[:], src[:], be16(kind), payload)
}

// snap is an 802.3 frame with an 802.2 SNAP header around an EtherType.
func snap(dst, src frame.MAC, kind uint16, payload []byte) []byte {
	return eth(dst, src, uint16(8+len(payload)), cat([]byte{0xaa, 0xaa, 3, 0, 0, 0}, be16(kind), payload))
}

// tag inserts VLAN tags of the given types, the last one innermost.
func tag(b []byte, types ...uint16) []byte {
	out := append([]byte(nil), b[:12]...)
	for _, t := range types {
		out = append(out, cat(be16(t), be16(5))...)
	}
	return append(out, b[12:]...)
}

// inet is an IP packet without extension headers, of the family of src.
func inet(src, dst netip.Addr, proto, hops uint8, payload []byte) []byte {
	if src.Is4() {
		return inet4(src, dst, proto, 0, payload)
	}
	h := cat([]byte{0x60, 0, 0, 0}, be16(uint16(len(payload))), []byte{proto, hops}, src.AsSlice(), dst.AsSlice())
	return cat(h, payload)
}

func inet4(src, dst netip.Addr, proto uint8, frag uint16, payload []byte) []byte {
	h := cat([]byte{0x45, 0}, be16(uint16(20+len(payload))), []byte{0, 1}, be16(frag), []byte{64, proto, 0, 0}, src.AsSlice(), dst.AsSlice())
	sum := uint32(0)
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum+sum>>16))
	return cat(h, payload)
}

func etherTypeOf(a netip.Addr) uint16 {
	if a.Is4() {
		return frame.TypeIPv4
	}
	return frame.TypeIPv6
}

// datagram is an Ethernet frame with an IP packet.
func datagram(dstMAC, srcMAC frame.MAC, src, dst netip.Addr, proto, hops uint8, payload []byte) []byte {
	return eth(dstMAC, srcMAC, etherTypeOf(src), inet(src, dst, proto, hops, payload))
}

func udp(src, dst uint16, payload []byte) []byte {
	return cat(be16(src), be16(dst), be16(uint16(8+len(payload))), []byte{0, 0}, payload)
}

func tcp(src, dst uint16, flags uint8, payload []byte) []byte {
	return cat(be16(src), be16(dst), make([]byte, 8), []byte{0x50, flags}, make([]byte, 6), payload)
}

func icmp(kind, code uint8, body []byte) []byte {
	return cat([]byte{kind, code, 0, 0}, body)
}

func arp(op uint16, senderMAC frame.MAC, sender netip.Addr, targetMAC frame.MAC, target netip.Addr) []byte {
	return cat([]byte{0, 1, 8, 0, 6, 4}, be16(op), senderMAC[:], sender.AsSlice(), targetMAC[:], target.AsSlice())
}

// linkOption is a link-layer address option of neighbour discovery.
func linkOption(kind uint8, m frame.MAC) []byte { return cat([]byte{kind, 1}, m[:]) }

// neighbor is a solicitation (135) or advertisement (136).
func neighbor(kind uint8, target netip.Addr, options ...[]byte) []byte {
	return icmp(kind, 0, cat(make([]byte, 4), target.AsSlice(), cat(options...)))
}

// extended puts extension headers of the given kinds before an upper-layer
// payload and gives the first one's number. Fragment headers are atomic.
func extended(kinds []uint8, proto uint8, payload []byte) (uint8, []byte) {
	for i := len(kinds) - 1; i >= 0; i-- {
		h := []byte{proto, 0, 1, 4, 0, 0, 0, 0}
		if kinds[i] == frame.ProtoFragment {
			h = []byte{proto, 0, 0, 0, 0, 0, 0, 1}
		}
		proto, payload = kinds[i], cat(h, payload)
	}
	return proto, payload
}

// fragment6 puts a fragment header before payload.
func fragment6(proto uint8, offset uint16, more bool, payload []byte) []byte {
	f := offset
	if more {
		f |= 1
	}
	return cat([]byte{proto, 0}, be16(f), []byte{0, 0, 0, 7}, payload)
}

func parsed(b []byte) *frame.Packet {
	p := new(frame.Packet)
	p.Parse(b)
	return p
}
