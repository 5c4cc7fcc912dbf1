// Package confine shuts a process in that parses what strangers send. The
// daemon starts it with the namespaces of Spawn; its first act is Worker, after
// which it has its descriptors, the host's network, and nothing else.
//
// # Theory of operation
//
// Worker takes things away in the order in which the right to do so is lost:
//
//  1. the file system: an empty read-only tmpfs becomes the root, and the old one is gone;
//  2. rlimits, and dumpable, so that no process of the same account looks inside;
//  3. the bounding and ambient capabilities of every thread;
//  4. started by root, the account: groups, gid and uid of nobody; then the
//     effective, permitted and inheritable capabilities of every thread;
//  5. no_new_privs;
//  6. Landlock (5.13; scopes 6.12), where the kernel has it: abstract Unix
//     sockets are in the network namespace, not in the file system, and a process of the
//     user's own account would be welcome at many of them;
//  7. seccomp: the calls of table.go, on all threads.
//
// # Ideal and reality
//
// Capabilities, no_new_privs and Landlock belong to threads, and Go has several
// before main starts. syscall.AllThreadsSyscall reaches them all, but only in a
// program without cgo: one built with cgo is refused. The host's network
// namespace is kept, because the worker's sockets are what carries the traffic
// of the branes to the outside; what may be reached there is the gateway's policy.
package confine

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
	"brane/internal/linux/seccomp"
)

// nobody is the account of a worker that root started; it owns no file.
const nobody = 65534

// Spawn has the attributes to start a worker with: for an ordinary user in
// namespaces below a new user namespace, where the worker is root until it
// gives that up; for root without the user namespace. The network namespace is the
// daemon's.
func Spawn() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	if uid := os.Geteuid(); uid != 0 {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return a
}

// Worker confines this process, which must have been started with Spawn. It is
// called once, before anything that a stranger sent is read. On error the
// process is in no defined state and must end.
func Worker() error { return confine(workerTable(os.Getpid())) }

func confine(t *seccomp.Table) error {
	// Namespaces that are not our own would be changed for everybody in them.
	if os.Getpid() != 1 {
		return fault.New(fault.Invalid, "confine", "", "not the first process of a PID namespace").
			WithRemedy("it is the daemon that starts the worker")
	}
	program, err := seccomp.Compile(t)
	if err != nil {
		return err
	}
	only, err := onlyAccount()
	if err != nil {
		return fault.New(fault.Unsupported, "confine", "", "%v", err)
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"check threads", checkThreads},
		{"empty the root", emptyRoot},
		{"set limits", limits},
		{"drop the bounding set", dropBounding},
		{"change account", func() error {
			if only {
				return nil
			}
			return changeAccount()
		}},
		{"drop capabilities", dropCapabilities},
		{"set no_new_privs", noNewPrivs},
		{"restrict with Landlock", landlock},
	} {
		if err := step.do(); err != nil {
			return fault.New(fault.Unsupported, "confine", step.name, "%v", err).
				WithRemedy("brane doctor says what this machine allows")
		}
	}
	return seccomp.Install(program)
}

// checkThreads finds out whether all threads can be reached.
func checkThreads() error {
	if _, _, e := syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0); e != 0 {
		return errors.New("this program was built with cgo; build it with CGO_ENABLED=0")
	}
	return nil
}

// emptyRoot makes an empty, read-only file system the root and lets go of the
// old one (pivot_root(2)).
func emptyRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	root, err := emptyMount()
	if err != nil {
		return err
	}
	defer unix.Close(root)
	if err := unix.MoveMount(root, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return err
	}
	if err := unix.Fchdir(root); err != nil {
		return err
	}
	err = unix.PivotRoot(".", ".")
	switch {
	case err == nil:
		// The old root now lies over the new one, where "." finds it.
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return err
		}
	case errors.Is(err, unix.EINVAL):
		// The root is the initramfs, which cannot be exchanged (pivot_root(2)). It
		// stays below, out of reach of a process without CAP_SYS_CHROOT.
		if err := unix.Chroot("."); err != nil {
			return err
		}
	default:
		return err
	}
	return unix.Chdir("/")
}

// emptyMount is a detached tmpfs that holds nothing and never will.
func emptyMount() (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	for _, o := range [][2]string{{"size", "4k"}, {"nr_inodes", "1"}, {"mode", "0555"}} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC,
		unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}

func limits() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return err
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	files.Cur = files.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

// changeAccount leaves root's account for good.
func changeAccount() error {
	if err := syscall.Setresgid(nobody, nobody, nobody); err != nil {
		return err
	}
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setresuid(nobody, nobody, nobody); err != nil {
		return err
	}
	// A change of account sets dumpable as fs.suid_dumpable says.
	return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

// onlyAccount tells whether this user namespace has one account alone, as
// Spawn makes it for an ordinary user: then there is no other to change to, and
// uid 0 is that user's name here.
func onlyAccount() (bool, error) {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false, err
	}
	f := strings.Fields(string(b))
	return len(f) == 3 && f[2] == "1", nil
}

// dropBounding empties the bounding and ambient sets.
func dropBounding() error {
	for c := uintptr(0); ; c++ {
		err := allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0)
		if errors.Is(err, unix.EINVAL) && c > unix.CAP_LAST_CAP/2 {
			break // past the last one that this kernel has
		}
		if err != nil {
			return err
		}
	}
	return allThreads(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0)
}

// dropCapabilities empties the other three sets.
func dropCapabilities() error {
	head := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	none := new([2]unix.CapUserData)
	// Converted in this very call, so that neither is on a stack that moves
	// (go:uintptrescapes): the kernel writes to the header that it does not like.
	_, _, e := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(head)), uintptr(unsafe.Pointer(none)), 0)
	return asError(e)
}

func noNewPrivs() error {
	_, _, e := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	return asError(e)
}

func allThreads(nr, a, b, c uintptr) error {
	_, _, e := syscall.AllThreadsSyscall6(nr, a, b, c, 0, 0, 0)
	return asError(e)
}

func asError(e syscall.Errno) error {
	if e != 0 {
		return e
	}
	return nil
}
