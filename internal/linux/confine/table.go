package confine

import (
	"slices"

	"golang.org/x/sys/unix"

	"brane/internal/linux/seccomp"
)

// refused is the error of a call that a worker has no use for.
const refused = unix.EPERM

func workerTable(pid int) *seccomp.Table {
	t := &seccomp.Table{Default: seccomp.Errno(refused)}
	add := func(do seccomp.Action, list []call) {
		for _, c := range list {
			t.Rules = append(t.Rules, seccomp.Rule{Name: c.name, Nr: c.nr, Why: c.why, Do: do})
		}
	}
	t.Rules = append(t.Rules, checked(pid)...) // first: the others are answered from the kernel's cache
	add(seccomp.Allow, slices.Concat(runtimeCalls(), socketCalls(), fileCalls()))
	add(seccomp.Kill, slices.Concat(deadly(), deadlyHere()))
	return t
}

type call struct {
	nr   uint32
	name string
	why  string
}

// checked are allowed with some arguments only.
func checked(pid int) []seccomp.Rule {
	no := seccomp.Errno(refused)
	rule := func(name string, nr uint32, why string, otherwise seccomp.Action, when ...[]seccomp.Cond) seccomp.Rule {
		return seccomp.Rule{Name: name, Nr: nr, Why: why, Do: seccomp.Allow, Else: otherwise, When: when}
	}
	return []seccomp.Rule{
		rule("socket", unix.SYS_SOCKET, "TCP, UDP and ping to the outside; no netlink, packet, raw or other protocol",
			// Go's net takes this error for "there is no Multipath TCP" and goes on.
			seccomp.Errno(unix.EPROTONOSUPPORT), sockets()...),
		rule("socketpair", unix.SYS_SOCKETPAIR, "a local pipe both ways", no, all(is(0, unix.AF_UNIX))),
		rule("setsockopt", unix.SYS_SETSOCKOPT, "the options of carried connections; no filters, no upper protocols",
			no, options()...),
		rule("getsockopt", unix.SYS_GETSOCKOPT, "result of connect, kind of a socket, state of a connection", no,
			all(is(1, unix.SOL_SOCKET, unix.IPPROTO_IP, unix.IPPROTO_TCP, unix.IPPROTO_IPV6))),
		rule("fcntl", unix.SYS_FCNTL, "non-blocking, close-on-exec, duplicates, size of splice's pipe", no,
			all(is(1, unix.F_GETFL, unix.F_SETFL, unix.F_GETFD, unix.F_SETFD, unix.F_DUPFD_CLOEXEC,
				unix.F_GETPIPE_SZ, unix.F_SETPIPE_SZ))),
		rule("clone", unix.SYS_CLONE, "a thread, with exactly the runtime's flags", no,
			all(long(0, threadFlags, threadFlags|unix.CLONE_SETTLS))), // with TLS on amd64
		rule("mmap", unix.SYS_MMAP, "memory; never executable", no, all(notExecutable())),
		rule("mprotect", unix.SYS_MPROTECT, "memory; never executable", no, all(notExecutable())),
		rule("prctl", unix.SYS_PRCTL, "the runtime names its memory", seccomp.Errno(unix.EINVAL), all(is(0, unix.PR_SET_VMA))),
		rule("tgkill", unix.SYS_TGKILL, "the runtime preempts its own threads", no, all(is(0, uint32(pid)))),
	}
}

// threadFlags are those of runtime.newosproc.
const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD

func all(c ...seccomp.Cond) []seccomp.Cond { return c }

func is(arg int, values ...uint32) seccomp.Cond { return seccomp.Cond{Arg: arg, In: values} }

func long(arg int, values ...uint32) seccomp.Cond {
	return seccomp.Cond{Arg: arg, In: values, Long: true}
}

func notExecutable() seccomp.Cond {
	return seccomp.Cond{Arg: 2, Mask: ^uint32(unix.PROT_READ | unix.PROT_WRITE), In: []uint32{0}, Long: true}
}

// sockets are the kinds that a worker makes; Unix ones come from the daemon.
func sockets() [][]seccomp.Cond {
	kind := func(v uint32) seccomp.Cond { // without SOCK_CLOEXEC and SOCK_NONBLOCK
		return seccomp.Cond{Arg: 1, Mask: ^uint32(unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK), In: []uint32{v}}
	}
	return [][]seccomp.Cond{
		{is(0, unix.AF_INET, unix.AF_INET6), kind(unix.SOCK_STREAM), is(2, 0, unix.IPPROTO_TCP)},
		{is(0, unix.AF_INET, unix.AF_INET6), kind(unix.SOCK_DGRAM), is(2, 0, unix.IPPROTO_UDP)},
		{is(0, unix.AF_INET), kind(unix.SOCK_DGRAM), is(2, unix.IPPROTO_ICMP)},
		{is(0, unix.AF_INET6), kind(unix.SOCK_DGRAM), is(2, unix.IPPROTO_ICMPV6)},
	}
}

