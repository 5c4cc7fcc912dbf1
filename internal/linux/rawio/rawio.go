// Package rawio has the system calls of the forwarding path: they never wait,
// allocate nothing and do not tell Go's scheduler that they happen.
//
// A call that cannot block is cheaper without the scheduler's hand-over, which
// on a path of two system calls a frame is the difference between a quarter
// and a half of the round trips of a veth pair on one CPU. The price is that a
// garbage collection waits for the call in hand: microseconds, since the kernel
// is told by RWF_NOWAIT and MSG_DONTWAIT not to sleep. O_NONBLOCK is not relied
// on: a client that holds the same open file could clear it.
package rawio

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Read reads one frame from a TAP, or what is there from any other file with
// preadv2(2) support. It fails with EAGAIN when there is nothing. b is not empty.
func Read(fd int, b []byte) (int, syscall.Errno) {
	iov := unix.Iovec{Base: &b[0]}
	iov.SetLen(len(b))
	n, _, e := unix.RawSyscall6(unix.SYS_PREADV2, uintptr(fd), uintptr(unsafe.Pointer(&iov)), 1, current, current, unix.RWF_NOWAIT)
	if e == unix.EOPNOTSUPP {
		return old(unix.SYS_READ, fd, b)
	}
	return int(n), e
}

// Write writes one frame to a TAP. It fails with EAGAIN when the queue is full. b is not empty.
func Write(fd int, b []byte) (int, syscall.Errno) {
	iov := unix.Iovec{Base: &b[0]}
	iov.SetLen(len(b))
	n, _, e := unix.RawSyscall6(unix.SYS_PWRITEV2, uintptr(fd), uintptr(unsafe.Pointer(&iov)), 1, current, current, unix.RWF_NOWAIT)
	if e == unix.EOPNOTSUPP {
		return old(unix.SYS_WRITE, fd, b)
	}
	return int(n), e
}

// old reads or writes where a TAP does not know RWF_NOWAIT (Linux 6.1). O_NONBLOCK
// is set anew for each call, since a client with the same open file may have
// cleared it; one that does so between the two calls makes its owner's worker
// wait, and nobody else's.
func old(nr uintptr, fd int, b []byte) (int, syscall.Errno) {
	if _, _, e := unix.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_SETFL, unix.O_NONBLOCK); e != 0 {
		return -1, e
	}
	n, _, e := unix.RawSyscall(nr, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), e
}

// current is the offset -1 of preadv2(2): the file's own position, as a file without positions wants.
const current = ^uintptr(0)

// Recv receives from a socket. A message longer than b is cut, but n is its
// whole length. It fails with EAGAIN when there is nothing; b is not empty.
func Recv(fd int, b []byte) (int, syscall.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
	return int(n), e
}

// RecvStream receives from a stream socket, on which MSG_TRUNC has another meaning.
func RecvStream(fd int, b []byte) (int, syscall.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

// Send sends on a connected or bound socket, without a signal when the peer is
// gone. It fails with EAGAIN when the queue is full; on a stream socket fewer
// bytes may go than b has.
func Send(fd int, b []byte) (int, syscall.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return int(n), e
}
