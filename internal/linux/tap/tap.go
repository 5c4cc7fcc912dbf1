// Package tap makes and checks TAP interfaces that carry superframes: one
// frame a read, each behind a virtio-net header of frame.VnetLen bytes, with
// checksums and segmentation left to whoever is at the other end.
//
// The kernel's side is Documentation/networking/tuntap.rst and
// include/uapi/linux/if_tun.h.
package tap

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"brane/frame"
	"brane/internal/fault"
)

const node = "/dev/net/tun"

// Offloads says what the interface's owner, which is the kernel of the guest
// side, may leave undone in frames that are read from the descriptor.
type Offloads struct {
	Checksum bool // TUN_F_CSUM
	TSO      bool // TUN_F_TSO4 and TUN_F_TSO6: TCP superframes
	USO      bool // TUN_F_USO4 and TUN_F_USO6: UDP superframes, Linux 6.2
}

// flags has the bits of TUNSETOFFLOAD.
func (o Offloads) flags() int {
	f := 0
	if o.Checksum {
		f |= unix.TUN_F_CSUM
	}
	if o.TSO {
		f |= unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	}
	if o.USO {
		f |= unix.TUN_F_USO4 | unix.TUN_F_USO6
	}
	return f
}

// preferences are tried in this order: an older kernel refuses bits that it
// does not know, all at once.
func preferences() []Offloads {
	return []Offloads{
		{Checksum: true, TSO: true, USO: true},
		{Checksum: true, TSO: true},
		{Checksum: true},
		{},
	}
}

// Device is a descriptor attached to a TAP interface.
type Device struct {
	FD       int // non-blocking and close-on-exec when Create made it
	Name     string
	Offloads Offloads
}

// Close closes the descriptor; with the last one the interface is gone.
func (d *Device) Close() error { return unix.Close(d.FD) }

// Create makes a TAP interface in the network namespace of the calling thread
// and returns its descriptor. name may hold %d for a number that the kernel
// picks, or be empty ("tap%d"). The interface is down, without addresses.
//
// Errors are of kind Denied (the node or the namespace is not ours), Unsupported
// (no TUN driver), Busy (the name is taken), Invalid (the name), Unavailable.
func Create(name string) (*Device, error) {
	fd, err := unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, openFault(err)
	}
	d, err := attach(fd, name)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return d, nil
}

func attach(fd int, name string) (*Device, error) {
	const op = "create TAP"
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fault.New(fault.Invalid, op, name, "the name is not 1 to %d bytes long", unix.IFNAMSIZ-1)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return nil, attachFault(op, name, err)
	}
	d := &Device{FD: fd, Name: req.Name()}
	return d, d.configure(op)
}

// configure sets the header's size and byte order and as many offloads as the
// kernel knows.
func (d *Device) configure(op string) error {
	if err := unix.IoctlSetPointerInt(d.FD, unix.TUNSETVNETHDRSZ, frame.VnetLen); err != nil {
		return fault.New(fault.Unsupported, op, d.Name, "TUNSETVNETHDRSZ: %v", err)
	}
	// virtio 1 is little-endian everywhere; the default is the machine's order.
	if err := unix.IoctlSetPointerInt(d.FD, unix.TUNSETVNETLE, 1); err != nil {
		return fault.New(fault.Unsupported, op, d.Name, "TUNSETVNETLE: %v", err)
	}
	var err error
	for _, o := range preferences() {
		if err = unix.IoctlSetInt(d.FD, unix.TUNSETOFFLOAD, o.flags()); err == nil {
			d.Offloads = o
			return nil
		}
		if !errors.Is(err, unix.EINVAL) {
			break
		}
	}
	return fault.New(fault.Unsupported, op, d.Name, "TUNSETOFFLOAD: %v", err)
}

