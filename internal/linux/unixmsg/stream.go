// Package unixmsg carries framed messages with descriptors over Unix sockets.
//
// Stream frames messages on a SOCK_STREAM connection: four bytes of length,
// big-endian, then the payload; descriptors travel with the first byte. Conn
// is a symmetrical remote call above a Stream, between the processes of Brane.
// Listen and Socket serve the device socket, SOCK_SEQPACKET, where the kernel
// keeps the bounds of messages.
//
// What the other side may do to us is bounded: a payload has a limit, at most
// MaxFDs descriptors are taken from a message and the kernel drops the others
// before they have a number here (unix(7), MSG_CTRUNC), every descriptor taken
// is close-on-exec and is closed unless somebody claims it.
package unixmsg

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

const (
	// MaxFDs is how many descriptors one message may carry.
	MaxFDs = 8
	// DefaultLimit is a payload's limit in bytes where the owner names none.
	DefaultLimit = 16 << 20

	headerLen = 4
	oneWrite  = 64 << 10 // up to here header and payload leave in one system call
	firstRead = 64 << 10 // a length is only a claim: memory grows as bytes come
)

// Message is one received message. Its descriptors belong to the receiver.
type Message struct {
	Payload []byte
	FDs     []int
	// Dropped tells that the sender attached more descriptors than were taken:
	// over MaxFDs, or over this process's RLIMIT_NOFILE.
	Dropped bool
}

// CloseFDs closes what is left of the message's descriptors.
func (m *Message) CloseFDs() {
	CloseFDs(m.FDs)
	m.FDs = nil
}

// CloseFDs closes descriptors; negative ones are passed over.
func CloseFDs(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// Stream is a connection that carries whole messages. Any number of goroutines
// may Send; one at a time may Recv.
type Stream struct {
	c     *net.UnixConn
	limit int
	write chan struct{} // holds one token: a lock that can be waited for with a context
}

// NewStream puts framing on a connected SOCK_STREAM socket, which it then owns.
// limit bounds a payload in bytes, both ways; 0 means DefaultLimit.
func NewStream(c *net.UnixConn, limit int) *Stream {
	if limit <= 0 {
		limit = DefaultLimit
	}
	return &Stream{c: c, limit: limit, write: make(chan struct{}, 1)}
}

// Close closes the connection; a Send or Recv under way fails.
func (s *Stream) Close() error { return s.c.Close() }

// Socket is the connection below, to ask who is at the other end. It must not
// be read or written.
func (s *Stream) Socket() *net.UnixConn { return s.c }

// Send sends one message. The descriptors stay the caller's. When the context
// ends in the middle of a message the connection is closed, because its
// framing is lost; before that, nothing was sent.
//
// Errors are of kind Invalid (too large, too many descriptors), Limit (too many
// descriptors in flight, unix(7) ETOOMANYREFS), Unavailable (closed, or time is up).
func (s *Stream) Send(ctx context.Context, payload []byte, fds []int) error {
	if len(payload) > s.limit {
		return tooLarge("send message", len(payload), s.limit)
	}
	if len(payload) > oneWrite {
		head := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
		return s.send(ctx, head, payload, fds)
	}
	frame := make([]byte, headerLen, headerLen+len(payload))
	binary.BigEndian.PutUint32(frame, uint32(len(payload)))
	return s.send(ctx, append(frame, payload...), nil, fds)
}

func tooLarge(op string, n, limit int) error {
	return fault.New(fault.Invalid, op, "", "%d bytes, the limit is %d", n, limit)
}

// send writes first with the descriptors, then rest.
func (s *Stream) send(ctx context.Context, first, rest []byte, fds []int) error {
	const op = "send message"
	if len(fds) > MaxFDs {
		return fault.New(fault.Invalid, op, "", "%d descriptors, at most %d travel in a message", len(fds), MaxFDs)
	}
	select {
	case s.write <- struct{}{}:
	case <-ctx.Done():
		return fault.New(fault.Unavailable, op, "", "%v", context.Cause(ctx))
	}
	defer func() { <-s.write }()
	release := watch(ctx, s.c.SetWriteDeadline)
	defer release()

	n, _, err := s.c.WriteMsgUnix(first, rights(fds), nil)
	if err != nil {
		return sendFault(ctx, op, err)
	}
	if n < len(first) {
		_, err = s.c.Write(first[n:])
	}
	if err == nil && len(rest) > 0 {
		_, err = s.c.Write(rest)
	}
	if err != nil {
		_ = s.c.Close() // part of the message is out: nothing behind it could be read
		return sendFault(ctx, op, err)
	}
	return nil
}

func rights(fds []int) []byte {
	if len(fds) == 0 {
		return nil
	}
	return unix.UnixRights(fds...)
}

func sendFault(ctx context.Context, op string, err error) error {
	switch {
	case ctx.Err() != nil:
		return fault.New(fault.Unavailable, op, "", "%v", context.Cause(ctx))
	case errors.Is(err, unix.ETOOMANYREFS):
		return fault.New(fault.Limit, op, "", "too many descriptors are under way: %v", err).
			WithRemedy("raise the limit of open files (ulimit -n)")
	case errors.Is(err, unix.EBADF):
		return fault.New(fault.Invalid, op, "", "a descriptor is not open: %v", err)
	case errors.Is(err, unix.EMSGSIZE):
		return fault.New(fault.Invalid, op, "", "larger than the socket's buffer: %v", err)
	}
	return fault.New(fault.Unavailable, op, "", "%v", err)
}

// watch makes a deadline of the context's end. The function returned must be
// called before the deadline's next user comes.
func watch(ctx context.Context, set func(time.Time) error) (release func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = set(time.Unix(1, 0))
		close(fired)
	})
	return func() {
		if !stop() {
			<-fired
			_ = set(time.Time{})
		}
	}
}

