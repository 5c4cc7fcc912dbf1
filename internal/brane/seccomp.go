package brane

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

// The program shares the user's terminal. TIOCSTI would put bytes into the
// terminal's input, and TIOCLINUX would paste them: what the program typed there
// the user's shell would run, outside the brane. Kernels before 6.2, and those
// built with LEGACY_TIOCSTI, allow it, so a filter refuses both.
//
// AF_VSOCK does not know network namespaces: it leads to the hypervisor and to
// services that listen for it, past every filter. So do the few families that
// speak to radios and clusters. A family that no brane needs does not exist inside.
//
// socketcall(2), the older way of 32-bit x86 programs, cannot be judged either.
//
// io_uring makes sockets without a system call that could be judged, so it is
// not there (ENOSYS, for which its users have another way).

// callABI is one way to make system calls on this machine.
type callABI struct {
	audit                       uint32
	ioctl, socket, ring, mirror uint32 // numbers; ring is io_uring_setup(2), mirror socketcall(2) or 0
}

// abis are the calling conventions of the architecture and of the 32-bit
// programs that it runs too. Others are refused as a whole.
func abis() []callABI {
	switch runtime.GOARCH {
	case "amd64":
		return []callABI{
			{audit: unix.AUDIT_ARCH_X86_64, ioctl: 16, socket: 41, ring: 425},
			{audit: unix.AUDIT_ARCH_I386, ioctl: 54, socket: 359, ring: 425, mirror: 102},
		}
	case "arm64":
		return []callABI{
			{audit: unix.AUDIT_ARCH_AARCH64, ioctl: 29, socket: 198, ring: 425},
			{audit: unix.AUDIT_ARCH_ARM, ioctl: 54, socket: 281, ring: 425, mirror: 102},
		}
	case "riscv64":
		return []callABI{{audit: unix.AUDIT_ARCH_RISCV64, ioctl: 29, socket: 198, ring: 425}}
	}
	return nil
}

// families are the address families that exist inside a brane. All of them
// keep to their network namespace, or (ALG) reach nothing outside the process.
func families() []uint32 {
	return []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET, unix.AF_KEY, unix.AF_ALG}
}

// Offsets in struct seccomp_data; arguments are little-endian here.
const (
	offNumber = 0
	offArch   = 4
	offArg0   = 16
	offArg1   = 24
)

// x32 marks calls of that ABI on amd64, under the same audit value.
const x32 = 0x40000000

// callFilter is the program, for seccomp(2): first match wins.
func callFilter() []unix.SockFilter {
	var p []unix.SockFilter
	ld := func(off uint32) {
		p = append(p, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off})
	}
	ret := func(v uint32) { p = append(p, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: v}) }
	// skip jumps over the next n when the accumulator is not k.
	skip := func(k uint32, n int) {
		p = append(p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: uint8(n)})
	}
	deny := func(e uint32) uint32 { return unix.SECCOMP_RET_ERRNO | e }
	for _, a := range abis() {
		body := judge(a)
		ld(offArch)
		skip(a.audit, len(body)+1)
		ld(offNumber)
		p = append(p, body...)
	}
	if len(p) > 0 {
		ret(deny(uint32(unix.ENOSYS)))
	} else {
		ret(unix.SECCOMP_RET_ALLOW) // an architecture that nobody has looked at
	}
	return p
}

// judge is the part for one ABI, with the number of the call in the
// accumulator. It ends in a verdict on every path.
func judge(a callABI) []unix.SockFilter {
	ret := func(v uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: v} }
	jump := func(op uint16, k uint32, t, f int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jt: uint8(t), Jf: uint8(f)}
	}
	ld := func(off uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
	}
	none := ret(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))
	perm := ret(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM))
	fams := families()
	var p []unix.SockFilter
	if a.audit == unix.AUDIT_ARCH_X86_64 {
		p = append(p, jump(unix.BPF_JGE, x32, 0, 1), none)
	}
	p = append(p, jump(unix.BPF_JEQ, a.ring, 0, 1), none)
	if a.mirror != 0 { // its arguments are in memory, where no filter can look
		const sysSocket = 1
		p = append(p, jump(unix.BPF_JEQ, a.mirror, 0, 4),
			ld(offArg0), jump(unix.BPF_JEQ, sysSocket, 0, 1), none, ret(unix.SECCOMP_RET_ALLOW))
	}
	// The kernel takes the command of ioctl(2) as 32 bits: judge those, not 64.
	p = append(p, jump(unix.BPF_JEQ, a.ioctl, 0, 5),
		ld(offArg1), jump(unix.BPF_JEQ, unix.TIOCSTI, 1, 0), jump(unix.BPF_JEQ, tioclinux, 0, 1), perm, ret(unix.SECCOMP_RET_ALLOW))
	p = append(p, jump(unix.BPF_JEQ, a.socket, 0, len(fams)+2), ld(offArg0))
	for i, f := range fams {
		p = append(p, jump(unix.BPF_JEQ, f, len(fams)-i, 0))
	}
	p = append(p, ret(unix.SECCOMP_RET_ERRNO|uint32(unix.EAFNOSUPPORT)))
	return append(p, ret(unix.SECCOMP_RET_ALLOW))
}

// tioclinux is TIOCLINUX, ioctl_console(2).
const tioclinux = 0x541c

// guardCalls puts the filter on the calling thread; no_new_privs is set.
func guardCalls() error {
	p := callFilter()
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fault.New(fault.Unsupported, "filter system calls", "", "%v", errno).
			WithRemedy("Brane needs a kernel with seccomp filters")
	}
	return nil
}
