package confine

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"brane/internal/linux/seccomp"
	"brane/internal/linux/unixmsg"
)

// This file is the worker's side of the tests: a worker built to misbehave, and
// one that does its work.

// mark is the error number of the default action in the tests: the kernel
// itself does not give it, so a call that fails with it met the table.
const mark = unix.ENOANO

// last is the highest number tried; later kernels stay far below it.
const last = 1000

// work is what the test program does when it is started as a worker.
func work(mode, arg string) {
	table := workerTable(os.Getpid())
	if mode == "call" || mode == "calls" {
		table.Default = seccomp.Errno(mark)
	}
	if err := confine(table); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	switch mode {
	case "wait":
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "call":
		nr, _ := strconv.Atoi(arg)
		fmt.Println("ready")
		// A thread that ends takes its goroutine along.
		time.AfterFunc(100*time.Millisecond, func() { os.Exit(0) })
		const odd = ^uintptr(0)
		_, _, e := unix.Syscall6(uintptr(nr), odd, odd, odd, odd, odd, odd)
		fmt.Println(int(e))
	case "calls":
		var skip []int
		if err := json.Unmarshal([]byte(arg), &skip); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		tryAll(skip)
	case "arguments":
		for _, p := range probes() {
			fmt.Println(p.name, int(p.do()))
		}
	case "serve":
		if err := serve(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("done")
	case "abstract":
		reach(arg)
	case "open":
		for _, path := range []string{"/", "/proc/self/status", "/etc/passwd", ".", ".."} {
			_, err := os.Open(path)
			fmt.Println(path, err != nil)
		}
	}
}

// reach connects a socket that was given, descriptor 3, to an abstract name.
func reach(name string) {
	err := unix.Connect(3, &unix.SockaddrUnix{Name: name})
	fmt.Println(err == unix.EPERM)
}

// try makes a call with arguments that no call likes.
func try(nr uintptr) syscall.Errno {
	const odd = ^uintptr(0)
	_, _, e := unix.RawSyscall6(nr, odd, odd, odd, odd, odd, odd)
	return e
}

// tryAll tries every number but some, and prints each with its result.
func tryAll(skip []int) {
	var out bytes.Buffer
	skipped := map[int]bool{}
	for _, n := range skip {
		skipped[n] = true
	}
	for nr := range last {
		if !skipped[nr] {
			fmt.Fprintln(&out, nr, int(try(uintptr(nr))))
		}
	}
	_, _ = out.WriteTo(os.Stdout)
}

// probe is a call with chosen arguments and what must become of it.
type probe struct {
	name string
	do   func() syscall.Errno
	want syscall.Errno
}

func probes() []probe { return append(socketProbes(), otherProbes()...) }

// with is a call with arguments; the others are zero.
func with(nr uintptr, args ...uintptr) func() syscall.Errno {
	args = append(args, make([]uintptr, 6-len(args))...)
	return func() syscall.Errno {
		_, _, e := unix.RawSyscall6(nr, args[0], args[1], args[2], args[3], args[4], args[5])
		return e
	}
}

func socketProbes() []probe {
	socket := func(family, typ, proto uintptr) func() syscall.Errno {
		return func() syscall.Errno {
			fd, _, e := unix.RawSyscall(unix.SYS_SOCKET, family, typ, proto)
			if e == 0 {
				_ = unix.Close(int(fd))
			}
			return e
		}
	}
	option := func(level, opt uintptr) func() syscall.Errno {
		return func() syscall.Errno {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return unix.ENOTSOCK
			}
			defer unix.Close(fd)
			one := int32(1)
			_, _, e := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), level, opt, uintptr(unsafe.Pointer(&one)), 4, 0)
			return e
		}
	}
	const no = unix.EPROTONOSUPPORT
	return []probe{
		{"tcp4", socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0), 0},
		{"udp6", socket(unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP), 0},
		{"netlink", socket(unix.AF_NETLINK, unix.SOCK_RAW, 0), no},
		{"packet", socket(unix.AF_PACKET, unix.SOCK_RAW, 0), no},
		{"unix", socket(unix.AF_UNIX, unix.SOCK_STREAM, 0), no},
		{"vsock", socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0), no},
		{"alg", socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0), no},
		{"raw4", socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP), no},
		{"sctp", socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP), no},
		{"mptcp", socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP), no},
		{"udplite", socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE), no},
		{"type-with-more-bits", socket(unix.AF_INET, unix.SOCK_STREAM|1<<20, 0), no},
		{"socketpair", with(unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_STREAM, 0, 0), unix.EFAULT},
		{"socketpair-tipc", with(unix.SYS_SOCKETPAIR, unix.AF_TIPC, unix.SOCK_STREAM, 0, 0), refused},
		{"nodelay", option(unix.IPPROTO_TCP, unix.TCP_NODELAY), 0},
		{"reuseport", option(unix.SOL_SOCKET, unix.SO_REUSEPORT), 0},
		{"attach-filter", option(unix.SOL_SOCKET, unix.SO_ATTACH_FILTER), refused},
		{"attach-bpf", option(unix.SOL_SOCKET, unix.SO_ATTACH_BPF), refused},
		{"upper-protocol", option(unix.IPPROTO_TCP, unix.TCP_ULP), refused},
		{"iptables", option(unix.IPPROTO_IP, 64), refused},
	}
}

