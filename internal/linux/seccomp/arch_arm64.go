package seccomp

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_AARCH64
	lowWord   = 0 // of a 64-bit argument, little-endian
	highWord  = 4
)