// Recv receives one message. At the end of the stream the error is io.EOF
// itself; otherwise as for Send, Limit meaning that the sender announced more than
// the limit. After any error but the context's before the first byte the
// connection is closed.
func (s *Stream) Recv(ctx context.Context) (*Message, error) {
	const op = "receive message"
	release := watch(ctx, s.c.SetReadDeadline)
	defer release()

	m := &Message{}
	var head [headerLen]byte
	got := 0
	for got < headerLen {
		n, err := s.recvPart(head[got:], m)
		if err != nil {
			m.CloseFDs()
			if got == 0 && ctx.Err() != nil {
				return nil, fault.New(fault.Unavailable, op, "", "%v", context.Cause(ctx))
			}
			_ = s.c.Close()
			return nil, recvFault(ctx, op, err, got == 0)
		}
		got += n
	}
	size := int(binary.BigEndian.Uint32(head[:]))
	if size > s.limit {
		m.CloseFDs()
		_ = s.c.Close()
		return nil, fault.New(fault.Limit, op, "", "%d bytes announced, the limit is %d", size, s.limit)
	}
	if err := s.recvBody(m, size); err != nil {
		m.CloseFDs()
		_ = s.c.Close()
		return nil, recvFault(ctx, op, err, false)
	}
	return m, nil
}

// recvPart reads into b and takes descriptors up to the message's bound.
func (s *Stream) recvPart(b []byte, m *Message) (int, error) {
	var oob [oobLen]byte
	n, oobn, flags, _, err := s.c.ReadMsgUnix(b, oob[:])
	take(m, oob[:oobn], flags)
	if err == nil && n == 0 {
		err = io.EOF
	}
	return n, err
}

// recvBody reads the payload. Descriptors attached further on are dropped by
// the kernel, because a plain read has no place for them.
func (s *Stream) recvBody(m *Message, size int) error {
	buf := make([]byte, min(size, firstRead))
	for got := 0; got < size; {
		n, err := io.ReadFull(s.c, buf[got:])
		got += n
		if err != nil {
			return err
		}
		if got < size {
			grown := make([]byte, min(size, 2*got))
			copy(grown, buf)
			buf = grown
		}
	}
	m.Payload = buf
	return nil
}

func recvFault(ctx context.Context, op string, err error, clean bool) error {
	switch {
	case ctx.Err() != nil:
		return fault.New(fault.Unavailable, op, "", "%v", context.Cause(ctx))
	case clean && (errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET)):
		return io.EOF
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fault.New(fault.Unavailable, op, "", "the connection ended in the middle of a message")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fault.New(fault.Unavailable, op, "", "time is up")
	}
	return fault.New(fault.Unavailable, op, "", "%v", err)
}
