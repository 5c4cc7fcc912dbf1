package filter

import (
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
)

// String gives the canonical text: each term with all of its qualifiers,
// parentheses only where they change the meaning. Parsing it gives an equal
// expression.
func (e *Expr) String() string { return e.text }

func text(n Node) string {
	var w writer
	if n != nil {
		w.node(n)
	}
	return w.String()
}

type writer struct{ strings.Builder }

func (w *writer) words(words ...string) {
	for i, s := range words {
		if i > 0 {
			w.WriteByte(' ')
		}
		w.WriteString(s)
	}
}

func (w *writer) node(n Node) {
	switch n := n.(type) {
	case And:
		w.list(" and ", n.Terms)
	case Or:
		w.list(" or ", n.Terms)
	case Not:
		w.WriteString("not ")
		w.inner(n.Term)
	case Proto:
		w.proto(n)
	case Address:
		w.address(n)
	case EtherHost:
		w.WriteString("ether ")
		w.WriteString(dirText[n.Dir])
		w.words("host", n.MAC.String())
	case Port:
		w.port(n)
	case Cast:
		w.cast(n)
	case Relation:
		w.value(n.Left, 0)
		w.words("", n.Op.String(), "")
		w.value(n.Right, 0)
	}
}

// list writes terms. A list as the first term needs no parentheses: and/or
// are equal and associate to the left.
func (w *writer) list(sep string, terms []Node) {
	w.node(terms[0])
	for _, t := range terms[1:] {
		w.WriteString(sep)
		w.inner(t)
	}
}

func (w *writer) inner(n Node) {
	switch n.(type) {
	case And, Or:
		w.WriteByte('(')
		w.node(n)
		w.WriteByte(')')
	default:
		w.node(n)
	}
}

var dirText = [...]string{
	SourceOrDestination: "", Source: "src ", Destination: "dst ", SourceAndDestination: "src and dst ",
}

func (w *writer) proto(n Proto) {
	for _, h := range headerTable[1:] {
		if h.layer == n.Layer && h.number == n.Number {
			w.WriteString(h.word)
			return
		}
	}
	w.WriteString([...]string{Inet: "", Ether: "ether ", IPv4: "ip ", IPv6: "ip6 "}[n.Layer])
	w.words("proto", strconv.Itoa(int(n.Number)))
}

func (w *writer) address(n Address) {
	w.WriteString([...]string{AnyOver: "", OverIP: "ip ", OverIP6: "ip6 ", OverARP: "arp ", OverRARP: "rarp "}[n.Over])
	w.WriteString(dirText[n.Dir])
	ones := leadingOnes(n.Mask)
	switch {
	case ones == n.Addr.BitLen():
		w.words("host", n.Addr.String())
	case netip.PrefixFrom(n.Mask, ones).Masked().Addr() == n.Mask:
		w.words("net", n.Addr.String()+"/"+strconv.Itoa(ones))
	default:
		w.words("net", n.Addr.String(), "mask", n.Mask.String())
	}
}

// leadingOnes counts the one bits at the start of a.
func leadingOnes(a netip.Addr) int {
	s := a.AsSlice()
	for i, b := range s {
		if b != 0xff {
			return 8*i + bits.LeadingZeros8(^b)
		}
	}
	return 8 * len(s)
}

func (w *writer) port(n Port) {
	switch n.Over {
	case TCP:
		w.WriteString("tcp ")
	case UDP:
		w.WriteString("udp ")
	case SCTP:
		w.WriteString("sctp ")
	}
	w.WriteString(dirText[n.Dir])
	low, high := strconv.Itoa(int(n.Low)), strconv.Itoa(int(n.High))
	if n.Low == n.High {
		w.words("port", low)
		return
	}
	w.words("portrange", low+"-"+high)
}

func (w *writer) cast(n Cast) {
	w.WriteString([...]string{Ether: "ether ", IPv4: "ip ", IPv6: "ip6 "}[n.Layer])
	if n.Broadcast {
		w.WriteString("broadcast")
		return
	}
	w.WriteString("multicast")
}

// value writes v, in parentheses when it is arithmetic of a precedence up to
// floor.
func (w *writer) value(v Value, floor int) {
	switch v := v.(type) {
	case Number:
		w.WriteString(strconv.FormatUint(uint64(v), 10))
	case Length:
		w.WriteString("len")
	case Negate:
		w.WriteByte('-')
		w.value(v.Of, tight)
	case Load:
		w.WriteString(headerTable[v.Header].word)
		w.WriteByte('[')
		w.value(v.Offset, 0)
		if v.Size > 1 {
			w.WriteByte(':')
			w.WriteString(strconv.Itoa(int(v.Size)))
		}
		w.WriteByte(']')
	case Arithmetic:
		w.arithmetic(v, floor)
	}
}

// tight is a floor above every operator.
const tight = 10

func (w *writer) arithmetic(v Arithmetic, floor int) {
	prec := precedence(v.Op.String())
	parens := prec <= floor || prec == alone && floor > 0
	if parens {
		w.WriteByte('(')
	}
	left, right := prec-1, prec
	if prec == alone {
		left, right = tight, tight
	}
	w.value(v.Left, left)
	w.words("", v.Op.String(), "")
	w.value(v.Right, right)
	if parens {
		w.WriteByte(')')
	}
}
