package seccomp

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

// Install puts a program in force on all threads of the process, for good, and
// sets no_new_privs on them. The error is of kind Unsupported.
func Install(program []unix.SockFilter) error {
	const op = "install filter of system calls"
	if len(program) == 0 || len(program) > unix.BPF_MAXINSNS {
		return fault.New(fault.Internal, op, "", "%d instructions", len(program))
	}
	// The kernel passes the flag on to the other threads with the filter.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fault.New(fault.Unsupported, op, "", "no_new_privs: %v", err)
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	tid, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	switch {
	case e != 0:
		return fault.New(fault.Unsupported, op, "", "%v", e).WithRemedy("a kernel with CONFIG_SECCOMP_FILTER is needed")
	case tid != 0:
		return fault.New(fault.Unsupported, op, "", "thread %d has a filter of its own", tid)
	}
	return nil
}