// Verify checks a descriptor that a client brought and puts it into the state
// that Create leaves: it must be attached to a TAP interface without the
// packet-information header and with the virtio-net header; header size, byte order and
// offloads are set here. The descriptor stays the caller's, open also on error.
//
// The client may keep a copy and undo any of it: what is read later is judged
// as a stranger's bytes, and O_NONBLOCK is not relied on.
//
// Errors are of kind Invalid, with the flag that is wrong.
func Verify(fd int) (*Device, error) {
	const op = "check TAP descriptor"
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fault.New(fault.Invalid, op, "", "%v", err)
	}
	// The ioctls' numbers mean other things elsewhere: none is made on another file.
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(10, 200) {
		return nil, fault.New(fault.Invalid, op, "", "it is not open on %s", node)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, fault.New(fault.Invalid, op, "", "%v", err)
	}
	if flags&unix.O_PATH != 0 || flags&unix.O_ACCMODE != unix.O_RDWR {
		return nil, fault.New(fault.Invalid, op, "", "it is not open for reading and writing")
	}
	d := &Device{FD: fd}
	state, err := d.state(op)
	if err != nil {
		return nil, err
	}
	if err := checkFlags(op, d.Name, state, plainFlags()); err != nil {
		return nil, err
	}
	// TUNGETIFF uses one bit for IFF_NO_PI and for "no filter attached": with a
	// filter it tells the truth. Detaching takes away the client's own, too.
	if err := d.filter(unix.TUNATTACHFILTER); err != nil {
		return nil, fault.New(fault.Unsupported, op, d.Name, "TUNATTACHFILTER: %v", err)
	}
	state, err = d.state(op)
	if e := d.filter(unix.TUNDETACHFILTER); e != nil && err == nil {
		err = fault.New(fault.Unsupported, op, d.Name, "TUNDETACHFILTER: %v", e)
	}
	if err != nil {
		return nil, err
	}
	if err := checkFlags(op, d.Name, state, []wanted{{unix.IFF_NO_PI, true, "IFF_NO_PI"}}); err != nil {
		return nil, err
	}
	return d, d.configure(op)
}

// state reads the interface's name and flags.
func (d *Device) state(op string) (uint16, error) {
	req, err := unix.NewIfreq("")
	if err != nil {
		return 0, fault.New(fault.Internal, op, "", "%v", err)
	}
	if err := unix.IoctlIfreq(d.FD, unix.TUNGETIFF, req); err != nil {
		return 0, fault.New(fault.Invalid, op, "", "it is attached to no interface: %v", err).
			WithRemedy("make the interface with TUNSETIFF first")
	}
	d.Name = req.Name()
	return req.Uint16(), nil
}

// filter attaches a filter that accepts everything, or detaches what there is.
func (d *Device) filter(request uintptr) error {
	accept := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff}
	prog := unix.SockFprog{Len: 1, Filter: &accept}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(d.FD), request, uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		return e
	}
	return nil
}

// wanted is a flag of TUNSETIFF and how it must be.
type wanted struct {
	flag uint16
	set  bool
	name string
}

func plainFlags() []wanted {
	return []wanted{
		{unix.IFF_TUN, false, "IFF_TUN"},
		{unix.IFF_TAP, true, "IFF_TAP"},
		{unix.IFF_VNET_HDR, true, "IFF_VNET_HDR"},
	}
}

func checkFlags(op, name string, flags uint16, list []wanted) error {
	for _, want := range list {
		if (flags&want.flag != 0) == want.set {
			continue
		}
		state := "set"
		if want.set {
			state = "not set"
		}
		return fault.New(fault.Invalid, op, name, "%s is %s", want.name, state).
			WithRemedy("make the interface with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR")
	}
	return nil
}

func openFault(err error) error {
	const op = "open"
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		mode := ""
		if st, e := os.Stat(node); e == nil {
			mode = " (its mode is " + st.Mode().Perm().String() + ")"
		}
		return fault.New(fault.Denied, op, node, "%v%s", err, mode).
			WithRemedy("let everybody open it, as most systems do: chmod 0666 %s", node)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fault.New(fault.Unsupported, op, node, "%v", err).WithRemedy("load the driver: modprobe tun")
	}
	return fault.New(fault.Unavailable, op, node, "%v", err)
}

func attachFault(op, name string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fault.New(fault.Denied, op, name, "%v", err).
			WithRemedy("it takes CAP_NET_ADMIN over the network namespace")
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return fault.New(fault.Busy, op, name, "the name is taken: %v", err)
	case errors.Is(err, unix.EINVAL):
		return fault.New(fault.Invalid, op, name, "%v", err)
	}
	return fault.New(fault.Unavailable, op, name, "%v", err)
}
