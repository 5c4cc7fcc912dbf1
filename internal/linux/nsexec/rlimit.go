package nsexec

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// OriginalNoFile puts back the soft limit of open files that this process was
// started with, and returns it. The Go runtime raises the soft limit for
// itself, remembers the old one privately, and gives it back in syscall.Exec;
// an exec that fails (of no name at all) therefore does just that. Programs
// that use select(2) break above 1,024, so they must not inherit the raised limit.
func OriginalNoFile() (unix.Rlimit, error) {
	_ = syscall.Exec("", []string{""}, nil) // always fails
	var l unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l)
	return l, err
}
