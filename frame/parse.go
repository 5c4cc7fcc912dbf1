package frame

import "encoding/binary"

// VLAN tag protocol identifiers that the parser walks over.
const (
	TypeVLAN    = 0x8100 // IEEE 802.1Q customer tag
	TypeQinQ    = 0x88a8 // IEEE 802.1ad service tag
	TypeOldQinQ = 0x9100 // service tag before 802.1ad
)

// Upper-layer protocols and IPv6 extension headers (IANA protocol numbers).
const (
	ProtoHopByHop = 0
	ProtoICMP     = 1
	ProtoIGMP     = 2
	ProtoTCP      = 6
	ProtoUDP      = 17
	ProtoRouting  = 43
	ProtoFragment = 44
	ProtoAH       = 51
	ProtoICMPv6   = 58
	ProtoNone     = 59
	ProtoDestOpts = 60
	ProtoSCTP     = 132
)

// Header sizes in bytes, without options.
const (
	arpLen  = 28
	ipv4Len = 20
	ipv6Len = 40
	tcpLen  = 20
	udpLen  = 8
	tagLen  = 4
	fragLen = 8
)

// minEtherType is the smallest EtherType; less is an 802.3 length.
const minEtherType = 0x0600

// Parse reads the frame b, Ethernet header first, into p. It reads no byte
// beyond b, allocates nothing, sets every field of p and keeps b in p.Frame.
// Any input is fine; what is wrong with it is said in Fault.
func (p *Packet) Parse(b []byte) {
	*p = Packet{Frame: b, End: len(b)}
	if len(b) < EthernetLen {
		p.Fault = Runt
		return
	}
	p.Dst, p.Src = MAC(b[:6]), MAC(b[6:12])
	at, t := EthernetLen, binary.BigEndian.Uint16(b[12:])
	for t == TypeVLAN || t == TypeQinQ || t == TypeOldQinQ {
		p.Tags++
		if p.Tags > MaxTags {
			p.Type = t
			return
		}
		if len(b) < at+tagLen {
			p.Type, p.Fault = t, Truncated
			return
		}
		t = binary.BigEndian.Uint16(b[at+2:])
		at += tagLen
	}
	if t < minEtherType {
		p.parseLLC(at, int(t))
		return
	}
	p.Type = t
	switch t {
	case TypeIPv4:
		p.parseIPv4(at)
	case TypeIPv6:
		p.parseIPv6(at)
	case TypeARP:
		p.parseARP(at)
	default:
		if at < len(b) {
			p.L3 = at
		}
	}
}

func (p *Packet) parseLLC(at, length int) {
	p.LLC = true
	switch {
	case at+length > len(p.Frame):
		p.Fault = BadLength
	case length < 3: // DSAP, SSAP, control
		p.Fault = Truncated
	default:
		p.End = at + length
	}
}

// parseARP checks that the message is ARP for IPv4 over Ethernet (RFC 826).
func (p *Packet) parseARP(at int) {
	b := p.Frame
	if len(b) < at+arpLen {
		p.Fault = Truncated
		return
	}
	p.L3 = at
	const etherIPv4 = 1<<48 | TypeIPv4<<32 | 6<<24 | 4<<16 // htype, ptype, hlen, plen, any op
	if binary.BigEndian.Uint64(b[at:])&^0xffff != etherIPv4 {
		p.Fault = BadLength
		return
	}
	p.End = at + arpLen
}

func (p *Packet) parseIPv4(at int) {
	if len(p.Frame) < at+ipv4Len {
		p.Fault = Truncated
		return
	}
	h := p.Frame[at : at+ipv4Len]
	if h[0]>>4 != 4 {
		p.Fault = BadLength
		return
	}
	p.L3 = at
	copy(p.SrcIP[:4], h[12:16])
	copy(p.DstIP[:4], h[16:20])
	p.Proto = h[9]
	headerLen, total := int(h[0]&15)*4, int(binary.BigEndian.Uint16(h[2:]))
	if headerLen < ipv4Len || total < headerLen || at+total > len(p.Frame) {
		p.Fault = BadLength
		return
	}
	p.End = at + total
	if headerLen > ipv4Len {
		p.Routed = sourceRoute(p.Frame[at+ipv4Len : at+headerLen])
	}
	const moreFragments, offsetMask = 0x2000, 0x1fff
	if f := binary.BigEndian.Uint16(h[6:]); f&(moreFragments|offsetMask) != 0 {
		if !p.fragment(int(f&offsetMask)*8, f&moreFragments != 0, total-headerLen, headerLen) {
			return
		}
	}
	p.parseL4(at + headerLen)
}

