package filter

import (
	"encoding/binary"

	"brane/frame"
)

// present says whether the frame has the header that a load reads.
func present(h Header, p *frame.Packet) Truth {
	if h == hEther {
		return Yes
	}
	d := &headerTable[h]
	switch d.layer {
	case Ether:
		return etherType(p, d.number)
	case IPv4:
		return protocol(p, family4, uint8(d.number))
	case IPv6:
		return protocol(p, family6, uint8(d.number))
	}
	return protocol(p, family4|family6, uint8(d.number))
}

// read gives size bytes at offset of the header; ok is false when they are not
// there. present has said Yes.
func read(h Header, offset uint32, size uint8, p *frame.Packet) (v uint32, ok bool) {
	b := p.Frame
	switch {
	case h == hEther:
	case headerTable[h].layer == Ether:
		if opaque(p) || p.L3 == 0 || p.Fault == frame.BadLength {
			return 0, false
		}
		b = b[p.L3:p.End]
	default:
		if p.L4 == 0 {
			return 0, false
		}
		b = b[p.L4:p.End]
	}
	if uint64(offset)+uint64(size) > uint64(len(b)) {
		return 0, false
	}
	b = b[offset:]
	switch size {
	case 1:
		return uint32(b[0]), true
	case 2:
		return uint32(binary.BigEndian.Uint16(b)), true
	}
	return binary.BigEndian.Uint32(b), true
}

func (c Compare) holds(a, b uint32) bool {
	switch c {
	case Equal:
		return a == b
	case NotEqual:
		return a != b
	case Less:
		return a < b
	case LessEqual:
		return a <= b
	case Greater:
		return a > b
	}
	return a >= b
}

// field compares one field with a constant.
func (in *inst) field(p *frame.Packet) Truth {
	if g := present(in.header, p); g != Yes {
		return g
	}
	v, ok := read(in.header, uint32(in.a), in.size, p)
	if !ok {
		return Undecidable
	}
	return truth(in.cmp.holds(v&in.mask, in.addr))
}

// match computes both values and compares them, if the frame has all headers
// that they read.
func (o *ops) match(cmp Compare, p *frame.Packet) Truth {
	t := Yes
	for _, h := range o.guards {
		switch present(h, p) {
		case No:
			return No
		case Undecidable:
			t = Undecidable
		}
	}
	if t != Yes {
		return t
	}
	var r [MaxRegisters]uint32
	for i := range o.code {
		if !o.code[i].do(&r, p) {
			return Undecidable
		}
	}
	return truth(cmp.holds(r[0], r[1]))
}

// do computes one value; false when it has none.
func (c *op) do(r *[MaxRegisters]uint32, p *frame.Packet) bool {
	at := &r[c.dst%MaxRegisters]
	switch c.kind {
	case loadNumber:
		*at = c.value
		return true
	case loadLength:
		*at = uint32(len(p.Frame))
		return true
	case negateTop:
		*at = -*at
		return true
	case loadBytes:
		v, ok := read(c.header, *at, c.size, p)
		*at = v
		return ok
	}
	b := r[(c.dst+1)%MaxRegisters]
	switch c.kind {
	case '+':
		*at += b
	case '-':
		*at -= b
	case '*':
		*at *= b
	case '&':
		*at &= b
	case '|':
		*at |= b
	case '^':
		*at ^= b
	case '<':
		*at <<= b // 0 from 32 on
	case '>':
		*at >>= b
	case '/', '%':
		if b == 0 {
			return false
		}
		if c.kind == '/' {
			*at /= b
		} else {
			*at %= b
		}
	}
	return true
}
