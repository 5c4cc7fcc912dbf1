package brane

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brane/internal/broker"
	"brane/internal/fault"
	"brane/internal/linux/linuxtest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case InitMode:
			Init()
		case "broker":
			if err := broker.Serve(broker.SocketFD); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		case "runner":
			os.Exit(runnerMain())
		case "job":
			os.Exit(jobMain())
		case "probe":
			os.Exit(probeMain())
		}
	}
	os.Exit(m.Run())
}

// testHost is the daemon's side: it keeps nothing running and makes veth pairs by its broker.
type testHost struct {
	b    *broker.Client
	kind string
	fail error

	keep   bool
	copies []int
}

func (h *testHost) Attach(_ context.Context, kind string, fds []int) error {
	h.kind = kind
	if h.keep {
		h.copies = append(h.copies, dup(fds[0]))
	}
	return h.fail
}

func (h *testHost) Veth(ctx context.Context, netns int) (int, error) {
	f, err := h.b.Veth(ctx, os.NewFile(uintptr(dup(netns)), "netns"), broker.Veth{MAC: [6]byte{2, 0, 0, 0, 0, 1}, MTU: 1500})
	if err != nil {
		return -1, err
	}
	return dup(int(f.Fd())), f.Close()
}

func dup(fd int) int {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	return n
}

// runnerMain is a process that runs a brane: the spec is in $SPEC. $OUTER, when
// set, names a directory where the runtime directory of the daemon is.
func runnerMain() int {
	status, err := runnerRun()
	if err != nil {
		fmt.Fprintln(os.Stderr, "brane run:", err)
		if status == 0 {
			status = fault.ExitCode(err)
		}
	}
	return status
}

func runnerRun() (int, error) {
	ctx := context.Background()
	var s Spec
	if err := json.Unmarshal([]byte(os.Getenv("SPEC")), &s); err != nil {
		return 0, err
	}
	_ = os.Unsetenv("SPEC")
	b, err := broker.Start(ctx, broker.Options{
		Setup: broker.Setup{Runtime: s.Runtime, UserRuntime: s.UserRuntime, UID: os.Getuid()}, Log: os.Stderr,
	})
	if err != nil {
		return 0, err
	}
	defer b.Close()
	outer, err := b.Namespaces(ctx)
	if err != nil {
		return 0, err
	}
	defer outer.Close()
	o := Outer{User: -1, Mnt: int(outer.Mount.Fd()), Net: int(outer.Net.Fd())}
	if outer.User != nil {
		o.User = int(outer.User.Fd())
	}
	h := &testHost{b: b}
	if os.Getenv("REFUSE") != "" {
		h.fail = fault.New(fault.Denied, "attach", "x", "refused for a test")
	}
	status, err := Run(ctx, o, s, h)
	if want := os.Getenv("KIND"); err == nil && want != "" && want != h.kind {
		err = fmt.Errorf("attached as %q, want %q", h.kind, want)
	}
	return status, err
}

// testSpec is a brane as the daemon would describe it.
func testSpec(t *testing.T, args ...string) Spec {
	t.Helper()
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = "/run"
	}
	dir += "/brane-run-test"
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.MkdirAll(dir+"/brane/inside", 0o700); err != nil {
		t.Fatal(err)
	}
	return Spec{
		Name: "web", Domain: "office", Args: args, MAC: "02:00:00:00:00:01", MTU: 1400, Dir: "/",
		Addrs:    []netip.Prefix{netip.MustParsePrefix("192.168.122.7/24"), netip.MustParsePrefix("fd00:122::7/64")},
		Gateways: []netip.Addr{netip.MustParseAddr("192.168.122.1"), netip.MustParseAddr("fd00:122::1")},
		Runtime:  dir + "/brane", UserRuntime: dir,
	}
}

// runner is a command that runs s, with extra environment.
func command1(t *testing.T, s Spec, env ...string) *exec.Cmd {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "runner")
	cmd.Env = append(append(os.Environ(), "SPEC="+string(b), "XDG_RUNTIME_DIR="+s.UserRuntime), env...)
	return cmd
}

// output runs s and returns its standard output; it must end with want.
func output(t *testing.T, s Spec, want int, env ...string) (stdout, stderr string) {
	t.Helper()
	cmd := command1(t, s, env...)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	_ = cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != want {
		t.Errorf("%q: exit status %d, want %d\n%s%s", s.Args, got, want, out.String(), diag.String())
	}
	return out.String(), diag.String()
}

// eachAccount runs f as an ordinary user with a TAP and without, and as root.
func eachAccount(t *testing.T, f func(t *testing.T)) {
	t.Run("user-tap", func(t *testing.T) {
		if linuxtest.AsUserTUN(t, true) {
			f(t)
		}
	})
	t.Run("user-veth", func(t *testing.T) {
		if linuxtest.AsUserTUN(t, false) {
			f(t)
		}
	})
	if os.Geteuid() == 0 {
		t.Run("root", f)
	}
}

func TestStatus(t *testing.T) { eachAccount(t, testStatus) }

