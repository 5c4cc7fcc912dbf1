package frame

import (
	"encoding/binary"
	"net/netip"
)

// hopLimit is the time to live of packets built here (RFC 1340's default).
const hopLimit = 64

// ndHopLimit is the hop limit of neighbour discovery (RFC 4861 section 4):
// proof that no router passed the message on.
const ndHopLimit = 255

// AppendUDP appends to dst an Ethernet frame with a UDP datagram over IPv4 or
// IPv6, checksums included. It appends nothing when the addresses are not of
// one family or the payload is too long.
func AppendUDP(dst []byte, srcMAC, dstMAC MAC, from, to netip.AddrPort, payload []byte) []byte {
	out, l4 := appendIP(dst, srcMAC, dstMAC, from.Addr(), to.Addr(), ProtoUDP, hopLimit, udpLen+len(payload))
	if l4 == nil {
		return dst
	}
	binary.BigEndian.PutUint16(l4, from.Port())
	binary.BigEndian.PutUint16(l4[2:], to.Port())
	binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	copy(l4[udpLen:], payload)
	putSum(l4[6:], Sum(l4, pseudoSum(from.Addr(), to.Addr(), ProtoUDP, len(l4))))
	return out
}

// TCP holds the fields of a TCP header that AppendTCP is told.
type TCP struct {
	Seq, Ack uint32
	Flags    uint8
	Window   uint16
}

// AppendTCP appends to dst an Ethernet frame with a TCP segment without
// options, as AppendUDP does.
func AppendTCP(dst []byte, srcMAC, dstMAC MAC, from, to netip.AddrPort, h TCP, payload []byte) []byte {
	out, l4 := appendIP(dst, srcMAC, dstMAC, from.Addr(), to.Addr(), ProtoTCP, hopLimit, tcpLen+len(payload))
	if l4 == nil {
		return dst
	}
	binary.BigEndian.PutUint16(l4, from.Port())
	binary.BigEndian.PutUint16(l4[2:], to.Port())
	binary.BigEndian.PutUint32(l4[4:], h.Seq)
	binary.BigEndian.PutUint32(l4[8:], h.Ack)
	l4[12], l4[13] = tcpLen/4<<4, h.Flags
	binary.BigEndian.PutUint16(l4[14:], h.Window)
	copy(l4[tcpLen:], payload)
	putSum(l4[16:], Sum(l4, pseudoSum(from.Addr(), to.Addr(), ProtoTCP, len(l4))))
	return out
}

// AppendICMP appends to dst an Ethernet frame with an ICMP message over IPv4 or
// an ICMPv6 message over IPv6, as AppendUDP does. body is all after the
// checksum: the rest of the header, and what follows. Neighbour discovery goes
// with hop limit 255.
func AppendICMP(dst []byte, srcMAC, dstMAC MAC, from, to netip.Addr, kind, code uint8, body []byte) []byte {
	proto, hops, sum := uint8(ProtoICMP), uint8(hopLimit), uint16(0)
	if from.Unmap().Is6() {
		proto = ProtoICMPv6
		sum = pseudoSum(from, to, proto, 4+len(body))
		if kind >= RouterSolicitation && kind <= Redirect {
			hops = ndHopLimit
		}
	}
	out, l4 := appendIP(dst, srcMAC, dstMAC, from, to, proto, hops, 4+len(body))
	if l4 == nil {
		return dst
	}
	l4[0], l4[1] = kind, code
	copy(l4[4:], body)
	binary.BigEndian.PutUint16(l4[2:], ^Sum(l4, sum))
	return out
}

// AppendARP appends to dst an Ethernet frame with an ARP message for IPv4. It
// appends nothing when the addresses are not IPv4.
func AppendARP(dst []byte, srcMAC, dstMAC MAC, a ARP) []byte {
	sender, target := a.SenderIP.Unmap(), a.TargetIP.Unmap()
	if !sender.Is4() || !target.Is4() {
		return dst
	}
	dst = appendEthernet(dst, srcMAC, dstMAC, TypeARP)
	dst = append(dst, 0, 1, TypeIPv4>>8, TypeIPv4&0xff, 6, 4)
	dst = binary.BigEndian.AppendUint16(dst, a.Op)
	dst = append(append(dst, a.SenderMAC[:]...), sender.AsSlice()...)
	return append(append(dst, a.TargetMAC[:]...), target.AsSlice()...)
}

func appendEthernet(dst []byte, srcMAC, dstMAC MAC, etherType uint16) []byte {
	dst = append(append(dst, dstMAC[:]...), srcMAC[:]...)
	return binary.BigEndian.AppendUint16(dst, etherType)
}

// appendIP appends Ethernet and IP headers and n zero bytes, which it returns
// as l4 too; l4 is nil when there is no such packet.
func appendIP(dst []byte, srcMAC, dstMAC MAC, from, to netip.Addr, proto, hops uint8, n int) (out, l4 []byte) {
	from, to = from.Unmap(), to.Unmap()
	switch {
	case from.Is4() && to.Is4() && ipv4Len+n <= 0xffff:
		dst = appendEthernet(dst, srcMAC, dstMAC, TypeIPv4)
		dst = appendIPv4(dst, from.As4(), to.As4(), proto, hops, n)
	case from.Is6() && to.Is6() && n <= 0xffff:
		dst = appendEthernet(dst, srcMAC, dstMAC, TypeIPv6)
		dst = appendIPv6(dst, from.As16(), to.As16(), proto, hops, n)
	default:
		return dst, nil
	}
	at := len(dst)
	dst = append(dst, make([]byte, n)...)
	return dst, dst[at:]
}

// appendIPv4 appends the header of a packet that may not be fragmented, for n bytes.
func appendIPv4(dst []byte, from, to [4]byte, proto, ttl uint8, n int) []byte {
	const version, dontFragment = 0x45, 0x40
	at, total := len(dst), ipv4Len+n
	dst = append(dst, version, 0, byte(total>>8), byte(total), 0, 0, dontFragment, 0, ttl, proto, 0, 0)
	dst = append(append(dst, from[:]...), to[:]...)
	putIPv4Sum(dst[at:])
	return dst
}

func appendIPv6(dst []byte, from, to [16]byte, proto, hops uint8, n int) []byte {
	dst = append(dst, 0x60, 0, 0, 0, byte(n>>8), byte(n), proto, hops)
	return append(append(dst, from[:]...), to[:]...)
}

// pseudoSum is PseudoSum for addresses that are in no packet yet.
func pseudoSum(from, to netip.Addr, proto uint8, length int) uint16 {
	p := Packet{Type: TypeIPv6, Proto: proto}
	if from, to = from.Unmap(), to.Unmap(); from.Is4() && to.Is4() {
		p.Type = TypeIPv4
		*(*[4]byte)(p.SrcIP[:]), *(*[4]byte)(p.DstIP[:]) = from.As4(), to.As4()
	} else if from.IsValid() && to.IsValid() {
		p.SrcIP, p.DstIP = from.As16(), to.As16()
	}
	return p.PseudoSum(length)
}
