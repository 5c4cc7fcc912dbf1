package stack

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"brane/frame"
)

// outFlow is a UDP or echo flow from a guest to the outside: one connected host
// socket, one goroutine that waits for what comes back. The host's kernel does
// the translation and judges which ICMP errors belong to the flow.
type outFlow struct {
	g    *Gateway
	key  flowKey
	to   netip.AddrPort // where it goes: key.dst, or the host's loopback
	mac  atomic.Uint64  // of the guest, as last seen
	file *os.File
	rc   syscall.RawConn

	mu      sync.Mutex // one sender at a time
	body    []byte     // what send writes
	sendErr error
	ttl     uint8                 // of the host socket; 0: the host's own
	writeFn func(fd uintptr) bool // write, bound once
}

// errNoPing is that the host lets this process have no ping socket.
var errNoPing = errors.New("no ping socket for this group: see net.ipv4.ping_group_range")

// dialFlow makes the host socket of a flow. It does not block: connecting a
// datagram socket only looks up a route.
func (g *Gateway) dialFlow(key flowKey, to netip.AddrPort) (*outFlow, error) {
	family, proto := syscall.AF_INET, 0
	if to.Addr().Is6() {
		family = syscall.AF_INET6
	}
	if key.proto != frame.ProtoUDP {
		proto = int(key.proto)
	}
	fd, err := syscall.Socket(family, syscall.SOCK_DGRAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, proto)
	if err != nil {
		if proto != 0 && (err == syscall.EACCES || err == syscall.EPERM) {
			err = errNoPing
		}
		return nil, err
	}
	if family == syscall.AF_INET {
		err = syscall.SetsockoptInt(fd, syscall.SOL_IP, syscall.IP_RECVERR, 1)
	} else {
		err = syscall.SetsockoptInt(fd, syscall.SOL_IPV6, syscall.IPV6_RECVERR, 1)
	}
	if err == nil {
		err = syscall.Connect(fd, sockaddr(to))
	}
	if err != nil {
		syscall.Close(fd)
		return nil, err
	}
	f := &outFlow{g: g, key: key, to: to, file: os.NewFile(uintptr(fd), "flow")}
	if f.rc, err = f.file.SyscallConn(); err != nil {
		f.file.Close()
		return nil, err
	}
	f.writeFn = f.write
	return f, nil
}

