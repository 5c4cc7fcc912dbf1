package userspace

import (
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"brane/frame"
	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/linux/rawio"
	"brane/internal/verdict"
)

// bufferLen holds the longest frame of any kind of endpoint behind its header,
// with room for what comes after it in a stream.
const bufferLen = 72 << 10

type buffer [bufferLen]byte

// buffers are lent for the length of a batch: an idle port has none.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() *buffer {
	if x, ok := b.pool.Get().(*buffer); ok {
		return x
	}
	return new(buffer)
}

func (b *buffers) put(x *buffer) { b.pool.Put(x) }

// endpoint is a port's client.
type endpoint struct {
	kind    datapath.Kind
	fd      int
	s       *Switch
	port    *port
	file    *os.File // keeps fd on the poller; nil for a Local client
	raw     syscall.RawConn
	local   func([]byte)
	stream  *stream // of kind Stream
	lane    lane
	cause   error // why reading ended; of the port's goroutine
	ending  atomic.Bool
	broken  atomic.Bool // a write told that the client is gone
	hello   []byte      // sent before the first frame; nil when there is none
	greeted sync.Once
	partial struct { // of kind Stream: the start of a frame whose rest has not come
		buf  *buffer
		have int
	}
}

// discard closes what an endpoint that was not taken came with.
func discard(e datapath.Endpoint) {
	if e.Kind != datapath.Local && e.FD >= 0 {
		_ = syscall.Close(e.FD)
	}
}

func newEndpoint(s *Switch, p *port, d datapath.Endpoint) (*endpoint, error) {
	const op = "attach port"
	e := &endpoint{kind: d.Kind, fd: d.FD, s: s, port: p, local: d.Deliver}
	e.lane.init(s)
	switch d.Kind {
	case datapath.Local:
		if d.Deliver == nil {
			return nil, fault.New(fault.Invalid, op, p.network.name, "a local client without Deliver")
		}
		e.fd = -1
		return e, nil
	case datapath.Stream:
		e.stream = &stream{end: e}
	case datapath.TAP, datapath.Packet, datapath.SeqPacket, datapath.SeqVnet, datapath.Dgram:
	default:
		discard(d)
		return nil, fault.New(fault.Invalid, op, p.network.name, "unknown kind of endpoint %q", d.Kind)
	}
	// The poller takes a file for one that can be waited for when it is
	// non-blocking. Nothing else depends on the flag, which the client may clear.
	if err := syscall.SetNonblock(d.FD, true); err != nil {
		discard(d)
		return nil, fault.New(fault.Invalid, op, p.network.name, "descriptor: %v", err)
	}
	e.file = os.NewFile(uintptr(d.FD), string(d.Kind))
	err := e.file.SetReadDeadline(time.Time{}) // fails for what cannot be waited for
	if err == nil {
		e.raw, err = e.file.SyscallConn()
	}
	if err != nil {
		_ = e.file.Close()
		return nil, fault.New(fault.Invalid, op, p.network.name, "the descriptor cannot be waited for: %v", err)
	}
	return e, nil
}

// run reads until the client is gone.
func (e *endpoint) run() {
	defer e.s.dismiss(&e.lane)
	func() {
		defer e.recovered()
		for e.cause == nil {
			if err := e.raw.Read(e.poll); err != nil {
				e.cause = err
			}
		}
	}()
	if e.partial.buf != nil {
		e.s.buffers.put(e.partial.buf)
	}
	e.s.end(e, e.cause)
}

// recovered ends a port whose frame brought a panic: the batch is given up, the port is closed.
func (e *endpoint) recovered() {
	cause := recover()
	if cause == nil {
		return
	}
	e.s.isolated(e.port, cause)
	e.lane.full = nil
	if e.lane.state.Load()&1 == 1 {
		e.lane.state.Add(1)
	}
	e.cause = fault.New(fault.Internal, "forward frame", e.port.network.name, "port %d: %v", e.port.id, cause)
}

// end closes an endpoint whose client is gone.
func (s *Switch) end(e *endpoint, cause error) {
	if e.ending.Swap(true) {
		return // the plan ended it, or another failure came first
	}
	e.port.end.CompareAndSwap(e, nil)
	s.settle()
	_ = e.file.Close()
	if s.events.Closed != nil {
		s.events.Closed(e.port.network.name, e.port.id, cause)
	}
}

// retire ends the endpoints of ports that are no longer in a plan, after all
// batches that may know them.
func (s *Switch) retire(gone []*port) {
	var ends []*endpoint
	for _, p := range gone {
		if e := p.end.Swap(nil); e != nil && !e.ending.Swap(true) && e.file != nil {
			ends = append(ends, e)
		}
	}
	s.settle()
	for _, e := range ends {
		if e.kind == datapath.TAP {
			// The last descriptor of a TAP takes the interface down with it, for which
			// the kernel waits tens of milliseconds: nobody else should.
			s.running.Go(func() { _ = e.file.Close() })
			continue
		}
		_ = e.file.Close() // wakes its goroutine
	}
}

// poll takes one batch. It returns false when nothing is left to read.
func (e *endpoint) poll(uintptr) bool {
	l := &e.lane
	var drained bool
	if e.kind == datapath.Stream {
		l.enter()
		drained = e.takeStream()
		l.leave()
		return !drained
	}
	buf := e.s.buffers.get()
	l.enter()
	drained = e.take(buf)
	l.leave()
	e.s.buffers.put(buf)
	return !drained
}

