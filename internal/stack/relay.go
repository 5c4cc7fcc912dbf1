package stack

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// relay carries one TCP connection between a guest and a host socket, each way
// in a goroutine. An end of stream is passed on as one (half-close), a reset as
// a reset. A buffer is held only while there are bytes in it.
type relay struct {
	g                *Gateway
	source           netip.Addr // the guest's, charged
	host             *net.TCPConn
	ep               tcpip.Endpoint
	wq               waiter.Queue
	sendBuf, recvBuf int // charged

	once   sync.Once
	halves atomic.Int32 // still running
}

// run carries the connection until both ways have ended. The connection must
// have been charged to source; run gives it back.
func (r *relay) run() {
	r.tune(r.g.policy.Load())
	r.halves.Store(2)
	r.g.mu.Lock()
	closing := r.g.closing
	r.g.relays[r] = struct{}{}
	r.g.mu.Unlock()
	if closing || !r.g.begin(r.inward) {
		r.abort()
		r.end()
	}
	r.outward()
}

// abort resets both ends. It may be called at any time, from anywhere.
func (r *relay) abort() {
	r.once.Do(func() {
		r.host.SetLinger(0)
		r.host.Close()
		r.ep.Abort()
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

// outward carries what the guest sends to the host socket.
func (r *relay) outward() {
	defer r.end()
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp | waiter.EventRdHUp)
	r.wq.EventRegister(&entry)
	defer r.wq.EventUnregister(&entry)
	for {
		err := r.outwardOnce()
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			<-ready
		case *tcpip.ErrClosedForReceive:
			r.host.CloseWrite()
			return
		default:
			r.abort()
			return
		}
	}
}

// outwardOnce copies out of the stack before it writes: a write from within the
// endpoint's lock would stop the processing of what arrives meanwhile.
func (r *relay) outwardOnce() tcpip.Error {
	b := r.g.bufs.get()
	defer r.g.bufs.put(b)
	w := tcpip.SliceWriter(b[:])
	res, err := r.ep.Read(&w, tcpip.ReadOptions{})
	if err != nil {
		return err
	}
	if _, err := r.host.Write(b[:res.Count]); err != nil {
		return &tcpip.ErrConnectionAborted{}
	}
	return nil
}

// inward carries what the host socket gives to the guest.
func (r *relay) inward() {
	defer r.end()
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	r.wq.EventRegister(&entry)
	defer r.wq.EventUnregister(&entry)
	rc, err := r.host.SyscallConn()
	if err != nil {
		r.abort()
		return
	}
	var result error
	read := func(fd uintptr) (done bool) {
		done, result = r.inwardOnce(int(fd), ready)
		return done
	}
	for {
		err := rc.Read(read)
		if err == nil {
			err = result
		}
		switch err {
		case nil:
		case io.EOF:
			r.ep.Shutdown(tcpip.ShutdownWrite)
			return
		default:
			r.abort()
			return
		}
	}
}

// inwardOnce moves one buffer; done is false when there is nothing to read yet.
func (r *relay) inwardOnce(fd int, ready <-chan struct{}) (done bool, err error) {
	b := r.g.bufs.get()
	defer r.g.bufs.put(b)
	n, err := syscall.Read(fd, b[:])
	switch {
	case err == syscall.EAGAIN:
		return false, nil
	case err == syscall.EINTR:
		return true, nil
	case err != nil:
		return true, err
	case n == 0:
		return true, io.EOF
	}
	for rest := bytes.NewReader(b[:n]); rest.Len() > 0; {
		_, terr := r.ep.Write(rest, tcpip.WriteOptions{})
		switch terr.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			<-ready
		default:
			return true, io.ErrClosedPipe
		}
	}
	return true, nil
}
