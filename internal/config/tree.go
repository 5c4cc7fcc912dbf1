package config

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"brane/internal/fault"
)

// Limits of a network file. A file that passes one is refused before anything
// is made of it.
const (
	MaxBytes      = 1 << 20
	maxDepth      = 64
	maxElements   = 4096
	maxAttributes = 64
)

// element is one element of the file with the place where it begins. Readers
// take what they understand; what nobody took is refused by rest.
type element struct {
	name         string
	line, column int
	attrs        []attr
	children     []*element
	chars        string
	used, read   bool // taken by its parent's reader; its text was taken
}

type attr struct {
	name, value string
	used        bool
}

// reader holds what error messages and warnings need.
type reader struct {
	file     string
	warnings []Warning
}

// Warning is a part of a file that was accepted and has no effect here.
type Warning struct {
	File, Element string
	Line, Column  int
	Reason        string
}

// String is one line: file:line:column: <element> reason.
func (w Warning) String() string {
	return fmt.Sprintf("%s:%d:%d: <%s> %s", w.File, w.Line, w.Column, w.Element, w.Reason)
}

const opRead = "read network file"

// refuse makes the error of a place in the file.
func (r *reader) refuse(kind fault.Kind, line, column int, remedy, format string, args ...any) error {
	e := fault.New(kind, opRead, fmt.Sprintf("%s:%d:%d", r.file, line, column), format, args...)
	e.Remedy = remedy
	return e
}

// at refuses an element as wrong.
func (r *reader) at(e *element, remedy, format string, args ...any) error {
	return r.refuse(fault.Invalid, e.line, e.column, remedy, "<%s>: %s", clip(e.name), fmt.Sprintf(format, args...))
}

// beyond refuses an element as right, but not supported.
func (r *reader) beyond(e *element, remedy, format string, args ...any) error {
	return r.refuse(fault.Unsupported, e.line, e.column, remedy, "<%s>: %s", clip(e.name), fmt.Sprintf(format, args...))
}

// warn notes a part that was taken and has no effect.
func (r *reader) warn(e *element, format string, args ...any) {
	r.warnings = append(r.warnings, Warning{
		File: r.file, Element: e.name, Line: e.line, Column: e.column, Reason: fmt.Sprintf(format, args...),
	})
}

// parse reads the one root element of a file, within the limits.
func (r *reader) parse(in io.Reader) (*element, error) {
	text, err := io.ReadAll(io.LimitReader(in, MaxBytes+1))
	if err != nil {
		return nil, fault.New(fault.Unavailable, opRead, r.file, "%v", err)
	}
	if len(text) > MaxBytes {
		return nil, fault.New(fault.Limit, opRead, r.file, "it is longer than %d bytes", MaxBytes)
	}
	d := xml.NewDecoder(bytes.NewReader(text))
	d.CharsetReader = func(charset string, _ io.Reader) (io.Reader, error) {
		return nil, fmt.Errorf("the encoding %q is not UTF-8", clip(charset))
	}
	t := tree{r: r}
	for {
		t.line, t.column = d.InputPos()
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			line, column := d.InputPos()
			return nil, r.refuse(fault.Invalid, line, column, "", "malformed XML: %s", clip(plain(err)))
		}
		if err := t.add(token); err != nil {
			return nil, err
		}
	}
	if t.root == nil {
		return nil, r.refuse(fault.Invalid, 1, 1, "a network file begins with <network>", "no element in it")
	}
	return t.root, nil
}

// tree grows token by token.
type tree struct {
	r            *reader
	root         *element
	stack        []*element
	count        int
	line, column int // of the token
}

func (t *tree) add(token xml.Token) error {
	switch token := token.(type) {
	case xml.StartElement:
		return t.begin(token)
	case xml.EndElement:
		t.stack = t.stack[:len(t.stack)-1]
	case xml.CharData:
		s := string(token)
		switch {
		case strings.TrimSpace(s) == "":
		case len(t.stack) == 0:
			return t.wrong("", "text outside the root element")
		default:
			t.stack[len(t.stack)-1].chars += s
		}
	case xml.Directive:
		return t.wrong("remove it", "document types and entities are not read")
	}
	return nil
}

func (t *tree) wrong(remedy, format string, args ...any) error {
	return t.r.refuse(fault.Invalid, t.line, t.column, remedy, format, args...)
}

