package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCorpus: what can run is read, printed and read again without a change;
// what cannot is refused with a place and a reason.
func TestCorpus(t *testing.T) {
	run := map[string]bool{"default.xml": true, "leasetime-infinite.xml": false}
	dir := filepath.Join("..", "..", "..", "shared", "corpus", "libvirt-network", "networks")
	files, err := filepath.Glob(filepath.Join(dir, "*.xml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus in %s (%v)", dir, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		d, warn, err := Parse(strings.NewReader(string(text)), filepath.Base(f))
		t.Logf("%s: %v %v", filepath.Base(f), err, warn)
		if want, known := run[filepath.Base(f)]; known && want != (err == nil) {
			t.Errorf("%s: %v", f, err)
		}
		if err != nil {
			continue
		}
		out, err := Format(d)
		if err != nil {
			t.Fatal(err)
		}
		again, _, err := Parse(strings.NewReader(string(out)), "printed")
		if err != nil {
			t.Errorf("%s printed cannot be read: %v\n%s", f, err, out)
		}
		once, _ := Format(again)
		if string(once) != string(out) {
			t.Errorf("%s changes when printed twice:\n%s\n%s", f, out, once)
		}
	}
}
