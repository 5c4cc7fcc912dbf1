package unixmsg

import (
	"context"
	"errors"
	"io"
	"net"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

// Socket is a SOCK_SEQPACKET connection: one message a packet, with
// descriptors. One goroutine at a time may receive, and one may send.
type Socket struct {
	c *net.UnixConn
}

// NewSocket puts messages on a connected SOCK_SEQPACKET socket, which it then owns.
func NewSocket(c *net.UnixConn) *Socket { return &Socket{c: c} }

// DialSocket connects to a SOCK_SEQPACKET socket by its path.
func DialSocket(ctx context.Context, path string) (*Socket, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", path)
	if err != nil {
		kind := fault.Unavailable
		switch {
		case errors.Is(err, unix.ENOENT):
			kind = fault.NotFound
		case errors.Is(err, unix.EACCES):
			kind = fault.Denied
		}
		return nil, fault.New(kind, "connect", path, "%v", err)
	}
	return NewSocket(c.(*net.UnixConn)), nil
}

// Conn is the connection below, to ask who is at the other end.
func (s *Socket) Conn() *net.UnixConn { return s.c }

// Close closes the connection.
func (s *Socket) Close() error { return s.c.Close() }

// Send sends one message of at least one byte. The descriptors stay the
// caller's. Errors are as for Stream.Send; nothing is sent by halves.
func (s *Socket) Send(ctx context.Context, payload []byte, fds []int) error {
	const op = "send message"
	if len(fds) > MaxFDs {
		return fault.New(fault.Invalid, op, "", "%d descriptors, at most %d travel in a message", len(fds), MaxFDs)
	}
	if len(payload) == 0 {
		return fault.New(fault.Invalid, op, "", "an empty message reads as the end of the connection")
	}
	release := watch(ctx, s.c.SetWriteDeadline)
	defer release()
	if _, _, err := s.c.WriteMsgUnix(payload, rights(fds), nil); err != nil {
		return sendFault(ctx, op, err)
	}
	return nil
}

// Recv receives one message into buf; the payload is a part of it. A message
// that does not fit is lost and reported as Limit, its descriptors closed. At
// the end of the connection the error is io.EOF itself.
func (s *Socket) Recv(ctx context.Context, buf []byte) (*Message, error) {
	const op = "receive message"
	release := watch(ctx, s.c.SetReadDeadline)
	defer release()
	var oob [oobLen]byte
	n, oobn, flags, _, err := s.c.ReadMsgUnix(buf, oob[:])
	m := &Message{Payload: buf[:max(n, 0)]}
	take(m, oob[:oobn], flags)
	switch {
	case err != nil:
		m.CloseFDs()
		return nil, recvFault(ctx, op, err, true)
	case n == 0:
		m.CloseFDs()
		return nil, io.EOF
	case flags&unix.MSG_TRUNC != 0:
		m.CloseFDs()
		return nil, fault.New(fault.Limit, op, "", "the message is longer than %d bytes", len(buf))
	}
	return m, nil
}

// Detach gives up the connection and returns its descriptor, which is the
// caller's and is non-blocking.
func (s *Socket) Detach() (int, error) {
	fd, err := DupFD(s.c)
	if err != nil {
		return -1, err
	}
	_ = s.c.Close()
	return fd, nil
}
