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
// a reset. What one end does not take stays in the other's own buffer, which is
// bounded and charged: a relay holds bytes only while it moves them.
type relay struct {
	g                *Gateway
	source           netip.Addr // the guest's, charged
	host             *hostConn
	ep               tcpip.Endpoint
	wq               waiter.Queue
	sendBuf, recvBuf int // charged

	once   sync.Once
	halves atomic.Int32 // still running
	peeked bytes.Reader // inward's
}

// relayBuf is how many bytes move at a time: few wake-ups matter more than
// cache here. 64 KiB gives two thirds of the throughput.
const relayBuf = 512 << 10

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
		r.g.work.Add(1)
	}
	r.g.mu.Unlock()
	if closing {
		r.abort()
		r.end()
		r.end()
		return
	}
	go func() {
		defer r.g.work.Done()
		defer r.watch()()
		r.inward()
	}()
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

// moveOut copies what the guest sent, writes it to the host and takes out of
// the stack what the host took. It is not done when the host takes nothing now;
// there is no more when the guest has sent nothing. The copy is cheaper than to
// write from within the endpoint's lock, where what arrives would have to wait.
func (r *relay) moveOut(fd int) (done, more bool, err error) {
	b := r.g.relayBufs.get()
	defer r.g.relayBufs.put(b)
	w := tcpip.SliceWriter(b[:])
	res, terr := r.ep.Read(&w, tcpip.ReadOptions{Peek: true})
	switch terr.(type) {
	case nil:
	case *tcpip.ErrWouldBlock:
		return true, false, nil
	case *tcpip.ErrClosedForReceive:
		return true, false, io.EOF
	default:
		return true, false, errReset
	}
	n, err := syscall.Write(fd, b[:res.Count])
	switch err {
	case nil:
	case syscall.EAGAIN:
		return false, true, nil
	case syscall.EINTR:
		return true, true, nil
	default:
		return true, false, err
	}
	taken := discard(n)
	if _, terr := r.ep.Read(&taken, tcpip.ReadOptions{}); terr != nil {
		return true, false, errReset
	}
	return true, true, nil
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

// moveIn peeks at what the host socket has, and takes out of it what the stack
// took. It is not done when the host has nothing now; full says that the stack
// takes nothing now.
func (r *relay) moveIn(fd int) (done, full bool, err error) {
	b := r.g.relayBufs.get()
	defer r.g.relayBufs.put(b)
	n, _, err := syscall.Recvfrom(fd, b[:], syscall.MSG_PEEK)
	switch {
	case err == syscall.EAGAIN:
		return false, false, nil
	case err == syscall.EINTR:
		return true, false, nil
	case err != nil:
		return true, false, err
	case n == 0:
		return true, false, io.EOF
	}
	r.peeked.Reset(b[:n])
	taken, terr := r.ep.Write(&r.peeked, tcpip.WriteOptions{})
	switch terr.(type) {
	case nil:
	case *tcpip.ErrWouldBlock:
		return true, true, nil
	default:
		return true, false, errReset
	}
	// For TCP, MSG_TRUNC discards without a copy: tcp(7).
	for taken > 0 && err == nil {
		n, _, err = syscall.Recvfrom(fd, b[:taken], syscall.MSG_TRUNC)
		if err == syscall.EINTR {
			err = nil
			continue
		}
		taken -= int64(n)
	}
	return true, false, err
}
