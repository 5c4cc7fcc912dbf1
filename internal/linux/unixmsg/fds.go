package unixmsg

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

// oobLen holds one SCM_RIGHTS message of MaxFDs descriptors and nothing more:
// CMSG_SPACE(8*4) of cmsg(3) on 64-bit machines. What does not fit never gets
// a number in this process.
const oobLen = 16 + 4*MaxFDs

// take adds the descriptors of a control message to m.
func take(m *Message, oob []byte, flags int) {
	if flags&unix.MSG_CTRUNC != 0 {
		m.Dropped = true
	}
	for len(oob) >= unix.SizeofCmsghdr {
		head, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			m.Dropped = true
			return
		}
		oob = rest
		if head.Level != unix.SOL_SOCKET || head.Type != unix.SCM_RIGHTS {
			continue // credentials and the like: nothing to own
		}
		fds, err := unix.ParseUnixRights(&unix.SocketControlMessage{Header: head, Data: data})
		if err != nil {
			m.Dropped = true
			return
		}
		for _, fd := range fds {
			if len(m.FDs) < MaxFDs {
				m.FDs = append(m.FDs, fd)
				continue
			}
			_ = unix.Close(fd) // a header sent byte by byte, descriptors with each
			m.Dropped = true
		}
	}
}

// FileKind is what a descriptor refers to.
type FileKind string

// The kinds of descriptor that Brane tells apart.
const (
	SocketFD FileKind = "socket"
	TapFD    FileKind = "tun/tap"
	OtherFD  FileKind = "other"
)

// Info describes a descriptor.
type Info struct {
	Kind      FileKind
	Domain    int  // socket: AF_UNIX, AF_PACKET, ... (SO_DOMAIN of socket(7))
	Type      int  // socket: SOCK_STREAM, ...
	Listening bool // socket: accepts connections
	Flags     int  // of the open file: O_NONBLOCK, access mode (fcntl(2) F_GETFL)
	CloExec   bool
}

// Describe looks at a descriptor that somebody else sent, without reading from
// it. The error is of kind Invalid.
func Describe(fd int) (Info, error) {
	var i Info
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return i, descriptorFault("%v", err)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return i, descriptorFault("%v", err)
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil {
		return i, descriptorFault("%v", err)
	}
	i.Kind, i.Flags, i.CloExec = OtherFD, flags, own&unix.FD_CLOEXEC != 0
	switch {
	case flags&unix.O_PATH != 0: // only a name: neither read nor written
	case st.Mode&unix.S_IFMT == unix.S_IFSOCK:
		i.Kind = SocketFD
		return i, describeSocket(fd, &i)
	case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(10, 200):
		i.Kind = TapFD // /dev/net/tun, misc device 200 in admin-guide/devices
	}
	return i, nil
}

func describeSocket(fd int, i *Info) (err error) {
	if i.Domain, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
		return descriptorFault("SO_DOMAIN: %v", err)
	}
	if i.Type, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return descriptorFault("SO_TYPE: %v", err)
	}
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return descriptorFault("SO_ACCEPTCONN: %v", err)
	}
	i.Listening = listening != 0
	return nil
}

func descriptorFault(format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, "check descriptor", "", format, args...)
}

// CheckSocket refuses a descriptor that is not a socket of that domain and
// type, or that listens. It says what was found.
func CheckSocket(fd, domain, typ int) error {
	i, err := Describe(fd)
	if err != nil {
		return err
	}
	if i.Kind != SocketFD || i.Domain != domain || i.Type != typ || i.Listening {
		return descriptorFault("wanted a connected socket of domain %d and type %d, got %s", domain, typ, i)
	}
	return nil
}

// String names the descriptor for a refusal.
func (i Info) String() string {
	if i.Kind != SocketFD {
		return fmt.Sprintf("%s (flags %#x)", i.Kind, i.Flags)
	}
	listening := ""
	if i.Listening {
		listening = ", listening"
	}
	return fmt.Sprintf("socket of domain %d and type %d%s", i.Domain, i.Type, listening)
}

// Pair makes a connected pair of Unix sockets of a type (unix.SOCK_STREAM,
// unix.SOCK_SEQPACKET): one end for this process, the other as a file to give
// to a child. Both are close-on-exec.
func Pair(typ int) (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fault.New(fault.Unavailable, "make socket pair", "", "%v", err)
	}
	c, err := FromFD(fds[0])
	if err != nil {
		_ = unix.Close(fds[1])
		return nil, nil, err
	}
	return c, os.NewFile(uintptr(fds[1]), "socketpair"), nil
}

// FromFD makes a connection of a Unix socket's descriptor, which it closes,
// also on error.
func FromFD(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	if f == nil {
		return nil, descriptorFault("%d is no descriptor", fd)
	}
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, descriptorFault("%v", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, descriptorFault("not a Unix socket")
	}
	return u, nil
}
