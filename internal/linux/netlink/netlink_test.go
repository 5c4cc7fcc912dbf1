package netlink

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brane/frame"
	"brane/internal/fault"
	"brane/internal/linux/linuxtest"
)

func TestMain(m *testing.M) { os.Exit(linuxtest.Network(m)) }

func open(t *testing.T) *Handle {
	t.Helper()
	h, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// namespace is a new network namespace, for as long as the test runs.
func namespace(t *testing.T) int {
	t.Helper()
	result := make(chan int)
	go func() { // the thread ends with the goroutine
		runtime.LockOSThread()
		fd := -1
		if err := unix.Unshare(unix.CLONE_NEWNET); err == nil {
			fd, _ = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		result <- fd
	}()
	fd := <-result
	if fd < 0 {
		t.Fatal("cannot make a network namespace")
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func prefixes(s ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range s {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestVethIntoAnotherNamespace(t *testing.T) {
	h, inside := open(t), namespace(t)
	mac := frame.MAC{2, 0, 0, 0, 0, 7}
	must(t, h.AddVeth(Veth{Name: "out0", Peer: "eth0", PeerNS: inside, MTU: 9000, PeerMAC: mac}))
	t.Cleanup(func() { _ = h.DelLink("out0") })
	if _, err := net.InterfaceByName("eth0"); err == nil {
		t.Error("the other end is here as well")
	}
	there, err := OpenAt(inside)
	must(t, err)
	defer there.Close()
	must(t, there.LinkUp("lo"))
	must(t, there.AddAddr("eth0", netip.MustParsePrefix("10.1.0.2/24")))
	must(t, there.AddAddr("eth0", netip.MustParsePrefix("fd00:1::2/64")))
	must(t, h.LinkUp("out0"))
	must(t, there.LinkUp("eth0"))
	must(t, there.AddRoute(Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.1.0.1"), Dev: "eth0"}))
	must(t, there.AddRoute(Route{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd00:1::1"), Dev: "eth0"}))
	must(t, there.AddRoute(Route{Dst: netip.MustParsePrefix("10.9.0.0/16"), Dev: "eth0", Metric: 7}))

	must(t, In(inside, func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err == nil && (ifi.MTU != 9000 || frame.MAC(ifi.HardwareAddr) != mac) {
			t.Errorf("eth0 has MTU %d and address %s", ifi.MTU, ifi.HardwareAddr)
		}
		// The address is usable at once: no duplicate address detection.
		c, err := net.ListenPacket("udp6", "[fd00:1::2]:0")
		if err == nil {
			c.Close()
		}
		return err
	}))

	got, err := there.HostPrefixes()
	must(t, err)
	got = slices.DeleteFunc(got, func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })
	if want := prefixes("10.1.0.2/24", "10.9.0.0/16", "127.0.0.1/8", "::1/128", "fd00:1::2/64"); !slices.Equal(got, want) {
		t.Errorf("prefixes are %v, want %v", got, want)
	}
	routes, err := there.Routes()
	must(t, err)
	for _, want := range []Route{
		{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.1.0.1"), Dev: "eth0"},
		{Dst: netip.MustParsePrefix("10.9.0.0/16"), Dev: "eth0", Metric: 7},
		{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd00:1::1"), Dev: "eth0", Metric: 1024},
	} {
		if !slices.Contains(routes, want) {
			t.Errorf("no route %+v in %+v", want, routes)
		}
	}
	if addrs, err := there.Addrs("lo"); err != nil || len(addrs) != 2 {
		t.Errorf("addresses of lo: %v, %v", addrs, err)
	}
}

func TestIn(t *testing.T) {
	inside := namespace(t)
	var before, after unix.Stat_t
	must(t, unix.Stat("/proc/self/ns/net", &before))
	for range 50 {
		must(t, In(inside, func() error {
			var here, want unix.Stat_t
			must(t, unix.Stat("/proc/thread-self/ns/net", &here))
			must(t, unix.Fstat(inside, &want))
			if here.Ino != want.Ino {
				t.Error("the function runs elsewhere")
			}
			return nil
		}))
	}
	must(t, unix.Stat("/proc/self/ns/net", &after))
	if before.Ino != after.Ino {
		t.Error("the process moved")
	}
	if err := In(1<<20, func() error { t.Error("ran"); return nil }); err == nil {
		t.Error("no error for a descriptor that is not open")
	}
}

func TestFaults(t *testing.T) {
	h := open(t)
	must(t, h.AddVeth(Veth{Name: "a0", Peer: "b0", PeerNS: -1}))
	for name, c := range map[string]struct {
		err  error
		kind fault.Kind
	}{
		"no such interface": {h.LinkUp("nowhere"), fault.NotFound},
		"name is taken":     {h.AddVeth(Veth{Name: "a0", Peer: "c0", PeerNS: -1}), fault.Exists},
		"route by nothing":  {h.AddRoute(Route{Dst: prefixes("10.0.0.0/8")[0], Dev: "nowhere"}), fault.NotFound},
		"MTU":               {h.SetMTU("a0", 1), fault.Invalid},
	} {
		if fault.KindOf(c.err) != c.kind {
			t.Errorf("%s: %v, want %s", name, c.err, c.kind)
		}
	}
	must(t, h.SetMAC("a0", frame.MAC{2, 0, 0, 0, 0, 9}))
	must(t, h.SetMTU("a0", 1400))
	must(t, h.LinkUp("a0"))
	must(t, h.LinkDown("a0"))
	must(t, h.DelLink("a0"))
	if err := h.DelLink("b0"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("the other end is still there: %v", err)
	}
}

func changed(t *testing.T, w *Watcher) {
	t.Helper()
	select {
	case _, ok := <-w.Changes():
		if !ok {
			t.Fatal("the watcher ended")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no change was told")
	}
}

func TestWatch(t *testing.T) {
	h := open(t)
	must(t, h.AddVeth(Veth{Name: "w0", Peer: "x0", PeerNS: -1}))
	t.Cleanup(func() { _ = h.DelLink("w0") })
	w, err := Watch()
	must(t, err)
	must(t, h.AddAddr("w0", netip.MustParsePrefix("10.2.0.1/24")))
	changed(t, w)
	must(t, h.LinkUp("w0"))
	changed(t, w)

	must(t, w.Close())
	for range w.Changes() { // closed, after at most one value
	}
}

// More notices than the socket's buffer holds: that some are lost is a change
// like any other, and the watcher goes on.
func TestWatchOverflow(t *testing.T) {
	h := open(t)
	must(t, h.AddVeth(Veth{Name: "o0", Peer: "o1", PeerNS: -1}))
	t.Cleanup(func() { _ = h.DelLink("o0") })
	w, err := subscribe()
	must(t, err)
	raw, err := w.file.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { must(t, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1)) }))
	address := func(i int) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 3, 0, byte(i)}), 32) }
	for i := range 100 {
		must(t, h.AddAddr("o0", address(i+1)))
	}
	go w.run()
	defer w.Close()
	changed(t, w)
	for i := range 10 { // the notices before the overflow may have been taken in one
		must(t, h.AddAddr("o0", address(i+101)))
		changed(t, w)
	}
}

func TestWatchAt(t *testing.T) {
	inside := namespace(t)
	w, err := WatchAt(inside)
	must(t, err)
	defer w.Close()
	there, err := OpenAt(inside)
	must(t, err)
	defer there.Close()
	must(t, there.LinkUp("lo"))
	changed(t, w)
}
