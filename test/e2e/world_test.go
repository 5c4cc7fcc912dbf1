// Package e2e uses brane as its users do: the real binary, real programs, an
// ordinary account and root. Hosts are network namespaces: "host" is where
// brane runs, "outside" is the rest of the world behind it.
package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"brane/internal/linux/linuxtest"
)

// Addresses of the two hosts.
const (
	hostAddr     = "198.51.100.2"
	outsideAddr  = "198.51.100.1"
	hostAddr6    = "2001:db8:51::2"
	outsideAddr6 = "2001:db8:51::1"
)

var build struct {
	sync.Once
	path  string
	given string // by the caller, who built it
	err   error
}

// binary builds brane once for all tests.
func binary(t testing.TB) string {
	t.Helper()
	build.Do(func() {
		if build.given = os.Getenv("BRANE_TEST_BINARY"); build.given != "" {
			build.path = build.given
			return
		}
		dir, err := os.MkdirTemp("", "brane-e2e")
		if err != nil {
			build.err = err
			return
		}
		if build.err = os.Chmod(dir, 0o755); build.err != nil {
			return
		}
		build.path = filepath.Join(dir, "brane")
		c := exec.Command("go", "build", "-buildvcs=false", "-o", build.path, "brane/cmd/brane")
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.path
}

func TestMain(m *testing.M) {
	code := m.Run()
	if build.path != "" && build.given == "" {
		_ = os.RemoveAll(filepath.Dir(build.path))
	}
	os.Exit(code)
}

// world is one host with an outside, and the account that uses brane on it.
type world struct {
	t        testing.TB
	bin      string
	host     string // namespaces by name
	outside  string
	uid, gid int
	dir      string // the account's own: runtime, state, home
	env      []string
}

// as runs the test once for each account.
func as(t *testing.T, f func(w *world)) {
	t.Helper()
	linuxtest.NeedRoot(t)
	for _, account := range []string{linuxtest.Account, "root"} {
		t.Run(account, func(t *testing.T) { f(newWorld(t, account)) })
	}
}

func newWorld(t testing.TB, account string) *world {
	t.Helper()
	if err := os.Chmod("/dev/net/tun", 0o666); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, bin: binary(t)}
	if account != "root" {
		if _, err := user.Lookup(account); err != nil {
			w.must("useradd", "--create-home", account)
		}
		u, err := user.Lookup(account)
		if err != nil {
			t.Fatal(err)
		}
		w.uid, _ = strconv.Atoi(u.Uid)
		w.gid, _ = strconv.Atoi(u.Gid)
	}
	w.namespaces()
	dir, err := os.MkdirTemp("", "bw")
	if err != nil {
		t.Fatal(err)
	}
	w.dir = dir
	for _, d := range []string{"", "run", "state", "home"} {
		p := filepath.Join(dir, d)
		_ = os.MkdirAll(p, 0o700)
		if err := os.Chown(p, w.uid, w.gid); err != nil {
			t.Fatal(err)
		}
	}
	w.env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + dir + "/home", "LANG=C.UTF-8",
		"XDG_RUNTIME_DIR=" + dir + "/run", "BRANE_RUNTIME_DIR=" + dir + "/run/brane", "BRANE_STATE_DIR=" + dir + "/state",
	}
	t.Cleanup(w.end)
	return w
}