func options() [][]seccomp.Cond {
	return [][]seccomp.Cond{
		{is(1, unix.SOL_SOCKET), is(2, unix.SO_REUSEADDR, unix.SO_REUSEPORT, unix.SO_BROADCAST, unix.SO_KEEPALIVE,
			unix.SO_LINGER, unix.SO_SNDBUF, unix.SO_RCVBUF)},
		{is(1, unix.IPPROTO_TCP), is(2, unix.TCP_NODELAY, unix.TCP_CORK, unix.TCP_KEEPIDLE, unix.TCP_KEEPINTVL,
			unix.TCP_KEEPCNT, unix.TCP_USER_TIMEOUT, unix.TCP_NOTSENT_LOWAT, unix.TCP_QUICKACK)},
		{is(1, unix.IPPROTO_IP), is(2, unix.IP_TOS, unix.IP_TTL, unix.IP_PKTINFO, unix.IP_MTU_DISCOVER, unix.IP_RECVERR,
			unix.IP_RECVTTL, unix.IP_RECVTOS)},
		{is(1, unix.IPPROTO_IPV6), is(2, unix.IPV6_V6ONLY, unix.IPV6_UNICAST_HOPS, unix.IPV6_RECVPKTINFO,
			unix.IPV6_MTU_DISCOVER, unix.IPV6_RECVERR, unix.IPV6_RECVHOPLIMIT, unix.IPV6_TCLASS, unix.IPV6_RECVTCLASS)},
		{is(1, unix.IPPROTO_UDP), is(2, unix.UDP_SEGMENT, unix.UDP_GRO)},
	}
}

// runtimeCalls are what Go's runtime needs.
func runtimeCalls() []call {
	return []call{
		{unix.SYS_FUTEX, "futex", "threads wait for each other"},
		{unix.SYS_NANOSLEEP, "nanosleep", "short waits of the scheduler"},
		{unix.SYS_SCHED_YIELD, "sched_yield", "spinning threads step back"},
		{unix.SYS_SCHED_GETAFFINITY, "sched_getaffinity", "the runtime follows changes of the CPUs it may use"},
		{unix.SYS_CLOCK_GETTIME, "clock_gettime", "where the vDSO cannot tell the time"},
		{unix.SYS_GETTIMEOFDAY, "gettimeofday", "where the vDSO cannot tell the time"},
		{unix.SYS_RESTART_SYSCALL, "restart_syscall", "the kernel resumes a wait after SIGSTOP and SIGCONT"},
		{unix.SYS_MUNMAP, "munmap", "memory goes back"},
		{unix.SYS_MADVISE, "madvise", "memory goes back, or in large pages"},
		{unix.SYS_MINCORE, "mincore", "the runtime asks about a page"},
		{unix.SYS_RT_SIGACTION, "rt_sigaction", "signal handlers"},
		{unix.SYS_RT_SIGPROCMASK, "rt_sigprocmask", "signal masks of threads"},
		{unix.SYS_RT_SIGRETURN, "rt_sigreturn", "back from a signal handler"},
		{unix.SYS_SIGALTSTACK, "sigaltstack", "stacks for signal handlers"},
		{unix.SYS_GETPID, "getpid", "whom tgkill is for"},
		{unix.SYS_GETTID, "gettid", "a thread asks for its number"},
		{unix.SYS_GETRANDOM, "getrandom", "seeds"},
		{unix.SYS_UNAME, "uname", "the net package asks for the kernel's version"},
		{unix.SYS_EPOLL_CREATE1, "epoll_create1", "the poller, when the first descriptor comes"},
		{unix.SYS_EPOLL_CTL, "epoll_ctl", "the poller"},
		{unix.SYS_EPOLL_PWAIT, "epoll_pwait", "the poller"},
		{unix.SYS_EVENTFD2, "eventfd2", "to wake the poller"},
		{unix.SYS_EXIT, "exit", "a thread ends"},
		{unix.SYS_EXIT_GROUP, "exit_group", "the process ends"},
	}
}

// socketCalls carry traffic.
func socketCalls() []call {
	return []call{
		{unix.SYS_BIND, "bind", "ping sockets, listeners"},
		{unix.SYS_LISTEN, "listen", "listeners"},
		{unix.SYS_ACCEPT4, "accept4", "forwarded ports"},
		{unix.SYS_CONNECT, "connect", "connections to the outside"},
		{unix.SYS_SHUTDOWN, "shutdown", "half-closed connections"},
		{unix.SYS_GETSOCKNAME, "getsockname", "the net package fills in addresses"},
		{unix.SYS_GETPEERNAME, "getpeername", "the net package fills in addresses"},
		{unix.SYS_SENDTO, "sendto", "datagrams and device sockets"},
		{unix.SYS_RECVFROM, "recvfrom", "datagrams and device sockets"},
		{unix.SYS_SENDMSG, "sendmsg", "datagrams; descriptors to the daemon"},
		{unix.SYS_RECVMSG, "recvmsg", "datagrams; descriptors from the daemon"},
		{unix.SYS_SENDMMSG, "sendmmsg", "batches of datagrams"},
		{unix.SYS_RECVMMSG, "recvmmsg", "batches of datagrams"},
	}
}

