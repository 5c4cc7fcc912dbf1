package frame

import "encoding/binary"

// VnetLegacyLen is the length of a virtio-net header without num_buffers, as
// PACKET_VNET_HDR of packet(7) has it.
const VnetLegacyLen = 10

// Flags of a virtio-net header (virtio 1.2 section 5.1.6).
const (
	VnetNeedsCsum = 1 // the checksum at CsumStart+CsumOffset is to be completed
	VnetDataValid = 2 // the sender says that it checked the checksum
)

// GSO types of a virtio-net header (virtio 1.2 section 5.1.6).
const (
	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	GSOUDP   = 5    // UDP_L4: each segment is a datagram of its own
	GSOECN   = 0x80 // added to a TCP type: the first segment has CWR set
)

// Limits of a superframe. A superframe may not become more segments than
// these, so that a small GSO size cannot turn 64 KiB into tens of thousands of
// frames; the figure for UDP is Linux's own UDP_MAX_SEGMENTS. MinTCPSegment is
// the least that Linux sends (TCP_MIN_GSO_SIZE).
const (
	MaxTCPSegments = 256
	MaxUDPSegments = 128
	MinTCPSegment  = 8
)

// Vnet is a virtio-net header, virtio_net_hdr_v1. The zero Vnet is that of a
// plain frame with complete checksums. Offsets count from the Ethernet header.
type Vnet struct {
	Flags      uint8
	GSOType    uint8
	HdrLen     uint16 // Ethernet to transport header of a superframe, bytes
	GSOSize    uint16 // transport payload of each segment, bytes
	CsumStart  uint16 // first byte that the checksum covers
	CsumOffset uint16 // of the checksum, after CsumStart
	NumBuffers uint16
}

// ParseVnet reads a header of VnetLen bytes, or of VnetLegacyLen when b has no
// more; ok is false for less.
func ParseVnet(b []byte) (v Vnet, ok bool) {
	if len(b) < VnetLegacyLen {
		return Vnet{}, false
	}
	v = Vnet{
		Flags: b[0], GSOType: b[1],
		HdrLen:     binary.LittleEndian.Uint16(b[2:]),
		GSOSize:    binary.LittleEndian.Uint16(b[4:]),
		CsumStart:  binary.LittleEndian.Uint16(b[6:]),
		CsumOffset: binary.LittleEndian.Uint16(b[8:]),
	}
	if len(b) >= VnetLen {
		v.NumBuffers = binary.LittleEndian.Uint16(b[10:])
	}
	return v, true
}

// Put writes the header to b: VnetLen bytes, or VnetLegacyLen when b is shorter
// than VnetLen. It panics when b is shorter still.
func (v Vnet) Put(b []byte) {
	_ = b[VnetLegacyLen-1]
	b[0], b[1] = v.Flags, v.GSOType
	binary.LittleEndian.PutUint16(b[2:], v.HdrLen)
	binary.LittleEndian.PutUint16(b[4:], v.GSOSize)
	binary.LittleEndian.PutUint16(b[6:], v.CsumStart)
	binary.LittleEndian.PutUint16(b[8:], v.CsumOffset)
	if len(b) >= VnetLen {
		binary.LittleEndian.PutUint16(b[10:], v.NumBuffers)
	}
}

// Check judges a header that came with the frame p, and derives one anew from
// the frame: nothing of the sender's goes on but the wish for a checksum and
// the size of segments.
//
// Refused are unknown flags and types; a checksum that is not the one of the
// frame's own TCP or UDP header; a GSO type for another protocol, without a
// checksum to complete, for a fragment, or with bytes beyond the packet, which
// a kernel would send as payload; a GSO size without type or the other way
// round, or one that makes too many segments. VnetDataValid is known and
// dropped: the receiver checks for itself. HdrLen and NumBuffers are hints that
// kernels leave unset, so they are not judged; the header returned has HdrLen
// for a superframe and 0 otherwise, and NumBuffers 0. A superframe whose payload
// fits one segment becomes a plain frame.
func (v Vnet) Check(p *Packet) (Vnet, bool) {
	if v.Flags&^(VnetNeedsCsum|VnetDataValid) != 0 || (v.GSOType == GSONone) != (v.GSOSize == 0) {
		return Vnet{}, false
	}
	if v.Flags&VnetNeedsCsum == 0 {
		return Vnet{}, v.GSOType == GSONone
	}
	if p.L4 == 0 || p.Fragment != Whole || int(v.CsumStart) != p.L4 || int(v.CsumOffset) != p.csumOffset() {
		return Vnet{}, false
	}
	out := Vnet{Flags: VnetNeedsCsum, CsumStart: v.CsumStart, CsumOffset: v.CsumOffset}
	if v.GSOType == GSONone {
		return out, true
	}
	header, most, ok := p.gsoHeader(v)
	if !ok {
		return Vnet{}, false
	}
	payload := p.End - header
	if payload <= int(v.GSOSize) {
		return out, true
	}
	if payload > most*int(v.GSOSize) {
		return Vnet{}, false
	}
	out.GSOType, out.GSOSize, out.HdrLen = v.GSOType, v.GSOSize, uint16(header)
	return out, true
}

// csumOffset gives where the transport header keeps its checksum, -1 for a
// protocol whose checksum is not ours to complete.
func (p *Packet) csumOffset() int {
	switch {
	case p.L4 == 0 || p.Type != TypeIPv4 && p.Type != TypeIPv6:
		return -1
	case p.Proto == ProtoTCP:
		return 16
	case p.Proto == ProtoUDP:
		return 6
	}
	return -1
}

// gsoHeader gives the length of the headers of a superframe and the most
// segments that it may become; ok is false when v is not a GSO header for p,
// which has a transport header.
func (p *Packet) gsoHeader(v Vnet) (length, most int, ok bool) {
	switch v.GSOType &^ GSOECN {
	case GSOTCPv4:
		ok = p.Type == TypeIPv4 && p.Proto == ProtoTCP && v.GSOSize >= MinTCPSegment
	case GSOTCPv6:
		ok = p.Type == TypeIPv6 && p.Proto == ProtoTCP && v.GSOSize >= MinTCPSegment
	case GSOUDP:
		// The datagram must fill the packet: what lies behind it would become segments.
		ok = v.GSOType == GSOUDP && p.Proto == ProtoUDP &&
			int(binary.BigEndian.Uint16(p.Frame[p.L4+4:])) == p.End-p.L4
	}
	if !ok || p.End != len(p.Frame) {
		return 0, 0, false
	}
	if p.Proto == ProtoUDP {
		return p.L4 + udpLen, MaxUDPSegments, true
	}
	return p.L4 + int(p.Frame[p.L4+12]>>4)*4, MaxTCPSegments, true
}

// IsSuper says whether the header is that of a superframe.
func (v Vnet) IsSuper() bool { return v.GSOType != GSONone }

// PacketLen gives the length in bytes of the largest network packet that p
// puts on a wire, to be held against an MTU: of one segment for a superframe
// whose header v came from Check, otherwise of the packet itself without
// padding. 0 for a runt.
func (v Vnet) PacketLen(p *Packet) int {
	if v.IsSuper() && p.L3 > 0 {
		return int(v.HdrLen) + int(v.GSOSize) - p.L3
	}
	return max(0, p.End-EthernetLen-tagLen*int(p.Tags))
}
