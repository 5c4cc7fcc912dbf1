package filter

import (
	"encoding/binary"
	"net/netip"

	"brane/frame"
	"brane/internal/verdict"
)

// The rule clean: a port speaks with its own addresses only, and only its
// router routes and serves addresses.
//
// Each frame is judged by itself. For fragments that is enough: the bytes that
// matter stand in the first eight of the transport header, which no later
// fragment can overwrite, and a datagram whose first fragment was dropped never
// becomes whole. What must not be fragmented at all (neighbour discovery,
// RFC 6980; a client's DHCP) is dropped when it is.

// UDP ports of DHCP (RFC 2131, RFC 8415).
const (
	dhcp4Server, dhcp4Client = 67, 68
	dhcp6Server, dhcp6Client = 547, 546
)

// own is what a port may call itself.
type own struct {
	mac   frame.MAC
	addrs addrSet
}

func (o *own) has(a netip.Addr) bool {
	if a.Is4() {
		b := a.As4()
		return o.addrs.has4(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return o.addrs.has6(from6(&b))
}

type cleanSend struct{ own own }

// NewCleanSend makes the rule clean for what a port sends: it may use mac, the
// addresses in bound, and the link-local IPv6 address made from mac.
func NewCleanSend(mac frame.MAC, bound []netip.Prefix) Rule {
	ll := frame.EUI64(netip.MustParseAddr("fe80::"), mac)
	prefixes := append([]netip.Prefix{netip.PrefixFrom(ll, 128)}, bound...)
	return &cleanSend{own{mac: mac, addrs: newAddrSet(prefixes)}}
}

func (c *cleanSend) Judge(p *frame.Packet) verdict.Reason {
	switch {
	case p.Fault == frame.Runt:
		return verdict.Runt
	case p.Src != c.own.mac:
		return verdict.SourceMAC
	case p.Tags != 0:
		return verdict.VLAN
	case p.LLC:
		return verdict.LLC
	}
	switch p.Type {
	case frame.TypeIPv4:
		return c.inet4(p)
	case frame.TypeIPv6:
		return c.inet6(p)
	case frame.TypeARP:
		return c.arp(p)
	}
	return verdict.EtherType
}

// faulty is the reason for a parse that stopped.
func faulty(p *frame.Packet) verdict.Reason {
	switch p.Fault {
	case frame.OK:
		return verdict.Delivered
	case frame.BadLength:
		return verdict.Malformed
	}
	return verdict.Undecidable
}

func (c *cleanSend) inet4(p *frame.Packet) verdict.Reason {
	if p.Fault != frame.OK {
		return faulty(p)
	}
	src := binary.BigEndian.Uint32(p.SrcIP[:])
	bound := src != 0 && c.own.addrs.has4(src)
	if !bound && src != 0 {
		return verdict.SourceIP
	}
	if p.L4 != 0 {
		switch p.Proto {
		case frame.ProtoUDP:
			if serves(p) {
				return verdict.DHCPServer
			}
			if _, dport, _ := p.Ports(); dport == dhcp4Server {
				return c.dhcp4(p, bound)
			}
		case frame.ProtoICMP:
			if routes4(p) {
				return verdict.RouterAdvert
			}
		}
	}
	if !bound {
		return verdict.SourceIP
	}
	return verdict.Delivered
}

// routes4 says whether an ICMP message is a redirect or a router advertisement
// (RFC 792, RFC 1256).
func routes4(p *frame.Packet) bool {
	const redirect, advertisement = 5, 9
	kind, _, _ := p.ICMP()
	return kind == redirect || kind == advertisement
}

// dhcp4 judges a client's message: for itself, and with no source address only
// to all (RFC 2131 section 4.1).
func (c *cleanSend) dhcp4(p *frame.Packet, bound bool) verdict.Reason {
	const request, ethernet, fixed = 1, 1, 236
	sport, _, _ := p.Ports()
	b := p.Payload()
	switch {
	case !bound && (sport != dhcp4Client || binary.BigEndian.Uint32(p.DstIP[:]) != 0xffffffff):
		return verdict.SourceIP
	case p.Fragment != frame.Whole:
		return verdict.Undecidable
	case len(b) < fixed:
		return verdict.Malformed
	case b[0] != request:
		return verdict.DHCPServer
	case b[1] != ethernet || b[2] != 6 || frame.MAC(b[28:34]) != c.own.mac:
		return verdict.SourceMAC // the lease would be another's
	}
	return verdict.Delivered
}

// arp holds that the sender is the port itself. A probe, whose sender has no
// address yet, asks for an own one (RFC 5227): all others would see a conflict.
func (c *cleanSend) arp(p *frame.Packet) verdict.Reason {
	const request, reply = 1, 2
	if p.Fault != frame.OK {
		return faulty(p)
	}
	a, ok := p.ARP()
	switch {
	case !ok, a.Op != request && a.Op != reply, a.SenderMAC != c.own.mac:
		return verdict.ARP
	case a.SenderIP.IsUnspecified() && a.Op == request && c.own.has(a.TargetIP):
		return verdict.Delivered
	case a.SenderIP.IsUnspecified() || !c.own.has(a.SenderIP):
		return verdict.ARP
	}
	return verdict.Delivered
}

type cleanReceive struct{ mac, router frame.MAC }

// NewCleanReceive makes the rule clean for what a port receives. Without a
// router (the zero MAC) nobody routes and serves addresses.
func NewCleanReceive(mac, router frame.MAC) Rule { return &cleanReceive{mac, router} }

func (c *cleanReceive) Judge(p *frame.Packet) verdict.Reason {
	switch {
	case p.Fault == frame.Runt:
		return verdict.Runt
	case p.Dst != c.mac && !p.Dst.IsMulticast():
		return verdict.ReceiveFilter
	case p.Tags != 0:
		return verdict.VLAN
	case p.LLC:
		return verdict.LLC
	case p.Type != frame.TypeIPv4 && p.Type != frame.TypeIPv6 && p.Type != frame.TypeARP:
		return verdict.EtherType
	case p.Fault != frame.OK:
		return faulty(p)
	}
	// What is not there reads as 0: ports of a later fragment, the protocol of ARP.
	routed := p.Src == c.router && !c.router.IsZero()
	switch p.Proto {
	case frame.ProtoUDP:
		if !routed && serves(p) {
			return verdict.DHCPServer
		}
	case frame.ProtoICMP:
		if !routed && routes4(p) {
			return verdict.RouterAdvert
		}
	case frame.ProtoICMPv6:
		return receivedND(p, routed)
	}
	return verdict.Delivered
}

// serves says whether a UDP datagram is a DHCP server's message, as clients
// recognise it: many look at their own port only.
func serves(p *frame.Packet) bool {
	sport, dport, _ := p.Ports()
	if p.Type == frame.TypeIPv4 {
		return sport == dhcp4Server || dport == dhcp4Client
	}
	return sport == dhcp6Server || dport == dhcp6Client
}
