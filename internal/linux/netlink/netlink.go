// Package netlink configures interfaces, addresses and routes over rtnetlink(7),
// in the caller's network namespace or in one given by a descriptor. The
// process itself never changes its namespace.
package netlink

import (
	"errors"
	"net"
	"net/netip"
	"runtime"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"brane/frame"
	"brane/internal/fault"
)

// Handle is a socket to the kernel in one network namespace. Its methods may be
// called from any goroutine. Errors are of kind NotFound (no such interface),
// Exists, Denied (it takes CAP_NET_ADMIN over the namespace), Invalid or Unavailable.
type Handle struct {
	h *vnl.Handle
}

// Open returns a handle for the network namespace of the calling thread.
func Open() (*Handle, error) {
	h, err := vnl.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, netlinkFault("open netlink socket", "", err)
	}
	return &Handle{h}, nil
}

// OpenAt returns a handle for the network namespace that netns is open on. The
// descriptor may be closed afterwards.
func OpenAt(netns int) (*Handle, error) {
	var h *Handle
	err := In(netns, func() (err error) {
		h, err = Open()
		return err
	})
	return h, err
}

// Close closes the socket.
func (h *Handle) Close() { h.h.Close() }

// In runs f on a thread that is in the network namespace that netns is open on:
// sockets and TAP interfaces made by f belong there. f must not start
// goroutines that rely on it. It takes CAP_SYS_ADMIN over that namespace.
func In(netns int, f func() error) error {
	const op = "enter network namespace"
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			runtime.UnlockOSThread()
			result <- fault.New(fault.Unavailable, op, "", "%v", err)
			return
		}
		defer unix.Close(home)
		if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			result <- netlinkFault(op, "", err)
			return
		}
		err = f()
		// A thread that cannot go home stays locked and ends with this goroutine.
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

func (h *Handle) link(op, name string) (vnl.Link, error) {
	l, err := h.h.LinkByName(name)
	if err != nil {
		return nil, netlinkFault(op, name, err)
	}
	return l, nil
}

// LinkUp brings an interface up.
func (h *Handle) LinkUp(name string) error {
	return h.onLink("bring up interface", name, h.h.LinkSetUp)
}

// LinkDown takes an interface down.
func (h *Handle) LinkDown(name string) error {
	return h.onLink("take down interface", name, h.h.LinkSetDown)
}

// DelLink removes an interface.
func (h *Handle) DelLink(name string) error {
	return h.onLink("remove interface", name, h.h.LinkDel)
}

// SetMAC sets an interface's Ethernet address.
func (h *Handle) SetMAC(name string, mac frame.MAC) error {
	return h.onLink("set MAC of interface", name, func(l vnl.Link) error {
		return h.h.LinkSetHardwareAddr(l, mac[:])
	})
}

// SetMTU sets an interface's MTU in bytes, without the Ethernet header.
func (h *Handle) SetMTU(name string, mtu int) error {
	return h.onLink("set MTU of interface", name, func(l vnl.Link) error { return h.h.LinkSetMTU(l, mtu) })
}

func (h *Handle) onLink(op, name string, f func(vnl.Link) error) error {
	l, err := h.link(op, name)
	if err != nil {
		return err
	}
	return netlinkFault(op, name, f(l))
}

// AddAddr gives an interface an address with the length of its subnet. IPv6
// addresses are usable at once, without duplicate address detection: who hands
// them out has made sure.
func (h *Handle) AddAddr(name string, p netip.Prefix) error {
	const op = "add address"
	l, err := h.link(op, name)
	if err != nil {
		return err
	}
	a := &vnl.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return netlinkFault(op, p.String()+" to "+name, h.h.AddrAdd(l, a))
}

// Route is one unicast route of the main table.
type Route struct {
	Dst    netip.Prefix // 0.0.0.0/0 or ::/0 is the default route
	Via    netip.Addr   // the gateway; the zero Addr for what is on the link
	Dev    string       // name of the interface
	Src    netip.Addr   // preferred source address; the zero Addr leaves the choice to the kernel
	Metric int          // 0 is the kernel's default
}

// AddRoute adds a route to the main table.
func (h *Handle) AddRoute(r Route) error {
	const op = "add route"
	l, err := h.link(op, r.Dev)
	if err != nil {
		return err
	}
	nr := &vnl.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(r.Dst), Priority: r.Metric}
	if r.Via.IsValid() {
		nr.Gw = r.Via.AsSlice()
	} else {
		nr.Scope = vnl.SCOPE_LINK
	}
	if r.Src.IsValid() {
		nr.Src = r.Src.AsSlice()
	}
	return netlinkFault(op, r.Dst.String()+" by "+r.Dev, h.h.RouteAdd(nr))
}

// Veth describes a pair of interfaces to make. Its zero MTU and MACs leave the
// choice to the kernel.
type Veth struct {
	Name    string // the end in the handle's namespace
	Peer    string // the other end
	PeerNS  int    // descriptor of the other end's network namespace; -1: the handle's
	MTU     int
	MAC     frame.MAC
	PeerMAC frame.MAC
}

// AddVeth makes a veth pair, each end born in its own namespace so that a name
// inside one never collides in the other. Both ends are down.
func (h *Handle) AddVeth(v Veth) error {
	attrs := vnl.NewLinkAttrs()
	attrs.Name = v.Name
	attrs.MTU = v.MTU
	if v.MAC != (frame.MAC{}) {
		attrs.HardwareAddr = v.MAC[:]
	}
	pair := vnl.NewVeth(attrs)
	pair.PeerName = v.Peer
	pair.PeerMTU = uint32(v.MTU)
	if v.PeerMAC != (frame.MAC{}) {
		pair.PeerHardwareAddr = v.PeerMAC[:]
	}
	if v.PeerNS >= 0 {
		pair.PeerNamespace = vnl.NsFd(v.PeerNS)
	}
	return netlinkFault("make veth pair", v.Name+" and "+v.Peer, h.h.LinkAdd(pair))
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// netlinkFault names the kind of what the kernel said; nil stays nil.
func netlinkFault(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	kind, remedy := fault.Unavailable, ""
	var missing vnl.LinkNotFoundError
	switch {
	case errors.As(err, &missing), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOENT):
		kind = fault.NotFound
	case errors.Is(err, unix.EEXIST):
		kind = fault.Exists
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		kind, remedy = fault.Denied, "it takes CAP_NET_ADMIN over the network namespace"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE), errors.Is(err, unix.EADDRNOTAVAIL):
		kind = fault.Invalid
	case errors.Is(err, unix.EOPNOTSUPP):
		kind = fault.Unsupported
	case errors.Is(err, unix.EBUSY):
		kind = fault.Busy
	}
	e := fault.New(kind, op, subject, "%v", err)
	if remedy != "" {
		e = e.WithRemedy("%s", remedy)
	}
	return e
}
