package server

import (
	"net"
	"os"
	"syscall"
	"testing"

	"brane/client"
	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/linux/unixmsg"
)

// pair is both ends of a Unix socket, closed with the test.
func pair(t *testing.T, typ int) [2]int {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, typ|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unixmsg.CloseFDs(fds[:]) })
	return fds
}

// TestEnds: a descriptor is what its kind says, or the port is not made.
func TestEnds(t *testing.T) {
	stream, dgram := pair(t, syscall.SOCK_STREAM)[0], pair(t, syscall.SOCK_DGRAM)[0]
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	for _, c := range []struct {
		kind datapath.Kind
		fd   int
		ok   bool
	}{
		{datapath.Stream, stream, true},
		{datapath.Dgram, dgram, true},
		{datapath.Stream, dgram, false},
		{datapath.Dgram, stream, false},
		{datapath.Packet, stream, false},
		{datapath.TAP, stream, false},
		{datapath.TAP, int(null.Fd()), false},
		{datapath.Stream, int(null.Fd()), false},
	} {
		err := checkEnd(c.kind, c.fd)
		if c.ok && err != nil || !c.ok && fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", c.kind, err)
		}
	}

	d := newDaemon(t)
	cl := client.New(d.dir)
	defer cl.Close()
	if _, err := cl.Define(t.Context(), office, client.DefineOptions{Start: true}); err != nil {
		t.Fatal(err)
	}
	open := client.OpenRequest{Op: "open", Device: "office/a", Kind: "stream"}
	if _, err := cl.Open(t.Context(), open, dgram); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a datagram socket as stream: %v", err)
	}
	if st, err := d.Service.State(); err != nil || len(st.Ports) != 0 {
		t.Errorf("a refused descriptor left a port: %v %v", st.Ports, err)
	}
	p, err := cl.Open(t.Context(), open, stream)
	if err != nil {
		t.Fatal(err)
	}
	_ = p.Close()
}

// TestCallers: one account's places are bounded, another's are its own, and
// each comes back.
func TestCallers(t *testing.T) {
	var c callers
	for range maxCallers {
		if err := c.enter(1); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.enter(1); fault.KindOf(err) != fault.Limit {
		t.Errorf("one too many: %v", err)
	}
	if err := c.enter(2); err != nil {
		t.Errorf("another account: %v", err)
	}
	c.leave(1)
	if err := c.enter(1); err != nil {
		t.Errorf("a place that came back: %v", err)
	}
	for range maxCallers {
		c.leave(1)
	}
	c.leave(2)
	if len(c.n) != 0 {
		t.Errorf("accounts are remembered: %v", c.n)
	}
}

// short lacks descriptors for its first callers.
type short struct {
	net.Listener
	left int
}

func (s *short) Accept() (net.Conn, error) {
	if s.left--; s.left >= 0 {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return nil, net.ErrClosed
}

// TestAcceptGoesOn: a door outlives the lack of descriptors, and its own end
// ends it.
func TestAcceptGoesOn(t *testing.T) {
	l := &short{left: 2}
	if err := (&Server{}).ServeDevices(l); err != nil || l.left != -1 {
		t.Errorf("%v, %d left", err, l.left)
	}
}
