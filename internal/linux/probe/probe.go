// Package probe finds out what this machine allows, by trying where a try does
// no harm and by reading where it would. Every probe has one of three answers;
// the text with it says what was tried and names the kernel's version.
package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"brane/internal/linux/nsexec"
)

// Answer of a probe.
type Answer string

// The three answers.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "could not tell"
)

// Result is an answer with what it rests on.
type Result struct {
	Answer Answer `json:"answer"`
	Why    string `json:"why"`
}

func result(a Answer, format string, args ...any) Result {
	return Result{a, fmt.Sprintf(format, args...)}
}

// Kernel is a version of Linux.
type Kernel struct {
	Major, Minor int
	Release      string // as uname(2) has it
}

// AtLeast compares with another version.
func (k Kernel) AtLeast(major, minor int) bool {
	return k.Major > major || k.Major == major && k.Minor >= minor
}

func (k Kernel) String() string { return "Linux " + k.Release }

// KernelVersion asks uname(2); a release that cannot be read gives version 0.0.
func KernelVersion() Kernel {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Kernel{Release: "unknown"}
	}
	return ParseKernel(unix.ByteSliceToString(u.Release[:]))
}

// ParseKernel reads a release such as 6.1.0-18-amd64.
func ParseKernel(release string) Kernel {
	k := Kernel{Release: release}
	major, rest, _ := strings.Cut(release, ".")
	digits := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(rest)
	}
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(rest[:digits])
	if errA == nil && errB == nil {
		k.Major, k.Minor = a, b
	}
	return k
}

// byVersion answers for what cannot be tried without privilege.
func byVersion(what string, major, minor int) Result {
	k := KernelVersion()
	switch {
	case k.Major == 0:
		return result(Unknown, "%s has no version that can be read", k)
	case k.AtLeast(major, minor):
		return result(Yes, "%s is new enough for %s (%d.%d); not tried", k, what, major, minor)
	}
	return result(No, "%s came with %d.%d, this is %s", what, major, minor, k)
}

// Sysctl reads a value below /proc/sys from a file system rooted at /; ok is
// false when this kernel does not have it.
func Sysctl(root fs.FS, name string) (value string, ok bool) {
	b, err := fs.ReadFile(root, "proc/sys/"+name)
	return strings.TrimSpace(string(b)), err == nil
}

// nowhere is a program that cannot exist: execve(2) of it fails with ENOTDIR,
// after everything that was asked to happen before it has succeeded.
const nowhere = "/dev/null/nothing"

// attempt forks a child that makes namespaces and then ends at execve.
func attempt(clone uintptr, unshare uintptr) error {
	attr := &syscall.ProcAttr{Sys: namespaces(clone, unshare)}
	_, err := syscall.ForkExec(nowhere, []string{nowhere}, attr)
	if errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}

// namespaces maps IDs to themselves, so that a second level can map them again.
func namespaces(clone, unshare uintptr) *syscall.SysProcAttr {
	uid, gid := os.Geteuid(), os.Getegid()
	return &syscall.SysProcAttr{
		Cloneflags:   clone,
		Unshareflags: unshare,
		UidMappings:  []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings:  []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
	}
}

// UserNamespaces tries to make one and, in it, a network and a mount
// namespace, which takes the capabilities that a user namespace should give.
func UserNamespaces() Result {
	if err := attempt(unix.CLONE_NEWUSER, 0); err != nil {
		return refusal("a user namespace", err)
	}
	if err := attempt(unix.CLONE_NEWUSER, unix.CLONE_NEWNET|unix.CLONE_NEWNS); err != nil {
		return refusal("network and mount namespaces in a user namespace", err)
	}
	return result(Yes, "made one, with network and mount namespaces in it")
}

// NestedUserNamespaces tries to make one below another. A program of the host,
// cat, holds the upper one; true runs in the lower.
func NestedUserNamespaces() Result {
	hold, inner := exec.Command("cat"), ""
	if hold.Err == nil {
		inner, hold.Err = exec.LookPath("true")
	}
	if hold.Err != nil {
		return result(Unknown, "nothing to try it with: %v", hold.Err)
	}
	hold.SysProcAttr = namespaces(unix.CLONE_NEWUSER, 0)
	stdin, err := hold.StdinPipe()
	if err != nil {
		return result(Unknown, "%v", err)
	}
	if err := hold.Start(); err != nil {
		return refusal("a user namespace", err)
	}
	err = below(hold.Process.Pid, inner)
	_ = stdin.Close()
	_ = hold.Wait()
	if err != nil {
		return refusal("a user namespace below another", err)
	}
	return result(Yes, "made one below another, with network and mount namespaces in it")
}

// below runs a program in namespaces below the user namespace of a process,
// which is a child that nobody has waited for.
func below(pid int, program string) error {
	upper, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	if err != nil {
		return err
	}
	defer upper.Close()
	exe, err := os.Open(program)
	if err != nil {
		return err
	}
	defer exe.Close()
	own := func(id int) []nsexec.Map { return []nsexec.Map{{Inside: uint32(id), Outside: uint32(id), Count: 1}} }
	p, err := nsexec.Start(&nsexec.Cmd{
		Exe: exe, Argv: []string{program},
		Join: []nsexec.Join{{FD: int(upper.Fd()), Kind: unix.CLONE_NEWUSER}},
		New:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		UIDs: own(os.Geteuid()), GIDs: own(os.Getegid()),
	})
	if err != nil {
		return err
	}
	_, err = p.Wait()
	return err
}

func refusal(what string, err error) Result {
	for _, e := range []error{unix.EPERM, unix.EACCES, unix.ENOSPC, unix.EUSERS, unix.EINVAL, unix.ENOSYS} {
		if errors.Is(err, e) {
			return result(No, "making %s: %v (%s)", what, err, KernelVersion())
		}
	}
	return result(Unknown, "making %s: %v (%s)", what, err, KernelVersion())
}

// Tun opens /dev/net/tun. The text names the mode of the node where it is in the way.
func Tun() Result {
	const node = "/dev/net/tun"
	fd, err := unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil {
		_ = unix.Close(fd)
		return result(Yes, "opened %s", node)
	}
	st, statErr := os.Stat(node)
	switch {
	case errors.Is(statErr, fs.ErrNotExist):
		return result(No, "there is no %s (%s)", node, KernelVersion())
	case statErr == nil && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)):
		return result(No, "opening %s: %v; its mode is %04o", node, err, st.Mode().Perm())
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return result(No, "opening %s: %v; the driver is not loaded (%s)", node, err, KernelVersion())
	}
	return result(Unknown, "opening %s: %v", node, err)
}

// Ping makes a ping socket of each family, as the gateway does to carry echo
// requests to the outside (icmp(7), ping_group_range).
func Ping() Result {
	for _, p := range [][2]int{{unix.AF_INET, unix.IPPROTO_ICMP}, {unix.AF_INET6, unix.IPPROTO_ICMPV6}} {
		fd, err := unix.Socket(p[0], unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, p[1])
		switch {
		case err == nil:
			_ = unix.Close(fd)
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
			return result(No, "a ping socket for group %d: %v", os.Getegid(), err)
		case p[0] == unix.AF_INET6 && errors.Is(err, unix.EAFNOSUPPORT):
			return result(Yes, "made a ping socket; this host has no IPv6")
		default:
			return result(Unknown, "a ping socket: %v (%s)", err, KernelVersion())
		}
	}
	return result(Yes, "made a ping socket of each family")
}
