package ra_test

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"brane/frame"
	"brane/internal/linux/linuxtest"
	"brane/internal/linux/packet"
	"brane/internal/ra"
)

func TestMain(m *testing.M) { os.Exit(linuxtest.Network(m)) }

// The kernel is the reader that matters: it makes itself the address that
// frame.EUI64 foretells, and takes over route and MTU.
func TestKernelBelievesIt(t *testing.T) {
	ip := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	ip("link", "add", "ra0", "type", "veth", "peer", "name", "ra1", "address", "52:54:00:00:00:09")
	t.Cleanup(func() { ip("link", "del", "ra0") })
	ip("link", "set", "ra0", "addrgenmode", "none", "up")
	sysctl := func(key, value string) {
		t.Helper()
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/ra1/"+key, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	sysctl("accept_dad", "0")
	sysctl("use_tempaddr", "0")
	sysctl("accept_ra", "2")
	ip("link", "set", "ra1", "up")

	fd, err := packet.Open("ra0")
	if err != nil {
		t.Fatal(err)
	}
	wire := os.NewFile(uintptr(fd), "ra0")
	defer func() { _ = wire.Close() }()
	if err := wire.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c, _ := ra.FromPlan(gateway(), 1400)
	send := func(b []byte) {
		t.Helper()
		if _, err := wire.Write(append(make([]byte, packet.HeaderLen), b...)); err != nil {
			t.Fatal(err)
		}
	}

	// The interface came up just now, so the kernel solicits by itself.
	buf := make([]byte, 4096)
	for answered := false; !answered; {
		n, err := wire.Read(buf)
		if err != nil {
			t.Fatal("no solicitation came:", err)
		}
		var p frame.Packet
		p.Parse(bytes.Clone(buf[packet.HeaderLen:n]))
		var reply []byte
		if reply, answered = c.AppendAnswer(nil, &p); answered {
			send(reply)
		}
	}
	want := frame.EUI64(c.Prefixes[0].Addr(), frame.MAC{0x52, 0x54, 0, 0, 0, 9}).String() + "/64"
	waitFor(t, func() bool { return strings.Contains(ip("-6", "addr", "show", "dev", "ra1"), want) }, "address "+want)
	waitFor(t, func() bool {
		return strings.Contains(ip("-6", "route", "show", "default"), "via "+ra.LinkLocal(c.MAC).String()+" dev ra1")
	}, "default route")
	mtu, err := os.ReadFile("/proc/sys/net/ipv6/conf/ra1/mtu")
	if err != nil || strings.TrimSpace(string(mtu)) != "1400" {
		t.Errorf("MTU %s %v", mtu, err)
	}
	if got := ip("-6", "addr", "show", "dev", "ra1"); strings.Contains(got, "fd00:21:") {
		t.Errorf("an address from a prefix of length 80:\n%s", got)
	}

	c.Withdraw = true
	mac, all := ra.AllNodes()
	send(c.AppendAdvert(nil, mac, all))
	waitFor(t, func() bool { return ip("-6", "route", "show", "default") == "" }, "end of the default route")
}

// waitFor polls the kernel, which does not say when it has read a frame.
func waitFor(t *testing.T, ok func() bool, what string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the kernel has no %s", what)
		}
	}
}
