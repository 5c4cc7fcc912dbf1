package stack

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// relay carries one TCP connection between a guest and a host socket, each way
// in a goroutine. An end of stream is passed on as one (half-close), a reset as
// a reset. What one end does not take of a stream stays in the other's own
// buffer, which is bounded and charged: there the relay peeks, and takes out what
// was taken. Small moves save that step, and hold what found no room.
type relay struct {
	g                *Gateway
	source           netip.Addr // the guest's, charged
	host             *hostConn
	ep               tcpip.Endpoint
	wq               waiter.Queue
	sendBuf, recvBuf int // charged

	once   sync.Once
	halves atomic.Int32 // still running

	// Of outward and of inward: the last move was a large one; bytes of a small
	// move that found no room, at most smallMove.
	bulkOut, bulkIn bool
	heldOut, heldIn []byte
	rest            bytes.Reader
}

// relayBuf is how many bytes move at a time: few wake-ups matter more than
// cache here. 64 KiB gives two thirds of the throughput.
const relayBuf = 512 << 10

// smallMove is the most that a relay reads without a peek.
const smallMove = 16 << 10

// relayPool lends buffers of relayBuf bytes.
type relayPool struct{ pool sync.Pool }

func (p *relayPool) get() *[relayBuf]byte {
	if b, ok := p.pool.Get().(*[relayBuf]byte); ok {
		return b
	}
	return new([relayBuf]byte)
}

func (p *relayPool) put(b *[relayBuf]byte) { p.pool.Put(b) }

// run carries the connection until both ways have ended. The connection must
// have been charged to source; run gives it back.
func (r *relay) run() {
	r.tune(r.g.policy.Load())
	r.halves.Store(2)
	r.g.mu.Lock()
	closing := r.g.closing
	if !closing {
		r.g.relays[r] = struct{}{}
	}
	r.g.mu.Unlock()
	if closing || !r.g.begin(r.inward) {
		r.abort()
		r.end()
		r.end()
		return
	}
	r.outward()
}

// watch ends both ways when the guest's end is reset: a way may be waiting for
// the host only. The notice comes under the endpoint's lock.
func (r *relay) watch() (stop func()) {
	entry := waiter.NewFunctionEntry(waiter.EventErr|waiter.EventHUp, func(waiter.EventMask) {
		r.host.SetDeadline(time.Unix(1, 0))
	})
	r.wq.EventRegister(&entry)
	return func() { r.wq.EventUnregister(&entry) }
}

// abort resets both ends. It may be called at any time, from anywhere. The
// guest's end is first: closing the host's waits for who is inside it.
func (r *relay) abort() {
	r.once.Do(func() {
		r.ep.Abort()
		r.host.reset()
	})
}

// end is called once for each way; the last one closes.
func (r *relay) end() {
	if r.halves.Add(-1) > 0 {
		return
	}
	r.host.Close()
	r.ep.Close()
	r.g.mu.Lock()
	delete(r.g.relays, r)
	r.g.mu.Unlock()
	r.g.sendBuf.give(r.source, r.sendBuf)
	r.g.recvBuf.give(r.source, r.recvBuf)
	r.g.conns.give(r.source, 1)
}

// errReset says that the guest's end was reset, or is gone.
var errReset = errors.New("reset")

// pass ends one way after err: nil or io.EOF is an end of stream.
func (r *relay) pass(err error, eof func()) {
	if err == io.EOF {
		eof()
	} else {
		r.abort()
	}
	r.end()
}

// outward carries what the guest sends to the host socket.
func (r *relay) outward() {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp | waiter.EventRdHUp)
	r.wq.EventRegister(&entry)
	defer r.wq.EventUnregister(&entry)
	var err error
	var more bool
	move := func(fd uintptr) (done bool) {
		done, more, err = r.moveOut(int(fd))
		return done
	}
	for err == nil {
		if werr := r.host.rc.Write(move); werr != nil {
			err = werr
		} else if err == nil && !more {
			<-ready
		}
	}
	r.pass(err, r.host.closeWrite)
}

// moveOut writes what the guest sent to the host. It is not done when the host
// takes nothing now; there is no more when the guest has sent nothing.
func (r *relay) moveOut(fd int) (done, more bool, err error) {
	if len(r.heldOut) > 0 {
		n, err := write(fd, r.heldOut)
		r.heldOut = r.heldOut[n:]
		return err != syscall.EAGAIN, true, notAgain(err)
	}
	if r.bulkOut {
		return r.bulkMoveOut(fd)
	}
	b := r.g.bufs.get()
	defer r.g.bufs.put(b)
	n, err := r.read(b[:smallMove], tcpip.ReadOptions{})
	if n == 0 || err != nil {
		return true, false, err
	}
	r.bulkOut = n == smallMove
	sent, err := write(fd, b[:n])
	if sent < n {
		r.heldOut = bytes.Clone(b[sent:n])
	}
	return err != syscall.EAGAIN, true, notAgain(err)
}

