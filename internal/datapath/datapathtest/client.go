package datapathtest

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"brane/frame"
	"brane/internal/datapath"
	"brane/internal/plan"
)

// patience is how long a test waits for what must come. Nothing waits that
// long to see that something does not come.
const patience = 20 * time.Second

// Client is the other side of a port: what a program, a VM or the gateway is to
// its switch.
type Client struct {
	t    testing.TB
	id   plan.PortID
	kind datapath.Kind
	path datapath.Datapath
	mux  string

	conn   conn          // nil for a Local client
	link   string        // the client's interface, if it is behind one
	sent   atomic.Uint64 // frames, by a client behind an interface
	base   uint64        // verdicts on the port before this client
	reader *bufio.Reader
	sendMu sync.Mutex

	mu    sync.Mutex // guards queue, of a Local client
	queue [][]byte
	came  chan struct{}
}

// conn is what a client reads and writes.
type conn interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
}

// Dial makes a client of a kind and attaches it to its port.
func Dial(t testing.TB, d datapath.Datapath, mux string, id plan.PortID, kind datapath.Kind) *Client {
	t.Helper()
	c, e := Pair(t, kind)
	c.join(d, mux, id)
	if err := d.Attach(mux, id, e); err != nil {
		t.Fatalf("attach port %d: %v", id, err)
	}
	return c
}

// join says which port the client is going to have.
func (c *Client) join(d datapath.Datapath, mux string, id plan.PortID) {
	c.path, c.mux, c.id = d, mux, id
	c.base = c.verdicts() - c.sent.Load()
}

// Pair makes a client and the endpoint for a datapath that belongs to it. A
// Local client made this way cannot send.
func Pair(t testing.TB, kind datapath.Kind) (*Client, datapath.Endpoint) {
	t.Helper()
	c := &Client{t: t, kind: kind, came: make(chan struct{}, 1)}
	if kind == datapath.Local {
		return c, datapath.Endpoint{Kind: kind, FD: -1, Deliver: c.deliver}
	}
	if c.isInterface() {
		return c, c.pairInterface(t)
	}
	types := map[datapath.Kind]int{
		datapath.SeqPacket: syscall.SOCK_SEQPACKET, datapath.SeqVnet: syscall.SOCK_SEQPACKET,
		datapath.Stream: syscall.SOCK_STREAM, datapath.Dgram: syscall.SOCK_DGRAM,
	}
	kindOf, ok := types[kind]
	if !ok {
		t.Fatalf("no socket of kind %s", kind)
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, kindOf|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "client")
	defer f.Close()
	socket, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	c.conn = socket
	t.Cleanup(func() { _ = c.conn.Close() })
	if kind == datapath.Stream {
		c.reader = bufio.NewReaderSize(c.conn, 1<<17)
	}
	return c, datapath.Endpoint{Kind: kind, FD: fds[1]}
}

func (c *Client) deliver(b []byte) {
	c.mu.Lock()
	c.queue = append(c.queue, append([]byte(nil), b...))
	c.mu.Unlock()
	select {
	case c.came <- struct{}{}:
	default:
	}
}

// HasHeader says whether frames of the client come with a virtio-net header.
func (c *Client) HasHeader() bool {
	return c.kind == datapath.Local || c.kind == datapath.SeqVnet || c.isInterface()
}

// Send puts in an Ethernet frame with header v, which a client without headers
// leaves out. It may be called by several goroutines.
func (c *Client) Send(v frame.Vnet, b []byte) {
	c.t.Helper()
	head := make([]byte, frame.VnetLen, frame.VnetLen+len(b))
	v.Put(head)
	c.SendRaw(append(head, b...))
}

// SendRaw is Send with the header in its place before the frame.
func (c *Client) SendRaw(b []byte) {
	c.t.Helper()
	if err := c.send(b); err != nil {
		c.t.Fatalf("port %d: send: %v", c.id, err)
	}
}

// TrySend is SendRaw for goroutines other than the test's.
func (c *Client) TrySend(b []byte) error { return c.send(b) }

func (c *Client) send(b []byte) (err error) {
	switch c.kind {
	case datapath.Local:
		c.path.Send(c.mux, c.id, b)
	case datapath.SeqVnet:
		_, err = c.conn.Write(b)
	case datapath.TAP, datapath.Packet:
		return c.sendInterface(b)
	case datapath.Stream:
		b = b[min(len(b), frame.VnetLen):]
		out := append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
		c.sendMu.Lock()
		defer c.sendMu.Unlock()
		_, err = c.conn.Write(out)
	default:
		_, err = c.conn.Write(b[min(len(b), frame.VnetLen):])
	}
	return err
}

// Recv takes the next frame, with its header or the zero one, and waits for it
// as long as it takes.
func (c *Client) Recv() (frame.Vnet, []byte) {
	c.t.Helper()
	v, b, err := c.TryRecv(patience)
	if err != nil {
		c.t.Fatalf("port %d: receive: %v", c.id, err)
	}
	return v, b
}

// TryRecv is Recv for as long as it may wait.
func (c *Client) TryRecv(wait time.Duration) (v frame.Vnet, b []byte, err error) {
	switch c.kind {
	case datapath.Local:
		b, err = c.next(wait)
	case datapath.Stream:
		return frame.Vnet{}, c.nextOfStream(wait), nil
	default:
		_ = c.conn.SetReadDeadline(time.Now().Add(wait))
		b = make([]byte, 1<<17)
		var n int
		at := 0
		if c.isInterface() {
			at = frame.VnetLen - frame.VnetLegacyLen
		}
		if n, err = c.conn.Read(b[at:]); err == nil && n == 0 {
			err = io.EOF
		}
		if at > 0 {
			copy(b, b[at:frame.VnetLen])
			clear(b[frame.VnetLegacyLen:frame.VnetLen])
			n += at
		}
		b = b[:n]
	}
	if err == nil && c.HasHeader() {
		v, _ = frame.ParseVnet(b)
		b = b[frame.VnetLen:]
	}
	if err == nil && c.isInterface() { // the kernel's own form of the same header
		var p frame.Packet
		p.Parse(b)
		v, _ = v.Check(&p)
	}
	return v, b, err
}

func (c *Client) next(wait time.Duration) ([]byte, error) {
	limit := time.After(wait)
	for {
		c.mu.Lock()
		if len(c.queue) > 0 {
			b := c.queue[0]
			c.queue = c.queue[1:]
			c.mu.Unlock()
			return b, nil
		}
		c.mu.Unlock()
		select {
		case <-c.came:
		case <-limit:
			return nil, os.ErrDeadlineExceeded
		}
	}
}

func (c *Client) nextOfStream(wait time.Duration) []byte {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(wait))
	var prefix [4]byte
	if _, err := io.ReadFull(c.reader, prefix[:]); err != nil {
		c.t.Fatalf("port %d: receive: %v", c.id, err)
	}
	b := make([]byte, binary.BigEndian.Uint32(prefix[:]))
	if _, err := io.ReadFull(c.reader, b); err != nil {
		c.t.Fatalf("port %d: receive: %v", c.id, err)
	}
	return b
}

// Write writes bytes to the client's socket as they are.
func (c *Client) Write(b []byte) (int, error) { return c.conn.Write(b) }

// Leave ends a client that is not Local.
func (c *Client) Leave() {
	if c.isInterface() {
		c.unlink()
	}
	_ = c.conn.Close()
}