func (w *world) must(name string, args ...string) string {
	w.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// namespaces makes the two hosts and the wire between them.
func (w *world) namespaces() {
	id := strconv.Itoa(os.Getpid()) + strconv.Itoa(int(time.Now().UnixNano()%100000))
	w.host, w.outside = "e2eh"+id, "e2eo"+id
	for _, n := range []string{w.host, w.outside} {
		w.must("ip", "netns", "add", n)
		w.must("ip", "-n", n, "link", "set", "lo", "up")
		w.must("ip", "netns", "exec", n, "sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0",
			"net.ipv4.ping_group_range=0 2147483647")
	}
	w.must("ip", "link", "add", "eth0", "netns", w.host, "type", "veth", "peer", "name", "eth0", "netns", w.outside)
	for _, x := range [][3]string{{w.host, hostAddr, hostAddr6}, {w.outside, outsideAddr, outsideAddr6}} {
		w.must("ip", "-n", x[0], "addr", "add", x[1]+"/24", "dev", "eth0")
		w.must("ip", "-n", x[0], "addr", "add", x[2]+"/64", "dev", "eth0", "nodad")
		w.must("ip", "-n", x[0], "link", "set", "eth0", "up")
	}
	w.must("ip", "-n", w.host, "route", "add", "default", "via", outsideAddr)
	w.must("ip", "-n", w.host, "-6", "route", "add", "default", "via", outsideAddr6)
}

// end stops the daemon and takes everything away.
func (w *world) end() {
	_ = w.brane("daemon", "stop").Run()
	out, _ := exec.Command("ip", "netns", "pids", w.host).Output()
	for _, p := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(p); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if w.t.Failed() {
		if b, err := os.ReadFile(filepath.Join(w.dir, "state", "daemon.log")); err == nil {
			w.t.Logf("daemon.log:\n%s", b)
		}
	}
	for _, n := range []string{w.host, w.outside} {
		_ = exec.Command("ip", "netns", "del", n).Run()
	}
	_ = os.RemoveAll(w.dir)
}

// cmd is a program of the account on the host.
func (w *world) cmd(args ...string) *exec.Cmd {
	full := []string{"netns", "exec", w.host}
	if w.uid != 0 {
		full = append(full, "setpriv", "--reuid", strconv.Itoa(w.uid), "--regid", strconv.Itoa(w.gid), "--clear-groups", "--")
	}
	c := exec.Command("ip", append(full, args...)...)
	c.Env, c.Dir = w.env, w.dir+"/home"
	return c
}

func (w *world) brane(args ...string) *exec.Cmd { return w.cmd(append([]string{w.bin}, args...)...) }

// result of a command.
type result struct {
	out, err string
	code     int
}

func (w *world) run(args ...string) result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	c := w.brane(args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Start(); err != nil {
		w.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	select {
	case <-done:
	case <-ctx.Done():
		_ = c.Process.Kill()
		<-done
		w.t.Errorf("brane %s: took over 40 s", strings.Join(args, " "))
	}
	return result{out.String(), errs.String(), c.ProcessState.ExitCode()}
}

// ok runs a command that has to succeed and gives its output.
func (w *world) ok(args ...string) string {
	w.t.Helper()
	r := w.run(args...)
	if r.code != 0 {
		w.t.Fatalf("brane %s: exit %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// refused runs a command that has to fail with a word in its message.
func (w *world) refused(word string, args ...string) string {
	w.t.Helper()
	r := w.run(args...)
	if r.code == 0 {
		w.t.Errorf("brane %s: was not refused\n%s", strings.Join(args, " "), r.out)
	}
	if !strings.Contains(r.err, word) {
		w.t.Errorf("brane %s: %q is not in the message: %s", strings.Join(args, " "), word, r.err)
	}
	return r.err
}

// background runs a command until the test ends.
func (w *world) background(args ...string) *exec.Cmd {
	w.t.Helper()
	c := w.brane(args...)
	var errs bytes.Buffer
	c.Stdout, c.Stderr = &errs, &errs
	if err := c.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { _ = c.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			_ = c.Process.Kill()
			<-done
		}
		if w.t.Failed() {
			w.t.Logf("brane %s:\n%s", strings.Join(args, " "), errs.String())
		}
	})
	return c
}

// until waits for a condition, at most ten seconds.
func (w *world) until(what string, f func() bool) {
	w.t.Helper()
	end := time.Now().Add(10 * time.Second)
	for !f() {
		if time.Now().After(end) {
			w.t.Fatalf("in ten seconds: no %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// in runs f on a thread of a namespace; sockets made there stay there.
func (w *world) in(name string, f func() error) {
	w.t.Helper()
	errs := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		h, err := netns.GetFromName(name)
		if err == nil {
			err = netns.Set(h)
			_ = h.Close()
		}
		if err == nil {
			err = f()
		}
		errs <- err
	}()
	if err := <-errs; err != nil {
		w.t.Fatal(err)
	}
}

// serve answers HTTP in a namespace with the remote address and a word.
func (w *world) serve(ns, addr, word string) {
	w.t.Helper()
	var l net.Listener
	w.in(ns, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	s := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(rw, "%s to %s\n", word, r.RemoteAddr)
	})}
	go func() { _ = s.Serve(l) }()
	w.t.Cleanup(func() { _ = s.Close() })
}

// file writes a file that the account can read.
func (w *world) file(name, text string) string {
	w.t.Helper()
	p := filepath.Join(w.dir, "home", name)
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return p
}
