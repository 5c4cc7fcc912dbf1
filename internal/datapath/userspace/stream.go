package userspace

import (
	"encoding/binary"
	"io"
	"sync"
	"syscall"

	"brane/frame"
	"brane/internal/fault"
	"brane/internal/linux/rawio"
	"brane/internal/verdict"
)

// The form of QEMU's -netdev stream: each frame after its length, 4 bytes big-endian.
const (
	prefixLen   = 4
	maxStream   = 4096 + 65536 // the longest frame that QEMU makes (NET_BUFSIZE)
	streamLimit = 128 << 10    // bytes that wait for a slow reader
	// Frames are read behind so much room that a virtio-net header fits before
	// the first: for the others the bytes before are spent already.
	streamRoom = frame.VnetLen - prefixLen
)

// takeStream reads and takes frames until the batch is full or nothing is left, which it tells.
func (e *endpoint) takeStream() bool {
	p := &e.partial
	if p.buf == nil {
		p.buf = e.s.buffers.get()
	}
	drained := false
	for frames := 0; frames < batch && !drained && e.cause == nil; frames += 1 + e.lane.work {
		n, errno := rawio.RecvStream(e.fd, p.buf[streamRoom+p.have:])
		switch {
		case errno == syscall.EAGAIN:
			drained = true
		case errno == syscall.EINTR:
		case errno != 0:
			e.cause = errno
		case n == 0:
			e.cause = io.EOF
		default:
			p.have += n
			e.takeFrames()
		}
	}
	if p.have == 0 {
		e.s.buffers.put(p.buf)
		p.buf = nil
	}
	return drained
}

// takeFrames takes all whole frames from the buffer and moves the rest to its start.
func (e *endpoint) takeFrames() {
	buf, l := e.partial.buf, &e.lane
	at, end := streamRoom, streamRoom+e.partial.have
	for end-at >= prefixLen {
		n := int(binary.BigEndian.Uint32(buf[at:]))
		if n > maxStream {
			e.cause = fault.New(fault.Invalid, "read stream", e.port.network.name,
				"port %d announced a frame of %d bytes, at most %d are possible", e.port.id, n, maxStream)
			e.partial.have = 0
			return
		}
		if end-at-prefixLen < n {
			break
		}
		at += prefixLen
		clear(buf[at-frame.VnetLen : at])
		l.receive(e.port, buf[at-frame.VnetLen:at+n])
		at += n
		if l.work >= batch {
			l.leave()
			l.enter()
		}
	}
	e.partial.have = copy(buf[streamRoom:], buf[at:end])
}

// stream is the writing side of a stream socket. Frames of a batch are written
// together at its end; what the reader does not take waits, within a limit, for
// a goroutine that lives until the backlog is gone.
type stream struct {
	end     *endpoint
	mu      sync.Mutex // last in order; never held while waiting
	out     []byte     // not yet written
	queued  bool       // in a lane's list, to be flushed
	blocked bool       // the reader is slow, drain is at work
}

// add appends one frame.
func (st *stream) add(l *lane, b []byte) verdict.Reason {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.out)+prefixLen+len(b) > streamLimit {
		if !st.blocked {
			st.send()
		}
		if len(st.out)+prefixLen+len(b) > streamLimit {
			return verdict.QueueFull
		}
	}
	if st.out == nil {
		st.out = st.end.s.backlogs.get()
	}
	st.out = binary.BigEndian.AppendUint32(st.out, uint32(len(b)))
	st.out = append(st.out, b...)
	if !st.queued && !st.blocked {
		st.queued = true
		l.full = append(l.full, st)
	}
	return verdict.Delivered
}

// flush writes what a batch left.
func (st *stream) flush() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.queued = false
	if !st.blocked {
		st.send()
	}
}

// send writes what it can; when the reader is slow it leaves the rest to drain.
func (st *stream) send() {
	if !st.write() {
		st.blocked = true
		st.end.s.running.Go(st.drain)
	}
}

// write writes until nothing is left or the socket takes no more, then false.
func (st *stream) write() bool {
	done := 0
	for done < len(st.out) {
		n, errno := rawio.Send(st.end.fd, st.out[done:])
		if errno == syscall.EAGAIN {
			st.out = st.out[:copy(st.out, st.out[done:])]
			return false
		}
		if errno != 0 && errno != syscall.EINTR {
			break // the reading side finds out
		}
		done += max(n, 0)
	}
	if st.out != nil {
		st.end.s.backlogs.put(st.out)
		st.out = nil
	}
	return true
}

// drain waits for the reader, as long as anything is left for it.
func (st *stream) drain() {
	err := st.end.raw.Write(func(uintptr) bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		if !st.write() {
			return false
		}
		st.blocked = false
		return true
	})
	if err != nil { // closed: blocked stays, so that nothing is added any more
		st.mu.Lock()
		defer st.mu.Unlock()
		st.out = nil
	}
}

// backlogs lends the buffers of streams.
type backlogs struct{ pool sync.Pool }

func (b *backlogs) get() []byte {
	if x, ok := b.pool.Get().(*[streamLimit]byte); ok {
		return x[:0]
	}
	return new([streamLimit]byte)[:0]
}

func (b *backlogs) put(x []byte) { b.pool.Put((*[streamLimit]byte)(x[:streamLimit])) }
