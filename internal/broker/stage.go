package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
	"brane/internal/linux/unixmsg"
)

// opSetup names the first stage in errors.
const opSetup = "set up the outer namespaces"

// serveArg, as the last argument, marks the second stage.
const serveArg = "serve"

// Serve is the broker process, in the namespaces that Start made for it; fd is
// SocketFD. It returns when the daemon has closed its end. It changes the mounts
// and the capabilities of the whole process, so it is for a process of its own.
func Serve(fd int) error {
	if os.Args[len(os.Args)-1] == serveArg {
		return serve(fd)
	}
	runtime.LockOSThread()           // capabilities belong to the thread that executes
	c, err := unixmsg.FromFD(fd + 1) // a copy that exec closes
	if err != nil {
		return err
	}
	s := unixmsg.NewSocket(c)
	err = prepare(s)
	if err == nil {
		err = become()
	}
	f := fault.From(err, opSetup, "")
	if b, e := json.Marshal(f); e == nil {
		_ = s.Send(context.Background(), b, nil)
	}
	return f
}

func prepare(s *unixmsg.Socket) error {
	m, err := s.Recv(context.Background(), make([]byte, maxMessage))
	if err != nil {
		return err
	}
	m.CloseFDs()
	in, err := parseSetup(m.Payload)
	if err != nil {
		return err
	}
	k := survey(in)
	if err := k.apply(); err != nil {
		return err
	}
	return quiet()
}

func parseSetup(b []byte) (Setup, error) {
	var in Setup
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err := d.Decode(&in)
	if err == nil && !errors.Is(d.Decode(&struct{}{}), io.EOF) {
		err = errors.New("something follows the object")
	}
	if err != nil {
		return Setup{}, fault.New(fault.Invalid, opSetup, "", "%v", err)
	}
	return in, in.check()
}

// become executes the second stage with what veth needs and nothing else. It
// returns only with an error. The user ID is 0 here, for which exec would give
// the capabilities back; no_new_privs and the bounding set see to it that it cannot.
func become() error {
	const keep = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW
	const op = "drop capabilities"
	for c := uintptr(0); c < 64; c++ {
		if keep&(1<<c) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // beyond the last capability
		}
		if err != nil {
			return fault.New(fault.Internal, op, "", "%v", err)
		}
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: keep, Permitted: keep}}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fault.New(fault.Internal, op, "", "%v", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fault.New(fault.Internal, "set no_new_privs", "", "%v", err)
	}
	err := syscall.Exec("/proc/self/exe", append(os.Args, serveArg), os.Environ())
	return fault.New(fault.Internal, "start the second stage", "", "%v", err)
}