func testStatus(t *testing.T) {
	tmp := t.TempDir()
	plain := filepath.Join(tmp, "plain")
	script := filepath.Join(tmp, "script")
	lost := filepath.Join(tmp, "lost")
	for name, f := range map[string]struct {
		text string
		mode os.FileMode
	}{plain: {"no program", 0o644}, script: {"exit 9", 0o755}, lost: {"#!/no/such/interpreter\n", 0o755}} {
		if err := os.WriteFile(name, []byte(f.text), f.mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args   []string
		status int
		text   string
	}{
		{[]string{"true"}, 0, ""},
		{[]string{"sh", "-c", "exit 7"}, 7, ""},
		{[]string{"sh", "-c", "kill -TERM $$"}, 128 + 15, ""},
		{[]string{"sh", "-c", "kill -KILL $$"}, 128 + 9, ""},
		{[]string{script}, 9, ""},
		{[]string{"nosuch"}, 127, "brane run: nosuch: not found in PATH"},
		{[]string{"/nosuch"}, 127, "brane run: /nosuch: no such file"},
		{[]string{plain}, 126, "permission denied"},
		{[]string{"/"}, 126, "permission denied"},
		{[]string{lost}, 126, "interpreter"},
	} {
		s := testSpec(t, c.args...)
		s.Dir = tmp
		_, diag := output(t, s, c.status)
		if !strings.Contains(diag, c.text) || c.text == "" && diag != "" {
			t.Errorf("%q said %q, want %q", c.args, diag, c.text)
		}
	}
	s := testSpec(t, "true")
	s.Dir = s.UserRuntime + "/nosuch"
	if _, diag := output(t, s, 126); !strings.Contains(diag, "enter working directory") {
		t.Errorf("working directory: %q", diag)
	}
	if _, diag := output(t, testSpec(t, "true"), 77, "REFUSE=1"); !strings.Contains(diag, "refused for a test") {
		t.Errorf("refused port: %q", diag)
	}
}

// What a program finds inside.
const look = `
id -u; id -g
hostname
cat /etc/resolv.conf /etc/hosts
grep -E '^(CapInh|CapPrm|CapEff|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status
echo fds $(ls /proc/self/fd | tr '\n' ' ')
echo limit $(ulimit -n)
echo dir $(pwd)
echo env $GREETING
echo v4 $(ip -4 -o addr show eth0 | awk '{print $4}')
echo v6 $(ip -6 -o addr show eth0 scope global | awk '{print $4}')
echo sys $(ls /sys/class/net | tr '\n' ' ') $(cat /sys/class/net/eth0/address)
echo link $(cat /sys/class/net/eth0/mtu) $(ip -o link show eth0 | grep -o 'link/ether [0-9a-f:]*')
ip route; ip -6 route show default
echo tentative $(ip -6 addr show tentative scope global | wc -l)
ping -c1 -w2 127.0.0.1 >/dev/null && echo ping works
echo $(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)
read line; echo "stdin $line"
touch "$XDG_RUNTIME_DIR/own" && echo own $(ls -A $XDG_RUNTIME_DIR)
echo run $({ echo 1 > /run/program.pid; } 2>/dev/null && echo yes || echo no)
`

func TestInside(t *testing.T) {
	for _, v := range []struct {
		name    string
		user    bool
		allowed bool
		kind    string
	}{{"user-tap", true, true, "tap"}, {"user-veth", true, false, "packet"}, {"root", false, true, "tap"}} {
		t.Run(v.name, func(t *testing.T) {
			if v.user && !linuxtest.AsUserTUN(t, v.allowed) {
				return
			}
			if !v.user {
				linuxtest.NeedRoot(t)
			}
			for _, asRoot := range []bool{false, true} {
				t.Run(fmt.Sprint("as-root ", asRoot), func(t *testing.T) { testInside(t, asRoot, v.kind) })
			}
		})
	}
}

func testInside(t *testing.T, asRoot bool, kind string) {
	s := testSpec(t, "sh", "-c", look)
	s.AsRoot, s.Dir = asRoot, "/usr/lib"
	cmd := command1(t, s, "GREETING=hello", "KIND="+kind)
	cmd.Args, cmd.Path = append([]string{"sh", "-c", `ulimit -Sn 333; exec "$0" runner`, exe(t)}, cmd.Args[2:]...), "/bin/sh"
	cmd.Stdin = strings.NewReader("typed\n")
	b, err := cmd.CombinedOutput()
	out := string(b)
	if err != nil {
		t.Errorf("%v", err)
	}
	uid, gid, caps, writable := os.Getuid(), os.Getgid(), "0000000000000000", "no"
	if asRoot {
		uid, gid, caps, writable = 0, 0, "000001ffffffffff", "yes"
	}
	for _, want := range []string{
		fmt.Sprintf("%d\n%d\nweb\nsearch office\nnameserver 192.168.122.1\nnameserver fd00:122::1\n", uid, gid),
		"192.168.122.7\tweb.office web\n", "fd00:122::7\tweb.office web\n",
		"CapInh:\t0000000000000000\nCapPrm:\t" + caps + "\nCapEff:\t" + caps + "\n",
		"CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n",
		"fds 0 1 2 3\n", // 3 is of ls
		"limit 333\n", "dir /usr/lib\n", "env hello\n",
		"v4 192.168.122.7/24\n", "v6 fd00:122::7/64\n", "link 1400 link/ether 02:00:00:00:00:01",
		"sys eth0 lo 02:00:00:00:00:01\n",
		"default via 192.168.122.1 dev eth0", "default via fd00:122::1 dev eth0",
		"tentative 0\n", "ping works\n", "\n0\nstdin typed\n", "own brane own\n", "run " + writable + "\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if t.Failed() {
		t.Logf("inside:\n%s", out)
	}
}

func exe(t *testing.T) string {
	t.Helper()
	p, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return p
}
