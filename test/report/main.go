// Command report reads what go test -json prints and shows what people want to
// see of it: go test's own closing line of each package, the whole output of
// what failed, and each skip with its reason. It ends with status 1 when
// something failed, nothing ran, or a test was skipped that may not be:
//
//	go test -json ./... | go run ./test/report -skips='needs root'
//
// Without -skips every skip is allowed; with it only those whose output
// matches the regular expression.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// event is one line of test2json (go doc test2json) and of go build -json.
type event struct {
	Action, Package, ImportPath, Test, Output string
}

func main() {
	skips := flag.String("skips", "", "regular expression of the skips that are allowed; nothing else may be skipped")
	flag.Parse()
	r := report{out: os.Stdout, text: map[string]*strings.Builder{}}
	if *skips != "" {
		r.allowed = regexp.MustCompile(*skips)
	}
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
	os.Exit(r.end())
}

// report gathers the output of each running test until its fate is known.
type report struct {
	out     io.Writer
	allowed *regexp.Regexp
	text    map[string]*strings.Builder

	passed, skipped, failed, packages, refused int
}

func (r *report) read(in io.Reader) error {
	s := bufio.NewScanner(in)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		var e event
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			fmt.Fprintln(r.out, s.Text()) // what go itself says, not the tests
			continue
		}
		r.event(e)
	}
	return s.Err()
}

func (r *report) event(e event) {
	key := e.Package + "\n" + e.Test
	switch e.Action {
	case "output":
		if e.Test == "" && closing(e.Output) {
			fmt.Fprint(r.out, e.Output)
			return
		}
		b := r.text[key]
		if b == nil {
			b = &strings.Builder{}
			r.text[key] = b
		}
		b.WriteString(e.Output)
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "build-fail":
		r.failed++
	case "pass", "fail", "skip":
		r.fate(e, key)
	}
}

// closing tells go test's last line about a package.
func closing(line string) bool {
	return strings.HasPrefix(line, "ok  \t") || strings.HasPrefix(line, "FAIL\t") || strings.HasPrefix(line, "?   \t")
}

func (r *report) fate(e event, key string) {
	text := ""
	if b := r.text[key]; b != nil {
		text = b.String()
		delete(r.text, key)
	}
	if e.Test == "" {
		r.packages++
		if e.Action == "fail" {
			r.failed++
			fmt.Fprint(r.out, text) // a panic or a fatal error ends up here
			r.unfinished(e.Package)
		}
		return
	}
	switch e.Action {
	case "pass":
		r.passed++
	case "fail":
		r.failed++
		fmt.Fprintf(r.out, "%s: %s", e.Package, text)
	case "skip":
		r.skipped++
		if r.allowed != nil && !r.allowed.MatchString(text) {
			r.refused++
			fmt.Fprintf(r.out, "%s: a skip that is not allowed: %s", e.Package, text)
			return
		}
		fmt.Fprintf(r.out, "skip\t%s.%s\t%s\n", e.Package, e.Test, reason(text))
	}
}

// unfinished shows the output of a package's tests that a panic cut short:
// they have no fate of their own.
func (r *report) unfinished(pkg string) {
	for key, b := range r.text {
		if strings.HasPrefix(key, pkg+"\n") {
			fmt.Fprint(r.out, b.String())
			delete(r.text, key)
		}
	}
}

// reason is the line in which the test says why.
func reason(text string) string {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") {
			return line
		}
	}
	return "no reason"
}

func (r *report) end() int {
	fmt.Fprintf(r.out, "%d packages: %d tests passed, %d skipped, %d failed\n", r.packages, r.passed, r.skipped, r.failed)
	if r.failed > 0 || r.refused > 0 || r.passed == 0 {
		return 1
	}
	return 0
}
