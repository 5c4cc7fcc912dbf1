// Package frame has views over the bytes of an Ethernet frame: one canonical
// parse that every judge of a frame shares, the virtio-net header that travels
// before it, checksums, segmentation, and replies that refuse. Nothing here
// allocates on the forwarding path.
package frame

import "net/netip"

// MAC is an Ethernet address.
type MAC [6]byte

// Sizes in bytes.
const (
	EthernetLen = 14    // destination, source, EtherType
	VnetLen     = 12    // virtio_net_hdr_v1, virtio 1.2 section 5.1.6
	MaxFrame    = 65550 // the largest superframe: 65,535 bytes of IP and an Ethernet header, rounded up
	MaxTags     = 2     // VLAN tags that the parser walks over
	MaxExt      = 8     // IPv6 extension headers that the parser walks over
	MaxExtLen   = 256   // and their total length
)

// EtherTypes.
const (
	TypeIPv4 = 0x0800
	TypeARP  = 0x0806
	TypeIPv6 = 0x86dd
)

// Fragment says which part of a datagram the frame carries.
type Fragment uint8

// The kinds of fragment. An atomic IPv6 fragment (offset 0, no more) counts as First.
const (
	Whole Fragment = iota
	First
	Later
)

// Fault says why the parse stopped before the transport header.
type Fault uint8

// The faults.
const (
	OK         Fault = iota
	Runt             // no whole Ethernet header
	Truncated        // a header is cut off by the end of the frame
	BadLength        // a length field contradicts the frame (IP total length, IHL, ARP sizes, version nibble)
	ChainLimit       // more IPv6 extension headers than MaxExt or MaxExtLen
)

// Packet is the canonical parse of one frame: offsets into it, no copies.
// All offsets count from the first byte of the Ethernet header; 0 means absent.
// It is reused from frame to frame; Parse sets every field.
type Packet struct {
	Frame    []byte // Ethernet header first; no virtio-net header, no FCS
	Dst, Src MAC
	Type     uint16 // EtherType after the tags; 0 for LLC (802.3 length field)
	Tags     uint8  // VLAN tags found, at most MaxTags+1 (then Type is the tag's own)
	LLC      bool   // 802.3: a length where the EtherType would be
	Routed   bool   // a source route: IPv4 option, or IPv6 routing header with segments left; DstIP is not the last hop
	Fault    Fault
	Fragment Fragment
	Proto    uint8    // upper-layer protocol of an IP packet; in IPv6 the header at which the walk stopped: for a Later fragment what it claims, after a Fault perhaps an extension header
	Ext      uint8    // IPv6 extension headers walked
	L3       int      // network header, whole without options and of the version that Type says
	L4       int      // transport header; 0 for a Later fragment, after a Fault, for IPv6 without a next header
	End      int      // end of the network datagram: Ethernet padding lies beyond
	SrcIP    [16]byte // IPv6, or IPv4 in the first 4 bytes; valid by Type and L3
	DstIP    [16]byte
}

// Source and Destination give the network addresses as netip.Addr; the zero
// Addr when the frame has none.
func (p *Packet) Source() netip.Addr { return p.addr(&p.SrcIP) }

// Destination is the network destination address.
func (p *Packet) Destination() netip.Addr { return p.addr(&p.DstIP) }

func (p *Packet) addr(b *[16]byte) netip.Addr {
	switch {
	case p.L3 == 0:
		return netip.Addr{}
	case p.Type == TypeIPv4:
		return netip.AddrFrom4([4]byte(b[:4]))
	case p.Type == TypeIPv6:
		return netip.AddrFrom16(*b)
	}
	return netip.Addr{}
}
