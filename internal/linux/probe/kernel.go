package probe

import (
	"errors"
	"io/fs"
	"path"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PeerPIDFD asks a socket pair for its peer's pidfd (SO_PEERPIDFD).
func PeerPIDFD() Result {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return result(Unknown, "a socket pair: %v", err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	pidfd, err := unix.GetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	switch {
	case err == nil:
		_ = unix.Close(pidfd)
		return result(Yes, "asked a socket pair")
	case errors.Is(err, unix.ENOPROTOOPT):
		return result(No, "SO_PEERPIDFD came with 6.5, this is %s", KernelVersion())
	}
	return result(Unknown, "SO_PEERPIDFD: %v (%s)", err, KernelVersion())
}

// Seccomp asks whether a filter may kill the process.
func Seccomp() Result {
	action := uint32(unix.SECCOMP_RET_KILL_PROCESS)
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	switch e {
	case 0:
		return result(Yes, "the kernel has filters that kill the process")
	case unix.ENOSYS, unix.EINVAL, unix.EOPNOTSUPP:
		return result(No, "seccomp: %v (%s)", e, KernelVersion())
	}
	return result(Unknown, "seccomp: %v (%s)", e, KernelVersion())
}

// Landlock asks for the version of its interface; scopes, which keep abstract
// sockets out of reach, came with version 6.
func Landlock() Result {
	abi, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch {
	case e == unix.ENOSYS:
		return result(No, "Landlock came with 5.13 or is not built in; this is %s", KernelVersion())
	case e == unix.EOPNOTSUPP:
		return result(No, "Landlock is switched off at boot (%s)", KernelVersion())
	case e != 0:
		return result(Unknown, "Landlock: %v (%s)", e, KernelVersion())
	case abi < 6:
		return result(No, "Landlock's interface has version %d, scopes came with 6 in 6.12; this is %s", abi, KernelVersion())
	}
	return result(Yes, "Landlock's interface has version %d", abi)
}

// USO tells whether a TAP carries UDP superframes. It goes by the version: a try
// takes an interface.
func USO() Result { return byVersion("UDP superframes on a TAP", 6, 2) }

// bpf calls bpf(2) with an attribute whose first words are given.
func bpf(cmd uintptr, words ...uint32) unix.Errno {
	var attr [16]uint32
	copy(attr[:], words)
	_, _, e := unix.Syscall(unix.SYS_BPF, cmd, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	return e
}

// TCX asks for the programs attached to the loopback interface by tcx. Without
// privilege that is refused, and the answer goes by the version.
func TCX() Result {
	const loopback = 1
	switch e := bpf(unix.BPF_PROG_QUERY, loopback, unix.BPF_TCX_INGRESS); e {
	case 0:
		return result(Yes, "asked the loopback interface")
	case unix.EINVAL:
		return result(No, "tcx came with 6.6 or is not built in; this is %s", KernelVersion())
	case unix.EPERM, unix.EACCES:
		return byVersion("tcx", 6, 6)
	default:
		return result(Unknown, "tcx: %v (%s)", e, KernelVersion())
	}
}

// bpfTokenCreate is BPF_TOKEN_CREATE of linux/bpf.h.
const bpfTokenCreate = 36

// BPFToken asks for a token from a descriptor that is none: the error tells
// whether the kernel got as far as looking at it.
func BPFToken() Result {
	const noFlags, noFD = 0, ^uint32(0)
	switch e := bpf(bpfTokenCreate, noFlags, noFD); e {
	case unix.EBADF:
		return result(Yes, "the kernel knows BPF tokens")
	case unix.EINVAL, unix.ENOSYS:
		return result(No, "BPF tokens came with 6.9 or are not built in; this is %s", KernelVersion())
	case unix.EPERM, unix.EACCES:
		return byVersion("BPF tokens", 6, 9)
	default:
		return result(Unknown, "BPF token: %v (%s)", e, KernelVersion())
	}
}

// Linger tells whether an account's processes outlive its last session, in a
// file system rooted at / (loginctl(1), enable-linger).
func Linger(root fs.FS, user string) Result {
	if user == "" || path.Base(user) != user {
		return result(Unknown, "the account has no name")
	}
	if _, err := fs.Stat(root, "run/systemd/seats"); errors.Is(err, fs.ErrNotExist) {
		return result(Yes, "no login manager ends the processes of sessions")
	}
	_, err := fs.Stat(root, "var/lib/systemd/linger/"+user)
	switch {
	case err == nil:
		return result(Yes, "linger is on for %s", user)
	case errors.Is(err, fs.ErrNotExist):
		return result(No, "linger is off for %s", user)
	}
	return result(Unknown, "linger of %s: %v", user, err)
}
