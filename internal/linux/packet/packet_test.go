package packet

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
	"brane/internal/linux/linuxtest"
	"brane/internal/linux/netlink"
)

func TestMain(m *testing.M) { os.Exit(linuxtest.Network(m)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Two packet sockets on the two ends of a veth pair: a superframe passes whole
// with its header, and neither end hears itself.
func TestSuperframePasses(t *testing.T) {
	h, err := netlink.Open()
	must(t, err)
	defer h.Close()
	must(t, h.AddVeth(netlink.Veth{Name: "p0", Peer: "p1", PeerNS: -1}))
	defer h.DelLink("p0")
	must(t, h.LinkUp("p0"))
	must(t, h.LinkUp("p1"))
	a, err := Open("p0")
	must(t, err)
	defer unix.Close(a)
	b, err := Open("p1")
	must(t, err)
	defer unix.Close(b)
	beside, err := Open("p0")
	must(t, err)
	defer unix.Close(beside)

	sent := superframe(40_000)
	buf := make([]byte, 70_000)
	for deadline := time.Now().Add(20 * time.Second); ; {
		// The kernel starts the queue of a new interface a little after it is up,
		// and drops what comes before.
		if _, err := unix.Write(a, sent); err != nil {
			t.Fatal(err)
		}
		n := read(t, b, buf)
		if time.Now().After(deadline) {
			t.Fatal("the superframe did not come")
		}
		if n == len(sent) && bytes.Equal(buf[HeaderLen:n], sent[HeaderLen:]) {
			if buf[1] != unix.VIRTIO_NET_HDR_GSO_TCPV4 {
				t.Errorf("segmentation type is %d", buf[1])
			}
			break // smaller ones are the host's own, such as its ICMPv6
		}
	}
	for name, fd := range map[string]int{"the sender": a, "one beside the sender": beside} {
		for {
			n, err := unix.Read(fd, buf)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			must(t, err)
			if n == len(sent) {
				t.Errorf("%s heard what left", name)
			}
		}
	}
}

// superframe is a TCP segment of n bytes in one frame, to be cut at 1,448.
func superframe(n int) []byte {
	total := 40 + n
	b := make([]byte, HeaderLen, HeaderLen+14+total)
	b[0] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM
	b[1] = unix.VIRTIO_NET_HDR_GSO_TCPV4
	b[2] = 14 + 40          // hdr_len
	b[4], b[5] = 0xa8, 0x05 // gso_size 1448
	b[6], b[8] = 14+20, 16  // csum_start, csum_offset
	b = append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 0)
	b = append(b, 0x45, 0, byte(total>>8), byte(total), 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2)
	b = append(b, 0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0)
	return append(b, bytes.Repeat([]byte{0xaa}, n)...)
}

// read waits a little for a frame; 0 means that none came.
func read(t *testing.T, fd int, buf []byte) int {
	t.Helper()
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, 100); n == 0 || errors.Is(err, unix.EINTR) {
		return 0
	}
	n, err := unix.Read(fd, buf)
	must(t, err)
	return n
}

func TestOpenRefuses(t *testing.T) {
	if _, err := Open("nowhere"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("got %v", err)
	}
}