// fragment notes a fragment of size bytes at offset of a datagram whose other
// headers take extra bytes, and says whether a transport header follows.
func (p *Packet) fragment(offset int, more bool, size, extra int) bool {
	p.Fragment = First
	if offset > 0 {
		p.Fragment = Later
	}
	// The whole datagram must fit its 16-bit length, and all fragments but the
	// last end on 8 bytes (RFC 791 section 3.2, RFC 8200 section 4.5).
	if extra+offset+size > 0xffff || more && size%8 != 0 {
		p.Fault = BadLength
	}
	return p.Fault == OK && p.Fragment == First
}

// sourceRoute says whether IPv4 options hold a loose or strict source route
// (RFC 791 section 3.1), or cannot be read.
func sourceRoute(opts []byte) bool {
	const end, nop, loose, strict = 0, 1, 131, 137
	for len(opts) > 0 {
		switch opts[0] {
		case end:
			return false
		case nop:
			opts = opts[1:]
			continue
		case loose, strict:
			return true
		}
		if len(opts) < 2 || opts[1] < 2 || int(opts[1]) > len(opts) {
			return true
		}
		opts = opts[opts[1]:]
	}
	return false
}

func (p *Packet) parseIPv6(at int) {
	if len(p.Frame) < at+ipv6Len {
		p.Fault = Truncated
		return
	}
	h := p.Frame[at : at+ipv6Len]
	if h[0]>>4 != 6 {
		p.Fault = BadLength
		return
	}
	p.L3 = at
	p.SrcIP, p.DstIP = [16]byte(h[8:24]), [16]byte(h[24:40])
	p.Proto = h[6]
	// A length of 0 with a header to follow is a jumbogram (RFC 2675): refused.
	length := int(binary.BigEndian.Uint16(h[4:]))
	if at+ipv6Len+length > len(p.Frame) || length == 0 && p.Proto != ProtoNone {
		p.Fault = BadLength
		return
	}
	p.End = at + ipv6Len + length
	switch p.Proto {
	case ProtoTCP, ProtoUDP, ProtoICMPv6:
		p.parseL4(at + ipv6Len)
	default:
		p.parseChain(at + ipv6Len)
	}
}

// parseChain walks extension headers from at; p.Proto names the first.
func (p *Packet) parseChain(at int) {
	for start := at; isExtension(p.Proto); {
		if p.Ext == MaxExt {
			p.Fault = ChainLimit
			return
		}
		if p.End-at < 8 {
			p.Fault = Truncated
			return
		}
		h := p.Frame[at : at+8]
		size := (int(h[1]) + 1) * 8
		switch p.Proto {
		case ProtoFragment:
			size = fragLen
		case ProtoAH:
			size = (int(h[1]) + 2) * 4
		case ProtoRouting:
			p.Routed = p.Routed || h[3] > 0 // segments left
		}
		if at+size-start > MaxExtLen {
			p.Fault = ChainLimit
			return
		}
		if at+size > p.End {
			p.Fault = Truncated
			return
		}
		frag := p.Proto == ProtoFragment
		p.Proto = h[0]
		p.Ext++
		at += size
		if frag {
			f := binary.BigEndian.Uint16(h[2:])
			if !p.fragment(int(f&^7), f&1 != 0, p.End-at, at-fragLen-p.L3-ipv6Len) {
				return
			}
		}
	}
	if p.Proto != ProtoNone {
		p.parseL4(at)
	}
}

func isExtension(proto uint8) bool {
	switch proto {
	case ProtoHopByHop, ProtoRouting, ProtoDestOpts, ProtoFragment, ProtoAH:
		return true
	}
	return false
}

// parseL4 sets L4 when the transport header at at is whole.
func (p *Packet) parseL4(at int) {
	n := p.End - at
	switch p.Proto {
	case ProtoTCP:
		if n < tcpLen {
			p.Fault = Truncated
			return
		}
		switch size := int(p.Frame[at+12]>>4) * 4; {
		case size < tcpLen:
			p.Fault = BadLength
			return
		case size > n:
			p.Fault = Truncated
			return
		}
	case ProtoUDP:
		if n < udpLen {
			p.Fault = Truncated
			return
		}
		// A first fragment holds less than its UDP length says.
		size := int(binary.BigEndian.Uint16(p.Frame[at+4:]))
		if size < udpLen || p.Fragment == Whole && size > n {
			p.Fault = BadLength
			return
		}
	case ProtoICMP, ProtoIGMP:
		if n < 8 {
			p.Fault = Truncated
			return
		}
	case ProtoICMPv6:
		if n < 4 {
			p.Fault = Truncated
			return
		}
	case ProtoSCTP:
		if n < 12 {
			p.Fault = Truncated
			return
		}
	}
	p.L4 = at
}
