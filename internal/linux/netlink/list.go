package netlink

import (
	"errors"
	"net"
	"net/netip"
	"slices"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// interrupted is how often a listing is repeated that changed meanwhile.
const interrupted = 10

// Addr is an address of an interface.
type Addr struct {
	Dev    string
	Prefix netip.Prefix // the address with the length of its subnet
}

// Addrs lists the addresses of all interfaces, or of the one named, sorted.
func (h *Handle) Addrs(name string) ([]Addr, error) {
	const op = "list addresses"
	names, err := h.names()
	if err != nil {
		return nil, err
	}
	raw, err := stable(func() ([]vnl.Addr, error) { return h.h.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return nil, netlinkFault(op, name, err)
	}
	var list []Addr
	for _, a := range raw {
		p, ok := prefix(a.IPNet)
		dev := names[a.LinkIndex]
		if ok && dev != "" && (name == "" || name == dev) {
			list = append(list, Addr{dev, p})
		}
	}
	slices.SortFunc(list, func(a, b Addr) int {
		return compareThen(a.Dev, b.Dev, func() int { return comparePrefix(a.Prefix, b.Prefix) })
	})
	return list, nil
}

// Routes lists the unicast routes of the main table of both families, sorted
// by destination.
func (h *Handle) Routes() ([]Route, error) {
	names, err := h.names()
	if err != nil {
		return nil, err
	}
	var list []Route
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		raw, err := stable(func() ([]vnl.Route, error) { return h.h.RouteList(nil, family) })
		if err != nil {
			return nil, netlinkFault("list routes", "", err)
		}
		for _, r := range raw {
			if r.Type != unix.RTN_UNICAST {
				continue
			}
			list = append(list, routesOf(&r, family, names)...)
		}
	}
	slices.SortStableFunc(list, func(a, b Route) int { return comparePrefix(a.Dst, b.Dst) })
	return list, nil
}

// routesOf has one entry for each next hop.
func routesOf(r *vnl.Route, family int, names map[int]string) []Route {
	dst, ok := prefix(r.Dst)
	if !ok { // older kernels leave the default route's destination out
		dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if family == unix.AF_INET6 {
			dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	one := Route{Dst: dst, Dev: names[r.LinkIndex], Via: address(r.Gw), Src: address(r.Src), Metric: r.Priority}
	if len(r.MultiPath) == 0 {
		return []Route{one}
	}
	var list []Route
	for _, hop := range r.MultiPath {
		one.Dev, one.Via = names[hop.LinkIndex], address(hop.Gw)
		list = append(list, one)
	}
	return list
}

// HostPrefixes lists what this namespace's host reaches without a gateway:
// every address with the length of its subnet, and every on-link route; sorted,
// each once. Default routes are left out.
func (h *Handle) HostPrefixes() ([]netip.Prefix, error) {
	addrs, err := h.Addrs("")
	if err != nil {
		return nil, err
	}
	routes, err := h.Routes()
	if err != nil {
		return nil, err
	}
	var list []netip.Prefix
	subnets := map[netip.Prefix]bool{}
	for _, a := range addrs {
		list = append(list, a.Prefix)
		subnets[a.Prefix.Masked()] = true
	}
	for _, r := range routes {
		if !r.Via.IsValid() && r.Dst.Bits() > 0 && !subnets[r.Dst] {
			list = append(list, r.Dst)
		}
	}
	slices.SortFunc(list, comparePrefix)
	return slices.Compact(list), nil
}

func (h *Handle) names() (map[int]string, error) {
	links, err := stable(h.h.LinkList)
	if err != nil {
		return nil, netlinkFault("list interfaces", "", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names, nil
}

// stable repeats a listing that changed while it was read.
func stable[T any](list func() ([]T, error)) (all []T, err error) {
	for range interrupted {
		if all, err = list(); !errors.Is(err, vnl.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a := address(n.IP)
	ones, size := n.Mask.Size()
	return netip.PrefixFrom(a, ones), a.IsValid() && size == a.BitLen()
}

func address(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

func compareThen(a, b string, then func() int) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return then()
}
