// Package packet opens packet sockets (packet(7)) on one interface, with a
// virtio-net header before each frame so that superframes pass whole.
package packet

import (
	"errors"
	"math/bits"
	"net"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

// HeaderLen is the size in bytes of the header before each frame: PACKET_VNET_HDR
// has the legacy virtio_net_hdr, without the count of buffers.
const HeaderLen = 10

// Open opens a raw packet socket on an interface in the network namespace of
// the calling thread: all protocols, without what this host itself sends there,
// promiscuous, non-blocking, close-on-exec. The descriptor is the caller's.
//
// Errors are of kind NotFound (no such interface), Denied, Unsupported, Unavailable.
func Open(name string) (int, error) {
	const op = "open packet socket"
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return -1, fault.New(fault.NotFound, op, name, "%v", err)
	}
	// Protocol 0: nothing is received before bind names the interface.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, unix.EPERM) {
			return -1, fault.New(fault.Denied, op, name, "%v", err).
				WithRemedy("it takes CAP_NET_RAW over the network namespace")
		}
		return -1, fault.New(fault.Unavailable, op, name, "%v", err)
	}
	if err := configure(fd, ifi.Index); err != nil {
		_ = unix.Close(fd)
		return -1, fault.New(fault.Unsupported, op, name, "%v", err)
	}
	addr := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: ifi.Index}
	if err := unix.Bind(fd, addr); err != nil {
		_ = unix.Close(fd)
		return -1, fault.New(fault.Unavailable, op, name, "bind: %v", err)
	}
	return fd, nil
}

func configure(fd, index int) error {
	for _, opt := range []struct {
		name string
		opt  int
	}{
		{"PACKET_VNET_HDR", unix.PACKET_VNET_HDR},
		{"PACKET_IGNORE_OUTGOING", unix.PACKET_IGNORE_OUTGOING},
	} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, opt.opt, 1); err != nil {
			return errors.Join(errors.New(opt.name), err)
		}
	}
	return unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
		&unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC})
}

// networkOrder turns a number into network byte order on a little-endian
// machine, as the machines that Brane is built for are.
func networkOrder(v uint16) uint16 { return bits.ReverseBytes16(v) }
