// Package script plays the stories in testdata: what an ordinary user types and
// what the terminal answers. Each story has a home, a runtime directory and a
// daemon of its own.
//
// Beside the commands of testscript the stories have "exits STATUS COMMAND..."
// and "until PATTERN COMMAND...", which repeats the command until its output
// matches.
package script

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"brane/internal/linux/linuxtest"
)

// given names the binary under test; it is built when it is not set.
const given = "BRANE_TEST_BINARY"

func TestStories(t *testing.T) {
	if os.Getenv(given) == "" {
		t.Setenv(given, build(t))
	}
	if !linuxtest.AsUser(t) {
		return
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		Setup:               setup,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "until": until},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

func build(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "brane-script-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "brane")
	c := exec.Command("go", "build", "-buildvcs=false", "-o", path, "brane/cmd/brane")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// setup gives a story its own places, with nothing in them.
func setup(e *testscript.Env) error {
	bin := filepath.Join(e.WorkDir, ".bin")
	run := filepath.Join(e.WorkDir, ".run")
	home := filepath.Join(e.WorkDir, ".home")
	for _, dir := range []string{bin, run, home} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	if err := os.Symlink(os.Getenv(given), filepath.Join(bin, "brane")); err != nil {
		return err
	}
	e.Setenv("PATH", bin+":/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
	e.Setenv("HOME", home)
	e.Setenv("XDG_RUNTIME_DIR", run)
	e.Setenv("XDG_STATE_HOME", filepath.Join(home, "state"))
	e.Setenv("XDG_CONFIG_HOME", filepath.Join(home, "config"))
	for _, name := range []string{"BRANE_RUNTIME_DIR", "BRANE_STATE_DIR"} {
		e.Setenv(name, "")
	}
	vars := e.Vars
	e.Defer(func() {
		c := exec.Command(filepath.Join(bin, "brane"), "daemon", "stop")
		c.Env = vars
		_ = c.Run() // most stories have stopped it, or never had one
	})
	return nil
}

// exits runs a command that has to end with the given status.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	status := 0
	var end *exec.ExitError
	if errors.As(err, &end) {
		status = end.ExitCode()
	} else {
		ts.Check(err)
	}
	if status != want {
		ts.Fatalf("exit status %d, want %d", status, want)
	}
}

// until repeats a command until its output matches.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN COMMAND [ARG...]")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	end := time.After(20 * time.Second)
	for {
		if ts.Exec(args[1], args[2:]...) == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			ts.Fatalf("no output that matches %s", args[0])
		}
	}
}
