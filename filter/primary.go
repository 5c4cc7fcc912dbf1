package filter

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"brane/internal/fault"
)

const aTerm = "a term such as 'tcp', 'host 10.0.0.1' or 'port 80'"

// primitive reads a term that begins with a word of the language.
func (p *parser) primitive() (operand, error) {
	at, word := p.tok.at, p.tok.text
	if p.tok.kind != tWord {
		return operand{}, p.notATerm()
	}
	q := qualifier{set: true}
	h, isHeader := headerOf(word)
	switch {
	case isHeader:
		q.header, q.given = h, true
		if err := p.advance(); err != nil {
			return operand{}, err
		}
	case word == "less" || word == "greater":
		return p.lengthBound()
	}
	if err := p.direction(&q); err != nil {
		return operand{}, err
	}
	switch {
	case p.tok.is("broadcast") || p.tok.is("multicast"):
		n, err := p.cast(q)
		return operand{node: n, at: at}, err
	case p.kind(&q):
		if err := p.advance(); err != nil {
			return operand{}, err
		}
	case isUnsupported(&p.tok):
		return operand{}, syntax(fault.Unsupported, p.tok.at, "", "'%s' is pcap-filter, but not compiled by this version", p.tok.text)
	case !q.hasDir && q.given:
		n, err := p.bare(q, at)
		return operand{node: n, at: at}, err
	case !q.hasDir:
		return operand{}, p.notATerm()
	}
	n, err := p.identifiers(q)
	return operand{node: n, at: at, qual: q}, err
}

func isUnsupported(t *token) bool {
	for _, w := range later {
		if t.kind == tWord && t.text == w {
			return true
		}
	}
	return false
}

// notATerm is the error for what can begin no term.
func (p *parser) notATerm() error {
	switch p.tok.kind {
	case tDotted, tInet6:
		return syntax(fault.Invalid, p.tok.at, "write 'host "+p.tok.text+"'", "expected %s, not %s", aTerm, p.tok.describe())
	case tMAC:
		return syntax(fault.Invalid, p.tok.at, "write 'ether host "+p.tok.text+"'", "expected %s, not %s", aTerm, p.tok.describe())
	}
	return p.expected(aTerm)
}

// direction reads "src", "dst", "src or dst", "src and dst".
func (p *parser) direction(q *qualifier) error {
	if !p.tok.is("src") && !p.tok.is("dst") {
		return nil
	}
	q.hasDir, q.dir = true, Source
	other := "dst"
	if p.tok.is("dst") {
		q.dir, other = Destination, "src"
	}
	if err := p.advance(); err != nil {
		return err
	}
	and := p.tok.is("and")
	if !and && !p.tok.is("or") {
		return nil
	}
	if err := p.advance(); err != nil {
		return err
	}
	if !p.tok.is(other) {
		return p.expected("'" + other + "'")
	}
	q.dir = SourceOrDestination
	if and {
		q.dir = SourceAndDestination
	}
	return p.advance()
}

// kind notes what the word says about the identifier to come.
func (p *parser) kind(q *qualifier) bool {
	for i, w := range [...]string{kHost: "host", kNet: "net", kPort: "port", kPortRange: "portrange", kProto: "proto"} {
		if p.tok.is(w) {
			q.kind = kind(i)
			return true
		}
	}
	return false
}

// bare makes the term of a header's word alone.
func (p *parser) bare(q qualifier, at int) (Node, error) {
	if q.header == hEther {
		return nil, p.expected("'src', 'dst', 'host', 'proto', 'broadcast', 'multicast' or '[' after 'ether'")
	}
	h := headerTable[q.header]
	// "ip 10.0.0.1" looks right to many.
	if p.tok.kind == tDotted || p.tok.kind == tInet6 || p.tok.kind == tMAC {
		return nil, syntax(fault.Invalid, p.tok.at, "write '"+h.word+" host "+p.tok.text+"'", "expected 'host' or 'net' before the address")
	}
	if p.tok.kind == tNumber && h.transport != 0 {
		return nil, syntax(fault.Invalid, p.tok.at, "write '"+h.word+" port "+p.tok.text+"'", "expected 'port' before the number")
	}
	return Proto{Layer: h.layer, Number: h.number}, p.count(at)
}

