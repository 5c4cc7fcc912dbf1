package filter

import (
	"encoding/binary"

	"brane/frame"
)

// Program is a compiled expression: terms in the order in which they are
// looked at, each with where to go on when it holds and when it does not.
//
// Negation is pushed down to the terms, which in Kleene's logic changes
// nothing. What remains is monotone: the program is Yes exactly when it holds
// with every undecidable term taken as false, and No when it does not hold
// with every one taken as true. So Match runs it at most twice, without a stack.
type Program struct {
	code   []inst
	inet6  []inet6 // operands of opInet6
	values []ops   // operands of opRelation
}

// opcode names the test of an instruction.
type opcode uint8

const (
	opType     opcode = iota // EtherType a
	opDSAP                   // 802.2 frame with the DSAP a; with b set also the SSAP
	opProto                  // protocol a in the families of over
	opInet4                  // address a under mask b in the headers of over
	opInet6                  // address inet6[a]
	opMAC                    // Ethernet address mac
	opPort                   // port a to b over the transports in over
	opDst                    // the bits of mask b of the Ethernet destination are a
	opCast4                  // IPv4 destination is multicast
	opCast6                  // IPv6 destination is multicast
	opField                  // field of size bytes at offset a of a header, under mask, compared with addr
	opRelation               // values[a]
)

// Jump targets beyond the code.
const (
	accept = 0xffff
	reject = 0xfffe
)

// inst is one test. What its operands mean, op says.
type inst struct {
	op         opcode
	dir        Direction
	over       uint8
	cmp        Compare
	size       uint8
	header     Header
	negated    bool // the term stands under a not: then holds is where it goes when it does not hold
	yes, no    uint16
	a, b       uint64
	addr, mask uint32
	mac        frame.MAC
}

// The headers with IPv4 addresses in inst.over.
const (
	inIPv4 = 1 << iota
	inARP
	inRARP
)

// The families of IP in inst.over.
const (
	family4 = 1 << iota
	family6
)

type inet6 struct{ addr, mask [2]uint64 }

// Compile makes the program of e. It cannot fail: Parse has checked all.
func Compile(e *Expr) *Program {
	g := &Program{}
	if e.root == nil {
		// The frame's length is at least 0: every frame, also what is no frame.
		e = &Expr{root: Relation{Op: GreaterEqual, Left: Length{}, Right: Number(0)}}
	}
	g.node(e.root, false, accept, reject)
	// Code was made back to front, so that each jump target is known; turn it.
	last := uint16(len(g.code) - 1)
	for i, j := 0, len(g.code)-1; i < j; i, j = i+1, j-1 {
		g.code[i], g.code[j] = g.code[j], g.code[i]
	}
	for i := range g.code {
		g.code[i].yes, g.code[i].no = flip(g.code[i].yes, last), flip(g.code[i].no, last)
	}
	return g
}

func flip(target, last uint16) uint16 {
	if target >= reject {
		return target
	}
	return last - target
}

// node appends the code of n, or of its negation, back to front, and gives its
// first instruction.
func (g *Program) node(n Node, negated bool, yes, no uint16) uint16 {
	and, terms := false, []Node(nil)
	switch n := n.(type) {
	case Not:
		return g.node(n.Term, !negated, yes, no)
	case And:
		and, terms = !negated, n.Terms
	case Or:
		and, terms = negated, n.Terms
	default:
		in := g.test(n)
		in.negated, in.yes, in.no = negated, yes, no
		g.code = append(g.code, in)
		return uint16(len(g.code) - 1)
	}
	first := g.node(terms[len(terms)-1], negated, yes, no)
	for i := len(terms) - 2; i >= 0; i-- {
		if and {
			first = g.node(terms[i], negated, first, no)
		} else {
			first = g.node(terms[i], negated, yes, first)
		}
	}
	return first
}

// test makes the instruction of a primitive, without its jumps.
func (g *Program) test(n Node) inst {
	switch n := n.(type) {
	case Proto:
		return protoTest(n)
	case Address:
		return g.addressTest(n)
	case EtherHost:
		return inst{op: opMAC, dir: n.Dir, mac: n.MAC}
	case Port:
		return inst{op: opPort, dir: n.Dir, over: uint8(n.Over), a: uint64(n.Low), b: uint64(n.High)}
	case Cast:
		switch {
		case n.Broadcast:
			return inst{op: opDst, a: 1<<48 - 1, b: 1<<48 - 1}
		case n.Layer == Ether:
			return inst{op: opDst, a: 1 << 40, b: 1 << 40}
		case n.Layer == IPv4:
			return inst{op: opCast4}
		}
		return inst{op: opCast6}
	case Relation:
		return g.relationTest(n)
	}
	panic("filter: a term that Parse does not make")
}

