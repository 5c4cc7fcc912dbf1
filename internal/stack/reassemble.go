package stack

import (
	"container/list"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"brane/frame"
)

// Bounds of reassembly (RFC 791 section 3.2, RFC 8200 section 4.5). A source
// over its own bound loses its own oldest datagram; when all are over theirs,
// the source that holds most loses one.
const (
	fragPieces      = 128     // of one datagram
	fragPerSource   = 32      // datagrams
	fragSourceBytes = 1 << 20 // 16 whole datagrams
	fragTotalBytes  = 8 << 20
	fragTimeout     = 15 * time.Second
)

// reassembler joins fragments. It is a pure engine: time is an argument.
type reassembler struct {
	byKey   map[fragKey]*partial
	sources map[netip.Addr]*fragSource
	bytes   int
}

type fragKey struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8
}

type fragSource struct {
	partials list.List // of *partial, oldest first
	bytes    int
}

type partial struct {
	key    fragKey
	born   time.Time
	at     *list.Element
	pieces []piece // in order of offset, not overlapping
	header []byte  // link and network header of the first fragment; nil until it came
	end    int     // length of the payload; -1 until the last fragment came
	bytes  int
	broken bool // overlapped: the rest is swallowed (RFC 5722 section 4)
}

type piece struct {
	off  int
	data []byte
}

// add takes the fragment p and gives the whole datagram, as a frame without
// virtio-net header, when p was what it lacked; else nil. It keeps nothing of p.
func (r *reassembler) add(now time.Time, p *frame.Packet) []byte {
	key, off, more, body, ok := fragment(p)
	if !ok {
		return nil
	}
	if r.byKey == nil {
		r.byKey, r.sources = make(map[fragKey]*partial), make(map[netip.Addr]*fragSource)
	}
	r.expire(now, key.src)
	d := r.byKey[key]
	if d == nil {
		d = r.start(now, key)
	}
	n, ok := 0, false
	if !d.broken {
		n, ok = d.insert(off, more, body)
	}
	if !ok {
		r.spoil(d)
		return nil
	}
	if off == 0 && d.header == nil {
		d.header = append([]byte(nil), p.Frame[:p.L3+networkLen(p)]...)
		n += len(d.header)
	}
	r.charge(d, n)
	if whole := d.join(); whole != nil {
		r.drop(d)
		return whole
	}
	r.trim(key.src)
	return nil
}

// networkLen is the length of the part of the network header that every fragment has.
func networkLen(p *frame.Packet) int {
	if p.Type == frame.TypeIPv4 {
		return int(p.Frame[p.L3]&15) * 4
	}
	return ipv6Len
}

// fragment reads what p says of its place. IPv6 fragments must have the
// fragment header first: nothing sends others, and nothing else is needed.
func fragment(p *frame.Packet) (key fragKey, off int, more bool, body []byte, ok bool) {
	key = fragKey{src: p.Source(), dst: p.Destination()}
	h := p.Frame[p.L3:p.End]
	if p.Type == frame.TypeIPv4 {
		key.id, key.proto = uint32(binary.BigEndian.Uint16(h[4:])), h[9]
		f := binary.BigEndian.Uint16(h[6:])
		return key, int(f&0x1fff) * 8, f&moreFragments != 0, h[networkLen(p):], true
	}
	if h[6] != frame.ProtoFragment || len(h) < ipv6Len+fragLen {
		return key, 0, false, nil, false
	}
	e := h[ipv6Len:]
	key.id, key.proto = binary.BigEndian.Uint32(e[4:]), e[0]
	f := binary.BigEndian.Uint16(e[2:])
	return key, int(f &^ 7), f&1 != 0, e[fragLen:], true
}

func (r *reassembler) start(now time.Time, key fragKey) *partial {
	s := r.sources[key.src]
	if s == nil {
		s = &fragSource{}
		r.sources[key.src] = s
	}
	d := &partial{key: key, born: now, end: -1}
	d.at = s.partials.PushBack(d)
	r.byKey[key] = d
	return d
}

