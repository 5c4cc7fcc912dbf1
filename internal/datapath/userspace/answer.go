package userspace

import (
	"encoding/binary"
	"time"

	"brane/frame"
	"brane/internal/verdict"
)

// Answers to senders of refused frames, per port.
const (
	answerBurst = 100
	answerEvery = 2 * time.Millisecond
)

// reject tells the sender of the frame in hand, j, at once that it was refused.
func (l *lane) reject(j *judge) {
	if l.mayAnswer(j) {
		buf := l.s.buffers.get()
		clear(buf[:frame.VnetLen])
		l.answer(j, frame.Reject(buf[:frame.VnetLen], &l.pkt, l.pkt.Dst))
		l.s.buffers.put(buf)
	}
}

// tooBig tells the sender of the frame in hand what fits, as path MTU discovery
// wants it (RFC 1191, RFC 8201), in the name of the receiver.
func (l *lane) tooBig(j *judge, mtu int) {
	const df = 0x40
	p := &l.pkt
	ok := p.Fault == frame.OK && p.L4 > 0 && !p.Src.IsMulticast() && !p.Dst.IsMulticast() &&
		(p.Proto == frame.ProtoTCP || p.Proto == frame.ProtoUDP)
	if !ok || p.Type == frame.TypeIPv4 && p.Frame[p.L3+6]&df == 0 || !l.mayAnswer(j) {
		return
	}
	kind, code, room := uint8(3), uint8(4), 548 // 576 less two headers
	var body [4 + 1232]byte
	if p.Type == frame.TypeIPv6 {
		kind, code, room = 2, 0, 1232 // 1280 less two headers
		binary.BigEndian.PutUint32(body[:], uint32(max(mtu, 1280)))
	} else {
		binary.BigEndian.PutUint16(body[2:], uint16(mtu))
	}
	n := copy(body[4:], p.Frame[p.L3:min(p.L3+room, p.End)])
	buf := l.s.buffers.get()
	clear(buf[:frame.VnetLen])
	l.answer(j, frame.AppendICMP(buf[:frame.VnetLen], p.Dst, p.Src, p.Destination(), p.Source(), kind, code, body[:4+n]))
	l.s.buffers.put(buf)
}

// mayAnswer bounds the answers: one for a frame, so many a second for a port. A
// client in this process is not answered, since it is still inside Send; nor is
// an answer.
func (l *lane) mayAnswer(j *judge) bool {
	if l.quiet || l.reply || !j.replies.Take(l.now, answerEvery, answerBurst) {
		return false
	}
	l.reply = true
	return true
}

// answer writes a frame of our own to the client of j, or sends it down the
// way that the frame in hand came from another mux.
func (l *lane) answer(j *judge, buf []byte) {
	if len(buf) <= frame.VnetLen {
		return
	}
	if e := j.end.Load(); e != nil {
		var v frame.Vnet
		if e.write(l, buf, &v) == verdict.Delivered {
			j.to.add(verdict.Delivered, len(buf)-frame.VnetLen)
		}
		return
	}
	if peer, other := j.peer.Load(), l.s.tryBorrow(); peer != nil && other != nil {
		other.receive(peer, buf)
		other.leave()
	} else if other != nil {
		other.leave()
	}
}
