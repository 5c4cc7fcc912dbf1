package nsexec

import (
	"errors"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

// forkFault is about clone(2) itself.
func forkFault(e syscall.Errno) error {
	return fault.New(fault.Limit, "start", "", "fork: %v", e).
		WithRemedy("raise the limit of processes (ulimit -u) or free memory")
}

// kinds are the namespaces by the name that people know.
func kinds(flags int) string {
	var s []string
	for _, k := range []struct {
		flag int
		name string
	}{
		{unix.CLONE_NEWUSER, "user"},
		{unix.CLONE_NEWNS, "mount"},
		{unix.CLONE_NEWNET, "network"},
		{unix.CLONE_NEWUTS, "UTS"},
		{unix.CLONE_NEWIPC, "IPC"},
		{unix.CLONE_NEWPID, "PID"},
		{unix.CLONE_NEWCGROUP, "cgroup"},
	} {
		if flags&k.flag != 0 {
			s = append(s, k.name)
		}
	}
	return strings.Join(s, ", ")
}

// stepFault says what a failed step of the child means to the user.
func stepFault(r record, c *Cmd) error {
	switch r.step {
	case stepJoin:
		return joinFault(r.errno, c.Join[r.index].Kind)
	case stepUnshare:
		return unshareFault(r.errno, c.New)
	case stepMapOpen, stepMapWrite:
		return restricted(fault.New(fault.Denied, "map IDs", "", "write the ID map of a new user namespace: %v", r.errno))
	case stepCaps:
		return restricted(fault.New(fault.Denied, "start", "", "keep capabilities in a new user namespace: %v", r.errno))
	case stepNoFile:
		return fault.New(fault.Limit, "start", "", "restore the limit of open files: %v", r.errno)
	case stepExec:
		return fault.New(fault.Internal, "start", "", "execute: %v", r.errno)
	case stepHide:
		return fault.New(fault.Internal, "start", "", "hide from the namespace to enter: %v", r.errno)
	case stepDeath:
		return fault.New(fault.Internal, "start", "", "bind the program's life to the runner's: %v", r.errno)
	}
	return fault.New(fault.Internal, "start", "", "step %d: %v", r.step, r.errno)
}

func joinFault(e syscall.Errno, kind int) error {
	f := fault.New(fault.Denied, "enter "+kinds(kind)+" namespace", "", "%v", e)
	switch e {
	case unix.EINVAL:
		f.Kind = fault.Invalid
		f.Detail = "the descriptor is not such a namespace, or it is the present one"
	case unix.EPERM:
		f.Detail = "it belongs to another user, or this process runs inside a brane"
	}
	return f
}

func unshareFault(e syscall.Errno, flags int) error {
	f := fault.New(fault.Denied, "make "+kinds(flags)+" namespaces", "", "%v", e)
	switch e {
	case unix.EPERM, unix.EACCES:
		return restricted(f)
	case unix.ENOSPC, unix.EUSERS:
		f.Kind = fault.Limit
		f.Detail = "the limit of namespaces is reached"
		f.Remedy = "raise user.max_user_namespaces and user.max_net_namespaces (sysctl), or end some branes"
	case unix.EINVAL:
		f.Kind = fault.Unsupported
		f.Detail = "this kernel was built without them"
	case unix.ENOMEM:
		f.Kind = fault.Limit
	}
	return f
}

// AppArmorRestriction is the switch by which Ubuntu 24.04 and later take the
// capabilities of unprivileged user namespaces away.
const AppArmorRestriction = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"

// restricted adds the remedy for the restriction that is in force, if any is known.
func restricted(f *fault.Error) *fault.Error {
	return restrictedBy(f, func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return ""
		}
		return strings.TrimSpace(string(b))
	})
}

func restrictedBy(f *fault.Error, read func(string) string) *fault.Error {
	switch {
	case read(AppArmorRestriction) == "1":
		return f.WithRemedy("AppArmor restricts user namespaces here: install Brane's AppArmor profile, or run " +
			"'sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0'")
	case read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
		return f.WithRemedy("run 'sudo sysctl kernel.unprivileged_userns_clone=1'")
	case read("/proc/sys/user/max_user_namespaces") == "0":
		return f.WithRemedy("run 'sudo sysctl user.max_user_namespaces=10000'")
	}
	return f.WithRemedy("a container or security module may forbid user namespaces: 'brane doctor' says more")
}