// lengthBound reads "less N" and "greater N", which include N.
func (p *parser) lengthBound() (operand, error) {
	at, op := p.tok.at, LessEqual
	if p.tok.is("greater") {
		op = GreaterEqual
	}
	if err := p.advance(); err != nil {
		return operand{}, err
	}
	if p.tok.kind != tNumber {
		return operand{}, p.expected("a length in bytes")
	}
	n := Relation{Op: op, Left: Length{}, Right: Number(p.tok.number)}
	if err := p.count(at); err != nil {
		return operand{}, err
	}
	return operand{node: n, at: at}, p.advance()
}

func (p *parser) cast(q qualifier) (Node, error) {
	c := Cast{Layer: Ether, Broadcast: p.tok.is("broadcast")}
	switch {
	case q.hasDir:
		return nil, invalid(p.tok.at, "%s takes no direction", p.tok.describe())
	case !q.given || q.header == hEther:
	case c.Broadcast && q.header == hIP:
		return nil, syntax(fault.Invalid, p.tok.at, "write 'ether broadcast', or 'ip dst host' with the address",
			"the netmask is not known, so 'ip broadcast' means nothing here")
	case !c.Broadcast && q.header == hIP:
		c.Layer = IPv4
	case !c.Broadcast && q.header == hIP6:
		c.Layer = IPv6
	default:
		return nil, invalid(p.tok.at, "'%s' has no %s", headerTable[q.header].word, p.tok.text)
	}
	if err := p.count(p.tok.at); err != nil {
		return nil, err
	}
	return c, p.advance()
}

// identifiers reads what stands after a qualifier: an identifier, "not" one, or
// a parenthesised list of them.
func (p *parser) identifiers(q qualifier) (Node, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	switch {
	case p.tok.is("not"):
		if err := p.advance(); err != nil {
			return nil, err
		}
		n, err := p.identifiers(q)
		if err != nil {
			return nil, err
		}
		return negate(n), nil
	case p.tok.is("("):
		at := p.tok.at
		o, err := p.group(q)
		switch {
		case err == nil && o.err != nil:
			err = o.err
		case err == nil && (o.node == nil || !o.id):
			err = invalid(at, "expected a list of identifiers in the parentheses")
		}
		return o.node, err
	}
	return p.identifier(q)
}

// identifier reads one identifier and makes the term that q says.
func (p *parser) identifier(q qualifier) (n Node, err error) {
	if err := p.count(p.tok.at); err != nil {
		return nil, err
	}
	switch q.kind {
	case kPort:
		n, err = p.port(q)
	case kPortRange:
		n, err = p.portRange(q)
	case kProto:
		n, err = p.proto(q)
	default:
		return p.address(q)
	}
	if err != nil {
		return nil, err
	}
	return n, p.advance()
}

