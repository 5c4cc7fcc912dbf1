// Package linuxtest lets a test say which account it needs. A test for an
// ordinary user runs as it is when the caller is one; started by root it runs
// again as the account "brane-test", which is made when it is missing. A test
// for root is skipped for others, but fails in CI, where nothing may be skipped.
package linuxtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Account is the ordinary user of the tests.
const Account = "brane-test"

// NeedRoot ends the test unless it runs as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	Missing(t, "this test needs root")
}

// Missing ends the test because the machine lacks something: it fails in CI
// and is skipped, with the reason, elsewhere.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("missing in CI: "+format, args...)
	}
	t.Skipf(format, args...)
}

// AsUser reports whether the test shall go on, as an ordinary user. Started by
// root it runs the same test once more as Account, takes over its result and
// returns false.
func AsUser(t *testing.T) bool {
	t.Helper()
	return asUser(t, nil)
}

// AsUserTUN is AsUser where the account may open /dev/net/tun, or may not: for
// the process and its children the node is another one of that mode.
func AsUserTUN(t *testing.T, allowed bool) bool {
	t.Helper()
	mode := uint32(0o600)
	if allowed {
		mode = 0o666
	}
	return asUser(t, &mode)
}

// withTUN puts the node over the machine's and becomes the account.
const withTUN = `mount --bind "$1" /dev/net/tun && shift && exec setpriv --reuid "$1" --regid "$2" --clear-groups -- "$3" "$4" "$5" "$6" "$7"`

func asUser(t *testing.T, tun *uint32) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		if tun != nil && (*tun == 0o666) != (unix.Access("/dev/net/tun", unix.R_OK|unix.W_OK) == nil) {
			NeedRoot(t) // who lays another node over this one
		}
		return true
	}
	uid, gid, home := account(t)
	dir := bench(t)
	exe := filepath.Join(dir, "test")
	if err := copySelf(exe); err != nil {
		t.Fatal(err)
	}
	args := []string{exe, "-test.run", pattern(t.Name()), "-test.v", "-test.count=1"}
	cmd := exec.Command(exe, args[1:]...)
	cmd.Env = append(withoutUser(os.Environ()),
		"HOME="+home, "USER="+Account, "LOGNAME="+Account, "TMPDIR="+dir,
		"XDG_RUNTIME_DIR="+runtimeDir(t, uid, gid))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	if tun != nil {
		node := filepath.Join(bench(t), "tun")
		if err := errors.Join(syscall.Mknod(node, syscall.S_IFCHR|*tun, 10<<8|200), os.Chmod(node, os.FileMode(*tun))); err != nil {
			t.Fatal(err)
		}
		ids := []string{strconv.Itoa(uid), strconv.Itoa(gid)}
		cmd.Path, cmd.Args = "/usr/bin/unshare", append(append([]string{"unshare", "-m", "sh", "-c", withTUN, "sh", node}, ids...), args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	}
	out, err := cmd.CombinedOutput()
	t.Logf("as %s:\n%s", Account, out)
	switch {
	case err != nil:
		t.Fatalf("as %s: %v", Account, err)
	case strings.Contains(string(out), "\n--- SKIP: "+t.Name()):
		Missing(t, "skipped as %s", Account)
	case !strings.Contains(string(out), "--- PASS: "+t.Name()):
		t.Fatalf("as %s: the test did not run", Account)
	}
	return false
}

// pattern matches exactly the named test and its subtests.
func pattern(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + p + "$"
	}
	return strings.Join(parts, "/")
}

// bench is a directory that the account can reach; t.TempDir is root's alone.
func bench(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "brane-linuxtest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func account(t *testing.T) (uid, gid int, home string) {
	t.Helper()
	u, err := user.Lookup(Account)
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		out, e := exec.Command("useradd", "--create-home", "--shell", "/bin/sh", Account).CombinedOutput()
		if u, err = user.Lookup(Account); err != nil {
			t.Fatalf("make the account %s: %v: %s", Account, e, out)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		t.Fatal(err)
	}
	if gid, err = strconv.Atoi(u.Gid); err != nil {
		t.Fatal(err)
	}
	return uid, gid, u.HomeDir
}

// runtimeDir is the account's XDG_RUNTIME_DIR, where a login would put it. It
// stays: another test of the account may be using it.
func runtimeDir(t *testing.T, uid, gid int) string {
	t.Helper()
	dir := fmt.Sprintf("/run/user/%d", uid)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chown(dir, uid, gid), os.Chmod(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// withoutUser drops the variables that name root's own places.
func withoutUser(env []string) []string {
	var kept []string
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if name == "USER" || name == "LOGNAME" || name == "HOME" || strings.HasPrefix(name, "XDG_") {
			continue
		}
		kept = append(kept, e)
	}
	return kept
}

func copySelf(to string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, from); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
