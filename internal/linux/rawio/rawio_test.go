package rawio

import (
	"bytes"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func pair(t *testing.T, kind int) (int, int) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, kind|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fds[0]); _ = syscall.Close(fds[1]) })
	return fds[0], fds[1]
}

// The descriptors are left blocking: a call that relied on O_NONBLOCK would hang here.
func TestNeverWaits(t *testing.T) {
	for _, kind := range []int{syscall.SOCK_SEQPACKET, syscall.SOCK_STREAM, syscall.SOCK_DGRAM} {
		a, b := pair(t, kind)
		buf := make([]byte, 4096)
		if n, e := Recv(a, buf); e != syscall.EAGAIN {
			t.Fatalf("kind %d: Recv of nothing = %d, %v", kind, n, e)
		}
		sent := 0
		for ; sent < 1<<16; sent++ {
			if _, e := Send(b, buf); e == syscall.EAGAIN {
				break
			} else if e != 0 {
				t.Fatal(e)
			}
		}
		if sent == 0 || sent == 1<<16 {
			t.Fatalf("kind %d: %d messages before the queue was full", kind, sent)
		}
	}
}

func TestRecvTellsTheWholeLength(t *testing.T) {
	a, b := pair(t, syscall.SOCK_SEQPACKET)
	if _, e := Send(a, bytes.Repeat([]byte{7}, 100)); e != 0 {
		t.Fatal(e)
	}
	buf := make([]byte, 10)
	if n, e := Recv(b, buf); n != 100 || e != 0 {
		t.Fatalf("Recv = %d, %v; want 100", n, e)
	}
}

func TestStream(t *testing.T) {
	a, b := pair(t, syscall.SOCK_STREAM)
	if _, e := Send(a, []byte("abcdef")); e != 0 {
		t.Fatal(e)
	}
	buf := make([]byte, 4)
	if n, e := RecvStream(b, buf); n != 4 || e != 0 {
		t.Fatalf("first: %d, %v", n, e)
	}
	if n, e := RecvStream(b, buf); n != 2 || e != 0 || string(buf[:n]) != "ef" {
		t.Fatalf("rest: %q, %v", buf[:n], e)
	}
	_ = syscall.Shutdown(a, syscall.SHUT_WR)
	if n, e := RecvStream(b, buf); n != 0 || e != 0 {
		t.Fatalf("end: %d, %v", n, e)
	}
	_ = syscall.Shutdown(a, syscall.SHUT_RD)
	if _, e := Send(b, buf); e != syscall.EPIPE {
		t.Fatalf("send to a closed reader: %v", e)
	}
}

func TestNoAllocation(t *testing.T) {
	a, b := pair(t, syscall.SOCK_SEQPACKET)
	out, in := make([]byte, 64), make([]byte, 64)
	if n := testing.AllocsPerRun(100, func() { Send(a, out); Recv(b, in); Recv(b, in) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

// TestOld: what stands in for RWF_NOWAIT on older kernels does not wait either,
// on a file whose O_NONBLOCK somebody cleared.
func TestOld(t *testing.T) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	b := make([]byte, 8)
	if _, e := old(unix.SYS_READ, p[0], b); e != unix.EAGAIN {
		t.Errorf("reading an empty pipe: %v", e)
	}
	if n, e := old(unix.SYS_WRITE, p[1], []byte("frame")); n != 5 || e != 0 {
		t.Errorf("writing: %d %v", n, e)
	}
	if n, e := old(unix.SYS_READ, p[0], b); n != 5 || e != 0 || string(b[:5]) != "frame" {
		t.Errorf("reading: %d %v %q", n, e, b)
	}
}
