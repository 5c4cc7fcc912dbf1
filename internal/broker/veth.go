package broker

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
	"brane/internal/linux/netlink"
	"brane/internal/linux/packet"
	"brane/internal/linux/unixmsg"
)

// innerName is what a brane's interface is called.
const innerName = "eth0"

// quiet keeps the outer network namespace from speaking on its own: its ends
// of veth pairs carry frames of branes and nothing else.
func quiet() error {
	for _, c := range []string{"all", "default"} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+c+"/disable_ipv6", []byte("1"), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fault.New(fault.Internal, "set up the outer network namespace", "", "%v", err)
		}
	}
	return nil
}

func (s *server) veth(r *unixmsg.Request) (any, []int, error) {
	var in Veth
	if err := r.Decode(&in); err != nil {
		return nil, nil, err
	}
	if err := in.check(); err != nil {
		return nil, nil, err
	}
	if len(r.FDs()) != 1 {
		return nil, nil, fault.New(fault.Invalid, verbVeth, "", "%d descriptors, want one: the network namespace", len(r.FDs()))
	}
	netns := r.FDs()[0]
	if err := checkChild(netns); err != nil {
		return nil, nil, err
	}
	h, err := netlink.Open()
	if err != nil {
		return nil, nil, err
	}
	defer h.Close()
	s.pairs++
	name := "v" + strconv.Itoa(s.pairs)
	err = h.AddVeth(netlink.Veth{Name: name, Peer: innerName, PeerNS: netns, MTU: in.MTU, PeerMAC: in.MAC})
	if err != nil {
		return nil, nil, err
	}
	fd, err := open(h, name)
	if err != nil {
		_ = h.DelLink(name)
		return nil, nil, err
	}
	return nil, []int{fd}, nil
}

func open(h *netlink.Handle, name string) (int, error) {
	if err := h.LinkUp(name); err != nil {
		return -1, err
	}
	return packet.Open(name)
}

// checkChild says whether fd is a network namespace whose user namespace is a
// child of the broker's own. That is so for branes made in the outer namespace,
// and for none of the host's.
func checkChild(fd int) error {
	const op = "check network namespace"
	no := fault.New(fault.Denied, op, "", "the descriptor is not a network namespace of a brane below this broker")
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return no
	}
	owner, err := unix.IoctlRetInt(fd, unix.NS_GET_USERNS)
	if err != nil {
		return no
	}
	defer unix.Close(owner)
	parent, err := unix.IoctlRetInt(owner, unix.NS_GET_PARENT)
	if err != nil {
		return no
	}
	defer unix.Close(parent)
	var p, own unix.Stat_t
	if unix.Fstat(parent, &p) != nil || unix.Stat("/proc/self/ns/user", &own) != nil {
		return no
	}
	if p.Dev != own.Dev || p.Ino != own.Ino {
		return no
	}
	return nil
}
