package filter

import (
	"strconv"

	"brane/internal/fault"
)

// Parse reads a pcap-filter expression. The empty one holds for every frame.
// An error is a *fault.Error of kind Invalid, Limit, or Unsupported for words
// of pcap-filter that are not compiled yet; its cause is a *SyntaxError.
func Parse(expr string) (*Expr, error) {
	if len(expr) > MaxLength {
		return nil, syntax(fault.Limit, MaxLength, "", "the expression is longer than %d bytes", MaxLength)
	}
	p := &parser{src: expr}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.tok.kind == tEnd {
		return &Expr{}, nil
	}
	o, err := p.expression(qualifier{})
	if err != nil {
		return nil, err
	}
	if o.node == nil {
		return nil, p.loneValue(o)
	}
	if p.tok.kind != tEnd {
		return nil, p.expected("'and', 'or' or the end")
	}
	e := &Expr{root: o.node, text: text(o.node)}
	if len(e.text) > MaxLength {
		return nil, syntax(fault.Limit, 0, "", "written out, the expression is longer than %d bytes", MaxLength)
	}
	return e, nil
}

// parser reads a token ahead. Its recursion is bounded by depth.
type parser struct {
	src          string
	next         int // where the token after tok may begin
	tok          token
	depth, terms int
}

// kind of identifier that a qualifier asks for.
type kind uint8

const (
	kHost kind = iota // also when none is given
	kNet
	kPort
	kPortRange
	kProto
)

// qualifier is what stands before an identifier; the latest holds on for
// identifiers without one.
type qualifier struct {
	set    bool
	header Header
	given  bool // a header was given
	dir    Direction
	hasDir bool
	kind   kind
}

// operand is a parsed piece: a node or, within a relation, a value.
type operand struct {
	node  Node
	value Value
	at    int
	id    bool      // a bare identifier, which took its qualifier from the left
	err   error     // why the number is no identifier, should it turn out to be no value either
	qual  qualifier // for the identifier to the right
}

func (p *parser) advance() error {
	t, next, err := lex(p.src, p.next)
	p.tok, p.next = t, next
	return err
}

// accept advances over the word or operator text when it is there.
func (p *parser) accept(text string) (bool, error) {
	if !p.tok.is(text) {
		return false, nil
	}
	return true, p.advance()
}

func (p *parser) expected(what string) error {
	if p.tok.kind == tWord && !isWord(p.tok.text) {
		return misspelt(p.tok.at, p.tok.text, words, "expected %s, not %s", what, p.tok.describe())
	}
	return invalid(p.tok.at, "expected %s, not %s", what, p.tok.describe())
}

// enter counts nesting; the caller leaves with p.depth--.
func (p *parser) enter() error {
	if p.depth++; p.depth > MaxDepth {
		return syntax(fault.Limit, p.tok.at, "", "nested deeper than %d", MaxDepth)
	}
	return nil
}

// count counts a term.
func (p *parser) count(at int) error {
	if p.terms++; p.terms > MaxTerms {
		return syntax(fault.Limit, at, "", "more than %d terms", MaxTerms)
	}
	return nil
}

func (p *parser) loneValue(o operand) error {
	if o.err != nil {
		return o.err
	}
	return invalid(o.at, "expected a comparison after the value, not %s", p.tok.describe())
}

// expression reads terms joined by and/or up to what cannot continue it. q
// holds for identifiers at its start; without one they are refused. The result
// is a value when all there is is one, as in the parentheses of "(len) > 5".
func (p *parser) expression(q qualifier) (operand, error) {
	left, err := p.term(q)
	if err != nil || left.node == nil {
		return left, err
	}
	ids := left.id
	for p.tok.is("and") || p.tok.is("or") {
		and := p.tok.is("and")
		if err := p.advance(); err != nil {
			return operand{}, err
		}
		right, err := p.term(left.qual)
		switch {
		case err != nil:
			return operand{}, err
		case right.node == nil:
			return operand{}, p.loneValue(right)
		case ids && !right.id:
			// pcap's grammar: a group that begins with a bare identifier has no others.
			return operand{}, invalid(right.at, "a list of bare identifiers cannot go on with a term")
		}
		left.node, left.value, left.qual = join(and, left.node, right.node), nil, right.qual
	}
	return left, nil
}

