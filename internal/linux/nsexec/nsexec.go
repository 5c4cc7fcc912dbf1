// Package nsexec starts a program inside given namespaces and in new ones, from
// a process with many threads and without cgo.
//
// # Theory of operation
//
// A user namespace can only be joined by a process of one thread (setns(2)), and
// a Go process never is one. os/exec can make namespaces in its child but cannot
// join them. So Start forks by hand, as package syscall does for os/exec: a
// clone(2) that copies the address space, under the runtime's own fork hooks.
// Between fork and exec the child has one thread, no scheduler and no heap: it
// makes raw system calls on memory that the parent prepared, in functions that
// cannot grow the stack, and then becomes another program.
//
//	parent                         child
//	clone ───────────────────────► pdeathsig, RLIMIT_NOFILE
//	                               setns: user, mnt, net, uts as given
//	                               unshare
//	write /proc/PID/{u,g}id_map ◄─ ask (only MapByParent; else the child writes its own)
//	                               capabilities into the ambient set
//	                               descriptors to their places
//	error record or end of file ◄─ execveat
//
// What fails in the child comes back as a record (step, errno) over a pipe that
// execve closes; Start turns it into an error that says what to do.
//
// # Ideal and reality
//
// vfork would spare the copy of the page tables (some 0.2 ms for a small
// process), but then the thread that forks is suspended and cannot serve the
// child's question for its ID maps.
package nsexec

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

// Outer is where branes are made: a mount namespace with the doors of the host
// masked, a network namespace for plumbing, and the user namespace that owns
// both. User is nil where the system's own user namespace owns them (root).
type Outer struct {
	User, Mount, Net *os.File
}

// Close closes the descriptors that are open.
func (o *Outer) Close() {
	for _, f := range []*os.File{o.User, o.Mount, o.Net} {
		if f != nil {
			_ = f.Close()
		}
	}
	*o = Outer{}
}

// FilesDir is an empty directory in the outer mount namespace, over which each
// brane mounts the files that are its own.
const FilesDir = "/run/brane-files"

// Join names a namespace to enter.
type Join struct {
	FD   int
	Kind int // unix.CLONE_NEWUSER, CLONE_NEWNS, …; checked by the kernel against the file
}

// Map is one line of an ID map, user_namespaces(7): Count IDs from Inside map to those from Outside.
type Map struct {
	Inside, Outside, Count uint32
}

// Cmd says what to start. The zero values of the optional fields mean: nothing
// joined, nothing made, maps untouched, the limits and the capabilities of the caller.
type Cmd struct {
	// Exe is the program, open for reading or with O_PATH; nil for the running one.
	Exe       *os.File
	Argv, Env []string
	// Files become descriptors 0, 1, 2, …; nil leaves that number closed. No
	// other descriptor is inherited.
	Files []*os.File
	// Join is entered in order; the user namespace comes first, because it gives
	// the right to enter the others.
	Join []Join
	// New is a set of CLONE_NEW… flags for unshare(2).
	New int
	// UIDs and GIDs are the maps of a new user namespace. With MapByParent the
	// caller writes them with its own privilege, else the child does with its
	// own: then one line each, of its own effective ID, and setgroups(2) is denied.
	UIDs, GIDs  []Map
	MapByParent bool
	// KeepCaps puts all permitted capabilities into the inheritable and ambient
	// sets, so that a program that is not uid 0 inside starts with them.
	KeepCaps bool
	// DeathSignal is sent to the program when the thread that called Start ends:
	// call it from a goroutine that stays locked to its thread.
	DeathSignal syscall.Signal
	// NoFile is the limit of descriptors that the program shall see.
	NoFile *unix.Rlimit
}

// Start starts c and returns once the program runs. The caller must wait for
// the process. Errors are *fault.Error of kind Denied, Unsupported, Limit,
// NotFound, Invalid or Internal.
func Start(c *Cmd) (*os.Process, error) {
	exe := c.Exe
	if exe == nil {
		f, err := openSelf()
		if err != nil {
			return nil, fault.New(fault.Internal, "start", "/proc/self/exe", "%v", err).
				WithRemedy("mount procfs on /proc")
		}
		defer f.Close()
		exe = f
	}
	ch, err := prepare(c, exe)
	if err != nil {
		return nil, err
	}
	defer ch.release()
	return ch.start(c)
}

func openSelf() (*os.File, error) {
	fd, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "/proc/self/exe"), nil
}

// start forks and follows the child until it has become the program.
func (ch *child) start(c *Cmd) (*os.Process, error) {
	syscall.ForkLock.Lock()
	pid, errno := ch.fork()
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(c)
	// The child's ends: its death must be an end of file here.
	_ = ch.reportW.Close()
	_ = ch.answerR.Close()
	if errno != 0 {
		return nil, forkFault(errno)
	}
	err := ch.follow(pid, c)
	if err != nil {
		_ = syscall.Kill(pid, syscall.SIGKILL) // not yet waited for, so the number is still its own
		var ws syscall.WaitStatus
		for {
			if _, e := syscall.Wait4(pid, &ws, 0, nil); e != syscall.EINTR {
				break
			}
		}
		return nil, err
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil, fault.New(fault.Internal, "start", "", "find the child: %v", err)
	}
	return p, nil
}

// follow reads the child's records until the pipe ends.
func (ch *child) follow(pid int, c *Cmd) error {
	for {
		rec, ok, err := readRecord(ch.reportR)
		switch {
		case err != nil:
			return fault.New(fault.Internal, "start", "", "read the child's report: %v", err)
		case !ok:
			return nil
		case rec.step != stepAskMaps:
			return stepFault(rec, c)
		}
		if err := writeMaps(pid, c); err != nil {
			_ = ch.answerW.Close() // the child reads an end of file and leaves
			return err
		}
		if _, err := ch.answerW.Write([]byte{1}); err != nil {
			return fault.New(fault.Internal, "start", "", "answer the child: %v", err)
		}
	}
}
