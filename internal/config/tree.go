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

// element is one element of the file with the place where it begins.
type element struct {
	name     string
	line     int
	column   int
	attrs    []attr
	children []*element
	text     string
	used     bool
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
	Line          int
	Reason        string
}

// String is one line: file:line: <element> reason.
func (w Warning) String() string {
	return fmt.Sprintf("%s:%d: <%s> %s", w.File, w.Line, w.Element, w.Reason)
}

// refuse makes the error of a place in the file.
func (r *reader) refuse(line, column int, remedy, format string, args ...any) error {
	e := fault.New(fault.Invalid, "read network file", fmt.Sprintf("%s:%d:%d", r.file, line, column), format, args...)
	e.Remedy = remedy
	return e
}

func (r *reader) at(e *element, remedy, format string, args ...any) error {
	return r.refuse(e.line, e.column, remedy, "<%s>: %s", e.name, fmt.Sprintf(format, args...))
}

// parse reads the one root element of a file, within the limits.
func (r *reader) parse(in io.Reader) (*element, error) {
	text, err := io.ReadAll(io.LimitReader(in, MaxBytes+1))
	if err != nil {
		return nil, fault.New(fault.Unavailable, "read network file", r.file, "%v", err)
	}
	if len(text) > MaxBytes {
		return nil, fault.New(fault.Limit, "read network file", r.file, "it is longer than %d bytes", MaxBytes)
	}
	d := xml.NewDecoder(bytes.NewReader(text))
	d.CharsetReader = func(charset string, _ io.Reader) (io.Reader, error) {
		return nil, fmt.Errorf("the encoding %q is not UTF-8", charset)
	}
	var root *element
	var stack []*element
	count := 0
	for {
		line, column := d.InputPos()
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			line, column = d.InputPos()
			return nil, r.refuse(line, column, "", "malformed XML: %s", strings.TrimPrefix(plain(err), "XML syntax error on line "))
		}
		switch t := tok.(type) {
		case xml.StartElement:
			count++
			if count > maxElements || len(stack) >= maxDepth || len(t.Attr) > maxAttributes {
				return nil, r.refuse(line, column, "", "more than %d elements, %d levels or %d attributes", maxElements, maxDepth, maxAttributes)
			}
			e := &element{name: t.Name.Local, line: line, column: column}
			for _, a := range t.Attr {
				e.attrs = append(e.attrs, attr{name: a.Name.Local, value: a.Value})
			}
			switch {
			case len(stack) > 0:
				p := stack[len(stack)-1]
				p.children = append(p.children, e)
			case root != nil:
				return nil, r.refuse(line, column, "", "a second root element <%s>", e.name)
			default:
				root = e
			}
			stack = append(stack, e)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		case xml.CharData:
			s := strings.TrimSpace(string(t))
			if s == "" {
				continue
			}
			if len(stack) == 0 {
				return nil, r.refuse(line, column, "", "text outside the root element")
			}
			stack[len(stack)-1].text += s
		case xml.Directive:
			return nil, r.refuse(line, column, "remove it", "a document type or entity is not read")
		}
	}
	if root == nil {
		return nil, r.refuse(1, 1, "", "no element in it")
	}
	return root, nil
}

// plain is the decoder's message without its own line number.
func plain(err error) string {
	var s *xml.SyntaxError
	if errors.As(err, &s) {
		return s.Msg
	}
	return err.Error()
}

// get takes an attribute; what nobody takes is refused by rest.
func (e *element) get(name string) (string, bool) {
	for i := range e.attrs {
		if e.attrs[i].name == name {
			e.attrs[i].used = true
			return e.attrs[i].value, true
		}
	}
	return "", false
}

// must takes an attribute that has to be there.
func (r *reader) must(e *element, name string) (string, error) {
	v, ok := e.get(name)
	if !ok || v == "" {
		return "", r.at(e, "", "the attribute %q is missing", name)
	}
	return v, nil
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

// rest refuses what nobody took: nothing in a file is ignored silently.
func (r *reader) rest(e *element, why map[string]string) error {
	for _, a := range e.attrs {
		if !a.used {
			return r.at(e, "remove it", "the attribute %q is not supported%s", a.name, reason(why, a.name))
		}
	}
	for _, c := range e.children {
		if !c.used {
			return r.at(c, "remove it", "not supported inside <%s>%s", e.name, reason(why, c.name))
		}
	}
	return nil
}

func reason(why map[string]string, name string) string {
	if s := why[name]; s != "" {
		return ": " + s
	}
	return ""
}

// warn takes an element and all in it as having no effect.
func (r *reader) warn(e *element, why string) {
	r.warnings = append(r.warnings, Warning{File: r.file, Element: e.name, Line: e.line, Reason: why})
}
