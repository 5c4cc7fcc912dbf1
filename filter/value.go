package filter

import "brane/internal/fault"

// comparison gives the relation that an operator stands for.
func comparison(text string) (Compare, bool) {
	for i, s := range compareText {
		if s == text {
			return Compare(i), true
		}
	}
	return 0, false
}

var compareText = [...]string{Equal: "=", NotEqual: "!=", Less: "<", LessEqual: "<=", Greater: ">", GreaterEqual: ">="}

// String is the comparison in canonical form.
func (c Compare) String() string { return compareText[c] }

// String is the operator in canonical form.
func (o Operator) String() string {
	if o == '<' || o == '>' {
		return string([]byte{byte(o), byte(o)})
	}
	return string([]byte{byte(o)})
}

// precedence of an operator of arithmetic, from 1; 0 for any other text. The
// yacc grammar of libpcap gives % and ^ none, so that they bind unlike C's:
// here they cannot be mixed with others without parentheses.
func precedence(text string) int {
	switch text {
	case "%", "^":
		return 1
	case "|":
		return 2
	case "&":
		return 3
	case "<<", ">>":
		return 4
	case "+", "-":
		return 5
	case "*", "/":
		return 6
	}
	return 0
}

// alone is the precedence of the operators that take no company.
const alone = 1

// startsValue says whether the token begins a value.
func (p *parser) startsValue() bool {
	switch p.tok.kind {
	case tNumber:
		return true
	case tPunct:
		return p.tok.text == "-"
	case tWord:
		if p.tok.text == "len" || p.tok.text == "length" {
			return true
		}
		if _, ok := constant(p.tok.text); ok {
			return true
		}
		if _, ok := headerOf(p.tok.text); ok {
			next, _, err := lex(p.src, p.next)
			return err == nil && next.is("[")
		}
	}
	return false
}

// relation reads on after a value: the rest of the value, a comparison and the
// value to compare with. Without a comparison the value alone is the result.
func (p *parser) relation(o operand) (operand, error) {
	left, err := p.valueFrom(o.value, 0)
	if err != nil {
		return operand{}, err
	}
	op, ok := Compare(0), false
	if p.tok.kind == tPunct {
		op, ok = comparison(p.tok.text)
	}
	if !ok {
		_, number := left.(Number)
		o = operand{value: left, at: o.at, err: o.err}
		if !number {
			o.err = nil
		}
		return o, nil
	}
	if err := p.advance(); err != nil {
		return operand{}, err
	}
	right, err := p.value(0)
	if err != nil {
		return operand{}, err
	}
	if max(registers(left), registers(right)+1) > MaxRegisters {
		return operand{}, syntax(fault.Limit, o.at, "move the parentheses to the left operands",
			"the comparison holds more than %d values at once", MaxRegisters)
	}
	return operand{node: Relation{Op: op, Left: left, Right: right}, at: o.at}, nil
}

// registers is how many values evaluation of v holds at once.
func registers(v Value) int {
	switch v := v.(type) {
	case Load:
		return registers(v.Offset)
	case Negate:
		return registers(v.Of)
	case Arithmetic:
		return max(registers(v.Left), registers(v.Right)+1)
	}
	return 1
}

// value reads a value whose operators have a precedence above floor.
func (p *parser) value(floor int) (Value, error) {
	left, err := p.unary()
	if err != nil {
		return nil, err
	}
	return p.valueFrom(left, floor)
}

// valueFrom is value after its first operand was read.
func (p *parser) valueFrom(left Value, floor int) (Value, error) {
	for joined := false; p.tok.kind == tPunct; joined = true {
		op := p.tok
		prec := precedence(op.text)
		if prec == 0 || prec > alone && prec <= floor {
			return left, nil
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
		right, err := p.operand(prec)
		if err != nil {
			return nil, err
		}
		if prec == alone && (joined || floor > 0 || p.tok.kind == tPunct && precedence(p.tok.text) > 0) {
			return nil, invalid(op.at, "%s beside another operator needs parentheses: libpcap and C bind it differently", op.describe())
		}
		if n, ok := right.(Number); ok {
			switch {
			case n == 0 && (op.is("/") || op.is("%")):
				return nil, invalid(op.at, "division by zero")
			case n > 31 && (op.is("<<") || op.is(">>")):
				return nil, invalid(op.at, "a shift by %d bits of a 32-bit number", n)
			}
		}
		left = Arithmetic{Op: Operator(op.text[0]), Left: left, Right: right}
	}
	return left, nil
}

// operand reads what stands right of an operator.
func (p *parser) operand(prec int) (Value, error) {
	if prec == alone {
		return p.unary()
	}
	return p.value(prec)
}

// unary reads a value without operators beside it.
func (p *parser) unary() (Value, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	t := p.tok
	if err := p.count(t.at); err != nil {
		return nil, err
	}
	if h, ok := headerOf(t.text); ok && t.kind == tWord {
		return p.load(h)
	}
	var v Value
	switch n, ok := constant(t.text); {
	case t.kind == tNumber:
		v = Number(t.number)
	case t.is("len") || t.is("length"):
		v = Length{}
	case t.kind == tWord && ok:
		v = Number(n)
	case t.is("-"):
		if err := p.advance(); err != nil {
			return nil, err
		}
		of, err := p.unary()
		return Negate{Of: of}, err
	case t.is("("):
		return p.parenthesised()
	case t.kind == tWord:
		return nil, misspelt(t.at, t.text, constants, "expected a number, 'len' or 'tcp[...]', not %s", t.describe())
	default:
		return nil, invalid(t.at, "expected a number, 'len' or 'tcp[...]', not %s", t.describe())
	}
	return v, p.advance()
}

func (p *parser) parenthesised() (Value, error) {
	if err := p.advance(); err != nil {
		return nil, err
	}
	v, err := p.value(0)
	if err != nil {
		return nil, err
	}
	if !p.tok.is(")") {
		return nil, p.expected("')'")
	}
	return v, p.advance()
}

// load reads header[offset:size].
func (p *parser) load(h Header) (Value, error) {
	at := p.tok.at
	if headerTable[h].noLoad() {
		return nil, invalid(at, "no bytes can be read of '%s'", headerTable[h].word)
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if ok, err := p.accept("["); err != nil || !ok {
		if err == nil {
			err = p.expected("'[' after '" + headerTable[h].word + "'")
		}
		return nil, err
	}
	offset, err := p.value(0)
	if err != nil {
		return nil, err
	}
	size := uint32(1)
	colon, err := p.accept(":")
	if err != nil {
		return nil, err
	}
	if colon {
		if size = p.tok.number; p.tok.kind != tNumber || size != 1 && size != 2 && size != 4 {
			return nil, p.expected("1, 2 or 4 bytes")
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
	}
	if !p.tok.is("]") {
		return nil, p.expected("']'")
	}
	return Load{Header: h, Offset: offset, Size: uint8(size)}, p.advance()
}
