package nsexec

import (
	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

// Privileged says whether this process can make namespaces with its own
// privilege, so that no outer user namespace is needed. Root without these
// capabilities, as in some containers, goes the way of ordinary users.
func Privileged() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Geteuid() != 0 || unix.Capget(&hdr, &data[0]) != nil {
		return false
	}
	for _, c := range []uint{
		unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETFCAP,
	} {
		if data[c/32].Effective&(1<<(c%32)) == 0 {
			return false
		}
	}
	return true
}

// Restricted adds to f the remedy for what forbids user namespaces on this
// machine, as far as it can be known.
func Restricted(f *fault.Error) *fault.Error { return restricted(f) }
