package filter

import (
	"net/netip"

	"brane/frame"
)

// Bounds of an expression. A longer, deeper or larger one is refused.
const (
	MaxLength    = 64 << 10 // bytes of text
	MaxDepth     = 256      // nested parentheses, brackets and signs
	MaxTerms     = 4096     // primitives, and operands of arithmetic
	MaxRegisters = 16       // values that a relation holds at once
)

// Expr is a parsed expression. It is immutable.
type Expr struct {
	root Node
	text string // canonical
}

// Root gives the expression's tree, nil for the empty expression, which holds
// for every frame. The tree must not be changed.
func (e *Expr) Root() Node { return e.root }

// Node is one of And, Or, Not, Proto, Address, EtherHost, Port, Cast and Relation.
type Node interface{ node() }

// And holds when all of its terms, at least two, hold. None of them is an And.
type And struct{ Terms []Node }

// Or holds when one of its terms, at least two, holds. None of them is an Or.
type Or struct{ Terms []Node }

// Not holds when its term does not. The term is not a Not.
type Not struct{ Term Node }

// Layer says in which header a Proto or a Cast looks.
type Layer uint8

// The layers. Inet is IPv4 or IPv6.
const (
	Inet Layer = iota
	Ether
	IPv4
	IPv6
)

// Proto holds when the header of its layer announces the protocol: an
// EtherType, or up to 1500 the DSAP of an 802.2 frame, for Ether; an IANA
// protocol number for the others.
type Proto struct {
	Layer  Layer
	Number uint16
}

// Direction says which of a header's two addresses or ports is meant.
type Direction uint8

// The directions.
const (
	SourceOrDestination Direction = iota
	Source
	Destination
	SourceAndDestination
)

// Over says which headers with addresses an Address looks in.
type Over uint8

// The headers. Any is all that hold addresses of the family.
const (
	AnyOver Over = iota
	OverIP
	OverIP6
	OverARP
	OverRARP
)

// Address holds when an address of the frame equals Addr in the bits of Mask.
// Both are of the same family, and Addr has no bit outside Mask. The mask of an
// IPv6 address is contiguous.
type Address struct {
	Over Over
	Dir  Direction
	Addr netip.Addr
	Mask netip.Addr
}

// EtherHost holds when an Ethernet address of the frame is MAC.
type EtherHost struct {
	Dir Direction
	MAC frame.MAC
}

// Transport is a set of transport protocols with ports.
type Transport uint8

// The transports.
const (
	TCP Transport = 1 << iota
	UDP
	SCTP
	AnyTransport = TCP | UDP | SCTP
)

// Port holds when a port of the frame lies in Low to High, over one of the
// transports: one of the three, or all.
type Port struct {
	Over      Transport
	Dir       Direction
	Low, High uint16
}

// Cast holds for broadcast frames (Ether only), or multicast ones.
type Cast struct {
	Layer     Layer
	Broadcast bool
}

// Relation compares two values as unsigned 32-bit numbers.
type Relation struct {
	Op          Compare
	Left, Right Value
}

// Compare is a comparison.
type Compare uint8

// The comparisons.
const (
	Equal Compare = iota
	NotEqual
	Less
	LessEqual
	Greater
	GreaterEqual
)

func (And) node()       {}
func (Or) node()        {}
func (Not) node()       {}
func (Proto) node()     {}
func (Address) node()   {}
func (EtherHost) node() {}
func (Port) node()      {}
func (Cast) node()      {}
func (Relation) node()  {}

// Value is one of Number, Length, Load, Negate and Arithmetic.
type Value interface{ value() }

// Number is a constant.
type Number uint32

// Length is the length of the frame in bytes, without its virtio-net header.
type Length struct{}

// Load is Size bytes (1, 2 or 4), big-endian, at Offset from the start of a
// header. The relation does not hold for a frame without that header.
type Load struct {
	Header Header
	Offset Value
	Size   uint8
}

// Negate is the two's complement.
type Negate struct{ Of Value }

// Arithmetic is an operation on unsigned 32-bit numbers, modulo 2^32. Division
// by zero makes the relation Undecidable, a shift by more than 31 gives 0.
type Arithmetic struct {
	Op          Operator
	Left, Right Value
}

// Operator is one of + - * / % & | ^ and, for the shifts, < and >.
type Operator byte

func (Number) value()     {}
func (Length) value()     {}
func (Load) value()       {}
func (Negate) value()     {}
func (Arithmetic) value() {}
