package stack

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime/pprof"
	"strings"
	"testing"

	"brane/frame"
	"brane/internal/linux/linuxtest"
	"brane/internal/linux/tap"
)

// Environment of the process that is a gateway between two namespaces.
const (
	envGuest    = "STACK_TEST_GUEST"    // the namespace that gets the TAP
	envForwards = "STACK_TEST_FORWARDS" // "tcp:6201:5201 udp:…": host port, guest port
	envProfile  = "STACK_TEST_PROFILE"  // a file for a CPU profile
)

// TestGatewayProcess is no test: it is the gateway of the tests below, in a
// process inside the namespace that is the outside. It ends with its input.
func TestGatewayProcess(t *testing.T) {
	guestNS := os.Getenv(envGuest)
	if guestNS == "" {
		return
	}
	if f, err := os.Create(os.Getenv(envProfile)); err == nil {
		pprof.StartCPUProfile(f)
		defer pprof.StopCPUProfile()
	}
	dev, err := tap.Create("tap0")
	if err != nil {
		t.Fatal(err)
	}
	command(t, "ip", "link", "set", "tap0", "netns", guestNS)
	file := os.NewFile(uintptr(dev.FD), "tap")
	cfg := testConfig()
	cfg.outside = nil
	g, err := New(cfg, func(b []byte) { file.Write(b) }, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range strings.Fields(os.Getenv(envForwards)) {
		var host, port uint16
		proto, rest, _ := strings.Cut(f, ":")
		fmt.Sscanf(rest, "%d:%d", &host, &port)
		to := netip.AddrPortFrom(guest4, port)
		at := fmt.Sprintf("0.0.0.0:%d", host)
		if proto == "tcp" {
			l, err := net.Listen("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			g.ForwardTCP(uint64(i), l, to)
		} else {
			c, err := net.ListenPacket("udp", at)
			if err != nil {
				t.Fatal(err)
			}
			g.ForwardUDP(uint64(i), c, to)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, frame.VnetLen+frame.MaxFrame)
		for {
			n, err := file.Read(b)
			if err != nil {
				return
			}
			g.Deliver(b[:n])
		}
	}()
	fmt.Println("\nready")
	io.Copy(io.Discard, os.Stdin)
	g.Close()
	file.Close()
	<-done
	fmt.Printf("%+v\n", g.Stats())
}

func command(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// world is a guest's namespace and the outside's, with a gateway between.
type world struct {
	guest, outside string
}

func newWorld(t *testing.T, forwards string) *world {
	t.Helper()
	linuxtest.NeedRoot(t)
	w := &world{fmt.Sprintf("stack-guest-%d", os.Getpid()), fmt.Sprintf("stack-out-%d", os.Getpid())}
	for _, ns := range []string{w.guest, w.outside} {
		command(t, "ip", "netns", "add", ns)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
		command(t, "ip", "-n", ns, "link", "set", "lo", "up")
	}
	w.in(t, w.outside, "sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")
	command(t, "ip", "-n", w.outside, "link", "add", "out0", "type", "veth", "peer", "name", "out1")
	for _, a := range [][]string{
		{"addr", "add", "192.0.2.7/24", "dev", "out0"},
		{"-6", "addr", "add", "2001:db8:1::7/64", "dev", "out0", "nodad"},
		{"link", "set", "out0", "up"},
		{"link", "set", "out1", "up"},
	} {
		command(t, append([]string{"ip", "-n", w.outside}, a...)...)
	}
	cmd := exec.Command("ip", "netns", "exec", w.outside, "/proc/self/exe", "-test.run=^TestGatewayProcess$")
	cmd.Env = append(os.Environ(), envGuest+"="+w.guest, envForwards+"="+forwards)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args[4] = exe
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "ready" {
		t.Log(lines.Text())
	}
	t.Cleanup(func() {
		in.Close()
		for lines.Scan() {
			t.Log(lines.Text())
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the gateway ended with %v", err)
		}
	})
	for _, a := range [][]string{
		{"link", "set", "tap0", "address", gMAC.String()},
		{"link", "set", "tap0", "up"},
		{"addr", "add", guest4.String() + "/24", "dev", "tap0"},
		{"-6", "addr", "add", guest6.String() + "/64", "dev", "tap0", "nodad"},
		{"route", "add", "default", "via", gw4.String()},
		{"-6", "route", "add", "default", "via", gw6.String()},
	} {
		command(t, append([]string{"ip", "-n", w.guest}, a...)...)
	}
	return w
}

func (w *world) in(t testing.TB, ns string, args ...string) string {
	t.Helper()
	return command(t, append([]string{"ip", "netns", "exec", ns}, args...)...)
}

// serve starts a server in a namespace and waits until it listens.
func (w *world) serve(t *testing.T, ns, port string, args ...string) {
	t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", ns}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	eventually(t, args[0]+" listens", func() bool {
		return strings.Contains(w.in(t, ns, "ss", "-Hltn"), ":"+port+" ")
	})
}

func TestRealGuest(t *testing.T) {
	w := newWorld(t, "tcp:8080:8000 udp:5353:5353")
	w.serve(t, w.outside, "5201", "iperf3", "-s", "-p", "5201")
	t.Run("ping", func(t *testing.T) {
		for _, a := range []netip.Addr{gw4, gw6, out4, out6} {
			w.in(t, w.guest, "ping", "-nc2", "-i0.2", "-W2", a.String())
		}
		w.in(t, w.guest, "ping", "-nc1", "-W2", "-s", "4000", out4.String()) // fragments, both ways
	})
	t.Run("iperf3", func(t *testing.T) {
		for _, a := range []string{"192.0.2.7", "2001:db8:1::7"} {
			w.in(t, w.guest, "iperf3", "-c", a, "-t", "1")
			w.in(t, w.guest, "iperf3", "-c", a, "-t", "1", "-R")
			w.in(t, w.guest, "iperf3", "-c", a, "-t", "1", "-u", "-b", "50M")
		}
	})
	t.Run("curl in and out", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/page", []byte("served"), 0o644); err != nil {
			t.Fatal(err)
		}
		w.serve(t, w.guest, "8000", "busybox", "httpd", "-f", "-p", "8000", "-h", dir)
		if got := w.in(t, w.outside, "curl", "-sSm5", "http://127.0.0.1:8080/page"); got != "served" {
			t.Errorf("in: %q", got)
		}
		w.serve(t, w.outside, "8001", "busybox", "httpd", "-f", "-p", "8001", "-h", dir)
		if got := w.in(t, w.guest, "curl", "-sSm5", "http://192.0.2.7:8001/page"); got != "served" {
			t.Errorf("out: %q", got)
		}
	})
	t.Run("refused at once", func(t *testing.T) {
		for _, a := range []string{"192.0.2.7:9", "[2001:db8:1::7]:9", "169.254.169.254:80", "10.5.0.1:22", "203.0.113.1:80"} {
			out, err := exec.Command("ip", "netns", "exec", w.guest, "curl", "-sSm2", "http://"+a).CombinedOutput()
			if e, ok := err.(*exec.ExitError); !ok || e.ExitCode() != 7 { // curl(1): failed to connect
				t.Errorf("%s: %v: %s", a, err, out)
			}
		}
	})
	t.Run("UDP in", func(t *testing.T) {
		cmd := exec.Command("ip", "netns", "exec", w.guest, "socat", "-u", "UDP-RECV:5353", "SYSTEM:head -c2; kill $PPID")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer cmd.Process.Kill()
		eventually(t, "socat listens", func() bool { return strings.Contains(w.in(t, w.guest, "ss", "-Hlun"), ":5353 ") })
		w.in(t, w.outside, "bash", "-c", "echo -n hi >/dev/udp/127.0.0.1/5353")
		b := make([]byte, 2)
		if _, err := io.ReadFull(out, b); err != nil || string(b) != "hi" {
			t.Errorf("%q, %v", b, err)
		}
	})
}
