package main

import (
	"regexp"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	const (
		pass  = `{"Action":"pass","Package":"p","Test":"A"}` + "\n" + `{"Action":"pass","Package":"p"}` + "\n"
		skip  = `{"Action":"output","Package":"p","Test":"B","Output":"    b_test.go:3: this test needs root\n"}` + "\n" + `{"Action":"skip","Package":"p","Test":"B"}` + "\n"
		fail  = `{"Action":"output","Package":"p","Test":"C","Output":"wrong\n"}` + "\n" + `{"Action":"fail","Package":"p","Test":"C"}` + "\n"
		build = `{"ImportPath":"p","Action":"build-output","Output":"p.go:1: syntax error\n"}` + "\n" + `{"ImportPath":"p","Action":"build-fail"}` + "\n"
		panic = `{"Action":"output","Package":"p","Test":"D","Output":"panic: test timed out\n"}` + "\n" + `{"Action":"fail","Package":"p"}` + "\n"
		last  = `{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}` + "\n"
	)
	for _, c := range []struct {
		name, in, skips string
		want            int
		says            string
	}{
		{"passes", pass + last, "", 0, "ok  \tp\t0.1s"},
		{"nothing ran", last, "", 1, "0 tests passed"},
		{"fails", pass + fail, "", 1, "wrong"},
		{"panics", pass + panic, "", 1, "timed out"},
		{"does not build", pass + build, "", 1, "syntax error"},
		{"no JSON", "go: no such package\n", "", 1, "go: no such package"},
		{"skip with any allowed", pass + skip, "", 0, "needs root"},
		{"skip that is allowed", pass + skip, "needs root", 0, "needs root"},
		{"skip that is not", pass + skip, "^$", 1, "not allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			r := report{out: &out, text: map[string]*strings.Builder{}}
			if c.skips != "" {
				r.allowed = regexp.MustCompile(c.skips)
			}
			if err := r.read(strings.NewReader(c.in)); err != nil {
				t.Fatal(err)
			}
			if got := r.end(); got != c.want || !strings.Contains(out.String(), c.says) {
				t.Errorf("status %d, want %d with %q:\n%s", got, c.want, c.says, out.String())
			}
		})
	}
}
