// Package peer tells who is at the other end of a Unix socket: which account,
// and whether it is inside a brane.
//
// # Theory of operation
//
// A Unix socket with a path can be reached from any network namespace, so the
// path says nothing. Two questions are asked instead, and either answer is enough
// to call a peer inside.
//
// Whose socket is it? The socket that accept(2) returns is made in the network
// namespace of the socket that connected, so its SO_NETNS_COOKIE is the
// client's, not the listener's.
//
// Whose process is it? A socket can be made outside and handed to a process
// inside, which then connects it. SO_PEERPIDFD (Linux 6.5) refers to the
// process that called connect(2), without the danger of a number that was used
// again; from it come the process's namespaces, by ioctl (6.11) or by /proc with the
// process known to live before and after.
//
// Account and group are those of connect(2), as SO_PEERCRED keeps them; what the
// process became later does not matter.
//
// # Ideal and reality
//
// A kernel before 6.5 has the first answer only. A process of another account
// cannot be looked into by a daemon without privilege; then too the socket's
// namespace decides, and Certain is false. A process of the same account that
// cannot be looked into, or that is gone, counts as inside.
package peer

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

// Peer is who connected.
type Peer struct {
	UID, GID uint32 // at connect(2), in this process's user namespace
	PID      int32  // for people and logs only: numbers are used again; 0 when it has none here
	// Inside is true when the socket or the process is in another network
	// namespace than this process, or when that should be known and is not.
	Inside  bool
	Certain bool // the process was looked at, not only the socket
	// Cookie identifies the network namespace of the socket, for all time since boot.
	Cookie uint64
	// NetNS and UserNS are the inode numbers of the process's namespaces (as in
	// /proc/PID/ns); 0 unless Certain.
	NetNS, UserNS uint64
}

// Of asks about the other end of an accepted connection. The errors are of kind
// Unavailable (the connection is closed) or Unsupported (the kernel lacks SO_NETNS_COOKIE, 5.14).
func Of(c *net.UnixConn) (Peer, error) {
	const op = "identify peer"
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, fault.New(fault.Unavailable, op, "", "%v", err)
	}
	var p Peer
	var askErr error
	if err := raw.Control(func(fd uintptr) { p, askErr = OfFD(int(fd)) }); err != nil {
		return Peer{}, fault.New(fault.Unavailable, op, "", "%v", err)
	}
	return p, askErr
}

// OfFD is Of for a descriptor, which stays the caller's.
func OfFD(fd int) (Peer, error) {
	const op = "identify peer"
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Peer{}, fault.New(fault.Unavailable, op, "", "SO_PEERCRED: %v", err)
	}
	p := Peer{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid}
	if p.Cookie, err = cookie(fd); err != nil {
		return Peer{}, err
	}
	own, err := ownCookie()
	if err != nil {
		return Peer{}, err
	}
	p.Inside = p.Cookie != own

	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	switch {
	case errors.Is(err, unix.ENOPROTOOPT):
		return p, nil // before Linux 6.5
	case err != nil:
		p.judge(identity{}, identity{}, err)
		return p, nil
	}
	defer unix.Close(pidfd)
	self, err := ownIdentity()
	if err != nil {
		return Peer{}, fault.New(fault.Unavailable, op, "", "own namespaces: %v", err)
	}
	theirs, err := identityOf(pidfd)
	p.judge(self, theirs, err)
	return p, nil
}

// judge adds what is known of the process.
func (p *Peer) judge(self, theirs identity, err error) {
	if err != nil {
		if p.UID == uint32(os.Geteuid()) {
			p.Inside = true // nothing of this account hides from it, but what is gone
		}
		return
	}
	p.Certain = true
	p.NetNS, p.UserNS = theirs.net.ino, theirs.user.ino
	if theirs.net != self.net {
		p.Inside = true
	}
}

func cookie(fd int) (uint64, error) {
	c, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fault.New(fault.Unsupported, "identify peer", "", "SO_NETNS_COOKIE: %v", err).
			WithRemedy("Linux 5.14 or later is needed")
	}
	return c, nil
}

// ownCookie is that of a socket made here.
func ownCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fault.New(fault.Unavailable, "identify peer", "", "socket: %v", err)
	}
	defer unix.Close(fd)
	return cookie(fd)
}

// namespace is one for as long as somebody holds it.
type namespace struct{ dev, ino uint64 }

type identity struct{ net, user namespace }

func ownIdentity() (id identity, err error) {
	if id.net, err = namespaceAt("/proc/self/ns/net"); err != nil {
		return id, err
	}
	id.user, err = namespaceAt("/proc/self/ns/user")
	return id, err
}

func namespaceAt(path string) (namespace, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	return namespace{st.Dev, st.Ino}, err
}

// The ioctls of linux/pidfd.h, _IO(0xFF, nr).
const (
	pidfdGetNetNamespace  = 0xff04
	pidfdGetUserNamespace = 0xff09
)

func identityOf(pidfd int) (identity, error) {
	id, err := identityByIoctl(pidfd)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
		return identityByProc(pidfd) // before Linux 6.11
	}
	return id, err
}

func identityByIoctl(pidfd int) (id identity, err error) {
	if id.net, err = namespaceByIoctl(pidfd, pidfdGetNetNamespace); err != nil {
		return id, err
	}
	id.user, err = namespaceByIoctl(pidfd, pidfdGetUserNamespace)
	return id, err
}

func namespaceByIoctl(pidfd int, request uint) (namespace, error) {
	ns, err := unix.IoctlRetInt(pidfd, request)
	if err != nil {
		return namespace{}, err
	}
	defer unix.Close(ns)
	var st unix.Stat_t
	err = unix.Fstat(ns, &st)
	return namespace{st.Dev, st.Ino}, err
}

// identityByProc reads /proc by the number that the pidfd has now. The process
// lives afterwards too, so the number meant it all the while.
func identityByProc(pidfd int) (id identity, err error) {
	pid, err := pidOf(pidfd)
	if err != nil {
		return id, err
	}
	if id.net, err = namespaceAt(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil {
		return id, err
	}
	if id.user, err = namespaceAt(fmt.Sprintf("/proc/%d/ns/user", pid)); err != nil {
		return id, err
	}
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err != nil && !errors.Is(err, unix.EPERM) {
		return id, err
	}
	return id, nil // EPERM: not ours to signal, but alive
}

// pidOf reads the field Pid of the pidfd's fdinfo (pidfd_open(2)): -1 when the
// process is gone, 0 when it has no number in this PID namespace.
func pidOf(pidfd int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		value, ok := strings.CutPrefix(line, "Pid:")
		if !ok {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(value))
		if err != nil {
			return 0, err
		}
		if pid <= 0 {
			return 0, unix.ESRCH
		}
		return pid, nil
	}
	return 0, errors.New("no field Pid in fdinfo")
}