func otherProbes() []probe {
	const (
		private = unix.MAP_PRIVATE | unix.MAP_ANON
		none    = ^uintptr(0)
	)
	return []probe{
		{"getfl", with(unix.SYS_FCNTL, 1, unix.F_GETFL), 0},
		{"setown", with(unix.SYS_FCNTL, 1, unix.F_SETOWN, 1), refused},
		{"memory", with(unix.SYS_MMAP, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, private, none), 0},
		{"memory-to-execute", with(unix.SYS_MMAP, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, private, none), refused},
		{"protect-to-execute", with(unix.SYS_MPROTECT, 0, 4096, unix.PROT_EXEC), refused},
		{"high-half-of-protection", with(unix.SYS_MMAP, 0, 4096, 1<<32|unix.PROT_READ, private, none), refused},
		{"process", with(unix.SYS_CLONE, uintptr(unix.SIGCHLD)), refused},
		{"namespace", with(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD)), refused},
		{"thread-in-namespace", with(unix.SYS_CLONE, 0x50f00|unix.CLONE_NEWNET), refused},
		{"dumpable", with(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1), unix.EINVAL},
		{"signal-itself", with(unix.SYS_TGKILL, uintptr(os.Getpid()), uintptr(unix.Gettid()), 0), 0},
		{"signal-others", with(unix.SYS_TGKILL, none, 1, uintptr(unix.SIGTERM)), refused},
		{"kill", with(unix.SYS_KILL, none, 0), refused},
		{"capset", with(unix.SYS_CAPSET, 0, 0), refused},
		{"ioctl", with(unix.SYS_IOCTL, 1, unix.TIOCSTI, 0), refused},
		{"memfd", with(unix.SYS_MEMFD_CREATE, 0, 0), refused},
	}
}

// serve is the positive twin: what a worker does all day works.
func serve() error {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer udp.Close()
	if err := echoUDP(udp); err != nil {
		return fmt.Errorf("udp: %w", err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer tcp.Close()
	if err := echoTCP(tcp); err != nil {
		return fmt.Errorf("tcp: %w", err)
	}
	// Garbage collection, more threads, timers and preemption.
	for range 8 {
		go func() {
			for i := 0; ; i++ {
				_ = make([]byte, 1<<16+i%2)
			}
		}()
	}
	time.Sleep(50 * time.Millisecond)
	return pass()
}

func echoUDP(l net.PacketConn) error {
	c, err := net.Dial("udp", l.LocalAddr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	b := make([]byte, 10)
	n, from, err := l.ReadFrom(b)
	if err != nil {
		return err
	}
	if _, err := l.WriteTo(b[:n], from); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if n, err = c.Read(b); err != nil || string(b[:n]) != "ping" {
		return fmt.Errorf("got %q, %w", b[:n], err)
	}
	return nil
}

// echoTCP sends a stream through two connections, spliced in the middle.
func echoTCP(l net.Listener) error {
	const size = 4 << 20
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(c, c) // splice
		_ = c.Close()
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	go func() {
		_, _ = c.Write(make([]byte, size))
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	n, err := io.Copy(io.Discard, bufio.NewReader(c))
	if n != size {
		return fmt.Errorf("%d bytes came back: %w", n, err)
	}
	return nil
}

// pass talks to the daemon over descriptor 3: a descriptor in, the same out.
func pass() error {
	c, err := unixmsg.FromFD(3)
	if err != nil {
		return err
	}
	s := unixmsg.NewStream(c, 0)
	defer s.Close()
	m, err := s.Recv(ctx())
	if err != nil {
		return err
	}
	defer m.CloseFDs()
	return s.Send(ctx(), m.Payload, m.FDs)
}