// take reads frames until the batch is full or nothing is left, which it tells.
func (e *endpoint) take(buf *buffer) bool {
	l := &e.lane
	for l.work < batch {
		n, errno := e.read(buf)
		switch {
		case errno == syscall.EAGAIN:
			return true
		case errno == syscall.EINTR:
		case errno == syscall.ENETDOWN && e.kind == datapath.Packet:
			l.work++ // told once, when the interface goes down: it may come up again
		case errno == syscall.ENOBUFS || errno == syscall.ENOMEM:
			l.work++
		case errno != 0:
			e.cause = errno
			return false
		case n == 0: // end of file on a connection of messages
			e.cause = io.EOF
			return false
		default:
			l.receive(e.port, buf[:min(n, bufferLen)])
		}
	}
	return false
}

// read reads one frame to the start of buf, with a virtio-net header before
// it. 0 means the end; a frame longer than buf has its whole length in n.
func (e *endpoint) read(buf *buffer) (n int, errno syscall.Errno) {
	const short = frame.VnetLen - frame.VnetLegacyLen
	switch e.kind {
	case datapath.TAP:
		return rawio.Read(e.fd, buf[:])
	case datapath.SeqVnet:
		return rawio.Recv(e.fd, buf[:])
	case datapath.Packet:
		n, errno = rawio.Recv(e.fd, buf[short:])
		copy(buf[:frame.VnetLegacyLen], buf[short:])
		clear(buf[frame.VnetLegacyLen:frame.VnetLen])
		return n + short, errno
	}
	n, errno = rawio.Recv(e.fd, buf[frame.VnetLen:])
	clear(buf[:frame.VnetLen])
	if n == 0 && e.kind == datapath.SeqPacket {
		return 0, errno
	}
	return n + frame.VnetLen, errno
}

// greet tells the client that its port is there, before any frame does. A
// client that is gone already is noticed at its first read.
func (e *endpoint) greet() {
	e.greeted.Do(func() { _, _ = rawio.Send(e.fd, e.hello) })
}

// write gives the client one frame with its header v. The frame is the one in
// hand in l when v is not zero. A checksum that is completed for this client
// stays completed for those after it.
func (e *endpoint) write(l *lane, buf []byte, v *frame.Vnet) verdict.Reason {
	if e.hello != nil {
		e.greet()
	}
	var errno syscall.Errno
	switch e.kind {
	case datapath.TAP:
		_, errno = rawio.Write(e.fd, buf)
	case datapath.SeqVnet:
		_, errno = rawio.Send(e.fd, buf)
	case datapath.Local:
		e.local(buf)
		return verdict.Delivered
	case datapath.Packet:
		errno = e.writeLegacy(buf)
	default:
		return e.writePlain(l, buf, v)
	}
	return e.outcome(errno)
}

// writeLegacy writes with a header of 10 bytes, which for the time of the call
// lies where the longer one ends.
func (e *endpoint) writeLegacy(buf []byte) syscall.Errno {
	const short = frame.VnetLen - frame.VnetLegacyLen
	header := [frame.VnetLen]byte(buf)
	copy(buf[short:frame.VnetLen], header[:])
	_, errno := rawio.Send(e.fd, buf[short:])
	copy(buf, header[:])
	return errno
}

// writePlain writes without a header: segments, complete checksums.
func (e *endpoint) writePlain(l *lane, buf []byte, v *frame.Vnet) verdict.Reason {
	if v.IsSuper() {
		scratch, r := e.s.buffers.get(), verdict.Delivered
		done := frame.Segment(&l.pkt, *v, frame.MaxFrame, scratch[:], func(seg []byte) {
			if got := e.writeOne(l, seg); got != verdict.Delivered {
				r = got
			}
		})
		e.s.buffers.put(scratch)
		if !done {
			return verdict.TooBig
		}
		return r
	}
	if v.Flags&frame.VnetNeedsCsum != 0 {
		frame.Complete(&l.pkt, *v)
		*v = frame.Vnet{}
		v.Put(buf[:frame.VnetLen])
	}
	return e.writeOne(l, buf[frame.VnetLen:])
}

func (e *endpoint) writeOne(l *lane, b []byte) verdict.Reason {
	if e.stream != nil {
		return e.stream.add(l, b)
	}
	_, errno := rawio.Send(e.fd, b)
	return e.outcome(errno)
}

// outcome says what a failed write means for the frame.
func (e *endpoint) outcome(errno syscall.Errno) verdict.Reason {
	switch errno {
	case 0:
		return verdict.Delivered
	case syscall.EAGAIN, syscall.ENOBUFS, syscall.ENOMEM:
		return verdict.QueueFull
	case syscall.EMSGSIZE:
		return verdict.TooBig
	case syscall.EINVAL:
		return verdict.VnetHeader
	case syscall.ECONNREFUSED, syscall.ENXIO, syscall.ENODEV:
		// The other end of a datagram socket, or the interface of a packet socket,
		// is gone, and reading does not tell.
		if (e.kind == datapath.Dgram || e.kind == datapath.Packet) && !e.broken.Swap(true) {
			e.s.running.Go(func() { e.s.end(e, errno) })
		}
	}
	return verdict.Closed
}