// join makes an And or an Or and flattens it: both associate.
func join(and bool, left, right Node) Node {
	var terms []Node
	for i, n := range [2]Node{left, right} {
		switch n := n.(type) {
		case And:
			if and {
				terms = appendTerms(terms, n.Terms, i)
				continue
			}
		case Or:
			if !and {
				terms = appendTerms(terms, n.Terms, i)
				continue
			}
		}
		terms = append(terms, n)
	}
	if and {
		return And{Terms: terms}
	}
	return Or{Terms: terms}
}

// appendTerms takes over the slice of the left operand, which nobody else
// holds, so that a long list costs linear time.
func appendTerms(terms, more []Node, i int) []Node {
	if i == 0 {
		return more
	}
	return append(terms, more...)
}

func negate(n Node) Node {
	if not, ok := n.(Not); ok {
		return not.Term
	}
	return Not{Term: n}
}

// term reads one term, or an identifier that takes its qualifier from q.
func (p *parser) term(q qualifier) (operand, error) {
	if err := p.enter(); err != nil {
		return operand{}, err
	}
	defer func() { p.depth-- }()
	at := p.tok.at
	switch {
	case p.tok.is("not"):
		if err := p.advance(); err != nil {
			return operand{}, err
		}
		o, err := p.term(q)
		if err != nil {
			return operand{}, err
		}
		if o.node == nil {
			return operand{}, p.loneValue(o)
		}
		o.node, o.at = negate(o.node), at
		return o, nil
	case p.tok.is("("):
		return p.group(q)
	case p.startsValue():
		return p.relationOrID(q)
	case q.set && p.startsID():
		n, err := p.identifier(q)
		return operand{node: n, at: at, id: true, qual: q}, err
	}
	return p.primitive()
}

// group reads a parenthesised expression, list of identifiers or value.
func (p *parser) group(q qualifier) (operand, error) {
	at := p.tok.at
	if err := p.advance(); err != nil {
		return operand{}, err
	}
	o, err := p.expression(q)
	if err != nil {
		return operand{}, err
	}
	if !p.tok.is(")") {
		return operand{}, p.expected("')' for the '(' at byte " + strconv.Itoa(at))
	}
	if err := p.advance(); err != nil {
		return operand{}, err
	}
	o.at = at
	switch {
	case o.value != nil && (o.node == nil || p.tok.isOperator()):
		return p.relation(o)
	case !o.id:
		o.qual = q
	}
	return o, nil
}

// startsID says whether the token can only be an identifier.
func (p *parser) startsID() bool {
	switch p.tok.kind {
	case tDotted, tInet6, tMAC, tQuoted:
		return true
	case tWord:
		return !isWord(p.tok.text)
	}
	return false
}

// relationOrID reads a relation, or a number as an identifier when q allows
// that and no operator follows.
func (p *parser) relationOrID(q qualifier) (operand, error) {
	at := p.tok.at
	if p.tok.kind == tNumber && q.set {
		next, _, err := lex(p.src, p.next)
		if err != nil {
			return operand{}, err
		}
		if !next.isOperator() {
			return p.numberOrID(q)
		}
	}
	v, err := p.value(0)
	if err != nil {
		return operand{}, err
	}
	return p.relation(operand{value: v, at: at})
}

// numberOrID reads a number that q makes an identifier, unless it stands in
// parentheses and turns out to be a value: then q may not even fit it.
func (p *parser) numberOrID(q qualifier) (operand, error) {
	o := operand{value: Number(p.tok.number), at: p.tok.at, id: true, qual: q}
	before := *p
	if o.node, o.err = p.identifier(q); o.err != nil {
		*p = before
		return o, p.advance()
	}
	return o, nil
}
