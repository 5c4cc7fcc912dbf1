package filter

import (
	"fmt"
	"net/netip"
	"strings"

	"brane/frame"
	"brane/internal/fault"
)

// SyntaxError is the cause of every error of Parse, for who wants to point at
// the place.
type SyntaxError struct {
	Offset  int    // byte of the expression, from 0
	Problem string // what is wrong there
	Nearest string // the word that was probably meant, or ""
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("byte %d: %s", e.Offset, e.Problem) }

func syntax(kind fault.Kind, at int, remedy, format string, args ...any) error {
	e := &SyntaxError{Offset: at, Problem: fmt.Sprintf(format, args...)}
	f := fault.New(kind, "parse filter", "", "%v", e)
	if remedy != "" {
		f = f.WithRemedy("%s", remedy)
	}
	return f
}

func invalid(at int, format string, args ...any) error {
	return syntax(fault.Invalid, at, "", format, args...)
}

// misspelt is an error about a word, with the nearest candidate.
func misspelt(at int, word string, candidates func(func(string) bool), format string, args ...any) error {
	near := nearest(word, candidates)
	if near == "" {
		return invalid(at, format, args...)
	}
	e := &SyntaxError{Offset: at, Problem: fmt.Sprintf(format, args...), Nearest: near}
	return fault.New(fault.Invalid, "parse filter", "", "%v", e).WithRemedy("did you mean '%s'?", near)
}

// tokenKind is the kind of a token.
type tokenKind uint8

const (
	tEnd    tokenKind = iota
	tPunct            // text is the operator in its canonical form
	tWord             // text is the word
	tQuoted           // a word after a backslash, text without it
	tNumber           // number
	tDotted           // two to four decimal numbers: number holds the first 8*parts bits, left-aligned
	tInet6            // addr
	tMAC              // mac
)

// token is one lexical unit.
type token struct {
	kind   tokenKind
	at     int
	text   string
	number uint32
	parts  int
	addr   netip.Addr
	mac    frame.MAC
}

func (t *token) is(text string) bool {
	return (t.kind == tWord || t.kind == tPunct) && t.text == text
}

// isOperator says whether the token continues a value: an operator of
// arithmetic or a comparison.
func (t *token) isOperator() bool {
	if t.kind != tPunct {
		return false
	}
	_, compares := comparison(t.text)
	return compares || precedence(t.text) > 0
}

// describe names the token in an error.
func (t *token) describe() string {
	if t.kind == tEnd {
		return "the end of the expression"
	}
	const most = 40
	if len(t.text) > most {
		return fmt.Sprintf("%q...", t.text[:most])
	}
	return fmt.Sprintf("%q", t.text)
}

// punctuation lists the operators, longest first, with their canonical form.
var punctuation = [...][2]string{
	{"&&", "and"},
	{"||", "or"},
	{"==", "="},
	{"!=", "!="},
	{"<=", "<="},
	{">=", ">="},
	{"<<", "<<"},
	{">>", ">>"},
	{"!", "not"},
	{"=", "="},
	{"<", "<"},
	{">", ">"},
	{"(", "("},
	{")", ")"},
	{"[", "["},
	{"]", "]"},
	{":", ":"},
	{"+", "+"},
	{"-", "-"},
	{"*", "*"},
	{"/", "/"},
	{"%", "%"},
	{"&", "&"},
	{"|", "|"},
	{"^", "^"},
}

// lex reads the token at src[at:] and gives where the next may begin.
func lex(src string, at int) (token, int, error) {
	for at < len(src) && strings.IndexByte(" \t\r\n", src[at]) >= 0 {
		at++
	}
	t := token{at: at}
	if at == len(src) {
		return t, at, nil
	}
	if t, n := lexAddress(src[at:]); n > 0 {
		t.at, t.text = at, src[at:at+n]
		return t, at + n, nil
	}
	if n := wordLen(src[at:]); n > 0 {
		t.text = src[at : at+n]
		err := t.classify()
		return t, at + n, err
	}
	if src[at] == '\\' {
		n := 1 + strings.IndexAny(src[at+1:]+" ", " !()\t\r\n")
		if n == 1 {
			return t, at, invalid(at, "a backslash stands before a name, as in 'ip proto \\tcp'")
		}
		t.kind, t.text = tQuoted, src[at+1:at+n]
		return t, at + n, nil
	}
	for _, p := range punctuation {
		if strings.HasPrefix(src[at:], p[0]) {
			t.kind, t.text = tPunct, p[1]
			return t, at + len(p[0]), nil
		}
	}
	return t, at, invalid(at, "%q is not part of the language", src[at:at+1])
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// wordLen is the length of the word at the start of s: letters, digits, '.',
// '-' and '_', the last two not at its end.
func wordLen(s string) int {
	if s == "" || !isAlnum(s[0]) {
		return 0
	}
	end := 1
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case isAlnum(c), c == '.':
			end = i + 1
		case c != '-' && c != '_':
			return end
		}
	}
	return end
}

