package stack

import (
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// hostConn is a TCP socket of the host, driven by hand: what a relay does with
// it happens inside RawConn.Read and RawConn.Write, without a copy between.
type hostConn struct {
	pollable
	rc syscall.RawConn
}

// pollable is what net.TCPConn and os.File have in common.
type pollable interface {
	io.Closer
	SetDeadline(t time.Time) error
}

func wrapHost(c *net.TCPConn) (*hostConn, error) {
	rc, err := c.SyscallConn()
	return &hostConn{c, rc}, err
}

func (h *hostConn) closeWrite() {
	h.rc.Control(func(fd uintptr) { syscall.Shutdown(int(fd), syscall.SHUT_WR) })
}

// reset closes the socket so that its peer sees a reset.
func (h *hostConn) reset() {
	h.rc.Control(func(fd uintptr) {
		syscall.SetsockoptLinger(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	})
	h.Close()
}

// setTCP sets the options of a socket to the outside, before it is connected.
func setTCP(fd int) error {
	for _, o := range [...]struct{ level, name, value int }{
		{syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1},
		{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
		{syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, int(keepaliveIdle / time.Second)},
		{syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, int(keepaliveEvery / time.Second)},
		{syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, keepaliveCount},
	} {
		if err := syscall.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return err
		}
	}
	return nil
}

// dialHost connects to the outside. The errors are those of connect(2), and
// os.ErrDeadlineExceeded or os.ErrClosed when it ended before the outside answered.
func (g *Gateway) dialHost(timeout time.Duration, to netip.AddrPort) (*hostConn, error) {
	family := syscall.AF_INET
	if to.Addr().Is6() {
		family = syscall.AF_INET6
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	sa := sockaddr(to)
	if err = setTCP(fd); err == nil {
		err = syscall.Connect(fd, sa)
	}
	if err == syscall.EINPROGRESS {
		err = connected(fd, sa) // on this machine the handshake is over by now
	}
	if err != nil && err != syscall.EALREADY {
		syscall.Close(fd)
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "tcp")
	rc, rerr := file.SyscallConn()
	if rerr != nil {
		file.Close()
		return nil, rerr
	}
	if err == syscall.EALREADY {
		if err = g.awaitConnect(file, rc, timeout, sa); err != nil {
			file.Close()
			return nil, err
		}
	}
	return &hostConn{file, rc}, nil
}

// connected asks how a connection attempt stands: nil, EALREADY or its error.
func connected(fd int, sa syscall.Sockaddr) error {
	err := syscall.Connect(fd, sa)
	if err == syscall.EISCONN {
		return nil
	}
	return err
}

func (g *Gateway) awaitConnect(file *os.File, rc syscall.RawConn, timeout time.Duration, sa syscall.Sockaddr) error {
	if !g.hold(file) {
		return os.ErrClosed
	}
	defer g.release(file)
	file.SetWriteDeadline(time.Now().Add(timeout))
	var result error
	err := rc.Write(func(fd uintptr) bool {
		result = connected(int(fd), sa)
		return result != syscall.EALREADY
	})
	if err != nil {
		return err
	}
	file.SetWriteDeadline(time.Time{})
	return result
}

// hold notes a file that Close must close for its user to end.
func (g *Gateway) hold(f *os.File) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closing {
		g.dials[f] = struct{}{}
	}
	return !g.closing
}

func (g *Gateway) release(f *os.File) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.dials, f)
}