// insert puts a piece in its place and gives the bytes that it keeps: none of a
// duplicate. It is not ok when the piece contradicts the others.
func (d *partial) insert(off int, more bool, body []byte) (kept int, ok bool) {
	end := off + len(body)
	if len(body) == 0 || end > maxIP || more && len(body)%8 != 0 || len(d.pieces) == fragPieces {
		return 0, false
	}
	if !more {
		if d.end >= 0 && d.end != end {
			return 0, false
		}
		d.end = end
	}
	i, same := slices.BinarySearchFunc(d.pieces, off, func(p piece, off int) int { return p.off - off })
	if same {
		return 0, len(d.pieces[i].data) == len(body)
	}
	if i > 0 && d.pieces[i-1].off+len(d.pieces[i-1].data) > off || i < len(d.pieces) && d.pieces[i].off < end {
		return 0, false
	}
	d.pieces = slices.Insert(d.pieces, i, piece{off, append([]byte(nil), body...)})
	last := d.pieces[len(d.pieces)-1]
	return len(body), d.end < 0 || last.off+len(last.data) <= d.end
}

// join gives the whole frame when no piece is missing.
func (d *partial) join() []byte {
	if d.end < 0 || d.header == nil {
		return nil
	}
	next := 0
	for _, p := range d.pieces {
		if p.off != next {
			return nil
		}
		next += len(p.data)
	}
	if next != d.end {
		return nil
	}
	is4 := d.key.src.Is4()
	length := len(d.header) - frame.EthernetLen + next
	if !is4 {
		length = next
	}
	if length > maxIP {
		return nil
	}
	b := make([]byte, 0, len(d.header)+next)
	b = append(b, d.header...)
	for _, p := range d.pieces {
		b = append(b, p.data...)
	}
	h := b[frame.EthernetLen:len(d.header)]
	if !is4 {
		binary.BigEndian.PutUint16(h[4:], uint16(length))
		h[6] = d.key.proto
		return b
	}
	binary.BigEndian.PutUint16(h[2:], uint16(length))
	clear(h[6:8])
	clear(h[10:12])
	binary.BigEndian.PutUint16(h[10:], ^checksum.Checksum(h, 0))
	return b
}

func (r *reassembler) charge(d *partial, n int) {
	d.bytes += n
	r.sources[d.key.src].bytes += n
	r.bytes += n
}

// spoil forgets the pieces of d but not d itself, so that the rest of a bad
// datagram does not start a new one.
func (r *reassembler) spoil(d *partial) {
	r.charge(d, -d.bytes)
	d.pieces, d.header, d.broken = nil, nil, true
	r.trim(d.key.src)
}

func (r *reassembler) drop(d *partial) {
	s := r.sources[d.key.src]
	r.charge(d, -d.bytes)
	s.partials.Remove(d.at)
	delete(r.byKey, d.key)
	if s.partials.Len() == 0 {
		delete(r.sources, d.key.src)
	}
}

func (r *reassembler) oldest(src netip.Addr) *partial {
	if s := r.sources[src]; s != nil {
		return s.partials.Front().Value.(*partial)
	}
	return nil
}

// expire drops what src left unfinished. Others' leftovers stay until their
// owner sends again or the bounds need the room.
func (r *reassembler) expire(now time.Time, src netip.Addr) {
	for d := r.oldest(src); d != nil && now.Sub(d.born) > fragTimeout; d = r.oldest(src) {
		r.drop(d)
	}
}

// trim brings src, then all, back inside the bounds.
func (r *reassembler) trim(src netip.Addr) {
	for s := r.sources[src]; s != nil && (s.partials.Len() > fragPerSource || s.bytes > fragSourceBytes); s = r.sources[src] {
		r.drop(r.oldest(src))
	}
	for r.bytes > fragTotalBytes {
		var heaviest netip.Addr
		most := -1
		for a, s := range r.sources {
			if s.bytes > most {
				heaviest, most = a, s.bytes
			}
		}
		r.drop(r.oldest(heaviest))
	}
}
