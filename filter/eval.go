package filter

import (
	"encoding/binary"

	"brane/frame"
)

// Truth is the answer of a term or a program, in Kleene's logic.
type Truth uint8

// The answers. The zero value lets nothing pass.
const (
	No Truth = iota
	Yes
	Undecidable
)

// String is the answer's word.
func (t Truth) String() string {
	switch t {
	case No:
		return "no"
	case Yes:
		return "yes"
	}
	return "undecidable"
}

func truth(b bool) Truth {
	if b {
		return Yes
	}
	return No
}

// Match judges a parsed frame. It does not allocate, and looks at each term
// twice at most.
func (g *Program) Match(p *frame.Packet) Truth {
	holds, undecided := g.run(p, false)
	switch {
	case holds:
		return Yes
	case !undecided:
		return No
	}
	if holds, _ = g.run(p, true); holds {
		return Undecidable
	}
	return No
}

// run says whether the program holds when undecidable terms, negated or not,
// are taken as assume, and whether there was one.
func (g *Program) run(p *frame.Packet, assume bool) (holds, undecided bool) {
	if len(g.code) == 0 {
		return assume, true // not from Compile: undecidable
	}
	for pc := uint16(0); pc < reject; {
		in := &g.code[pc]
		ok := assume
		switch g.test1(in, p) {
		case Yes:
			ok = !in.negated
		case No:
			ok = in.negated
		default:
			undecided = true
		}
		if pc = in.no; ok {
			pc = in.yes
		}
		if pc == accept {
			return true, undecided
		}
	}
	return false, undecided
}

func (g *Program) test1(in *inst, p *frame.Packet) Truth {
	switch in.op {
	case opType:
		return etherType(p, uint16(in.a))
	case opDSAP:
		return dsap(in, p)
	case opProto:
		return protocol(p, in.over, uint8(in.a))
	case opInet4:
		return in.inet4(p)
	case opInet6:
		return g.inet6[in.a].match(in.dir, p)
	case opMAC:
		if p.Fault == frame.Runt {
			return Undecidable
		}
		return truth(in.dir.holds(p.Src == in.mac, p.Dst == in.mac))
	case opPort:
		return in.port(p)
	case opDst:
		if p.Fault == frame.Runt {
			return Undecidable
		}
		return truth(mac64(p.Dst)&in.b == in.a)
	case opCast4:
		return group(p, frame.TypeIPv4, 224)
	case opCast6:
		return group(p, frame.TypeIPv6, 0xff)
	case opField:
		return in.field(p)
	}
	return g.values[in.a].match(in.cmp, p)
}

// group says whether the destination is a group: its first byte is from or
// more, as libpcap has it, for IPv4 the reserved addresses included.
func group(p *frame.Packet, family uint16, from byte) Truth {
	if t := etherType(p, family); t != Yes {
		return t
	}
	if addressed(p) != Yes {
		return Undecidable
	}
	return truth(p.DstIP[0] >= from)
}

func (d Direction) holds(source, destination bool) bool {
	switch d {
	case Source:
		return source
	case Destination:
		return destination
	case SourceAndDestination:
		return source && destination
	}
	return source || destination
}

// opaque says whether the frame's network header is hidden from the language:
// behind a tag, in an 802.3 frame, or missing altogether.
func opaque(p *frame.Packet) bool {
	return p.Tags != 0 || p.LLC || p.Fault == frame.Runt
}

// etherType says whether the frame carries t. Behind tags, only the outermost
// tag's own type is certain; an 802.2 header may hold any.
func etherType(p *frame.Packet, t uint16) Truth {
	switch {
	case !opaque(p):
		return truth(p.Type == t)
	case p.Tags != 0 && binary.BigEndian.Uint16(p.Frame[12:]) == t:
		return Yes
	}
	return Undecidable
}

// dsap says whether the frame is 802.2 for a service access point.
func dsap(in *inst, p *frame.Packet) Truth {
	switch {
	case !opaque(p):
		return No
	case p.Tags != 0 || p.Fault != frame.OK:
		return Undecidable
	}
	h := p.Frame[frame.EthernetLen:]
	return truth(uint64(h[0]) == in.a && (in.b == 0 || uint64(h[1]) == in.a))
}

// addressed says whether the addresses of an IP frame can be relied on.
func addressed(p *frame.Packet) Truth {
	if p.Tags == 0 && p.L3 != 0 && p.Fault != frame.BadLength {
		return Yes
	}
	return Undecidable
}

