package brane

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"

	"brane/internal/fault"
	"brane/internal/linux/unixmsg"
)

// maxMessage bounds a message between runner and first stage, in bytes.
const maxMessage = 16 << 10

// control is one end of the socket between runner and first stage.
type control struct {
	s   *unixmsg.Socket
	buf [maxMessage]byte
	fds []int // of the last message received
}

func newControl(c *net.UnixConn) *control { return &control{s: unixmsg.NewSocket(c)} }

func (c *control) send(m *message, fds ...int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(b) > maxMessage { // only a fault can be so long
		b, _ = json.Marshal(&message{Fault: fault.New(m.Fault.Kind, "run", "", "%.200s", m.Fault.Detail), Status: m.Status})
	}
	return c.s.Send(context.Background(), b, fds)
}

// errEnd is the end of the conversation: the other side has gone, or executed.
var errEnd = errors.New("end of the conversation")

// receive returns the next message. Its descriptors are in c.fds until the
// next call, which closes those that were not claimed.
func (c *control) receive() (*message, error) {
	unixmsg.CloseFDs(c.claim())
	m, err := c.s.Recv(context.Background(), c.buf[:])
	if errors.Is(err, io.EOF) {
		return nil, errEnd
	}
	if err != nil {
		return nil, err
	}
	c.fds = m.FDs
	return parseMessage(m.Payload)
}

func (c *control) claim() []int {
	fds := c.fds
	c.fds = nil
	return fds
}

func parseMessage(b []byte) (*message, error) {
	var m message
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fault.New(fault.Internal, "run", "", "a message between runner and first stage: %v", err)
	}
	return &m, nil
}

func (c *control) close() {
	unixmsg.CloseFDs(c.claim())
	_ = c.s.Close()
}
