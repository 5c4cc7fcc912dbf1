package confine

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ruleset is struct landlock_ruleset_attr; a kernel takes as much of it as it knows.
type ruleset struct {
	fs, net, scoped uint64
}

// filesystem has the rights that each version of Landlock's interface added
// (landlock(7)); all are taken away, as no rule gives any back.
func filesystem(abi int) uint64 {
	rights := uint64(unix.LANDLOCK_ACCESS_FS_MAKE_SYM)<<1 - 1
	for _, later := range []struct {
		abi   int
		right uint64
	}{
		{2, unix.LANDLOCK_ACCESS_FS_REFER},
		{3, unix.LANDLOCK_ACCESS_FS_TRUNCATE},
		{5, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV},
	} {
		if abi >= later.abi {
			rights |= later.right
		}
	}
	return rights
}

// landlock forbids every path and, from version 6 on, abstract sockets of
// others. A kernel without it has the other fences only.
func landlock() error {
	abi, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 {
		return nil
	}
	r := &ruleset{fs: filesystem(int(abi))}
	size := unsafe.Sizeof(r.fs)
	if abi >= 6 {
		// Not LANDLOCK_SCOPE_SIGNAL: each thread gets a domain of its own, and Linux
		// before 6.15 refuses signals between them, with which Go preempts. The PID
		// namespace and the table keep signals inside.
		r.scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
		size = unsafe.Sizeof(*r)
	}
	fd, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(r)), size, 0)
	runtime.KeepAlive(r)
	if e != 0 {
		return e
	}
	defer unix.Close(int(fd))
	return allThreads(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0)
}
