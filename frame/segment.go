package frame

import "encoding/binary"

// Segment does in software what a device does that takes superframes: it cuts
// the TCP or UDP payload of p into pieces of v.GSOSize, gives each the headers
// of p with lengths, identification, sequence number, flags and checksums of
// its own, and passes them to out in order.
//
// v is a header from Check for the same frame. Segments are built one after
// another at the start of scratch, which must hold v.HdrLen+v.GSOSize bytes
// and may not overlap p.Frame; each is out's only during the call. FIN and PSH
// stay on the last segment, CWR on the first.
//
// It returns false, and has passed nothing, when v is not a superframe's header
// for p, scratch is too short, a segment would be a packet longer than mtu
// bytes, or p is Routed, so that its checksum covers an address not in sight.
func Segment(p *Packet, v Vnet, mtu int, scratch []byte, out func(seg []byte)) bool {
	if !v.IsSuper() || v.GSOSize == 0 || p.L4 == 0 || p.Fragment != Whole || p.Routed {
		return false
	}
	header, most, ok := p.gsoHeader(v)
	size := int(v.GSOSize)
	if !ok || header != int(v.HdrLen) || p.End-header > most*size ||
		header+size > len(scratch) || header+size-p.L3 > mtu {
		return false
	}
	s := segmenter{
		p: p, header: header, buf: scratch, pseudo: p.PseudoSum(0), tcp: p.Proto == ProtoTCP,
	}
	// Only the fields that differ are written again: the rest is copied once.
	copy(scratch, p.Frame[:header])
	if s.tcp {
		s.seq, s.flags = binary.BigEndian.Uint32(scratch[p.L4+4:]), scratch[p.L4+13]
	}
	if p.Type == TypeIPv4 {
		s.id = binary.BigEndian.Uint16(scratch[p.L3+4:])
	}
	for at := header; at < p.End; at += size {
		out(s.cut(at, min(at+size, p.End)))
	}
	return true
}

// segmenter is the state of one Segment call.
type segmenter struct {
	p      *Packet
	header int // Ethernet to transport header, bytes
	buf    []byte
	pseudo uint16 // pseudo-header without the length
	tcp    bool
	flags  uint8 // TCP flags of the superframe
	seq    uint32
	id     uint16 // IPv4 identification of the next segment
}

// cut builds the segment with the payload p.Frame[from:to].
func (s *segmenter) cut(from, to int) []byte {
	seg := s.buf[:s.header+to-from]
	copy(seg[s.header:], s.p.Frame[from:to])
	ip, l4 := seg[s.p.L3:], seg[s.p.L4:]
	if s.p.Type == TypeIPv4 {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		binary.BigEndian.PutUint16(ip[4:], s.id)
		s.id++
		putIPv4Sum(ip[:int(ip[0]&15)*4])
	} else {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-ipv6Len))
	}
	field := l4[6:]
	if s.tcp {
		binary.BigEndian.PutUint32(l4[4:], s.seq+uint32(from-s.header))
		flags := s.flags
		if from > s.header {
			flags &^= CWR
		}
		if to < s.p.End {
			flags &^= FIN | PSH
		}
		l4[13] = flags
		field = l4[16:]
	} else {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	}
	field[0], field[1] = 0, 0
	putSum(field, Sum(l4, fold(uint64(s.pseudo)+uint64(len(l4)))))
	return seg
}

// putIPv4Sum writes the checksum of an IPv4 header.
func putIPv4Sum(h []byte) {
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ^Sum(h, 0))
}
