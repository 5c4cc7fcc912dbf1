package server

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

// document is docs/openapi.yaml.
type document struct{ root map[string]any }

func openDocument(t testing.TB) document {
	t.Helper()
	text, err := os.ReadFile("../../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text, err = yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := json.Unmarshal(text, &d.root); err != nil {
		t.Fatal(err)
	}
	return d
}

// at follows keys from the top.
func (d document) at(keys ...string) map[string]any {
	var v any = d.root
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	m, _ := v.(map[string]any)
	return d.resolve(m)
}

func (d document) resolve(m map[string]any) map[string]any {
	ref, ok := m["$ref"].(string)
	if !ok {
		return m
	}
	return d.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
}

// operations gives "METHOD /path" of every operation.
func (d document) operations() map[string]map[string]any {
	out := map[string]map[string]any{}
	for path := range d.at("paths") {
		for _, method := range []string{"get", "put", "post", "delete", "patch"} {
			if op := d.at("paths", path, method); op != nil {
				out[strings.ToUpper(method)+" "+path] = op
			}
		}
	}
	return out
}

// answer gives the schema of an operation's answer of one status; documented is
// false where the document does not name the status.
func (d document) answer(op map[string]any, status int) (schema map[string]any, documented bool) {
	responses, _ := op["responses"].(map[string]any)
	r, documented := responses[fmt.Sprint(status)].(map[string]any)
	content, _ := d.resolve(r)["content"].(map[string]any)
	for _, v := range content {
		m, _ := v.(map[string]any)
		schema, _ = m["schema"].(map[string]any)
	}
	return schema, documented
}

// mismatch says where v is not as the schema has it; nil when it is. A keyword
// that it does not know is a mismatch: nothing is passed over in silence.
func (d document) mismatch(schema map[string]any, v any, where string) error {
	if schema == nil {
		return fmt.Errorf("%s: no schema", where)
	}
	for key, arg := range schema {
		if err := d.keyword(schema, key, arg, v, where); err != nil {
			return err
		}
	}
	return nil
}

func (d document) keyword(schema map[string]any, key string, arg, v any, where string) error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%s: %s (%v)", where, fmt.Sprintf(format, a...), v)
	}
	switch key {
	case "description", "examples", "default":
	case "$ref":
		return d.mismatch(d.resolve(schema), v, where)
	case "type":
		if typeOf(v) != arg && (arg != "number" || typeOf(v) != "integer") {
			return bad("is %s, want %v", typeOf(v), arg)
		}
	case "enum":
		if !slices.Contains(arg.([]any), v) {
			return bad("is none of %v", arg)
		}
	case "pattern":
		if s, ok := v.(string); ok && !regexp.MustCompile(arg.(string)).MatchString(s) {
			return bad("does not match %v", arg)
		}
	case "format":
		if _, err := time.Parse(time.RFC3339Nano, fmt.Sprint(v)); arg != "date-time" || err != nil {
			return bad("is no %v", arg)
		}
	case "minimum", "maximum":
		if n, ok := v.(float64); ok && (key == "minimum" && n < arg.(float64) || key == "maximum" && n > arg.(float64)) {
			return bad("%s %v", key, arg)
		}
	case "minItems", "maxItems", "maxLength":
		n := float64(lengthOf(v))
		if key == "minItems" && n < arg.(float64) || key != "minItems" && n > arg.(float64) {
			return bad("%s %v", key, arg)
		}
	case "items":
		list, _ := v.([]any)
		for i, e := range list {
			if err := d.mismatch(arg.(map[string]any), e, fmt.Sprintf("%s[%d]", where, i)); err != nil {
				return err
			}
		}
	case "required":
		for _, name := range arg.([]any) {
			if m, ok := v.(map[string]any); ok && m[name.(string)] == nil {
				return bad("%v is missing", name)
			}
		}
	case "properties", "additionalProperties", "propertyNames":
		return d.members(schema, key, arg, v, where)
	default:
		return bad("keyword %s is not known to the test", key)
	}
	return nil
}

func (d document) members(schema map[string]any, key string, arg, v any, where string) error {
	named, _ := schema["properties"].(map[string]any)
	m, _ := v.(map[string]any)
	for name, e := range m {
		var err error
		own, known := named[name].(map[string]any)
		switch {
		case key == "properties" && known:
			err = d.mismatch(own, e, where+"."+name)
		case key == "propertyNames":
			err = d.mismatch(arg.(map[string]any), name, where+" name")
		case key == "additionalProperties" && !known:
			if arg == false {
				return fmt.Errorf("%s.%s is not described", where, name)
			}
			err = d.mismatch(arg.(map[string]any), e, where+"."+name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func typeOf(v any) string {
	switch v := v.(type) {
	case map[string]any:
		return "object"
	case []any:
		return "array"
	case string:
		return "string"
	case bool:
		return "boolean"
	case float64:
		if v == float64(int64(v)) {
			return "integer"
		}
		return "number"
	}
	return "null"
}

func lengthOf(v any) int {
	switch v := v.(type) {
	case []any:
		return len(v)
	case string:
		return len(v)
	}
	return 0
}

// TestMismatch: the checker itself finds what it is there to find.
func TestMismatch(t *testing.T) {
	d := openDocument(t)
	good := map[string]any{"seq": 1.0, "time": "2026-01-02T03:04:05Z", "device": "a/b", "to": false, "reason": "arp", "frame": "x"}
	check := func(key string, v any) error {
		m := map[string]any{}
		for k, e := range good {
			m[k] = e
		}
		if m[key] = v; v == nil {
			delete(m, key)
		}
		return d.mismatch(d.at("components", "schemas", "Drop"), m, "drop")
	}
	if err := check("rule", "clean"); err != nil {
		t.Errorf("a good value: %v", err)
	}
	for key, v := range map[string]any{
		"seq": 0.0, "time": "yesterday", "device": 1.0, "to": nil, "reason": "mood", "frame": nil, "extra": true, "brane": []any{},
	} {
		if check(key, v) == nil {
			t.Errorf("%s = %v is taken for good", key, v)
		}
	}
}