// lexAddress reads an Ethernet or IPv6 address at the start of s. n is 0 when
// there is none.
func lexAddress(s string) (t token, n int) {
	colons := false
	for n < len(s) && (isHex(s[n]) || s[n] == ':' || s[n] == '.' || s[n] == '-') && n < 64 {
		colons = colons || s[n] == ':'
		n++
	}
	if n == 0 || n < len(s) && (isAlnum(s[n]) || s[n] == '_') {
		return token{}, 0
	}
	if mac, ok := parseMAC(s[:n]); ok {
		return token{kind: tMAC, mac: mac}, n
	}
	if colons {
		if a, err := netip.ParseAddr(s[:n]); err == nil {
			return token{kind: tInet6, addr: a}, n
		}
	}
	return token{}, 0
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func hexValue(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}

// parseMAC reads the forms of pcap-filter(7): six groups of one or two digits
// between ':', '-' or '.'; three groups of four between '.'; twelve digits that
// are not all decimal.
func parseMAC(s string) (m frame.MAC, ok bool) {
	groups := strings.FieldsFunc(s, func(r rune) bool { return r > 0xff || !isHex(byte(r)) })
	if n := len(groups); n != 1 && n != 3 && n != 6 || len(strings.Join(groups, ".")) != len(s) {
		return m, false
	}
	digits := make([]byte, 0, 12)
	for _, g := range groups {
		switch {
		case len(groups) == 6 && len(g) == 1:
			digits = append(digits, '0')
		case len(groups) == 6 && len(g) == 2, len(groups) == 1 && len(g) == 12 && strings.Trim(g, "0123456789") != "":
		case len(groups) == 3 && len(g) == 4 && strings.Count(s, ".") == 2:
		default:
			return m, false
		}
		digits = append(digits, g...)
	}
	for i := range m {
		m[i] = hexValue(digits[2*i])<<4 | hexValue(digits[2*i+1])
	}
	return m, true
}

// classify tells numbers and dotted addresses from words.
func (t *token) classify() error {
	t.kind = tWord
	if t.text[0] < '0' || t.text[0] > '9' {
		return nil
	}
	if v, ok, err := number(t.text, t.at); err != nil || ok {
		t.kind, t.number = tNumber, v
		return err
	}
	parts := strings.Split(t.text, ".")
	if len(parts) < 2 || len(parts) > 4 {
		return nil
	}
	var v uint32
	for _, p := range parts {
		if len(p) == 0 || len(p) > 3 || strings.Trim(p, "0123456789") != "" {
			return nil
		}
		octet := uint32(0)
		for i := range len(p) {
			octet = octet*10 + uint32(p[i]-'0')
		}
		if octet > 255 || len(p) > 1 && p[0] == '0' {
			return invalid(t.at, "%q is no IPv4 address: its parts are decimal numbers up to 255", t.text)
		}
		v = v<<8 | octet
	}
	t.kind, t.number, t.parts = tDotted, v<<(32-8*len(parts)), len(parts)
	return nil
}

// number reads decimal, 0x hexadecimal and 0 octal numbers of 32 bits.
func number(s string, at int) (v uint32, ok bool, err error) {
	base, digits := uint64(10), s
	switch {
	case len(s) > 2 && (s[:2] == "0x" || s[:2] == "0X"):
		base, digits = 16, s[2:]
	case len(s) > 1 && s[0] == '0':
		base, digits = 8, s[1:]
	}
	sum := uint64(0)
	for i := range len(digits) {
		c := digits[i]
		if !isHex(c) || base < 16 && c > '9' {
			return 0, false, nil
		}
	}
	for i := range len(digits) {
		d := uint64(hexValue(digits[i]))
		if d >= base {
			return 0, false, invalid(at, "%q begins with 0 and is octal, but has the digit %d", s, d)
		}
		if sum = sum*base + d; sum > 1<<32-1 {
			return 0, false, invalid(at, "%q is larger than 32 bits", s)
		}
	}
	return uint32(sum), true, nil
}
