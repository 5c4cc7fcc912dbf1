package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTour runs the README's tour from its text, as a bystander would: every
// block in order, in one directory with the examples, each command successful.
func TestTour(t *testing.T) {
	as(t, func(w *world) {
		text, err := os.ReadFile("../../README.md")
		if err != nil {
			t.Fatal(err)
		}
		blocks := regexp.MustCompile("(?s)```sh tour\n(.*?)```").FindAllStringSubmatch(string(text), -1)
		if len(blocks) < 4 {
			t.Fatalf("the tour has %d blocks", len(blocks))
		}
		dir := filepath.Join(w.dir, "home", "examples")
		if out, err := exec.Command("cp", "-r", "../../examples", dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		script := "set -e\nPATH=" + filepath.Dir(w.bin) + ":$PATH\n"
		for _, b := range blocks {
			script += b[1]
		}
		c := w.cmd("bash", "-c", script)
		out, err := c.CombinedOutput()
		if err != nil {
			w.t.Fatalf("the tour fails: %v\n%s", err, out)
		}
		for _, word := range []string{"192.168.122.", "200\n200", "send-filter", "blocked:", "delivered", "web", "office"} {
			if !strings.Contains(string(out), word) {
				w.t.Errorf("the tour does not show %q:\n%s", word, out)
			}
		}
	})
}
