package mount

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

// The tests change mounts, so they run in a mount namespace of their own, and
// for an ordinary user in a user namespace in which they are root.
func TestMain(m *testing.M) {
	const own = "BRANE_TEST_OWN_MOUNTS"
	if os.Getenv(own) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), own+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "tests in a mount namespace:", err)
		os.Exit(1)
	}
}

func memory(t *testing.T) *Tree {
	t.Helper()
	if err := Private(); err != nil {
		t.Fatal(err)
	}
	tree, err := Memory(Options{Mode: "0750", Size: "64k", Inodes: "8"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tree.Close)
	return tree
}

func TestMemory(t *testing.T) {
	tree, dir := memory(t), t.TempDir()
	if err := os.WriteFile(dir+"/below", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := tree.Attach(dir); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(dir)
	if err != nil || fi.Mode().Perm() != 0o750 {
		t.Errorf("%v %v", fi.Mode(), err)
	}
	if _, err := os.Stat(dir + "/below"); !os.IsNotExist(err) {
		t.Errorf("what is below shows: %v", err)
	}
	if err := os.WriteFile(dir+"/file", make([]byte, 1<<20), 0o644); err == nil {
		t.Error("the size is no limit")
	}
	if err := Detach(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/below"); err != nil {
		t.Errorf("after Detach: %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	tree, dir := memory(t), t.TempDir()
	if err := tree.Attach(dir); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = Detach(dir) }()
	if err := os.WriteFile(dir+"/a", nil, 0o644); err != nil {
		t.Fatalf("the twin: before, it can be written: %v", err)
	}
	if err := tree.ReadOnly(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/b", nil, 0o644); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("after: %v", err)
	}
}

// A clone shows the same files elsewhere, follows a link to its end, and stays
// when the first place is covered.
func TestClone(t *testing.T) {
	dir := t.TempDir()
	file, link, to := dir+"/file", dir+"/link", dir+"/to"
	for _, f := range []string{file, to} {
		if err := os.WriteFile(f, []byte(filepath.Base(f)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("to", link); err != nil {
		t.Fatal(err)
	}
	if err := Private(); err != nil {
		t.Fatal(err)
	}
	c, err := Clone(file)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Attach(link); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(to); err != nil || string(b) != "file" {
		t.Errorf("%q %v", b, err)
	}
	if err := Detach(to); err != nil {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	tree := memory(t)
	_, cloneErr := Clone("/no/such")
	for name, c := range map[string]struct {
		err  error
		kind fault.Kind
	}{
		"clone nothing":  {cloneErr, fault.NotFound},
		"attach nowhere": {tree.Attach("/no/such"), fault.NotFound},
		"detach nothing": {Detach("/no/such"), fault.NotFound},
	} {
		if fault.KindOf(c.err) != c.kind {
			t.Errorf("%s: %v", name, c.err)
		}
	}
	if _, err := Memory(Options{Size: "much"}); err == nil {
		t.Error("a size that is none")
	}
}
