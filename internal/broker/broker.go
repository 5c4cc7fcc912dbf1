// Package broker is the one process of Brane with privilege: root in the
// user's own outer user namespace, or the system's root for the system's
// daemon. It makes the outer mount and network namespaces, masks the host's
// doors in them, and then answers a handful of fixed verbs over a socket that
// it inherited from the daemon; it ends when the socket does.
//
// # Stages
//
// The process starts with every capability over its namespaces, reads where it
// is from a second socket, masks, and executes itself with CAP_NET_ADMIN and
// CAP_NET_RAW alone: capabilities belong to threads, and an exec leaves one.
//
// # Verbs
//
//	namespaces  -> descriptors: mount, network, user
//	veth        network namespace of a brane + MAC, MTU -> packet socket on the outer end
//	ping
//
// Whoever holds the socket is the daemon; the broker still checks what it is
// given, because the daemon talks to strangers: names are made here, numbers
// are bounded, and a network namespace must belong to a user namespace that is
// a child of the broker's own, which no namespace of the host is.
package broker

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"brane/frame"
	"brane/internal/fault"
	"brane/internal/linux/unixmsg"
)

// Verbs.
const (
	verbNamespaces = "namespaces"
	verbVeth       = "veth"
	verbPing       = "ping"
)

// Limits of requests.
const (
	maxMessage = 16 << 10 // bytes
	maxPath    = 1024     // bytes
)

// Setup tells the broker where it is. Paths are absolute and clean.
type Setup struct {
	Runtime     string `json:"runtime"`               // Brane's runtime directory; all but "inside" in it is masked
	UserRuntime string `json:"userRuntime,omitempty"` // XDG_RUNTIME_DIR, if there is one
	Home        string `json:"home,omitempty"`
	UID         int    `json:"uid"` // of the user, as the host knows it
}

func (s *Setup) check() error {
	for _, p := range []string{s.Runtime, s.UserRuntime, s.Home} {
		if p == "" && s.Runtime != "" {
			continue
		}
		if len(p) > maxPath || !filepath.IsAbs(p) || filepath.Clean(p) != p || p == "/" || strings.ContainsRune(p, 0) {
			return fault.New(fault.Invalid, opSetup, "", "%.40q is not an absolute, clean path of at most %d bytes", p, maxPath)
		}
	}
	if s.UID < 0 || s.UID > 1<<32-2 {
		return fault.New(fault.Invalid, opSetup, "", "%d is not a user ID", s.UID)
	}
	return nil
}

// Veth asks for a pair of Ethernet interfaces between the outer network
// namespace and a brane's, where it is named eth0.
type Veth struct {
	MAC frame.MAC `json:"mac"`
	MTU int       `json:"mtu"` // 68 to 65535
}

func (v *Veth) check() error {
	if v.MTU < 68 || v.MTU > 65535 {
		return fault.New(fault.Invalid, verbVeth, "", "an MTU of %d; it must be 68 to 65535", v.MTU)
	}
	if v.MAC == (frame.MAC{}) || v.MAC[0]&1 != 0 {
		return fault.New(fault.Invalid, verbVeth, "", "%s is not the address of an interface", v.MAC)
	}
	return nil
}

// server is the broker's state.
type server struct {
	mu    sync.Mutex // one verb at a time
	pairs int        // veth pairs made, for their names
}

// serve answers on the socket until the other side closes it.
func serve(fd int) error {
	c, err := unixmsg.FromFD(fd)
	if err != nil {
		return err
	}
	s := &server{}
	err = unixmsg.NewConn(unixmsg.NewStream(c, maxMessage)).Serve(s.handle)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// handle answers one request. Nothing of it is believed: each field is
// checked, and the descriptors are closed when the verb is done.
func (s *server) handle(_ context.Context, r *unixmsg.Request) (any, []int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Verb != verbVeth && len(r.FDs()) > 0 {
		return nil, nil, fault.New(fault.Invalid, r.Verb, "", "this verb takes no descriptors")
	}
	switch r.Verb {
	case verbPing:
		return nil, nil, nil
	case verbNamespaces:
		fds, err := namespaces()
		return nil, fds, err
	case verbVeth:
		return s.veth(r)
	}
	return nil, nil, fault.New(fault.Invalid, "broker", "", "unknown verb %.20q", r.Verb)
}

// namespaces opens the outer namespaces.
func namespaces() ([]int, error) {
	var fds []int
	for _, n := range []string{"mnt", "net", "user"} {
		fd, err := unix.Open("/proc/self/ns/"+n, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			unixmsg.CloseFDs(fds)
			return nil, fault.New(fault.Internal, "open namespace", n, "%v", err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}
