package house

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"brane/internal/fault"
	"brane/internal/verdict"
)

// rows gives the cells of each table row in a Markdown text, heads and rules aside.
func rows(text string) (list [][]string) {
	head := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			head = false
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if strings.HasPrefix(cells[0], "---") {
			head = true
			continue
		}
		if head {
			list = append(list, cells)
		}
	}
	return list
}

// TestVerdictsAreDocumented: docs/verdicts.md has the reasons of the code, in
// its order, each with a sentence.
func TestVerdictsAreDocumented(t *testing.T) {
	list := rows(read(t, "docs/verdicts.md"))
	if len(list) != verdict.Count {
		t.Errorf("%d reasons are documented, the code has %d", len(list), verdict.Count)
	}
	for i, row := range list {
		if want := verdict.Reason(i).String(); row[0] != "`"+want+"`" {
			t.Errorf("row %d is of %s, want %s", i+1, row[0], want)
		}
		if len(row) != 3 || !strings.HasSuffix(row[1], ".") || !strings.HasSuffix(row[2], ".") {
			t.Errorf("%s: a meaning and what to do, each a sentence; got %q", row[0], row[1:])
		}
	}
}

// TestExitCodesAreDocumented: the first table of docs/exit-codes.md says what
// fault does.
func TestExitCodesAreDocumented(t *testing.T) {
	documented := map[string]int{}
	for _, row := range rows(read(t, "docs/exit-codes.md")) {
		status, err := strconv.Atoi(row[0])
		if err != nil || len(row) != 3 {
			break // the second table: what brane run passes on
		}
		for kind := range strings.SplitSeq(row[1], ", ") {
			documented[strings.Trim(kind, "`")] = status
		}
	}
	for _, k := range append(fault.Kinds(), "") {
		var err error
		if k != "" {
			err = fault.New(k, "", "", "")
		}
		if got, ok := documented[string(k)]; !ok || got != fault.ExitCode(err) {
			t.Errorf("%q: documented %d (%t), the exit code is %d", k, got, ok, fault.ExitCode(err))
		}
		delete(documented, string(k))
	}
	for kind := range documented {
		t.Errorf("there is no kind %q", kind)
	}
}

// TestDecisionsAreListed: the index of decisions has each of them.
func TestDecisionsAreListed(t *testing.T) {
	index := read(t, "docs/adr/README.md")
	list, err := filepath.Glob(filepath.Join(root, "docs/adr/0*.md"))
	if err != nil || len(list) == 0 {
		t.Fatal("no decisions", err)
	}
	for _, path := range list {
		if !strings.Contains(index, "]("+filepath.Base(path)+")") {
			t.Errorf("docs/adr/README.md does not list %s", filepath.Base(path))
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)|(?:src|href)="([^"]+)"`)

// TestLinks: every relative link of the documents leads somewhere.
func TestLinks(t *testing.T) {
	n := 0
	walk(t, func(path string, text []byte) {
		if !strings.HasSuffix(path, ".md") {
			return
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			to, _, _ := strings.Cut(m[1]+m[2], "#")
			if to == "" || strings.Contains(to, "://") {
				continue
			}
			n++
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(path), to)); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", path, to)
			}
		}
	})
	if n == 0 {
		t.Error("no links found: the rule does not bite")
	}
}

// named are the tests that a document names: `TestX` or `FuzzX`.
var named = regexp.MustCompile("`((?:Test|Fuzz|Example)[A-Za-z0-9_]+)`")

// TestNamedTestsExist: a document that says a test shows something names one
// that is there.
func TestNamedTestsExist(t *testing.T) {
	_, list := source(t)
	var tests strings.Builder
	for _, f := range list {
		tests.Write(f.text)
	}
	all := tests.String()
	walk(t, func(path string, text []byte) {
		if !strings.HasSuffix(path, ".md") {
			return
		}
		for _, m := range named.FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(all, "\nfunc "+m[1]+"(") {
				t.Errorf("%s names %s, which is not there", path, m[1])
			}
		}
	})
}

// TestThreatsAreAnswered: each row of the threat model names its answer and a test.
func TestThreatsAreAnswered(t *testing.T) {
	list := rows(read(t, "docs/threat-model.md"))
	if len(list) == 0 {
		t.Fatal("no rows")
	}
	for _, row := range list {
		if len(row) != 4 || row[2] == "" || !named.MatchString(row[3]) {
			t.Errorf("%s: want id, attack, answer and the test that shows it", row[0])
		}
	}
}

// TestChangelog: the first section is that of what is not released.
func TestChangelog(t *testing.T) {
	text := read(t, "CHANGELOG.md")
	if i := strings.Index(text, "\n## "); i < 0 || !strings.HasPrefix(text[i:], "\n## [Unreleased]") {
		t.Error("CHANGELOG.md has no section [Unreleased] at its head")
	}
}
