package brane

import (
	"errors"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"brane/frame"
	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/linux/netlink"
	"brane/internal/linux/tap"
)

// prepare sets the kernel's knobs that interfaces take over when they appear.
func prepare(s *Spec) error {
	gids, err := os.ReadFile("/proc/self/gid_map")
	if err != nil {
		return fault.New(fault.Internal, "read", "/proc/self/gid_map", "%v", err)
	}
	set := [][2]string{
		{"ipv4/ip_unprivileged_port_start", "0"},
		{"ipv4/ping_group_range", pingRange(gids)},
		// The daemon hands each address out once: nothing to detect, nothing to wait for.
		{"ipv6/conf/default/accept_dad", "0"},
	}
	if hasIPv6(s.Addrs) {
		set = append(set, [2]string{"ipv6/conf/default/accept_ra", "0"}, [2]string{"ipv6/conf/default/autoconf", "0"})
	}
	for _, kv := range set {
		if err := sysctl(kv[0], kv[1]); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return fault.New(fault.Internal, "set host name", s.Name, "%v", err)
	}
	return nil
}

func hasIPv6(addrs []netip.Prefix) bool {
	for _, a := range addrs {
		if a.Addr().Is6() {
			return true
		}
	}
	return false
}

// openPort makes eth0 and hands its other side to the runner: a TAP, or, where
// the node is not permitted, a veth pair that the broker makes.
func openPort(c *control) error {
	netns, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fault.New(fault.Internal, "open", "/proc/self/ns/net", "%v", err)
	}
	defer unix.Close(netns)
	d, err := tap.Create(interfaceName)
	switch fault.KindOf(err) {
	case "":
		defer d.Close()
		return c.send(&message{Port: string(datapath.TAP)}, d.FD, netns)
	case fault.Denied, fault.Unsupported:
	default:
		return err
	}
	if err := c.send(&message{NeedVeth: true}, netns); err != nil {
		return err
	}
	m, err := c.receive()
	if err == nil && !m.Veth {
		err = fault.New(fault.Internal, "make "+interfaceName, "", "the runner's answer is not about it")
	}
	return err
}

// configure brings lo and eth0 up.
func configure(s *Spec) error {
	h, err := netlink.Open()
	if err != nil {
		return err
	}
	defer h.Close()
	mac, err := frame.ParseMAC(s.MAC)
	if err != nil {
		return err
	}
	for _, f := range []func() error{
		func() error { return h.LinkUp("lo") },
		func() error { return h.SetMAC(interfaceName, mac) },
		func() error { return h.SetMTU(interfaceName, s.MTU) },
		func() error { return h.LinkUp(interfaceName) },
	} {
		if err := f(); err != nil {
			return err
		}
	}
	if s.NoAddress {
		return nil
	}
	for _, a := range s.Addrs {
		if err := h.AddAddr(interfaceName, a); err != nil {
			return err
		}
	}
	for _, g := range s.Gateways {
		if err := h.AddRoute(netlink.Route{Dst: everything(g), Via: g, Dev: interfaceName}); err != nil {
			return err
		}
	}
	return nil
}

// everything is the default route of a's family.
func everything(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

var errNoSpec = errors.New("the spec is missing: this mode is for brane itself")