func (t *tree) begin(token xml.StartElement) error {
	t.count++
	if t.count > maxElements || len(t.stack) >= maxDepth || len(token.Attr) > maxAttributes {
		return t.r.refuse(fault.Limit, t.line, t.column, "",
			"more than %d elements, %d levels or %d attributes of one element", maxElements, maxDepth, maxAttributes)
	}
	e := &element{name: qualified(token.Name), line: t.line, column: t.column}
	for _, a := range token.Attr {
		if name := qualified(a.Name); e.has(name) {
			return t.wrong("", "<%s>: the attribute %s is there twice", clip(e.name), clip(name))
		} else if a.Name.Space != "xmlns" && name != "xmlns" { // a name for names; what uses it is judged
			e.attrs = append(e.attrs, attr{name: name, value: a.Value})
		}
	}
	switch {
	case len(t.stack) > 0:
		p := t.stack[len(t.stack)-1]
		p.children = append(p.children, e)
	case t.root != nil:
		return t.wrong("", "a second root element <%s>", clip(e.name))
	default:
		t.root = e
	}
	t.stack = append(t.stack, e)
	return nil
}

// qualified keeps what is of another vocabulary apart from libvirt's own.
func qualified(n xml.Name) string {
	if n.Space == "" {
		return n.Local
	}
	return n.Space + ":" + n.Local
}

// plain is the decoder's message without its own line number.
func plain(err error) string {
	var s *xml.SyntaxError
	if errors.As(err, &s) {
		return s.Msg
	}
	return err.Error()
}

// clip keeps a hostile value from filling a message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}

func (e *element) has(name string) bool {
	for i := range e.attrs {
		if e.attrs[i].name == name {
			return true
		}
	}
	return false
}

// get takes an attribute.
func (e *element) get(name string) (string, bool) {
	for i := range e.attrs {
		if e.attrs[i].name == name {
			e.attrs[i].used = true
			return e.attrs[i].value, true
		}
	}
	return "", false
}

// text takes the element's text, without the space around it.
func (e *element) text() string {
	e.read = true
	return strings.TrimSpace(e.chars)
}

// must takes an attribute that has to be there.
func (r *reader) must(e *element, name string) (string, error) {
	v, ok := e.get(name)
	if !ok || v == "" {
		return "", r.at(e, "", "the attribute %s is missing", name)
	}
	return v, nil
}

// yes takes an attribute that is yes or no; byDefault when it is absent.
func (r *reader) yes(e *element, name string, byDefault bool) (bool, error) {
	v, ok := e.get(name)
	switch {
	case !ok:
		return byDefault, nil
	case v == "yes" || v == "no":
		return v == "yes", nil
	}
	return false, r.at(e, "", "%s=%q is neither yes nor no", name, clip(v))
}

// one takes the only child of a name; two are refused.
func (r *reader) one(e *element, name string) (*element, error) {
	list := e.all(name)
	if len(list) > 1 {
		return nil, r.at(list[1], "", "there is one already, in line %d", list[0].line)
	}
	if len(list) == 0 {
		return nil, nil
	}
	return list[0], nil
}

// all takes the children of a name.
func (e *element) all(name string) []*element {
	var out []*element
	for _, c := range e.children {
		if c.name == name {
			c.used = true
			out = append(out, c)
		}
	}
	return out
}

// rest refuses what nobody took: nothing in a file is ignored silently. why
// explains names of libvirt's schema that are known and not supported.
func (r *reader) rest(e *element, why map[string]string) error {
	for _, a := range e.attrs {
		if a.used {
			continue
		}
		if s, known := why[a.name]; known {
			return r.beyond(e, "remove it", "the attribute %s is not supported: %s", a.name, s)
		}
		return r.at(e, "remove it", "unknown attribute %s", clip(a.name))
	}
	for _, c := range e.children {
		if c.used {
			continue
		}
		if s, known := why[c.name]; known {
			return r.beyond(c, "remove it", "not supported: %s", s)
		}
		return r.at(c, "remove it", "unknown element inside <%s>", e.name)
	}
	if !e.read && e.chars != "" {
		return r.at(e, "remove it", "there is text where none belongs: %q", clip(strings.TrimSpace(e.chars)))
	}
	return nil
}
