package datapathtest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"brane/frame"
	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/linux/linuxtest"
	"brane/internal/linux/netlink"
	"brane/internal/linux/packet"
	"brane/internal/linux/tap"
)

// InterfaceKinds are those that take a network namespace to play in: package
// linuxtest gives a test one.
func InterfaceKinds() []datapath.Kind { return []datapath.Kind{datapath.TAP, datapath.Packet} }

// widest is the largest MTU of an Ethernet interface, so that the suite can
// send what the switch must refuse.
const widest = 65521

// queue is how many frames a client sends to an interface before it waits for
// their verdicts: the kernel keeps some 500 for a TAP, some 270 small ones for a
// packet socket.
const queue = 100

// pairInterface makes an interface of a kind and puts the client behind a
// packet socket on it, as if it were the kernel of a guest.
func (c *Client) pairInterface(t testing.TB) datapath.Endpoint {
	t.Helper()
	c.link = fmt.Sprintf("dpt%d", time.Now().UnixNano()%1e11)
	e := datapath.Endpoint{Kind: c.kind}
	h, err := netlink.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if c.kind == datapath.TAP {
		d, err := tap.Create(c.link)
		if fault.KindOf(err) == fault.Denied {
			linuxtest.Missing(t, "this test needs root: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		e.FD = d.FD
	} else {
		far := c.link + "p"
		if err := h.AddVeth(netlink.Veth{Name: c.link, Peer: far, PeerNS: -1}); err != nil {
			t.Fatal(err)
		}
		up(t, h, far)
		if e.FD, err = packet.Open(far); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { c.unlink() })
	up(t, h, c.link)
	running(t, c.link)
	if c.kind == datapath.Packet {
		running(t, c.link+"p")
	}
	fd, err := packet.Open(c.link)
	if err != nil {
		t.Fatal(err)
	}
	const enough = 64 << 20
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUFFORCE, enough); err != nil {
		linuxtest.Missing(t, "this test needs root: SO_RCVBUFFORCE: %v", err)
	}
	c.conn = os.NewFile(uintptr(fd), c.link)
	return e
}

func up(t testing.TB, h *netlink.Handle, name string) {
	t.Helper()
	// A kernel with IPv6 talks on each new interface.
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := errors.Join(h.SetMTU(name, widest), h.LinkUp(name)); err != nil {
		t.Fatal(err)
	}
}

// running waits until the kernel noticed that the other end is up: until then it
// loses what is sent.
func running(t testing.TB, name string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Microsecond) {
		if i, err := net.InterfaceByName(name); err != nil || i.Flags&net.FlagRunning != 0 {
			return // without the interface, opening it fails with the reason
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not run", name)
		}
	}
}

// unlink removes the client's interface.
func (c *Client) unlink() {
	if h, err := netlink.Open(); err == nil {
		_ = h.DelLink(c.link)
		h.Close()
	}
}

// isInterface says whether the client is behind an interface. Such a client
// cannot send runts, and the kernel drops for it what the switch delivered.
func (c *Client) isInterface() bool { return c.kind == datapath.TAP || c.kind == datapath.Packet }

// sendInterface sends behind a header of 10 bytes.
func (c *Client) sendInterface(b []byte) error {
	out := append(append([]byte(nil), b[:frame.VnetLegacyLen]...), b[frame.VnetLen:]...)
	if _, err := c.conn.Write(out); err != nil {
		return err
	}
	if n := c.sent.Add(1); c.path != nil && (n%queue == 0 || len(b) > 2000) {
		end := time.Now().Add(patience)
		for c.verdicts()-c.base < n {
			if time.Now().After(end) {
				return errors.New("no verdicts")
			}
			runtime.Gosched()
		}
	}
	return nil
}

func (c *Client) verdicts() uint64 {
	for _, x := range c.path.Counters(c.mux) {
		if x.Port == c.id {
			return Sum(x.From)
		}
	}
	return 0
}
