package brane

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

// surrender gives up, for the calling thread and what it executes, all that
// the program shall not have: the capabilities (except as root, where they
// reach no further than the brane's own user namespace), the way to new ones,
// and the door through the shared terminal. The bounding set stays: without
// it, exec of a file with file capabilities (Debian's ping) fails, and
// no_new_privs already keeps those from being given.
func surrender(asRoot bool) error {
	const op = "drop capabilities"
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fault.New(fault.Internal, op, "", "ambient set: %v", err)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if asRoot {
		if err := unix.Capget(&hdr, &data[0]); err != nil {
			return fault.New(fault.Internal, op, "", "%v", err)
		}
		data[0].Inheritable, data[1].Inheritable = 0, 0
	}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fault.New(fault.Internal, op, "", "%v", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fault.New(fault.Internal, "set no_new_privs", "", "%v", err)
	}
	if err := scopeSignals(); err != nil {
		return err
	}
	return guardCalls()
}

// landlockRuleset is struct landlock_ruleset_attr since ABI 6.
type landlockRuleset struct {
	fs, net, scoped uint64
}

// Landlock, from its header: ABI 6 is Linux 6.12.
const (
	landlockVersion     = 1 << 0
	landlockScopeAbi    = 6
	landlockScopeSignal = 1 << 1
)

// scopeSignals keeps the program from sending signals to processes outside the
// brane: its user's shells, the runner, the daemon. Nothing of the file system
// is restricted, so that mounting stays possible as root. An older kernel
// cannot do it; the documentation says so.
func scopeSignals() error {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, landlockVersion)
	if errno != 0 || abi < landlockScopeAbi {
		return nil
	}
	attr := landlockRuleset{scoped: landlockScopeSignal}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fault.New(fault.Internal, "restrict signals", "", "%v", errno)
	}
	defer unix.Close(int(fd))
	if _, _, errno = unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fault.New(fault.Internal, "restrict signals", "", "%v", errno)
	}
	return nil
}