// fileCalls work on descriptors that the worker has; none opens a file.
func fileCalls() []call {
	return []call{
		{unix.SYS_READ, "read", "frames and streams"},
		{unix.SYS_WRITE, "write", "frames, streams, the log on descriptor 2"},
		{unix.SYS_READV, "readv", "frames behind their header"},
		{unix.SYS_WRITEV, "writev", "frames behind their header"},
		{unix.SYS_PREADV2, "preadv2", "frames from a TAP without waiting (RWF_NOWAIT)"},
		{unix.SYS_PWRITEV2, "pwritev2", "frames to a TAP without waiting"},
		{unix.SYS_PREAD64, "pread64", "the runtime rereads its CPU limit, from a file open since the start"},
		{unix.SYS_CLOSE, "close", "descriptors end"},
		{unix.SYS_FSTAT, "fstat", "package os looks at a descriptor"},
		{unix.SYS_PIPE2, "pipe2", "splice needs one"},
		{unix.SYS_SPLICE, "splice", "the net package copies between sockets"},
		{unix.SYS_SENDFILE, "sendfile", "the net package copies to a socket"},
	}
}

// deadly are calls that only a program in strange hands makes: the way to more
// privilege, to other processes, or into rarely walked parts of the kernel.
func deadly() []call {
	return []call{
		{unix.SYS_EXECVE, "execve", "another program"},
		{unix.SYS_EXECVEAT, "execveat", "another program"},
		{unix.SYS_PTRACE, "ptrace", "another process"},
		{unix.SYS_PROCESS_VM_READV, "process_vm_readv", "another process's memory"},
		{unix.SYS_PROCESS_VM_WRITEV, "process_vm_writev", "another process's memory"},
		{unix.SYS_PROCESS_MADVISE, "process_madvise", "another process's memory"},
		{unix.SYS_KCMP, "kcmp", "another process's descriptors"},
		{unix.SYS_PIDFD_GETFD, "pidfd_getfd", "another process's descriptors"},
		{unix.SYS_SETNS, "setns", "another namespace"},
		{unix.SYS_UNSHARE, "unshare", "another namespace, with all capabilities in it"},
		{unix.SYS_CLONE3, "clone3", "another namespace; its arguments cannot be checked"},
		{unix.SYS_MOUNT, "mount", "another file system"},
		{unix.SYS_UMOUNT2, "umount2", "what lies below"},
		{unix.SYS_PIVOT_ROOT, "pivot_root", "another root"},
		{unix.SYS_CHROOT, "chroot", "another root"},
		{unix.SYS_OPEN_TREE, "open_tree", "another file system"},
		{unix.SYS_MOVE_MOUNT, "move_mount", "another file system"},
		{unix.SYS_FSOPEN, "fsopen", "another file system"},
		{unix.SYS_FSMOUNT, "fsmount", "another file system"},
		{unix.SYS_FSPICK, "fspick", "another file system"},
		{unix.SYS_MOUNT_SETATTR, "mount_setattr", "another file system"},
		{unix.SYS_OPEN_BY_HANDLE_AT, "open_by_handle_at", "files outside the root"},
		{unix.SYS_NAME_TO_HANDLE_AT, "name_to_handle_at", "files outside the root"},
		{unix.SYS_BPF, "bpf", "programs in the kernel"},
		{unix.SYS_PERF_EVENT_OPEN, "perf_event_open", "what others do"},
		{unix.SYS_IO_URING_SETUP, "io_uring_setup", "calls past this table"},
		{unix.SYS_IO_URING_ENTER, "io_uring_enter", "calls past this table"},
		{unix.SYS_IO_URING_REGISTER, "io_uring_register", "calls past this table"},
		{unix.SYS_USERFAULTFD, "userfaultfd", "to stop the kernel at a chosen moment"},
		{unix.SYS_KEYCTL, "keyctl", "keys of the account"},
		{unix.SYS_ADD_KEY, "add_key", "keys of the account"},
		{unix.SYS_REQUEST_KEY, "request_key", "keys of the account"},
		{unix.SYS_INIT_MODULE, "init_module", "code in the kernel"},
		{unix.SYS_FINIT_MODULE, "finit_module", "code in the kernel"},
		{unix.SYS_DELETE_MODULE, "delete_module", "code in the kernel"},
		{unix.SYS_KEXEC_LOAD, "kexec_load", "another kernel"},
		{unix.SYS_KEXEC_FILE_LOAD, "kexec_file_load", "another kernel"},
		{unix.SYS_REBOOT, "reboot", "the machine"},
		{unix.SYS_SWAPON, "swapon", "the machine"},
		{unix.SYS_SWAPOFF, "swapoff", "the machine"},
		{unix.SYS_ACCT, "acct", "the machine"},
		{unix.SYS_QUOTACTL, "quotactl", "the machine"},
		{unix.SYS_SETTIMEOFDAY, "settimeofday", "the clock"},
		{unix.SYS_CLOCK_SETTIME, "clock_settime", "the clock"},
		{unix.SYS_SECCOMP, "seccomp", "a filter to be fooled by"},
	}
}