// bulkMoveOut leaves in the stack what the host does not take. The copy is
// cheaper than to write from within the endpoint's lock, where what arrives
// would have to wait.
func (r *relay) bulkMoveOut(fd int) (done, more bool, err error) {
	b := r.g.relayBufs.get()
	defer r.g.relayBufs.put(b)
	n, err := r.read(b[:], tcpip.ReadOptions{Peek: true})
	if n == 0 || err != nil {
		return true, false, err
	}
	r.bulkOut = n >= smallMove
	if n, err = write(fd, b[:n]); err != nil {
		return err != syscall.EAGAIN, true, notAgain(err)
	}
	taken := discard(n)
	if _, terr := r.ep.Read(&taken, tcpip.ReadOptions{}); terr != nil {
		return true, false, errReset
	}
	return true, true, nil
}

// read reads from the guest's end: no bytes when there are none now, io.EOF at
// the end of the stream.
func (r *relay) read(b []byte, o tcpip.ReadOptions) (int, error) {
	w := tcpip.SliceWriter(b)
	res, terr := r.ep.Read(&w, o)
	switch terr.(type) {
	case nil:
		return res.Count, nil
	case *tcpip.ErrWouldBlock:
		return 0, nil
	case *tcpip.ErrClosedForReceive:
		return 0, io.EOF
	}
	return 0, errReset
}

// write is write(2) without the interruptions.
func write(fd int, b []byte) (n int, err error) {
	for {
		if n, err = syscall.Write(fd, b); err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

func notAgain(err error) error {
	if err == syscall.EAGAIN {
		return nil
	}
	return err
}

// discard is a writer that takes so many bytes and keeps none.
type discard int

// Write implements io.Writer.
func (d *discard) Write(b []byte) (int, error) {
	n := min(len(b), int(*d))
	*d -= discard(n)
	if n < len(b) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// inward carries what the host socket gives to the guest.
func (r *relay) inward() {
	defer r.watch()()
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	r.wq.EventRegister(&entry)
	defer r.wq.EventUnregister(&entry)
	var err error
	var full bool
	move := func(fd uintptr) (done bool) {
		done, full, err = r.moveIn(int(fd))
		return done
	}
	for err == nil {
		if rerr := r.host.rc.Read(move); rerr != nil {
			err = rerr
		} else if err == nil && full {
			<-ready
		}
	}
	r.pass(err, func() { r.ep.Shutdown(tcpip.ShutdownWrite) })
}

// moveIn gives the guest what the host has. It is not done when the host has
// nothing now; full says that the stack takes nothing now.
func (r *relay) moveIn(fd int) (done, full bool, err error) {
	if len(r.heldIn) > 0 {
		n, full, err := r.write(r.heldIn)
		r.heldIn = r.heldIn[n:]
		return true, full, err
	}
	if r.bulkIn {
		return r.bulkMoveIn(fd)
	}
	b := r.g.bufs.get()
	defer r.g.bufs.put(b)
	n, err := receive(fd, b[:smallMove], 0)
	if err != nil {
		return err != syscall.EAGAIN, false, notAgain(err)
	}
	r.bulkIn = n == smallMove
	taken, full, err := r.write(b[:n])
	if taken < n {
		r.heldIn = bytes.Clone(b[taken:n])
	}
	return true, full, err
}

// bulkMoveIn leaves in the host's socket what the stack does not take.
func (r *relay) bulkMoveIn(fd int) (done, full bool, err error) {
	b := r.g.relayBufs.get()
	defer r.g.relayBufs.put(b)
	n, err := receive(fd, b[:], syscall.MSG_PEEK)
	if err != nil {
		return err != syscall.EAGAIN, false, notAgain(err)
	}
	r.bulkIn = n >= smallMove
	taken, full, err := r.write(b[:n])
	// For TCP, MSG_TRUNC discards without a copy: tcp(7).
	for taken > 0 && err == nil {
		n, err = receive(fd, b[:taken], syscall.MSG_TRUNC)
		taken -= n
	}
	return true, full, err
}

// write gives bytes to the guest's end and says how many it took, and whether it is full.
func (r *relay) write(b []byte) (n int, full bool, err error) {
	r.rest.Reset(b)
	m, terr := r.ep.Write(&r.rest, tcpip.WriteOptions{})
	switch terr.(type) {
	case nil:
		return int(m), int(m) < len(b), nil
	case *tcpip.ErrWouldBlock:
		return 0, true, nil
	}
	return 0, false, errReset
}

// receive is recv(2) without the interruptions, with io.EOF for the end of the stream.
func receive(fd int, b []byte, flags int) (n int, err error) {
	for {
		n, _, err = syscall.Recvfrom(fd, b, flags|syscall.MSG_DONTWAIT)
		switch {
		case err == syscall.EINTR:
			continue
		case err == nil && n == 0:
			return 0, io.EOF
		}
		return max(n, 0), err
	}
}