func protoTest(n Proto) inst {
	in := inst{op: opProto, over: family4 | family6, a: uint64(n.Number)}
	switch n.Layer {
	case IPv4:
		in.over = family4
	case IPv6:
		in.over = family6
	case Ether:
		in.op = opType
		if n.Number <= maxLength8023 {
			in.op = opDSAP
			// libpcap asks for both service access points of these three.
			if n.Number == 0x06 || n.Number == 0xf0 || n.Number == 0xfe {
				in.b = 1
			}
		}
	}
	return in
}

func (g *Program) addressTest(n Address) inst {
	if n.Addr.Is4() {
		a, m := n.Addr.As4(), n.Mask.As4()
		over := [...]uint8{AnyOver: inIPv4 | inARP | inRARP, OverIP: inIPv4, OverARP: inARP, OverRARP: inRARP}[n.Over]
		return inst{op: opInet4, dir: n.Dir, over: over, addr: binary.BigEndian.Uint32(a[:]), mask: binary.BigEndian.Uint32(m[:])}
	}
	a, m := n.Addr.As16(), n.Mask.As16()
	g.inet6 = append(g.inet6, inet6{addr: pair(&a), mask: pair(&m)})
	return inst{op: opInet6, dir: n.Dir, a: uint64(len(g.inet6) - 1)}
}

func pair(b *[16]byte) [2]uint64 {
	return [2]uint64{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// mac64 is an Ethernet address as a number of 48 bits.
func mac64(m [6]byte) uint64 {
	return uint64(binary.BigEndian.Uint16(m[:]))<<32 | uint64(binary.BigEndian.Uint32(m[2:]))
}

// relationTest makes an opField of the common "header[N] & M = K", and the
// general form of all others.
func (g *Program) relationTest(n Relation) inst {
	left, mask := n.Left, Number(0xffffffff)
	if a, ok := left.(Arithmetic); ok && a.Op == '&' {
		if m, ok := fold(a.Right).(Number); ok {
			left, mask = a.Left, m
		}
	}
	load, isLoad := left.(Load)
	right, isNumber := fold(n.Right).(Number)
	if isLoad && isNumber {
		if offset, ok := load.Offset.(Number); ok {
			return inst{op: opField, header: load.Header, size: load.Size, cmp: n.Op, a: uint64(offset), addr: uint32(right), mask: uint32(mask)}
		}
	}
	var o ops
	o.compile(n.Left, 0)
	o.compile(n.Right, 1)
	g.values = append(g.values, o)
	return inst{op: opRelation, cmp: n.Op, a: uint64(len(g.values) - 1)}
}

// fold replaces arithmetic on two constants by its result.
func fold(v Value) Value {
	if a, ok := v.(Arithmetic); ok {
		left, isLeft := fold(a.Left).(Number)
		right, isRight := fold(a.Right).(Number)
		if isLeft && isRight {
			r := [MaxRegisters]uint32{uint32(left), uint32(right)}
			if step := (op{kind: byte(a.Op)}); step.do(&r, nil) {
				return Number(r[0])
			}
		}
	}
	return v
}

// op is one step of a relation's values: registers dst and dst+1 in, dst out.
type op struct {
	kind   byte // an Operator, or one of the letters below
	dst    uint8
	size   uint8
	header Header
	value  uint32
}

// The kinds of op that are no Operator.
const (
	loadNumber = 'n'
	loadLength = 'l'
	loadBytes  = 'b'
	negateTop  = '~'
)

// ops computes two values into registers 0 and 1.
type ops struct {
	guards []Header // all headers that it reads, each once
	code   []op
}

// compile appends code that leaves v in register dst.
func (o *ops) compile(v Value, dst uint8) {
	switch v := v.(type) {
	case Number:
		o.code = append(o.code, op{kind: loadNumber, dst: dst, value: uint32(v)})
	case Length:
		o.code = append(o.code, op{kind: loadLength, dst: dst})
	case Negate:
		o.compile(v.Of, dst)
		o.code = append(o.code, op{kind: negateTop, dst: dst})
	case Load:
		o.compile(v.Offset, dst)
		o.code = append(o.code, op{kind: loadBytes, dst: dst, size: v.Size, header: v.Header})
		for _, h := range o.guards {
			if h == v.Header {
				return
			}
		}
		o.guards = append(o.guards, v.Header)
	case Arithmetic:
		o.compile(v.Left, dst)
		o.compile(v.Right, dst+1)
		o.code = append(o.code, op{kind: byte(v.Op), dst: dst})
	}
}
