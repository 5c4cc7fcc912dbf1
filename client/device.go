package client

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"path/filepath"

	"brane/internal/fault"
	"brane/internal/linux/unixmsg"
)

func newLines(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	return s
}

// Device is an open conversation on the device socket. After Open of a socket
// kind it carries frames, one a message; for the other kinds it stays open as
// long as the port lives.
type Device struct {
	Reply  OpenReply
	Files  []int // descriptors that came with the reply; the caller's
	socket *unixmsg.Socket
}

// Open sends one request on the device socket and waits for its answer. The
// descriptors stay the caller's; the daemon gets copies.
func (c *Client) Open(ctx context.Context, r OpenRequest, fds ...int) (*Device, error) {
	s, err := unixmsg.DialSocket(ctx, filepath.Join(c.dir, "device.sock"))
	if err != nil {
		return nil, fault.New(fault.Unavailable, "ask the daemon", c.dir, "%v", err).
			WithRemedy("is it running? brane daemon runs it in the foreground")
	}
	b, err := json.Marshal(r)
	if err != nil {
		_ = s.Close()
		return nil, fault.New(fault.Internal, "open device", r.Device, "%v", err)
	}
	if err := s.Send(ctx, b, fds); err != nil {
		_ = s.Close()
		return nil, err
	}
	m, err := s.Recv(ctx, make([]byte, 64<<10))
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	d := &Device{socket: s}
	if err := json.Unmarshal(m.Payload, &d.Reply); err != nil {
		m.CloseFDs()
		_ = s.Close()
		return nil, fault.New(fault.Internal, "open device", r.Device, "the daemon's answer cannot be read: %v", err)
	}
	if d.Reply.Error != nil {
		m.CloseFDs()
		_ = s.Close()
		return nil, d.Reply.Error
	}
	d.Files = m.FDs
	return d, nil
}

// Wait returns when the daemon has closed the conversation: the port is gone.
func (d *Device) Wait() {
	_, _ = d.socket.Conn().Read(make([]byte, 1))
}

// Detach gives the descriptor itself away: the port in one number.
func (d *Device) Detach() (int, error) { return d.socket.Detach() }

// Close closes the port.
func (d *Device) Close() error { return d.socket.Close() }
