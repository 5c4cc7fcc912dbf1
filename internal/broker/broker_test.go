package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brane/frame"
	"brane/internal/fault"
	"brane/internal/linux/linuxtest"
	"brane/internal/linux/nsexec"
	"brane/internal/linux/unixmsg"
)

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "broker":
		if err := Serve(SocketFD); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	case len(os.Args) > 1 && os.Args[1] == "wait":
		fmt.Println("here")
		_, _ = os.Stdin.Read(make([]byte, 1))
		return
	}
	os.Exit(m.Run())
}

// eachAccount runs f as an ordinary user and, when the test began as root, as root too.
func eachAccount(t *testing.T, f func(t *testing.T)) {
	t.Run("user", func(t *testing.T) {
		if linuxtest.AsUser(t) {
			f(t)
		}
	})
	if os.Geteuid() == 0 {
		t.Run("root", f)
	}
}

// start starts a broker with a runtime directory that has an inside directory
// and a socket that must not be seen.
func start(t *testing.T) (*Client, string) {
	t.Helper()
	dir := filepath.Join(userRuntime(t), "brane")
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.MkdirAll(filepath.Join(dir, inside), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"api.sock", inside + "/self.sock"} {
		path := filepath.Join(dir, name)
		_ = os.Remove(path)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}
	var log bytes.Buffer
	c, err := Start(t.Context(), Options{
		Setup: Setup{Runtime: dir, UserRuntime: filepath.Dir(dir), Home: os.Getenv("HOME"), UID: os.Getuid()},
		Log:   &log,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	t.Cleanup(func() {
		_ = c.Close()
		if log.Len() > 0 {
			t.Logf("broker: %s", log.String())
		}
	})
	return c, dir
}

func userRuntime(t *testing.T) string {
	if os.Geteuid() != 0 {
		if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
			return dir
		}
	}
	if err := os.MkdirAll("/run/brane-broker-test", 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll("/run/brane-broker-test") })
	return "/run/brane-broker-test"
}

// brane starts "wait" in namespaces of its own below o, with a shell's script
// instead when script is given; it returns the script's output.
func run(t *testing.T, o *nsexec.Outer, script string) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sh, err := os.Open("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	defer sh.Close()
	c := below(t, o)
	c.Exe, c.Argv, c.Env = sh, []string{"sh", "-c", script}, os.Environ()
	c.Files = []*os.File{nil, w, w}
	p, err := nsexec.Start(c)
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	_, _ = b.ReadFrom(r)
	_, _ = p.Wait()
	return b.String()
}

func below(t *testing.T, o *nsexec.Outer) *nsexec.Cmd {
	t.Helper()
	c := &nsexec.Cmd{
		New:      unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		KeepCaps: true, DeathSignal: syscall.SIGKILL,
	}
	if o.User != nil {
		c.Join = append(c.Join, nsexec.Join{FD: int(o.User.Fd()), Kind: unix.CLONE_NEWUSER})
		c.UIDs, c.GIDs = []nsexec.Map{{Inside: 0, Outside: 0, Count: 1}}, []nsexec.Map{{Inside: 0, Outside: 0, Count: 1}}
	} else {
		var err1, err2 error
		c.UIDs, err1 = nsexec.Identity("/proc/self/uid_map")
		c.GIDs, err2 = nsexec.Identity("/proc/self/gid_map")
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		c.MapByParent = true
	}
	c.Join = append(c.Join, nsexec.Join{FD: int(o.Mount.Fd()), Kind: unix.CLONE_NEWNS})
	return c
}