// address reads an address or network; it advances itself, over masks too.
func (p *parser) address(q qualifier) (Node, error) {
	t, h := p.tok, headerTable[q.header]
	switch {
	case t.kind == tMAC && q.given && q.header == hEther && q.kind == kHost:
		return EtherHost{Dir: q.dir, MAC: t.mac}, p.advance()
	case t.kind == tMAC:
		return nil, syntax(fault.Invalid, t.at, "write 'ether host "+t.text+"'", "an Ethernet address stands only after 'ether host'")
	case t.kind == tQuoted || t.kind == tWord && !isWord(t.text):
		return nil, misspelt(t.at, t.text, words, "%s is no address, and host names are not resolved", t.describe())
	case t.kind != tDotted && t.kind != tInet6 && t.kind != tNumber:
		return nil, p.expected("an address")
	case q.given && q.header == hEther:
		return nil, invalid(t.at, "expected an Ethernet address such as 02:00:5e:10:00:01, not %s", t.describe())
	case q.given && h.over == AnyOver:
		return nil, syntax(fault.Invalid, t.at, "write '"+h.word+" and host ...'", "'%s' has no addresses", h.word)
	case t.kind == tInet6 && h.over != AnyOver && h.over != OverIP6:
		return nil, invalid(t.at, "'%s' has no IPv6 addresses", h.word)
	case t.kind != tInet6 && h.over == OverIP6:
		return nil, invalid(t.at, "'ip6' has no IPv4 addresses")
	}
	addr, bits, err := p.wholeOrShort(q)
	if err != nil {
		return nil, err
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	mask := netip.PrefixFrom(allOnes(addr.BitLen()), bits).Masked().Addr()
	if p.tok.is("/") || p.tok.is("mask") {
		if mask, err = p.mask(q, addr, t); err != nil {
			return nil, err
		}
	}
	if masked(addr, mask) != addr {
		return nil, syntax(fault.Invalid, t.at, "write "+masked(addr, mask).String(), "%s has bits outside its mask", t.describe())
	}
	return Address{Over: h.over, Dir: q.dir, Addr: addr, Mask: mask}, nil
}

// wholeOrShort gives the address of the token and how many of its leading bits
// were written: "10.1" is 16 bits of 10.1.0.0.
func (p *parser) wholeOrShort(q qualifier) (netip.Addr, int, error) {
	v, bits := p.tok.number, 32
	switch {
	case p.tok.kind == tInet6:
		return p.tok.addr, 128, nil
	case p.tok.kind == tDotted:
		bits = 8 * p.tok.parts
	case q.kind == kNet && v == 0:
		return netip.Addr{}, 0, syntax(fault.Invalid, p.tok.at, "write 0.0.0.0/0 for all addresses, 0.0.0.0/32 for that one", "'net 0' is ambiguous")
	case q.kind == kNet: // "net 10" is 10.0.0.0/8
		for ; v>>24 == 0; v <<= 8 {
			bits -= 8
		}
	}
	return addr4(v), bits, nil
}

// mask reads "/length" or "mask address" after a network.
func (p *parser) mask(q qualifier, addr netip.Addr, t token) (netip.Addr, error) {
	slash := p.tok.is("/")
	switch {
	case q.kind != kNet:
		return addr, syntax(fault.Invalid, p.tok.at, "write 'net "+t.text+"' before it", "only 'net' takes a mask")
	case t.kind == tNumber:
		return addr, syntax(fault.Invalid, p.tok.at, "write 'net "+addr.String()+"' before it", "a mask stands after a dotted address")
	case !slash && !addr.Is4():
		return addr, syntax(fault.Invalid, p.tok.at, "write '/' and the length of the prefix", "'mask' is for IPv4")
	}
	if err := p.advance(); err != nil {
		return addr, err
	}
	m := p.tok
	switch {
	case slash && m.kind == tNumber && int64(m.number) <= int64(addr.BitLen()):
		return netip.PrefixFrom(allOnes(addr.BitLen()), int(m.number)).Masked().Addr(), p.advance()
	case slash:
		return addr, invalid(m.at, "expected a prefix length up to %d, not %s", addr.BitLen(), m.describe())
	case m.kind != tDotted:
		return addr, p.expected("a mask such as 255.255.0.0")
	}
	return addr4(m.number), p.advance()
}

func addr4(v uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, v)))
}

func allOnes(bits int) netip.Addr {
	a, _ := netip.AddrFromSlice([]byte(strings.Repeat("\xff", bits/8)))
	return a
}

// masked clears the bits of a outside m, of the same family.
func masked(a, m netip.Addr) netip.Addr {
	b, mb := a.AsSlice(), m.AsSlice()
	for i := range b {
		b[i] &= mb[i]
	}
	r, _ := netip.AddrFromSlice(b)
	return r
}

// transports gives what carries the ports that q speaks of.
func (p *parser) transports(q qualifier) (Transport, error) {
	if !q.given {
		return AnyTransport, nil
	}
	h := headerTable[q.header]
	if h.transport == 0 {
		return 0, syntax(fault.Invalid, p.tok.at, "write '"+h.word+" and port ...'", "'%s' has no ports, only tcp, udp and sctp have", h.word)
	}
	return h.transport, nil
}