// protocol says whether the frame is of a family and carries a protocol.
func protocol(p *frame.Packet, families, number uint8) Truth {
	switch {
	case opaque(p):
		return Undecidable
	case p.Type == frame.TypeIPv4 && families&family4 != 0:
		if p.Fault != frame.OK {
			return Undecidable
		}
		return truth(p.Proto == number)
	case p.Type == frame.TypeIPv6 && families&family6 != 0:
		switch {
		case p.Fault != frame.OK:
			return Undecidable
		case p.Proto == number:
			return Yes
		case p.Ext == 0:
			return No
		}
		return truth(inChain(p, number))
	}
	return No
}

// inChain says whether an extension header of a frame without Fault has the number.
func inChain(p *frame.Packet, number uint8) bool {
	const fixed = 40
	next, at := p.Frame[p.L3+6], p.L3+fixed
	for range p.Ext {
		if next == number {
			return true
		}
		h := p.Frame[at:p.End]
		switch next {
		case frame.ProtoFragment:
			at += 8
		case frame.ProtoAH:
			at += (int(h[1]) + 2) * 4
		default:
			at += (int(h[1]) + 1) * 8
		}
		next = h[0]
	}
	return false
}

// inet4 matches IPv4 addresses in IPv4, ARP and RARP.
func (in *inst) inet4(p *frame.Packet) Truth {
	switch {
	case opaque(p):
		return Undecidable
	case p.Type == frame.TypeIPv4 && in.over&inIPv4 != 0:
		if p.L3 == 0 || p.Fault == frame.BadLength {
			return Undecidable
		}
		return in.pair4(binary.BigEndian.Uint32(p.SrcIP[:]), binary.BigEndian.Uint32(p.DstIP[:]))
	case p.Type == frame.TypeARP && in.over&inARP != 0, p.Type == typeRARP && in.over&inRARP != 0:
		// Address resolution for IPv4 over Ethernet: other sizes lie about where
		// the addresses are.
		const etherIPv4, arpLen = 1<<32 | frame.TypeIPv4<<16 | 6<<8 | 4, 28
		if len(p.Frame) < frame.EthernetLen+arpLen {
			return Undecidable
		}
		h := p.Frame[frame.EthernetLen:]
		if binary.BigEndian.Uint64(h)>>16 != etherIPv4 {
			return Undecidable
		}
		return in.pair4(binary.BigEndian.Uint32(h[14:]), binary.BigEndian.Uint32(h[24:]))
	}
	return No
}

const typeRARP = 0x8035

func (in *inst) pair4(src, dst uint32) Truth {
	return truth(in.dir.holds(src&in.mask == in.addr, dst&in.mask == in.addr))
}

func (n *inet6) match(dir Direction, p *frame.Packet) Truth {
	switch {
	case opaque(p):
		return Undecidable
	case p.Type != frame.TypeIPv6:
		return No
	case addressed(p) != Yes:
		return Undecidable
	}
	return truth(dir.holds(n.holds(&p.SrcIP), n.holds(&p.DstIP)))
}

func (n *inet6) holds(b *[16]byte) bool {
	a := pair(b)
	return a[0]&n.mask[0] == n.addr[0] && a[1]&n.mask[1] == n.addr[1]
}

// port matches ports, which only the first fragment of a datagram has.
func (in *inst) port(p *frame.Packet) Truth {
	switch {
	case opaque(p):
		return Undecidable
	case p.Type != frame.TypeIPv4 && p.Type != frame.TypeIPv6:
		return No
	case p.Fault != frame.OK:
		return Undecidable
	}
	switch p.Proto {
	case frame.ProtoTCP:
		if in.over&uint8(TCP) == 0 {
			return No
		}
	case frame.ProtoUDP:
		if in.over&uint8(UDP) == 0 {
			return No
		}
	case frame.ProtoSCTP:
		if in.over&uint8(SCTP) == 0 {
			return No
		}
	default:
		return No
	}
	if p.L4 == 0 {
		return Undecidable
	}
	h := p.Frame[p.L4:]
	src, dst := uint64(binary.BigEndian.Uint16(h)), uint64(binary.BigEndian.Uint16(h[2:]))
	return truth(in.dir.holds(in.a <= src && src <= in.b, in.a <= dst && dst <= in.b))
}
