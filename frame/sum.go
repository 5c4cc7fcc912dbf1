package frame

import (
	"encoding/binary"
	"math/bits"
)

// Sum adds b to a ones'-complement sum of 16-bit words (RFC 1071); a last odd
// byte counts as followed by 0, so only the last piece of a chain may be odd.
// The result is not complemented.
func Sum(b []byte, initial uint16) uint16 {
	// The sum is the same in either byte order but for a swap of the result, so
	// it is taken eight bytes at a time in the order that costs no swap a word.
	var acc, carry uint64
	for len(b) >= 64 {
		w := b[:64]
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w), 0)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[8:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[16:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[24:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[32:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[40:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[48:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[56:]), carry)
		acc += carry // cannot carry again: a sum that carried is not all ones
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b), 0)
		acc += carry
		b = b[8:]
	}
	var last uint64
	if len(b) >= 4 {
		last = uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		last += uint64(binary.LittleEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		last += uint64(b[0])
	}
	acc, carry = bits.Add64(acc, last, 0)
	acc += carry
	return fold(uint64(bits.ReverseBytes16(fold(acc))) + uint64(initial))
}

// fold adds up the four words of acc with end-around carry.
func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return uint16(acc)
}

// PseudoSum gives the sum of the pseudo-header of a transport segment of length
// bytes under p's addresses and protocol (RFC 9293 section 3.1, RFC 8200
// section 8.1). For a Routed packet it is not the one that the sender used.
func (p *Packet) PseudoSum(length int) uint16 {
	n := len(p.SrcIP)
	if p.Type == TypeIPv4 {
		n = 4
	}
	sum := Sum(p.SrcIP[:n], Sum(p.DstIP[:n], 0))
	return fold(uint64(sum) + uint64(p.Proto) + uint64(length))
}

// Complete fills in the checksum that a header v from Check asks for: over the
// bytes from CsumStart to the end of the packet, with the sum of the
// pseudo-header that the sender left in the field. It writes to p.Frame and
// does nothing when v asks for none. For a superframe use Segment.
func Complete(p *Packet, v Vnet) {
	at := int(v.CsumStart) + int(v.CsumOffset)
	if v.Flags&VnetNeedsCsum == 0 || at+2 > p.End {
		return
	}
	putSum(p.Frame[at:], Sum(p.Frame[v.CsumStart:p.End], 0))
}

// putSum writes the checksum of a transport header whose bytes add up to sum;
// 0 is written as 0xffff, because for UDP 0 says that there is none (RFC 768).
func putSum(field []byte, sum uint16) {
	if sum = ^sum; sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(field, sum)
}

// Verify says whether the checksums of the frame are right, as far as it holds
// any: IPv4 header, TCP, UDP, ICMP, IGMP and ICMPv6. Not judged are the
// transport of fragments and Routed packets, UDP over IPv4 without checksum,
// and other protocols. A checksum yet to be completed is wrong, and so is any
// frame with a Fault.
func Verify(p *Packet) bool {
	if p.Fault != OK {
		return false
	}
	if p.Type == TypeIPv4 {
		header := p.Frame[p.L3:]
		if Sum(header[:int(header[0]&15)*4], 0) != 0xffff {
			return false
		}
	}
	if p.L4 == 0 || p.Fragment != Whole || p.Type != TypeIPv4 && p.Type != TypeIPv6 {
		return true
	}
	body := p.Frame[p.L4:p.End]
	switch {
	case p.Type == TypeIPv4 && (p.Proto == ProtoICMP || p.Proto == ProtoIGMP):
		return Sum(body, 0) == 0xffff
	case p.Routed:
		return true
	case p.Proto == ProtoUDP:
		if binary.BigEndian.Uint16(body[6:]) == 0 {
			return p.Type == TypeIPv4
		}
		body = body[:binary.BigEndian.Uint16(body[4:])]
	case p.Proto == ProtoTCP, p.Type == TypeIPv6 && p.Proto == ProtoICMPv6:
	default:
		return true
	}
	return Sum(body, p.PseudoSum(len(body))) == 0xffff
}
