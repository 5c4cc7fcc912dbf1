package confine

import "golang.org/x/sys/unix"

// deadlyHere are calls that this architecture alone has.
func deadlyHere() []call {
	return []call{
		{unix.SYS_IOPL, "iopl", "the machine's ports"},
		{unix.SYS_IOPERM, "ioperm", "the machine's ports"},
		{unix.SYS_MODIFY_LDT, "modify_ldt", "segments of old programs"},
		{unix.SYS_FORK, "fork", "another process"},
		{unix.SYS_VFORK, "vfork", "another process"},
	}
}
