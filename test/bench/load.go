package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The load generators run in the namespaces of the peers, as this same program.
// They use blocking calls on one thread, as a C program would, so that what is
// measured is the path and not a scheduler.

// ports of the servers in every guest.
const (
	iperfPort = 5201
	echoPort  = 5210
	sinkPort  = 5212
)

// payload makes an Ethernet frame of 64 bytes, check sequence included.
const payload = 64 - 4 - 14 - 20 - 8

// load runs one generator: serve, sink SECS, rr|crr|udp ADDR SECS. It prints
// one number, of things a second.
func load(args []string) error {
	runtime.LockOSThread()
	if len(args) == 1 && args[0] == "serve" {
		return echoServer()
	}
	if len(args) > 1 && args[0] == "took" {
		return tookLoad(args[1:])
	}
	if len(args) == 2 && args[0] == "hold" {
		return hold(args[1])
	}
	if len(args) < 2 {
		return errors.New("load wants serve, sink SECS, or rr, crr or udp with an address and SECS")
	}
	secs, err := strconv.ParseFloat(args[len(args)-1], 64)
	if err != nil {
		return err
	}
	d := time.Duration(secs * float64(time.Second))
	if args[0] == "sink" {
		return sink(d)
	}
	to, err := netip.ParseAddrPort(args[1])
	if err != nil {
		return err
	}
	sa := &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	var rate float64
	switch args[0] {
	case "rr":
		rate, err = roundTrips(sa, d)
	case "crr":
		rate, err = connections(sa, d)
	case "udp":
		rate, err = datagrams(sa, d)
	default:
		err = fmt.Errorf("no generator %q", args[0])
	}
	if err == nil {
		fmt.Printf("%.0f\n", rate)
	}
	return err
}

func connect(sa syscall.Sockaddr, kind int) (int, error) {
	fd, err := syscall.Socket(syscall.AF_INET, kind|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	limit := syscall.Timeval{Sec: 3}
	_ = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &limit)
	_ = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &limit)
	if kind == syscall.SOCK_STREAM {
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	}
	if err := syscall.Connect(fd, sa); err != nil {
		_ = syscall.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// exchange sends a byte and waits for it to come back. The runtime's signals
// interrupt calls that have a time limit.
func exchange(fd int, b []byte) error {
	for {
		if _, err := syscall.Write(fd, b); err == nil {
			break
		} else if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("write", err)
		}
	}
	for {
		n, err := syscall.Read(fd, b)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = syscall.ECONNRESET
		}
		return os.NewSyscallError("read", err)
	}
}

func roundTrips(sa syscall.Sockaddr, d time.Duration) (float64, error) {
	fd, err := connect(sa, syscall.SOCK_STREAM)
	if err != nil {
		return 0, err
	}
	b := []byte{1}
	n, start := 0, time.Now()
	for ; n%16 != 0 || time.Since(start) < d; n++ {
		if err := exchange(fd, b); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// connections opens, exchanges a byte and closes, from 16 threads at once.
func connections(sa syscall.Sockaddr, d time.Duration) (float64, error) {
	type result struct {
		n   int
		err error
	}
	const threads = 16
	runtime.GOMAXPROCS(threads)
	results := make(chan result, threads)
	start := time.Now()
	for range threads {
		go func() {
			runtime.LockOSThread()
			var r result
			b := []byte{1}
			for time.Since(start) < d && r.err == nil {
				var fd int
				if fd, r.err = connect(sa, syscall.SOCK_STREAM); r.err != nil {
					break
				}
				if r.err = exchange(fd, b); r.err == nil {
					r.n++
				}
				_ = syscall.Close(fd)
			}
			results <- r
		}()
	}
	n, failed := 0, error(nil)
	for range threads {
		r := <-results
		n += r.n
		failed = errors.Join(failed, r.err)
	}
	if n == 0 {
		return 0, failed
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// batch is how many datagrams go with one call.
const batch = 64

// messages is struct mmsghdr of sendmmsg(2) and recvmmsg(2), batch times.
type messages [batch]struct {
	syscall.Msghdr
	n uint32
	_ uint32
}

func newMessages(size int) *messages {
	m := &messages{}
	for i := range m {
		b := make([]byte, size)
		m[i].Iov, m[i].Iovlen = &syscall.Iovec{Base: &b[0], Len: uint64(size)}, 1
	}
	return m
}

// move calls sendmmsg or recvmmsg and gives the number of datagrams moved.
func (m *messages) move(call, fd, flags int) (int, syscall.Errno) {
	n, _, e := syscall.Syscall6(uintptr(call), uintptr(fd), uintptr(unsafe.Pointer(m)), batch, uintptr(flags), 0, 0)
	return int(n), e
}

// datagrams sends as fast as it goes; the sink counts.
func datagrams(sa syscall.Sockaddr, d time.Duration) (float64, error) {
	fd, err := connect(sa, syscall.SOCK_DGRAM)
	if err != nil {
		return 0, err
	}
	m := newMessages(payload)
	n, start := 0, time.Now()
	for time.Since(start) < d {
		k, e := m.move(unix.SYS_SENDMMSG, fd, 0)
		if e != 0 && e != syscall.ECONNREFUSED && e != syscall.ENOBUFS && e != syscall.EAGAIN {
			return 0, os.NewSyscallError("sendmmsg", e)
		}
		if e == 0 {
			n += k
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// sink counts datagrams from the first that comes until none has come for half a second.
func sink(d time.Duration) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUFFORCE, 8<<20)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: sinkPort}); err != nil {
		return err
	}
	wait := func(d time.Duration) {
		limit := syscall.NsecToTimeval(int64(d))
		_ = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &limit)
	}
	m := newMessages(2048)
	wait(d + 3*time.Second)
	n, e := m.move(unix.SYS_RECVMMSG, fd, unix.MSG_WAITFORONE)
	if e != 0 {
		return fmt.Errorf("no datagram came: %w", e)
	}
	wait(time.Second / 2)
	start, last := time.Now(), time.Now()
	for {
		k, e := m.move(unix.SYS_RECVMMSG, fd, unix.MSG_WAITFORONE)
		if e != 0 {
			break
		}
		n, last = n+k, time.Now()
	}
	_, err = fmt.Printf("%.0f\n", float64(n)/max(last.Sub(start).Seconds(), 0.001))
	return err
}

// echoServer sends back what comes, one thread for each connection.
func echoServer() error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: echoPort}); err != nil {
		return err
	}
	if err := syscall.Listen(fd, 1024); err != nil {
		return err
	}
	runtime.GOMAXPROCS(64)
	for {
		c, _, err := syscall.Accept4(fd, syscall.SOCK_CLOEXEC)
		if err != nil {
			continue
		}
		_ = syscall.SetsockoptInt(c, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
		go func() {
			defer func() { _ = syscall.Close(c) }()
			b := make([]byte, 4096)
			for {
				n, err := syscall.Read(c, b)
				if n <= 0 || err != nil {
					return
				}
				if _, err := syscall.Write(c, b[:n]); err != nil {
					return
				}
			}
		}()
	}
}
