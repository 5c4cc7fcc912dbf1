// Package house keeps the rules of the house: who imports whom, how large a
// file may grow, which calls have a better replacement, and that the documents
// say what the code says. The rules and their reasons are in CONTRIBUTING.md.
//
// Where the code breaks a rule for a reason, the exception stands in a table
// beside the rule with that reason. The tables are ratchets: an entry that is
// no longer needed fails the test too, so they can only shrink.
package house

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// root is the repository, seen from this package.
const root = "../.."

// file is one parsed Go file.
type file struct {
	path string // from the root: "frame/parse.go"
	dir  string // its package from the root: "frame"
	test bool
	text []byte
	ast  *ast.File
}

// source parses every Go file of the repository.
func source(t testing.TB) (*token.FileSet, []file) {
	t.Helper()
	set := token.NewFileSet()
	var list []file
	walk(t, func(path string, text []byte) {
		if !strings.HasSuffix(path, ".go") || strings.Contains(path, "/testdata/") {
			return
		}
		f, err := parser.ParseFile(set, path, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Errorf("%v", err)
			return
		}
		list = append(list, file{path, filepath.Dir(path), strings.HasSuffix(path, "_test.go"), text, f})
	})
	if len(list) < 100 {
		t.Fatalf("only %d Go files found below %s", len(list), root)
	}
	return set, list
}

// walk visits every text file of the repository with its path from the root.
func walk(t testing.TB, visit func(path string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); n == ".git" || n == "dist" || n == "rapid" {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			return nil // an editor's or another test's, gone meanwhile
		}
		if err != nil {
			return err
		}
		if bytes.IndexByte(text[:min(len(text), 8000)], 0) < 0 {
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			visit(filepath.ToSlash(rel), text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// read gives a file of the repository.
func read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// imported gives the import paths of a file.
func (f file) imported() []string {
	var list []string
	for _, s := range f.ast.Imports {
		list = append(list, strings.Trim(s.Path.Value, `"`))
	}
	return list
}

// exceptions is a table of what may break a rule, with the reason of each.
type exceptions map[string]string

// keeper checks finds against exceptions; end reports entries that nothing needed.
type keeper struct {
	t      testing.TB
	listed exceptions
	used   map[string]bool
}

func (e exceptions) keep(t testing.TB) *keeper {
	return &keeper{t, e, map[string]bool{}}
}

// allows reports whether the key may break the rule.
func (k *keeper) allows(key string) bool {
	_, ok := k.listed[key]
	k.used[key] = k.used[key] || ok
	return ok
}

func (k *keeper) end() {
	k.t.Helper()
	for key, reason := range k.listed {
		if reason == "" {
			k.t.Errorf("the exception %q has no reason", key)
		}
		if !k.used[key] {
			k.t.Errorf("the exception %q is not needed any more: take it out of the table", key)
		}
	}
}

// parse parses a text for the tests of the rules themselves.
func parse(t testing.TB, text string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
