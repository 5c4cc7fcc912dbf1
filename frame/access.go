package frame

import (
	"encoding/binary"
	"net/netip"
)

// TCP flags, as TCPFlags gives them (RFC 9293 section 3.1).
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// VLAN gives the identifier of the outermost tag.
func (p *Packet) VLAN() (id uint16, ok bool) {
	if p.Tags == 0 || len(p.Frame) < EthernetLen+2 {
		return 0, false
	}
	return binary.BigEndian.Uint16(p.Frame[EthernetLen:]) & 0xfff, true
}

// Ports gives the ports of TCP, UDP and SCTP.
func (p *Packet) Ports() (src, dst uint16, ok bool) {
	if p.L4 == 0 || p.Proto != ProtoTCP && p.Proto != ProtoUDP && p.Proto != ProtoSCTP {
		return 0, 0, false
	}
	h := p.Frame[p.L4:]
	return binary.BigEndian.Uint16(h), binary.BigEndian.Uint16(h[2:]), true
}

// TCPFlags gives the eight flags of a TCP header.
func (p *Packet) TCPFlags() (flags uint8, ok bool) {
	if p.L4 == 0 || p.Proto != ProtoTCP {
		return 0, false
	}
	return p.Frame[p.L4+13], true
}

// ICMP gives type and code of ICMP over IPv4 and of ICMPv6 over IPv6; either
// one over the other is no ICMP.
func (p *Packet) ICMP() (kind, code uint8, ok bool) {
	if p.L4 == 0 || (p.Type != TypeIPv4 || p.Proto != ProtoICMP) && (p.Type != TypeIPv6 || p.Proto != ProtoICMPv6) {
		return 0, 0, false
	}
	return p.Frame[p.L4], p.Frame[p.L4+1], true
}

// Payload gives what the transport header carries: the bytes after it for TCP,
// UDP (at most its own length), ICMP (after 8 bytes) and SCTP; for any other
// protocol all from L4 on. nil when L4 is absent.
func (p *Packet) Payload() []byte {
	if p.L4 == 0 {
		return nil
	}
	b := p.Frame[p.L4:p.End:p.End]
	switch p.Proto {
	case ProtoTCP:
		return b[int(b[12]>>4)*4:]
	case ProtoUDP:
		return b[udpLen:min(len(b), int(binary.BigEndian.Uint16(b[4:])))]
	case ProtoICMP, ProtoIGMP, ProtoICMPv6:
		return b[min(8, len(b)):]
	case ProtoSCTP:
		return b[12:]
	}
	return b
}

// ARP is a message of the address resolution protocol for IPv4 over Ethernet (RFC 826).
type ARP struct {
	Op                   uint16 // 1 request, 2 reply
	SenderMAC, TargetMAC MAC
	SenderIP, TargetIP   netip.Addr
}

// ARP gives the message of an ARP frame without Fault.
func (p *Packet) ARP() (ARP, bool) {
	if p.Type != TypeARP || p.L3 == 0 || p.Fault != OK {
		return ARP{}, false
	}
	h := p.Frame[p.L3 : p.L3+arpLen]
	return ARP{
		Op:        binary.BigEndian.Uint16(h[6:]),
		SenderMAC: MAC(h[8:14]), TargetMAC: MAC(h[18:24]),
		SenderIP: netip.AddrFrom4([4]byte(h[14:18])), TargetIP: netip.AddrFrom4([4]byte(h[24:28])),
	}, true
}

// Neighbour discovery: ICMPv6 types and the options that hold an Ethernet
// address (RFC 4861 section 4).
const (
	RouterSolicitation    = 133
	RouterAdvertisement   = 134
	NeighborSolicitation  = 135
	NeighborAdvertisement = 136
	Redirect              = 137

	OptSourceLinkAddr = 1
	OptTargetLinkAddr = 2
)

// MaxNDOptions is how many options of a neighbour discovery message are read.
const MaxNDOptions = 64

// ND is a message of neighbour discovery (RFC 4861 section 4).
type ND struct {
	Type        uint8
	HopLimit    uint8      // of the IPv6 header; receivers demand 255
	Target      netip.Addr // of NeighborSolicitation, NeighborAdvertisement and Redirect
	Destination netip.Addr // of Redirect
	// Malformed: shorter than its fixed part, a code other than 0, an option of
	// length 0, one over the end, more than MaxNDOptions, or a link-layer address
	// that is not Ethernet's. The other fields are then incomplete.
	Malformed bool
	options   []byte // whole options
}

// ND gives the neighbour discovery message in p; ok means that it is one, of
// whatever quality.
func (p *Packet) ND() (nd ND, ok bool) {
	kind, code, ok := p.ICMP()
	if !ok || p.Type != TypeIPv6 || kind < RouterSolicitation || kind > Redirect {
		return ND{}, false
	}
	nd = ND{Type: kind, HopLimit: p.Frame[p.L3+7]}
	fixed := [...]int{8, 16, 24, 24, 40}[kind-RouterSolicitation]
	b := p.Frame[p.L4:p.End]
	if code != 0 || len(b) < fixed {
		nd.Malformed = true
		return nd, true
	}
	if kind >= NeighborSolicitation {
		nd.Target = netip.AddrFrom16([16]byte(b[8:24]))
	}
	if kind == Redirect {
		nd.Destination = netip.AddrFrom16([16]byte(b[24:40]))
	}
	nd.options = b[fixed:]
	nd.Malformed = !validOptions(nd.options)
	return nd, true
}

func validOptions(b []byte) bool {
	for n := 0; len(b) > 0; n++ {
		if n == MaxNDOptions || len(b) < 8 || b[1] == 0 || int(b[1])*8 > len(b) {
			return false
		}
		if (b[0] == OptSourceLinkAddr || b[0] == OptTargetLinkAddr) && b[1] != 1 {
			return false
		}
		b = b[int(b[1])*8:]
	}
	return true
}

// Options yields each option's type and its bytes after type and length, in
// order; none when the message is Malformed.
func (n *ND) Options(yield func(kind uint8, value []byte) bool) {
	if n.Malformed {
		return
	}
	for b := n.options; len(b) > 0; b = b[int(b[1])*8:] {
		if !yield(b[0], b[2:int(b[1])*8]) {
			return
		}
	}
}

// LinkAddrs yields the Ethernet addresses of the source and target link-layer
// address options, in order; a message may hold several.
func (n *ND) LinkAddrs(yield func(kind uint8, addr MAC) bool) {
	for kind, v := range n.Options {
		if kind == OptSourceLinkAddr || kind == OptTargetLinkAddr {
			if !yield(kind, MAC(v[:6])) {
				return
			}
		}
	}
}