func outer(t *testing.T, c *Client) *nsexec.Outer {
	t.Helper()
	o, err := c.Namespaces(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	if (o.User == nil) != nsexec.Privileged() {
		t.Fatalf("user namespace %v, privileged %v", o.User, nsexec.Privileged())
	}
	return &o
}

func TestMasks(t *testing.T) { eachAccount(t, testMasks) }

func testMasks(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c, dir := start(t)
	o := outer(t, c)
	if fi, err := os.Stat(dir + "/api.sock"); err != nil || fi.Mode()&os.ModeSocket == 0 {
		t.Fatalf("the twin: outside the socket is there: %v", err)
	}
	out := run(t, o, `
		echo run: $(ls -A /run)
		echo own: $(ls -A `+filepath.Dir(dir)+`)
		echo brane: $(ls -A `+dir+`)
		echo inside: $(ls -A `+dir+`/inside)
		touch /run/x 2>&1
		umount /run 2>&1
		umount `+dir+`/inside 2>&1
		mount -o remount,rw /run 2>&1
		mount --make-rshared / && umount -l /run 2>&1
		echo after: $(ls -A `+dir+`)
		echo lock: $(test -d /run/lock && echo yes)
	`)
	for _, want := range []string{
		"\nown: brane\n", "\nbrane: inside\n", "\ninside: self.sock\n", "\nafter: inside\n", "Read-only file system",
	} {
		if !strings.Contains("\n"+out, want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
	for _, no := range []string{"dbus", "postgresql", "systemd", "docker"} {
		if strings.Contains(firstLine(out), no) {
			t.Errorf("/run shows %s: %s", no, firstLine(out))
		}
	}
	// What the host makes, removes and makes again stays out.
	late := filepath.Join(dir, "late.sock")
	if err := os.WriteFile(late, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(late)
	if out := run(t, o, "ls "+dir); strings.TrimSpace(out) != inside {
		t.Errorf("after a new file outside: %q", out)
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// waiting starts a brane that waits and returns its network namespace.
func waiting(t *testing.T, o *nsexec.Outer) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := below(t, o)
	c.Argv, c.Env, c.Files = []string{"brane-test", "wait"}, nil, []*os.File{r, os.Stderr, os.Stderr}
	p, err := nsexec.Start(c)
	_ = r.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close(); _, _ = p.Wait() })
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.Pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

func TestVeth(t *testing.T) { eachAccount(t, testVeth) }

func testVeth(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c, _ := start(t)
	ns := waiting(t, outer(t, c))
	mac := frame.MAC{2, 0, 0x5e, 0x10, 0, 1}
	v := Veth{MAC: mac, MTU: 1400}
	s, err := c.Veth(t.Context(), ns, v)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n, err := unix.GetsockoptInt(int(s.Fd()), unix.SOL_PACKET, unix.PACKET_VNET_HDR); err != nil || n == 0 {
		t.Errorf("the socket has no virtio-net header: %d %v", n, err)
	}
	if _, err := c.Veth(t.Context(), ns, v); fault.KindOf(err) != fault.Exists {
		t.Errorf("a second eth0: %v", err)
	}
	for name, ns := range map[string]string{"own": "/proc/self/ns/net", "user namespace": "/proc/self/ns/user", "file": os.DevNull} {
		f, err := os.Open(ns)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Veth(t.Context(), f, v); fault.KindOf(err) != fault.Denied {
			t.Errorf("%s: %v", name, err)
		}
		_ = f.Close()
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// The broker keeps two capabilities and no way to more.
func TestPrivilege(t *testing.T) { eachAccount(t, testPrivilege) }

func testPrivilege(t *testing.T) {
	c, _ := start(t)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapEff:\t0000000000003000", "CapPrm:\t0000000000003000", "NoNewPrivs:\t1"} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("%q is missing in\n%s", want, b)
		}
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", c.process.Pid))
	if err != nil || len(tasks) == 0 {
		t.Fatal("no threads", err)
	}
	for _, f := range tasks {
		if b, err := os.ReadFile(f); err == nil && !bytes.Contains(b, []byte("CapEff:\t0000000000003000")) {
			t.Errorf("%s keeps more", f)
		}
	}
}

// The broker ends with its socket.
func TestEnds(t *testing.T) { eachAccount(t, testEnds) }

func testEnds(t *testing.T) {
	c, _ := start(t)
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = c.conn.Close()
	select {
	case <-c.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the broker goes on without its socket")
	}
	if err := c.Ping(t.Context()); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("ping: %v", err)
	}
}

// The outer namespaces outlive the broker in the descriptors of a runner, and
// can still be entered; a new broker makes new ones.
func TestOuterOutlivesBroker(t *testing.T) { eachAccount(t, testOuterOutlives) }

func testOuterOutlives(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c, dir := start(t)
	o := outer(t, c)
	if err := c.process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	if out := run(t, o, "ls "+dir); strings.TrimSpace(out) != inside {
		t.Errorf("in the old namespaces: %q", out)
	}
	c, _ = start(t)
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestBadRequests(t *testing.T) {
	if !linuxtest.AsUser(t) {
		return
	}
	c, _ := start(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	good := map[string]any{"mac": "02:00:00:00:00:01", "mtu": 1500}
	for name, r := range map[string]struct {
		verb string
		body any
		fds  []int
		kind fault.Kind
	}{
		"unknown verb":      {"exec", nil, nil, fault.Invalid},
		"ping with fds":     {verbPing, nil, []int{fd}, fault.Invalid},
		"veth, no fd":       {verbVeth, good, nil, fault.Invalid},
		"veth, two fds":     {verbVeth, good, []int{fd, fd}, fault.Invalid},
		"veth, MTU 0":       {verbVeth, map[string]any{"mac": "02:00:00:00:00:01"}, []int{fd}, fault.Invalid},
		"veth, multicast":   {verbVeth, map[string]any{"mac": "03:00:00:00:00:01", "mtu": 1500}, []int{fd}, fault.Invalid},
		"veth, not a netns": {verbVeth, map[string]any{"mac": "02:00:00:00:00:01", "mtu": 1500, "name": "x"}, []int{fd}, fault.Denied},
		"veth, long":        {verbVeth, map[string]any{"mac": strings.Repeat("0", 9000), "mtu": 1}, []int{fd}, fault.Invalid},
	} {
		fds, err := c.conn.Call(t.Context(), r.verb, r.body, r.fds, nil)
		if fault.KindOf(err) != r.kind || len(fds) > 0 {
			t.Errorf("%s: %v, %d descriptors", name, err, len(fds))
		}
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

func TestSetupIsChecked(t *testing.T) {
	for _, p := range []string{"", "x", "/", "/a/", "/a/../b", "/a\x00b", "/" + strings.Repeat("a", maxPath)} {
		s := Setup{Runtime: p}
		if err := s.check(); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%.20q: %v", p, err)
		}
	}
	if err := (&Setup{Runtime: "/run/brane", UID: 1000}).check(); err != nil {
		t.Error(err)
	}
}

// FuzzHandle gives the broker's handler any verb and body without a descriptor:
// nothing may come of it but refusals, the answer to ping, and the namespaces.
func FuzzHandle(f *testing.F) {
	f.Add("veth", []byte(`{"mac":"02:00:00:00:00:01","mtu":1500}`))
	f.Add("ping", []byte(``))
	f.Add("namespaces", []byte(`null`))
	f.Fuzz(func(t *testing.T, verb string, body []byte) {
		s := &server{}
		_, fds, err := s.handle(context.Background(), &unixmsg.Request{Verb: verb, Body: body})
		if verb == verbNamespaces && err == nil {
			unixmsg.CloseFDs(fds)
			return
		}
		if err == nil && verb != verbPing || len(fds) > 0 {
			t.Fatalf("%q %q: %v %v", verb, body, fds, err)
		}
	})
}

func FuzzSetup(f *testing.F) {
	f.Add([]byte(`{"runtime":"/run/user/1000/brane","userRuntime":"/run/user/1000","home":"/home/a","uid":1000}`))
	f.Add([]byte(`{"runtime":"/../x","uid":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSetup(b)
		if err != nil {
			return
		}
		for _, p := range []string{s.Runtime, s.UserRuntime, s.Home} {
			if p != "" && (p[0] != '/' || strings.Contains(p, "..") && filepath.Clean(p) != p || strings.ContainsRune(p, 0)) {
				t.Fatalf("%q", p)
			}
		}
	})
}

func TestSurvey(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"u/brane/inside", "home/.docker/run", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m := survey(Setup{Runtime: dir + "/u/brane", UserRuntime: dir + "/u", Home: dir + "/home"})
	if !m.replaced(dir+"/u/brane/api.sock") || m.replaced(dir+"/user") || !m.replaced("/run/docker.sock") {
		t.Errorf("replaced: %q", m.roots)
	}
	if got := strings.Join(m.keep, " "); !strings.Contains(got, dir+"/u/brane/inside") {
		t.Errorf("kept: %s", got)
	}
	if got := strings.Join(m.covers, " "); !strings.Contains(got, dir+"/home/.docker/run") {
		t.Errorf("covered: %s", got)
	}
}

func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		c, err := Start(b.Context(), Options{Setup: Setup{Runtime: dir, UID: os.Getuid()}})
		if err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
	}
}