// portOf reads a port by number or by the name of its service, which may
// narrow the transports.
func (p *parser) portOf(text string, over Transport) (uint16, Transport, error) {
	v, ok, err := number(text, p.tok.at)
	switch {
	case err != nil:
		return 0, 0, err
	case ok && v > 0xffff:
		return 0, 0, invalid(p.tok.at, "port %d is larger than 65535", v)
	case ok:
		return uint16(v), over, nil
	}
	s, ok := serviceOf(text)
	switch {
	case !ok:
		return 0, 0, misspelt(p.tok.at, text, services, "%s is no port number, and no service known here", p.tok.describe())
	case s.over&over == 0:
		return 0, 0, invalid(p.tok.at, "service %s is not registered for this transport", text)
	case s.over&(s.over-1) == 0:
		over = s.over
	}
	return s.port, over, nil
}

func (p *parser) port(q qualifier) (Node, error) {
	over, err := p.transports(q)
	if err != nil {
		return nil, err
	}
	if p.tok.kind != tNumber && p.tok.kind != tWord && p.tok.kind != tQuoted {
		return nil, p.expected("a port number or service name")
	}
	v, over, err := p.portOf(p.tok.text, over)
	return Port{Over: over, Dir: q.dir, Low: v, High: v}, err
}

// portRange reads "a-b", in either order, or one port. The bounds are numbers
// or services, whose names may contain '-' themselves.
func (p *parser) portRange(q qualifier) (Node, error) {
	over, err := p.transports(q)
	if err != nil {
		return nil, err
	}
	if p.tok.kind != tNumber && p.tok.kind != tWord && p.tok.kind != tQuoted {
		return nil, p.expected("a range of ports such as 6000-6008")
	}
	for i, c := range p.tok.text {
		if c != '-' {
			continue
		}
		low, o1, err1 := p.portOf(p.tok.text[:i], over)
		high, o2, err2 := p.portOf(p.tok.text[i+1:], o1)
		if err1 == nil && err2 == nil {
			return Port{Over: o2, Dir: q.dir, Low: min(low, high), High: max(low, high)}, nil
		}
	}
	v, over, err := p.portOf(p.tok.text, over)
	return Port{Over: over, Dir: q.dir, Low: v, High: v}, err
}

// proto reads a protocol by number or name.
func (p *parser) proto(q qualifier) (Node, error) {
	layer, t := Inet, p.tok
	switch {
	case q.hasDir:
		return nil, invalid(t.at, "'proto' takes no direction")
	case !q.given:
	case q.header == hEther:
		layer = Ether
	case q.header == hIP:
		layer = IPv4
	case q.header == hIP6:
		layer = IPv6
	default:
		return nil, invalid(t.at, "'%s proto' has no meaning, only ether, ip and ip6 announce protocols", headerTable[q.header].word)
	}
	v := t.number
	if t.kind == tQuoted || t.kind == tWord && !isWord(t.text) {
		n, ok := protoNumber(layer, t.text)
		if !ok {
			return nil, invalid(t.at, "%s is no protocol known here", t.describe())
		}
		v = n
	} else if t.kind == tWord {
		return nil, syntax(fault.Invalid, t.at, `write '\`+t.text+`'`, "'%s' is a word of the language itself", t.text)
	} else if t.kind != tNumber {
		return nil, p.expected("a protocol number or name")
	}
	switch {
	case layer != Ether && v > 0xff:
		return nil, invalid(t.at, "protocol %d is larger than 255", v)
	case v > 0xffff:
		return nil, invalid(t.at, "EtherType %d is larger than 65535", v)
	case layer == Ether && v > 0xff && v <= maxLength8023:
		return nil, invalid(t.at, "%d is neither an EtherType (above %d) nor an 802.2 DSAP (up to 255)", v, maxLength8023)
	}
	return Proto{Layer: layer, Number: uint16(v)}, nil
}
