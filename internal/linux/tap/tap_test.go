package tap

import (
	"bytes"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brane/frame"
	"brane/internal/fault"
	"brane/internal/linux/linuxtest"
)

func TestMain(m *testing.M) { os.Exit(linuxtest.Network(m)) }

// create is Create, for a machine that lets us.
func create(t *testing.T, name string) *Device {
	t.Helper()
	d, err := Create(name)
	if k := fault.KindOf(err); k == fault.Denied || k == fault.Unsupported {
		linuxtest.Missing(t, "%v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func up(t *testing.T, name string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		t.Fatal(err)
	}
}

func TestCreate(t *testing.T) {
	d := create(t, "tap%d")
	if d.Name != "tap0" {
		t.Errorf("name is %q", d.Name)
	}
	if _, err := net.InterfaceByName(d.Name); err != nil {
		t.Error(err)
	}
	if !d.Offloads.Checksum || !d.Offloads.TSO {
		t.Errorf("offloads are %+v", d.Offloads)
	}
	if _, err := unix.Read(d.FD, make([]byte, 100)); !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EIO) {
		t.Errorf("read of nothing: %v", err)
	}
	if _, err := Create(d.Name); fault.KindOf(err) != fault.Busy {
		t.Errorf("the same name again: %v", err)
	}
	for _, name := range []string{"a/b", "a name", "longer-than-fifteen"} {
		if _, err := Create(name); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// What goes in comes out of a packet socket's view of the interface, behind the header's 12 bytes.
func TestFramesCarryTheHeader(t *testing.T) {
	d := create(t, "hdr0")
	up(t, d.Name)
	ifi, err := net.InterfaceByName(d.Name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	const proto = 0x88b5 // IEEE local experimental
	if err := unix.Bind(s, &unix.SockaddrLinklayer{Protocol: proto>>8 | proto<<8&0xff00, Ifindex: ifi.Index}); err != nil {
		t.Fatal(err)
	}
	eth := append(bytes.Repeat([]byte{0xff}, 6), 2, 0, 0, 0, 0, 1, proto>>8, proto&0xff)
	eth = append(eth, bytes.Repeat([]byte{7}, 50)...)
	if n, err := unix.Write(d.FD, append(make([]byte, frame.VnetLen), eth...)); err != nil || n != frame.VnetLen+len(eth) {
		t.Fatalf("write: %d, %v", n, err)
	}
	got := make([]byte, 200)
	n, err := unix.Read(s, got)
	if err != nil || !bytes.Equal(got[:n], eth) {
		t.Errorf("into the interface: %x, %v", got[:n], err)
	}
	poll := []unix.PollFd{{Fd: int32(d.FD), Events: unix.POLLIN}}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		// The kernel starts the queue of a new interface a little after it is up,
		// and drops what comes before.
		if _, err := unix.Write(s, eth); err != nil {
			t.Fatal(err)
		}
		if ready, err := unix.Poll(poll, 100); ready == 0 || errors.Is(err, unix.EINTR) {
			continue
		}
		n, err := unix.Read(d.FD, got)
		if err != nil {
			t.Fatal(err)
		}
		if n > frame.VnetLen && bytes.Equal(got[frame.VnetLen:n], eth) {
			return // others are the host's own, such as its ICMPv6
		}
	}
	t.Error("the frame did not come out")
}

func TestVerify(t *testing.T) {
	good := create(t, "good0")
	d, err := Verify(good.FD)
	if err != nil || d.Name != "good0" || d.Offloads != good.Offloads {
		t.Errorf("%+v, %v", d, err)
	}
	// A client that set other sizes gets ours.
	if err := unix.IoctlSetPointerInt(good.FD, unix.TUNSETVNETHDRSZ, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(good.FD); err != nil {
		t.Error(err)
	}
	if size, err := unix.IoctlGetInt(good.FD, unix.TUNGETVNETHDRSZ); err != nil || size != frame.VnetLen {
		t.Errorf("header size is %d, %v", size, err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	create(t, "probe0") // the machine lets us
	attached := func(flags uint16) func(t *testing.T) int {
		return func(t *testing.T) int {
			fd := open(t, node, unix.O_RDWR)
			req, err := unix.NewIfreq("")
			if err != nil {
				t.Fatal(err)
			}
			req.SetUint16(flags)
			if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
				t.Fatal(err)
			}
			return fd
		}
	}
	for name, fd := range map[string]func(t *testing.T) int{
		"tun":              attached(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR),
		"with packet info": attached(unix.IFF_TAP | unix.IFF_VNET_HDR),
		"without header":   attached(unix.IFF_TAP | unix.IFF_NO_PI),
		"not attached":     func(t *testing.T) int { return open(t, node, unix.O_RDWR) },
		"only a name":      func(t *testing.T) int { return open(t, node, unix.O_PATH) },
		"another device":   func(t *testing.T) int { return open(t, "/dev/null", unix.O_RDWR) },
		"a file":           func(t *testing.T) int { return open(t, "/proc/self/exe", unix.O_RDONLY) },
		"closed":           func(*testing.T) int { return 1 << 20 },
	} {
		t.Run(name, func(t *testing.T) {
			if d, err := Verify(fd(t)); fault.KindOf(err) != fault.Invalid {
				t.Errorf("%+v, %v", d, err)
			}
		})
	}
}

func open(t *testing.T, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func TestOpenFaults(t *testing.T) {
	for err, kind := range map[error]fault.Kind{
		unix.EACCES: fault.Denied, unix.EPERM: fault.Denied,
		unix.ENOENT: fault.Unsupported, unix.ENODEV: fault.Unsupported, unix.EMFILE: fault.Unavailable,
	} {
		f := fault.As(openFault(err))
		if f.Kind != kind || (kind != fault.Unavailable && f.Remedy == "") {
			t.Errorf("%v: %v (%s)", err, f, f.Kind)
		}
	}
}
