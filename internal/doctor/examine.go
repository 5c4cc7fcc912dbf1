package doctor

import (
	"fmt"
	"strings"

	"brane/internal/linux/probe"
)

// The oldest kernel that Brane is made for.
const (
	minMajor = 6
	minMinor = 1
)

// Examine judges what was found.
func Examine(f Facts) Report {
	return Report{Kernel: f.Kernel.String(), Checks: []Check{
		kernel(f), userNamespaces(f), nested(f), tun(f), ping(f), runtimeDir(f), linger(f), subnets(f),
		feature("seccomp", f.Seccomp, Failed, "the worker cannot be confined, and does not start",
			"use a kernel with CONFIG_SECCOMP_FILTER, or allow seccomp(2) in the container"),
		feature("landlock", f.Landlock, Limited, "the worker is confined without one of its fences: abstract Unix sockets of the host stay within reach", ""),
		feature("peer-pidfd", f.PeerPIDFD, Limited,
			"a process inside a brane that was handed a socket from outside is not recognised at the doors", "Linux 6.5 or later has it"),
		feature("udp-offload", f.USO, Limited, "UDP on a TAP goes datagram by datagram", "Linux 6.2 or later has it"),
		feature("tcx", f.TCX, Limited, "the kernel's own datapath, when there is one, has to use tc filters", "Linux 6.6 or later has it"),
		feature("bpf-token", f.BPFToken, Limited, "eBPF programs have to be loaded by root", "Linux 6.9 or later has it"),
	}}
}

// feature is a check whose answer alone decides.
func feature(name string, r probe.Result, without State, means, remedy string) Check {
	c := Check{Name: name, Found: r.Why}
	switch r.Answer {
	case probe.Yes:
		c.State = OK
	case probe.No:
		c.State, c.Means, c.Remedy = without, means, remedy
	default:
		c.State, c.Means = Unknown, "if it is missing: "+means
	}
	return c
}

func kernel(f Facts) Check {
	c := Check{Name: "kernel", State: OK, Found: f.Kernel.String()}
	switch {
	case f.Kernel.Major == 0:
		c.State, c.Means = Unknown, fmt.Sprintf("Linux %d.%d or later is needed", minMajor, minMinor)
	case !f.Kernel.AtLeast(minMajor, minMinor):
		c.State = Limited
		c.Means = "older than what Brane is tested with; parts of it may not work"
		c.Remedy = fmt.Sprintf("Linux %d.%d or later, as in Debian 12", minMajor, minMinor)
	}
	return c
}

func userNamespaces(f Facts) Check {
	without := Failed
	if f.Root {
		without = Limited
	}
	c := feature("user-namespaces", f.UserNamespaces, without,
		"an ordinary user cannot have branes; root can", "ask the administrator, or run as root")
	if c.State == OK {
		return c
	}
	var found, remedies []string
	add := func(what, remedy string) {
		found = append(found, what)
		remedies = append(remedies, remedy)
	}
	if f.MaxUserNamespaces == "0" {
		add("user.max_user_namespaces is 0", "sudo sysctl -w user.max_user_namespaces=16384")
	}
	if f.UnprivilegedClone == "0" {
		add("kernel.unprivileged_userns_clone is 0", "sudo sysctl -w kernel.unprivileged_userns_clone=1")
	}
	if f.AppArmorRestricts != "" && f.AppArmorRestricts != "0" {
		add("kernel.apparmor_restrict_unprivileged_userns is "+f.AppArmorRestricts,
			"let AppArmor allow brane alone: a profile 'profile brane /path/to/brane flags=(unconfined) { userns, }' in /etc/apparmor.d, "+
				"then sudo apparmor_parser -r; or allow everybody with sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
	}
	if len(found) > 0 {
		c.Found += "; " + strings.Join(found, ", ")
		c.Remedy = strings.Join(remedies, "; ")
	}
	return c
}

func nested(f Facts) Check {
	without := Failed
	if f.Root {
		without = Limited
	}
	remedy := "inside a container, let it make user namespaces; on the host, see user-namespaces"
	if f.UserNamespaces.Answer != probe.Yes {
		remedy = "see user-namespaces"
	}
	return feature("nested-namespaces", f.Nested, without,
		"branes of an ordinary user lie below one outer namespace and need it", remedy)
}

func tun(f Facts) Check {
	remedy := "sudo chmod 0666 /dev/net/tun, which most systems do by themselves: it gives no right outside a namespace of one's own"
	if strings.Contains(f.Tun.Why, "there is no") || strings.Contains(f.Tun.Why, "not loaded") {
		remedy = "sudo modprobe tun; in a container, pass the device /dev/net/tun in"
	}
	return feature("tun", f.Tun, Limited, "branes are attached by a veth pair and a packet socket, which is slower than a TAP", remedy)
}

func ping(f Facts) Check {
	c := feature("ping", f.Ping, Limited, "ping works inside a network, but not to the outside",
		`sudo sysctl -w net.ipv4.ping_group_range="0 2147483647", as systemd sets it`)
	if c.State != OK && f.PingGroupRange != "" {
		c.Found += fmt.Sprintf("; net.ipv4.ping_group_range is %q", strings.Join(strings.Fields(f.PingGroupRange), " "))
	}
	return c
}

func runtimeDir(f Facts) Check {
	c := Check{Name: "runtime-directory", State: OK, Found: f.RuntimeDir}
	switch {
	case f.Root:
		c.Found = "/run/brane, as root"
	case f.RuntimeDir == "":
		c.State, c.Found = Limited, "XDG_RUNTIME_DIR is not set"
		c.Means = "the sockets are in /tmp/brane-UID, where cleaners of /tmp may remove them"
		c.Remedy = "log in through the system's login manager, or set XDG_RUNTIME_DIR to a directory of mode 0700"
	case f.RuntimeErr != nil:
		c.State, c.Found = Limited, f.RuntimeErr.Error()
		c.Means = "the sockets are in /tmp/brane-UID, where cleaners of /tmp may remove them"
		c.Remedy = "make XDG_RUNTIME_DIR an existing directory of yours with mode 0700"
	}
	return c
}

func linger(f Facts) Check {
	if f.Root {
		return Check{Name: "linger", State: OK, Found: "not needed as root"}
	}
	return feature("linger", f.Linger, Limited,
		"at the end of your last session the system removes the runtime directory and may end your branes",
		strings.TrimSpace("loginctl enable-linger "+f.User))
}

// subnets compares each network with what the host reaches without a gateway.
func subnets(f Facts) Check {
	c := Check{Name: "subnets", State: OK}
	if f.HostErr != nil {
		c.State, c.Found = Unknown, f.HostErr.Error()
		c.Means = "whether a network overlaps with the host's is not known"
		return c
	}
	var clashes []string
	for _, n := range f.Networks {
		for _, p := range f.Host {
			if p.Overlaps(n.Subnet) {
				clashes = append(clashes, fmt.Sprintf("%s (%s) with %s", n.Name, n.Subnet, p))
				break
			}
		}
	}
	c.Found = fmt.Sprintf("the host reaches %s", f.Host)
	if len(f.Networks) > 0 {
		c.Found = fmt.Sprintf("%d networks, none overlaps with what %s", len(f.Networks), c.Found)
	}
	if len(clashes) > 0 {
		c.State, c.Found = Limited, "overlap: "+strings.Join(clashes, "; ")
		c.Means = "branes of that network cannot reach those addresses outside"
		c.Remedy = "give the network another subnet in its file"
	}
	return c
}
