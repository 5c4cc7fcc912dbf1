package stack

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"brane/frame"
)

// Sizes in bytes.
const (
	ipv4Len  = 20
	ipv6Len  = 40
	fragLen  = 8
	udpLen   = 8
	icmpLen  = 8
	linkLen  = frame.VnetLen + frame.EthernetLen
	headroom = linkLen + ipv6Len + fragLen // before a transport header that is being built
	maxIP    = 65535
	bufSize  = headroom + maxIP
)

// Offsets of checksums in their headers.
const (
	tcpCsumAt  = 16
	udpCsumAt  = 6
	icmpCsumAt = 2
)

// bufPool lends buffers for one superframe each.
type bufPool struct{ pool sync.Pool }

func (p *bufPool) get() *[bufSize]byte {
	if b, ok := p.pool.Get().(*[bufSize]byte); ok {
		return b
	}
	return new([bufSize]byte)
}

func (p *bufPool) put(b *[bufSize]byte) { p.pool.Put(b) }

// datagram describes the network header before a transport header and its payload.
type datagram struct {
	mac      frame.MAC // destination
	src, dst netip.Addr
	proto    uint8
	ttl      uint8
	csumAt   int // of the transport checksum, from the transport header
}

// pseudo is the sum of the pseudo-header for n transport bytes (RFC 9293
// section 3.1, RFC 8200 section 8.1), not complemented; ICMPv4 has none.
func (d *datagram) pseudo(n int) uint16 {
	if d.proto == frame.ProtoICMP {
		return 0
	}
	var b [40]byte
	at := 0
	if d.src.Is4() {
		s, t := d.src.As4(), d.dst.As4()
		copy(b[:4], s[:])
		copy(b[4:8], t[:])
		at = 8
	} else {
		s, t := d.src.As16(), d.dst.As16()
		copy(b[:16], s[:])
		copy(b[16:32], t[:])
		at = 32
	}
	binary.BigEndian.PutUint32(b[at:], uint32(n))
	b[at+7] = d.proto
	return checksum.Checksum(b[:at+8], 0)
}

// complete writes the transport checksum over t.
func (d *datagram) complete(t []byte) {
	t[d.csumAt], t[d.csumAt+1] = 0, 0
	sum := ^checksum.Checksum(t, d.pseudo(len(t)))
	if sum == 0 && d.proto == frame.ProtoUDP {
		sum = 0xffff // RFC 768: zero means none
	}
	binary.BigEndian.PutUint16(t[d.csumAt:], sum)
}

// putIP writes the network header that ends at b[at] for n bytes after it and
// returns its first byte's index. frag is the fragment field of IPv4, flags included.
func (d *datagram) putIP(b []byte, at, n int, id, frag uint16) int {
	if d.src.Is4() {
		at -= ipv4Len
		h := b[at : at+ipv4Len]
		clear(h)
		h[0], h[8], h[9] = 0x45, d.ttl, d.proto
		binary.BigEndian.PutUint16(h[2:], uint16(ipv4Len+n))
		binary.BigEndian.PutUint16(h[4:], id)
		binary.BigEndian.PutUint16(h[6:], frag)
		s, t := d.src.As4(), d.dst.As4()
		copy(h[12:], s[:])
		copy(h[16:], t[:])
		binary.BigEndian.PutUint16(h[10:], ^checksum.Checksum(h, 0))
		return at
	}
	at -= ipv6Len
	h := b[at : at+ipv6Len]
	clear(h[:8])
	h[0], h[6], h[7] = 0x60, d.proto, d.ttl
	binary.BigEndian.PutUint16(h[4:], uint16(n))
	s, t := d.src.As16(), d.dst.As16()
	copy(h[8:], s[:])
	copy(h[24:], t[:])
	return at
}

// putLink writes the Ethernet and virtio-net headers that end at b[at].
func putLink(b []byte, at int, dst, src frame.MAC, is4 bool, v frame.Vnet) int {
	at -= frame.EthernetLen
	copy(b[at:], dst[:])
	copy(b[at+6:], src[:])
	kind := uint16(frame.TypeIPv6)
	if is4 {
		kind = frame.TypeIPv4
	}
	binary.BigEndian.PutUint16(b[at+12:], kind)
	at -= frame.VnetLen
	v.Put(b[at : at+frame.VnetLen])
	return at
}

const dontFragment, moreFragments = 0x4000, 0x2000

// build makes a frame of the n transport bytes at b[headroom] and hands it to
// send; what exceeds the MTU goes as fragments. A UDP checksum is left partial
// for the receiver, which mostly never looks.
func (g *Gateway) build(b *[bufSize]byte, n int, d *datagram, send func(key frame.MAC, buf []byte)) {
	p := g.policy.Load()
	t := b[headroom : headroom+n]
	header := ipv6Len
	if d.src.Is4() {
		header = ipv4Len
	}
	if header+n > p.MTU {
		d.complete(t)
		g.fragments(p, t, d, send)
		return
	}
	var v frame.Vnet
	if d.proto == frame.ProtoUDP {
		binary.BigEndian.PutUint16(t[d.csumAt:], d.pseudo(n))
		v = frame.Vnet{Flags: frame.VnetNeedsCsum, CsumStart: uint16(frame.EthernetLen + header), CsumOffset: uint16(d.csumAt)}
	} else {
		d.complete(t)
	}
	at := d.putIP(b[:], headroom, n, 0, dontFragment)
	at = putLink(b[:], at, d.mac, p.MAC, d.src.Is4(), v)
	send(d.mac, b[at:headroom+n])
}

// fragments sends the transport bytes t in pieces that fit the MTU.
func (g *Gateway) fragments(p *policy, t []byte, d *datagram, send func(key frame.MAC, buf []byte)) {
	id := g.ipID.Add(1)
	b := g.bufs.get()
	defer g.bufs.put(b)
	is4 := d.src.Is4()
	each := p.MTU - ipv4Len
	if !is4 {
		each = p.MTU - ipv6Len - fragLen
	}
	each &^= 7
	for off := 0; off < len(t); off += each {
		n := min(each, len(t)-off)
		copy(b[headroom:], t[off:off+n])
		more := off+n < len(t)
		at := headroom
		if is4 {
			f := uint16(off / 8)
			if more {
				f |= moreFragments
			}
			at = d.putIP(b[:], at, n, uint16(id), f)
		} else {
			at = d.putFragment6(b[:], off, n, more, id)
		}
		at = putLink(b[:], at, d.mac, p.MAC, is4, frame.Vnet{})
		send(d.mac, b[at:headroom+n])
	}
}

// putFragment6 writes an IPv6 header and a fragment header (RFC 8200 section
// 4.5) that end at b[headroom].
func (d *datagram) putFragment6(b []byte, off, n int, more bool, id uint32) int {
	h := b[headroom-fragLen : headroom]
	h[0], h[1] = d.proto, 0
	f := uint16(off)
	if more {
		f |= 1
	}
	binary.BigEndian.PutUint16(h[2:], f)
	binary.BigEndian.PutUint32(h[4:], id)
	outer := *d
	outer.proto = frame.ProtoFragment
	return outer.putIP(b, headroom-fragLen, n+fragLen, 0, 0)
}