func sockaddr(a netip.AddrPort) syscall.Sockaddr {
	if a.Addr().Is4() {
		return &syscall.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &syscall.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func packMAC(m frame.MAC) uint64 {
	return uint64(binary.BigEndian.Uint16(m[:]))<<32 | uint64(binary.BigEndian.Uint32(m[2:]))
}

func unpackMAC(v uint64) (m frame.MAC) {
	binary.BigEndian.PutUint16(m[:], uint16(v>>32))
	binary.BigEndian.PutUint32(m[2:], uint32(v))
	return m
}

// plainTTL is the time to live from which the host's own default serves.
const plainTTL = 32

// send writes the pieces of body of at most size bytes each, with ttl hops to
// go. It never blocks: what the host socket does not take is dropped, as a
// router drops.
func (f *outFlow) send(body []byte, size int, ttl uint8, mac frame.MAC) error {
	f.mac.Store(packMAC(mac))
	f.mu.Lock()
	defer f.mu.Unlock()
	if ttl >= plainTTL {
		ttl = 0
	}
	if ttl != f.ttl {
		f.setTTL(ttl)
	}
	for {
		n := min(size, len(body))
		f.body = body[:n]
		err := f.rc.Write(f.writeFn)
		f.body = nil
		if err == nil {
			err = f.sendErr
		}
		if body = body[n:]; err != nil || len(body) == 0 {
			return err
		}
	}
}

// write runs inside RawConn.Write. Errors of earlier datagrams are the reader's
// to report; they only have to be taken off before the socket sends again.
func (f *outFlow) write(fd uintptr) bool {
	for range 4 {
		_, f.sendErr = syscall.Write(int(fd), f.body)
		switch f.sendErr {
		case syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EINTR, syscall.EPROTO:
			f.takeErrors(int(fd), f.g.later)
			continue
		case syscall.EAGAIN, syscall.ENOBUFS, syscall.EMSGSIZE:
			f.g.count.outDrops.Add(1)
			f.sendErr = nil
		}
		break
	}
	return true
}

func (f *outFlow) setTTL(ttl uint8) {
	f.ttl = ttl
	v := int(ttl)
	if v == 0 {
		v = -1
	}
	f.rc.Control(func(fd uintptr) {
		if f.to.Addr().Is4() {
			syscall.SetsockoptInt(int(fd), syscall.SOL_IP, syscall.IP_TTL, v)
		} else {
			syscall.SetsockoptInt(int(fd), syscall.SOL_IPV6, syscall.IPV6_UNICAST_HOPS, v)
		}
	})
}

// receive carries answers to the guest until the flow's file is closed.
func (f *outFlow) receive() {
	var last error
	err := f.rc.Read(func(fd uintptr) bool {
		var done bool
		done, last = f.readAll(int(fd))
		return done
	})
	if err == nil && last != nil {
		f.g.log.Debug("flow ended", "network", f.g.policy.Load().Name, "to", f.to, "err", last)
	}
	f.g.flows.drop(f.key, f)
	f.file.Close()
}

// readAll takes everything off the socket; done means that it will give no more.
func (f *outFlow) readAll(fd int) (done bool, err error) {
	b := f.g.bufs.get()
	defer f.g.bufs.put(b)
	at := headroom
	if f.key.proto == frame.ProtoUDP {
		at += udpLen
	}
	for failures := 0; ; {
		n, err := syscall.Read(fd, b[at:])
		switch {
		case err == nil:
			failures = 0
			f.answer(b, at-headroom+n)
		case err == syscall.EAGAIN:
			f.takeErrors(fd, f.g.now)
			return false, nil
		case err == syscall.EINTR:
		default: // an error that a datagram met; the socket goes on
			f.takeErrors(fd, f.g.now)
			if failures++; failures == 8 {
				return true, err
			}
		}
	}
}

// answer sends n transport bytes at b[headroom] back to the guest. For UDP the
// first 8 are still to be written; for echo they come with the host's identifier.
func (f *outFlow) answer(b *[bufSize]byte, n int) {
	g := f.g
	d := datagram{
		mac: unpackMAC(f.mac.Load()), src: f.key.dst.Addr(), dst: f.key.src.Addr(),
		proto: f.key.proto, ttl: 64, csumAt: icmpCsumAt,
	}
	t := b[headroom:]
	if n > maxIP-ipv6Len {
		return
	}
	if d.proto == frame.ProtoUDP {
		putUDP(t, f.key.dst.Port(), f.key.src.Port(), n)
		d.csumAt = udpCsumAt
	} else {
		if n < icmpLen || t[0] != echoReply4 && t[0] != echoReply6 {
			return
		}
		binary.BigEndian.PutUint16(t[4:], f.key.src.Port())
	}
	g.flows.get(time.Now(), f.key)
	g.build(b, n, &d, g.now)
}

func putUDP(t []byte, src, dst uint16, n int) {
	binary.BigEndian.PutUint16(t, src)
	binary.BigEndian.PutUint16(t[2:], dst)
	binary.BigEndian.PutUint16(t[4:], uint16(n))
	clear(t[6:8])
}

// Fields of struct sock_extended_err and its origins (recvmsg(2), ip(7)).
const (
	originICMP, originICMP6 = 2, 3
	extendedErrLen          = 16
)

// takeErrors reads the socket's error queue and tells the guest what is there.
func (f *outFlow) takeErrors(fd int, send func(frame.MAC, []byte)) {
	var oob [256]byte
	var data [64]byte
	for {
		n, oobn, _, _, err := syscall.Recvmsg(fd, data[:], oob[:], syscall.MSG_ERRQUEUE|syscall.MSG_DONTWAIT)
		if err != nil {
			return
		}
		msgs, err := syscall.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return
		}
		for _, m := range msgs {
			if len(m.Data) >= extendedErrLen {
				f.tell(m.Data, data[:n], send)
			}
		}
	}
}

// tell sends the guest the ICMP error that its packet met, as if from the
// router that made it.
func (f *outFlow) tell(e, body []byte, send func(frame.MAC, []byte)) {
	is4 := f.key.src.Addr().Is4()
	if is4 != (e[4] == originICMP) || !is4 && e[4] != originICMP6 {
		return
	}
	ie := icmpError{type4: e[5], code4: e[6], type6: e[5], code6: e[6], info: binary.NativeEndian.Uint32(e[8:])}
	src := f.key.dst.Addr()
	if a := offender(e[extendedErrLen:]); a.IsValid() && a != f.to.Addr() {
		if src = a; f.g.policy.Load().denied(a) {
			src, _ = f.g.policy.Load().self(f.key.src.Addr())
		}
	}
	if !src.IsValid() || src.Is4() != is4 {
		return
	}
	d := datagram{src: f.key.src.Addr(), dst: f.key.dst.Addr(), proto: f.key.proto, ttl: 1}
	b := f.g.bufs.get()
	defer f.g.bufs.put(b)
	t := b[headroom : headroom+8]
	if d.proto == frame.ProtoUDP {
		putUDP(t, f.key.src.Port(), f.key.dst.Port(), udpLen)
	} else {
		clear(t)
		copy(t, body[:min(len(body), icmpLen)])
		binary.BigEndian.PutUint16(t[4:], f.key.src.Port())
	}
	at := d.putIP(b[:], headroom, len(t), 0, dontFragment)
	f.g.sendError(src, f.key.src.Addr(), unpackMAC(f.mac.Load()), ie, b[at:headroom+len(t)], send)
}

// offender reads the socket address after a sock_extended_err.
func offender(b []byte) netip.Addr {
	switch {
	case len(b) >= 8 && binary.NativeEndian.Uint16(b) == syscall.AF_INET:
		return netip.AddrFrom4([4]byte(b[4:8]))
	case len(b) >= 24 && binary.NativeEndian.Uint16(b) == syscall.AF_INET6:
		return netip.AddrFrom16([16]byte(b[8:24]))
	}
	return netip.Addr{}
}
