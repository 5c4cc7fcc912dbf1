package filter

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"brane/frame"
	"brane/internal/verdict"
)

// The network of these tests: the port has one address of each family.
var (
	own4, own6       = ip("10.0.0.10"), ip("2001:db8::10")
	peer4, peer6     = ip("10.0.0.11"), ip("2001:db8::11")
	router4, router6 = ip("10.0.0.1"), ip("2001:db8::1")
	ownLL            = frame.EUI64(ip("fe80::"), ownMAC)
	peerLL           = frame.EUI64(ip("fe80::"), peerMAC)
	routerLL         = frame.EUI64(ip("fe80::"), routerMAC)
	zeroMAC          frame.MAC
	none4, none6     = ip("0.0.0.0"), ip("::")
	all4             = ip("255.255.255.255")
	allNodes         = ip("ff02::1")
	bound            = []netip.Prefix{netip.PrefixFrom(own4, 32), netip.PrefixFrom(own6, 128)}
)

func sendRule() Rule    { return NewCleanSend(ownMAC, bound) }
func receiveRule() Rule { return NewCleanReceive(ownMAC, routerMAC) }

func groupMAC(a netip.Addr) frame.MAC {
	b := a.As16()
	return frame.MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

func solicited(a netip.Addr) netip.Addr { return netip.AddrFrom16(solicitedNode(a)) }

// bootp is a DHCPv4 message with the given op and hardware address.
func bootp(op byte, chaddr frame.MAC) []byte {
	b := make([]byte, 300)
	b[0], b[1], b[2] = op, 1, 6
	copy(b[28:], chaddr[:])
	copy(b[236:], []byte{0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255})
	return b
}

// nd is a frame of neighbour discovery.
func nd(dstMAC, srcMAC frame.MAC, src, dst netip.Addr, hops uint8, body []byte) []byte {
	return datagram(dstMAC, srcMAC, src, dst, 58, hops, body)
}

// mld2 is a report with its hop-by-hop router alert.
func mld2(src netip.Addr) []byte {
	report := cat([]byte{143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0}, solicited(own6).AsSlice())
	return datagram(groupMAC(ip("ff02::16")), ownMAC, src, ip("ff02::16"), 0, 1, cat([]byte{58, 0, 5, 2, 0, 0, 1, 0}, report))
}

func ra() []byte { return icmp(134, 0, cat(make([]byte, 12), linkOption(1, ownMAC))) }

func with(b []byte, at int, v ...byte) []byte {
	b = slices.Clone(b)
	copy(b[at:], v)
	return b
}

// twin is a frame that one check refuses, and one that differs in that point
// alone and passes.
type twin struct {
	what      string
	bad, good []byte
	reason    verdict.Reason
}

func checkTwins(t *testing.T, r Rule, twins []twin) {
	for _, c := range twins {
		t.Run(c.what, func(t *testing.T) {
			if got := r.Judge(parsed(c.bad)); got != c.reason {
				t.Errorf("%v, want %v: %x", got, c.reason, c.bad)
			}
			if got := r.Judge(parsed(c.good)); got != verdict.Delivered {
				t.Errorf("the twin is refused: %v: %x", got, c.good)
			}
		})
	}
}

// Each check of clean is there for a frame that nothing else refuses.
func TestCleanSendReasons(t *testing.T) {
	checkTwins(t, sendRule(), linkTwins())
	checkTwins(t, sendRule(), discoveryTwins())
	checkTwins(t, sendRule(), serverTwins())
}

func udpTo(src, dst netip.Addr, sport, dport uint16, body []byte) []byte {
	return datagram(routerMAC, ownMAC, src, dst, 17, 64, udp(sport, dport, body))
}

func linkTwins() []twin {
	peerARP := arp(2, ownMAC, own4, peerMAC, peer4)
	plain4 := udpTo(own4, peer4, 1, 2, nil)
	chain := func(n int) []byte {
		f, b := extended(slices.Repeat([]uint8{60}, n), 17, udp(1, 2, nil))
		return datagram(peerMAC, ownMAC, own6, peer6, f, 64, b)
	}
	return []twin{
		{"runt", plain4[:13], plain4, verdict.Runt},
		{"source MAC", with(plain4, 6, peerMAC[:]...), plain4, verdict.SourceMAC},
		{"tag", tag(plain4, 0x8100), plain4, verdict.VLAN},
		{"priority tag", with(tag(plain4, 0x8100), 14, 0, 0), plain4, verdict.VLAN},
		{"SNAP", snap(peerMAC, ownMAC, 0x800, plain4[14:]), plain4, verdict.LLC},
		{"EtherType", with(plain4, 12, 0x88, 0xcc), plain4, verdict.EtherType},
		{"RARP", eth(allMAC, ownMAC, 0x8035, peerARP), eth(allMAC, ownMAC, 0x806, peerARP), verdict.EtherType},
		{"source IPv4", udpTo(peer4, router4, 1, 2, nil), plain4, verdict.SourceIP},
		{"no source IPv4", udpTo(none4, all4, 1, 2, nil), udpTo(own4, all4, 1, 2, nil), verdict.SourceIP},
		{"DHCP from no address to one", udpTo(none4, router4, 68, 67, bootp(1, ownMAC)), udpTo(none4, all4, 68, 67, bootp(1, ownMAC)), verdict.SourceIP},
		{"total length", with(plain4, 16, 0xff), plain4, verdict.Malformed},
		{"cut", datagram(peerMAC, ownMAC, own4, peer4, 17, 64, make([]byte, 7)), plain4, verdict.Undecidable},
		{"source IPv6", datagram(peerMAC, ownMAC, peer6, peer6, 17, 64, udp(1, 2, nil)), datagram(peerMAC, ownMAC, own6, peer6, 17, 64, udp(1, 2, nil)), verdict.SourceIP},
		{"another's link-local", datagram(peerMAC, ownMAC, peerLL, peer6, 17, 64, udp(1, 2, nil)), datagram(peerMAC, ownMAC, ownLL, peer6, 17, 64, udp(1, 2, nil)), verdict.SourceIP},
		{"mapped source", datagram(peerMAC, ownMAC, ip("::ffff:10.0.0.10"), peer6, 17, 64, udp(1, 2, nil)), datagram(peerMAC, ownMAC, own6, peer6, 17, 64, udp(1, 2, nil)), verdict.SourceIP},
		{"no source IPv6", datagram(peerMAC, ownMAC, none6, peer6, 17, 64, udp(1, 2, nil)), datagram(peerMAC, ownMAC, own6, peer6, 17, 64, udp(1, 2, nil)), verdict.SourceIP},
		{"echo from no address", nd(peerMAC, ownMAC, none6, allNodes, 255, icmp(128, 0, make([]byte, 4))), nd(peerMAC, ownMAC, ownLL, allNodes, 255, icmp(128, 0, make([]byte, 4))), verdict.SourceIP},
		{"extension headers", chain(9), chain(8), verdict.Undecidable},
		{"ARP sender IP", eth(peerMAC, ownMAC, 0x806, arp(2, ownMAC, router4, peerMAC, peer4)), eth(peerMAC, ownMAC, 0x806, peerARP), verdict.ARP},
		{"ARP sender MAC", eth(peerMAC, ownMAC, 0x806, arp(2, peerMAC, own4, peerMAC, peer4)), eth(peerMAC, ownMAC, 0x806, peerARP), verdict.ARP},
		{"gratuitous ARP", eth(allMAC, ownMAC, 0x806, arp(1, ownMAC, peer4, zeroMAC, peer4)), eth(allMAC, ownMAC, 0x806, arp(1, ownMAC, own4, zeroMAC, own4)), verdict.ARP},
		{"ARP op", eth(peerMAC, ownMAC, 0x806, arp(3, ownMAC, own4, peerMAC, peer4)), eth(peerMAC, ownMAC, 0x806, peerARP), verdict.ARP},
		{"ARP probe of another's", eth(allMAC, ownMAC, 0x806, arp(1, ownMAC, none4, zeroMAC, peer4)), eth(allMAC, ownMAC, 0x806, arp(1, ownMAC, none4, zeroMAC, own4)), verdict.ARP},
		{"ARP reply of nobody", eth(allMAC, ownMAC, 0x806, arp(2, ownMAC, none4, zeroMAC, own4)), eth(allMAC, ownMAC, 0x806, arp(1, ownMAC, none4, zeroMAC, own4)), verdict.ARP},
		{"ARP sizes", with(eth(peerMAC, ownMAC, 0x806, peerARP), 18, 8), eth(peerMAC, ownMAC, 0x806, peerARP), verdict.Malformed},
	}
}

func discoveryTwins() []twin {
	ns := neighbor(135, peer6, linkOption(1, ownMAC))
	na := neighbor(136, own6, linkOption(2, ownMAC))
	dad := func(target, dst netip.Addr, options ...[]byte) []byte {
		return nd(groupMAC(dst), ownMAC, none6, dst, 255, neighbor(135, target, options...))
	}
	first, atomic := extended([]uint8{44}, 58, ns)
	return []twin{
		{"NA target", nd(peerMAC, ownMAC, own6, peer6, 255, neighbor(136, router6, linkOption(2, ownMAC))), nd(peerMAC, ownMAC, own6, peer6, 255, na), verdict.ND},
		{"NA target link", nd(peerMAC, ownMAC, own6, peer6, 255, neighbor(136, own6, linkOption(2, peerMAC))), nd(peerMAC, ownMAC, own6, peer6, 255, na), verdict.ND},
		{"NA second option", nd(peerMAC, ownMAC, own6, peer6, 255, neighbor(136, own6, linkOption(2, ownMAC), linkOption(2, peerMAC))), nd(peerMAC, ownMAC, own6, peer6, 255, neighbor(136, own6, linkOption(2, ownMAC), linkOption(2, ownMAC))), verdict.ND},
		{"NA from nobody", nd(peerMAC, ownMAC, none6, allNodes, 255, neighbor(136, own6)), nd(peerMAC, ownMAC, own6, allNodes, 255, neighbor(136, own6)), verdict.ND},
		{"hop limit", nd(peerMAC, ownMAC, own6, peer6, 254, na), nd(peerMAC, ownMAC, own6, peer6, 255, na), verdict.ND},
		{"NS source link", nd(peerMAC, ownMAC, own6, peer6, 255, neighbor(135, peer6, linkOption(1, peerMAC))), nd(peerMAC, ownMAC, own6, peer6, 255, ns), verdict.ND},
		{"NS for a group", nd(peerMAC, ownMAC, own6, peer6, 255, neighbor(135, allNodes, linkOption(1, ownMAC))), nd(peerMAC, ownMAC, own6, peer6, 255, ns), verdict.ND},
		{"RS source link", nd(peerMAC, ownMAC, ownLL, ip("ff02::2"), 255, icmp(133, 0, cat(make([]byte, 4), linkOption(1, peerMAC)))), nd(peerMAC, ownMAC, ownLL, ip("ff02::2"), 255, icmp(133, 0, cat(make([]byte, 4), linkOption(1, ownMAC)))), verdict.ND},
		{"ND option of length 0", nd(peerMAC, ownMAC, own6, peer6, 255, neighbor(135, peer6, []byte{1, 0, 0, 0, 0, 0, 0, 0})), nd(peerMAC, ownMAC, own6, peer6, 255, ns), verdict.ND},
		{"ND code", nd(peerMAC, ownMAC, own6, peer6, 255, with(ns, 1, 1)), nd(peerMAC, ownMAC, own6, peer6, 255, ns), verdict.ND},
		{"ND in an atomic fragment", datagram(peerMAC, ownMAC, own6, peer6, first, 255, atomic), nd(peerMAC, ownMAC, own6, peer6, 255, ns), verdict.ND},
		{"DAD of another's", dad(peer6, solicited(peer6)), dad(own6, solicited(own6)), verdict.ND},
		{"DAD outside its group", dad(own6, allNodes), dad(own6, solicited(own6)), verdict.ND},
		{"DAD with a link address", dad(own6, solicited(own6), linkOption(1, ownMAC)), dad(own6, solicited(own6)), verdict.ND},
		{"inverse ND", nd(peerMAC, ownMAC, own6, peer6, 255, icmp(142, 0, make([]byte, 4))), nd(peerMAC, ownMAC, own6, peer6, 255, icmp(128, 0, make([]byte, 4))), verdict.ND},
	}
}

func serverTwins() []twin {
	udp6 := func(sport, dport uint16) []byte {
		return datagram(routerMAC, ownMAC, ownLL, ip("ff02::1:2"), 17, 64, udp(sport, dport, make([]byte, 20)))
	}
	return []twin{
		{"RA", nd(groupMAC(allNodes), ownMAC, ownLL, allNodes, 255, ra()), nd(groupMAC(allNodes), ownMAC, ownLL, allNodes, 255, icmp(133, 0, cat(make([]byte, 4), linkOption(1, ownMAC)))), verdict.RouterAdvert},
		{"redirect", nd(peerMAC, ownMAC, ownLL, peer6, 255, icmp(137, 0, make([]byte, 36))), nd(peerMAC, ownMAC, ownLL, peer6, 255, icmp(128, 0, make([]byte, 36))), verdict.RouterAdvert},
		{"router renumbering", nd(peerMAC, ownMAC, ownLL, peer6, 255, icmp(138, 0, make([]byte, 36))), nd(peerMAC, ownMAC, ownLL, peer6, 255, icmp(128, 0, make([]byte, 36))), verdict.RouterAdvert},
		{"ICMP redirect", datagram(peerMAC, ownMAC, own4, peer4, 1, 64, icmp(5, 1, make([]byte, 32))), datagram(peerMAC, ownMAC, own4, peer4, 1, 64, icmp(3, 1, make([]byte, 32))), verdict.RouterAdvert},
		{"ICMP router advertisement", datagram(peerMAC, ownMAC, own4, peer4, 1, 64, icmp(9, 0, make([]byte, 12))), datagram(peerMAC, ownMAC, own4, peer4, 1, 64, icmp(8, 0, make([]byte, 12))), verdict.RouterAdvert},
		{"DHCP offer", udpTo(own4, all4, 67, 68, bootp(2, peerMAC)), udpTo(own4, all4, 1067, 1068, bootp(2, peerMAC)), verdict.DHCPServer},
		{"DHCP offer from another port", udpTo(own4, all4, 1067, 68, bootp(2, peerMAC)), udpTo(own4, all4, 1067, 1068, bootp(2, peerMAC)), verdict.DHCPServer},
		{"DHCP relay", udpTo(own4, router4, 67, 67, bootp(1, ownMAC)), udpTo(own4, router4, 68, 67, bootp(1, ownMAC)), verdict.DHCPServer},
		{"DHCP reply as a client", udpTo(own4, router4, 68, 67, bootp(2, ownMAC)), udpTo(own4, router4, 68, 67, bootp(1, ownMAC)), verdict.DHCPServer},
		{"DHCP for another", udpTo(none4, all4, 68, 67, bootp(1, peerMAC)), udpTo(none4, all4, 68, 67, bootp(1, ownMAC)), verdict.SourceMAC},
		{"DHCP hardware type", udpTo(none4, all4, 68, 67, with(bootp(1, ownMAC), 1, 6)), udpTo(none4, all4, 68, 67, bootp(1, ownMAC)), verdict.SourceMAC},
		{"DHCP from another's address", udpTo(peer4, all4, 68, 67, bootp(1, ownMAC)), udpTo(none4, all4, 68, 67, bootp(1, ownMAC)), verdict.SourceIP},
		{"DHCP from another port and no address", udpTo(none4, all4, 1068, 67, bootp(1, ownMAC)), udpTo(own4, all4, 1068, 67, bootp(1, ownMAC)), verdict.SourceIP},
		{"DHCP for another from another port", udpTo(own4, router4, 1068, 67, bootp(1, peerMAC)), udpTo(own4, router4, 1068, 67, bootp(1, ownMAC)), verdict.SourceMAC},
		{"DHCP nonsense", udpTo(own4, router4, 68, 67, nil), udpTo(own4, router4, 68, 69, nil), verdict.Malformed},
		{"short DHCP", udpTo(none4, all4, 68, 67, bootp(1, ownMAC)[:235]), udpTo(none4, all4, 68, 67, bootp(1, ownMAC)[:236]), verdict.Malformed},
		{"DHCP in fragments", eth(allMAC, ownMAC, 0x800, inet4(none4, all4, 17, 0x2000, udp(68, 67, cat(bootp(1, ownMAC), make([]byte, 4))))), eth(allMAC, ownMAC, 0x800, inet4(none4, all4, 17, 0, udp(68, 67, cat(bootp(1, ownMAC), make([]byte, 4))))), verdict.Undecidable},
		{"DHCPv6 advertise", udp6(547, 546), udp6(546, 547), verdict.DHCPServer},
		{"DHCPv6 from another port", udp6(1547, 546), udp6(1547, 547), verdict.DHCPServer},
		{"MLD from nobody to one", datagram(peerMAC, ownMAC, none6, peer6, 58, 1, icmp(143, 0, make([]byte, 4))), datagram(peerMAC, ownMAC, none6, ip("ff02::16"), 58, 1, icmp(143, 0, make([]byte, 4))), verdict.SourceIP},
		{"MLD from nobody afar", datagram(peerMAC, ownMAC, none6, ip("ff02::16"), 58, 64, icmp(143, 0, make([]byte, 4))), datagram(peerMAC, ownMAC, none6, ip("ff02::16"), 58, 1, icmp(143, 0, make([]byte, 4))), verdict.SourceIP},
	}
}

func TestCleanReceiveReasons(t *testing.T) {
	receive := receiveRule()
	from := func(m frame.MAC, b []byte) []byte { return with(b, 6, m[:]...) }
	offer := datagram(ownMAC, routerMAC, router4, own4, 17, 64, udp(67, 68, bootp(2, ownMAC)))
	offer6 := datagram(ownMAC, routerMAC, routerLL, ownLL, 17, 64, udp(547, 546, nil))
	advert := nd(groupMAC(allNodes), routerMAC, routerLL, allNodes, 255, ra())
	redirect := nd(ownMAC, routerMAC, routerLL, ownLL, 255, icmp(137, 0, make([]byte, 36)))
	redirect4 := datagram(ownMAC, routerMAC, router4, own4, 1, 64, icmp(5, 1, make([]byte, 32)))
	ns := neighbor(135, own6, linkOption(1, peerMAC))
	first, atomic := extended([]uint8{44}, 58, ns)
	plain := datagram(ownMAC, peerMAC, peer4, own4, 17, 64, udp(1, 2, nil))
	checkTwins(t, receive, []twin{
		{"runt", plain[:13], plain, verdict.Runt},
		{"another's frame", with(plain, 0, peerMAC[:]...), plain, verdict.ReceiveFilter},
		{"tag", tag(plain, 0x8100), plain, verdict.VLAN},
		{"SNAP", snap(ownMAC, peerMAC, 0x800, plain[14:]), plain, verdict.LLC},
		{"EtherType", with(plain, 12, 0x88, 0xcc), plain, verdict.EtherType},
		{"length", with(plain, 16, 0xff), plain, verdict.Malformed},
		{"RA", from(peerMAC, advert), advert, verdict.RouterAdvert},
		{"redirect", from(peerMAC, redirect), redirect, verdict.RouterAdvert},
		{"ICMP redirect", from(peerMAC, redirect4), redirect4, verdict.RouterAdvert},
		{"DHCP", from(peerMAC, offer), offer, verdict.DHCPServer},
		{"DHCPv6", from(peerMAC, offer6), offer6, verdict.DHCPServer},
		{"DHCP from another port", datagram(ownMAC, peerMAC, peer4, own4, 17, 64, udp(5, 68, nil)), datagram(ownMAC, peerMAC, peer4, own4, 17, 64, udp(5, 69, nil)), verdict.DHCPServer},
		{"DHCPv6 from another port", datagram(ownMAC, peerMAC, peer6, own6, 17, 64, udp(5, 546, nil)), datagram(ownMAC, peerMAC, peer6, own6, 17, 64, udp(5, 547, nil)), verdict.DHCPServer},
		{"DHCPv6 to another port", datagram(ownMAC, peerMAC, peer6, own6, 17, 64, udp(547, 5, nil)), datagram(ownMAC, peerMAC, peer6, own6, 17, 64, udp(546, 5, nil)), verdict.DHCPServer},
		{"NS from afar", nd(ownMAC, peerMAC, peer6, own6, 64, ns), nd(ownMAC, peerMAC, peer6, own6, 255, ns), verdict.ND},
		{"NS in a fragment", datagram(ownMAC, peerMAC, peer6, own6, first, 255, atomic), nd(ownMAC, peerMAC, peer6, own6, 255, ns), verdict.ND},
		{"cut", plain[:30], plain, verdict.Undecidable},
	})
	if got := NewCleanReceive(ownMAC, zeroMAC).Judge(parsed(from(zeroMAC, advert))); got != verdict.RouterAdvert {
		t.Errorf("without a router, an advertisement from the zero address: %v", got)
	}
}

// attack is an IP or ARP packet that clean must refuse however it is wrapped.
type attack struct {
	what  string
	src   frame.MAC
	kind  uint16 // EtherType
	inner []byte
	// upper-layer part of an IPv6 attack, to be put behind extension headers
	proto uint8
	from  netip.Addr
	to    netip.Addr
	upper []byte
	hops  uint8
}

func attacks() (out []attack) {
	add := func(what string, a netip.Addr, to netip.Addr, proto, hops uint8, upper []byte) {
		out = append(out, attack{what, ownMAC, etherTypeOf(a), inet(a, to, proto, hops, upper), proto, a, to, upper, hops})
	}
	addARP := func(what string, op uint16, sha frame.MAC, spa, tpa netip.Addr) {
		out = append(out, attack{what: what, src: ownMAC, kind: 0x806, inner: arp(op, sha, spa, peerMAC, tpa)})
	}
	for _, victim := range []netip.Addr{peer4, router4, ip("192.0.2.1"), ip("127.0.0.1"), all4} {
		add("source "+victim.String(), victim, peer4, 17, 64, udp(1, 2, nil))
		add("source TCP "+victim.String(), victim, peer4, 6, 64, tcp(1, 2, 2, nil))
		add("source ICMP "+victim.String(), victim, peer4, 1, 64, icmp(8, 0, make([]byte, 8)))
		addARP("ARP reply "+victim.String(), 2, ownMAC, victim, peer4)
		addARP("ARP request "+victim.String(), 1, ownMAC, victim, peer4)
		addARP("gratuitous "+victim.String(), 1, ownMAC, victim, victim)
		addARP("ARP sender "+victim.String(), 2, peerMAC, victim, peer4)
	}
	addARP("ARP another's MAC", 2, peerMAC, own4, peer4)
	for _, victim := range []netip.Addr{peer6, router6, peerLL, routerLL, ip("::1"), ip("::ffff:10.0.0.10"), ip("fe80::1"), allNodes} {
		add("source "+victim.String(), victim, peer6, 17, 64, udp(1, 2, nil))
		add("source TCP "+victim.String(), victim, peer6, 6, 64, tcp(1, 2, 2, nil))
		add("NA target "+victim.String(), own6, peer6, 58, 255, neighbor(136, victim, linkOption(2, ownMAC)))
		add("NA all "+victim.String(), ownLL, allNodes, 58, 255, neighbor(136, victim, linkOption(2, ownMAC)))
		add("NA for its own "+victim.String(), victim, allNodes, 58, 255, neighbor(136, victim, linkOption(2, ownMAC)))
		if !victim.IsMulticast() {
			add("DAD "+victim.String(), none6, solicited(victim), 58, 255, neighbor(135, victim))
		}
	}
	add("NA link", own6, peer6, 58, 255, neighbor(136, own6, linkOption(2, peerMAC)))
	add("NS link", own6, peer6, 58, 255, neighbor(135, peer6, linkOption(1, peerMAC)))
	add("NS hops", own6, peer6, 58, 64, neighbor(135, peer6, linkOption(1, ownMAC)))
	for _, src := range []netip.Addr{ownLL, own6, routerLL, none6} {
		add("RA "+src.String(), src, allNodes, 58, 255, ra())
		add("RA unicast "+src.String(), src, peerLL, 58, 255, ra())
		add("redirect "+src.String(), src, peerLL, 58, 255, icmp(137, 0, make([]byte, 36)))
		add("DHCPv6 "+src.String(), src, peerLL, 17, 64, udp(547, 546, make([]byte, 30)))
		add("DHCPv6 port "+src.String(), src, peerLL, 17, 64, udp(5, 546, make([]byte, 30)))
	}
	for _, src := range []netip.Addr{own4, router4, none4} {
		add("DHCP "+src.String(), src, all4, 17, 64, udp(67, 68, bootp(2, peerMAC)))
		add("DHCP port "+src.String(), src, all4, 17, 64, udp(5, 68, bootp(2, peerMAC)))
		add("DHCP relay "+src.String(), src, all4, 17, 64, udp(67, 67, bootp(1, peerMAC)))
		add("DHCP starve "+src.String(), src, all4, 17, 64, udp(68, 67, bootp(1, peerMAC)))
		add("ICMP redirect "+src.String(), src, peer4, 1, 64, icmp(5, 1, make([]byte, 32)))
	}
	add("MAC", own4, peer4, 17, 64, udp(1, 2, nil))
	out[len(out)-1].src = peerMAC
	return out
}

// wraps gives the frames that carry an attack: tags, 802.3, padding, wrong
// lengths, extension headers, fragments.
func (a *attack) wraps() map[string][]byte {
	out := map[string][]byte{}
	for name, dst := range map[string]frame.MAC{"unicast": peerMAC, "broadcast": allMAC, "group": {0x33, 0x33, 0, 0, 0, 1}} {
		plain := eth(dst, a.src, a.kind, a.inner)
		out[name] = plain
		out[name+" padded"] = cat(plain, make([]byte, 46))
		for _, t := range []uint16{0x8100, 0x88a8, 0x9100} {
			for n := 1; n <= 4; n++ {
				out[fmt.Sprint(name, " ", n, " tags ", t)] = tag(plain, slices.Repeat([]uint16{t}, n)...)
			}
			out[fmt.Sprint(name, " priority tag ", t)] = with(tag(plain, t), 14, 0xe0, 0)
		}
		out[name+" QinQ"] = tag(plain, 0x88a8, 0x8100)
		out[name+" SNAP"] = snap(dst, a.src, a.kind, a.inner)
		out[name+" tagged SNAP"] = tag(snap(dst, a.src, a.kind, a.inner), 0x8100)
		for _, n := range []uint16{0, 1, 46, 1500, 1535} {
			out[fmt.Sprint(name, " SNAP of length ", n)] = with(snap(dst, a.src, a.kind, a.inner), 12, byte(n>>8), byte(n))
			out[fmt.Sprint(name, " 802.3 of length ", n)] = eth(dst, a.src, n, a.inner)
		}
	}
	if a.upper != nil && a.from.Is6() {
		a.chains(out)
	}
	if a.upper != nil && a.from.Is4() {
		more := cat(a.upper, make([]byte, 7-(len(a.upper)+7)%8))
		out["first fragment"] = eth(peerMAC, a.src, a.kind, inet4(a.from, a.to, a.proto, 0x2000, more))
		out["tiny fragment"] = eth(peerMAC, a.src, a.kind, inet4(a.from, a.to, a.proto, 0x2000, a.upper[:8]))
		options := slices.Clone(a.inner)
		options = cat(options[:20], []byte{1, 1, 1, 0}, options[20:])
		options[0] = 0x46
		binary.BigEndian.PutUint16(options[2:], uint16(len(options)))
		out["IP options"] = eth(peerMAC, a.src, a.kind, options)
	}
	return out
}

func (a *attack) chains(out map[string][]byte) {
	for _, kinds := range [][]uint8{{0}, {60}, {43}, {44}, {51}, {0, 60}, {60, 44}, {44, 60}, {0, 43, 60, 44}, {44, 44}, slices.Repeat([]uint8{60}, 8), slices.Repeat([]uint8{60}, 9), slices.Repeat([]uint8{0}, 30)} {
		first, payload := extended(kinds, a.proto, a.upper)
		b := datagram(peerMAC, a.src, a.from, a.to, first, a.hops, payload)
		out[fmt.Sprint("behind ", kinds)] = b
		out[fmt.Sprint("tagged, behind ", kinds)] = tag(b, 0x8100)
		out[fmt.Sprint("cut, behind ", kinds)] = b[:len(b)-len(a.upper)]
	}
	more := cat(a.upper, make([]byte, 7-(len(a.upper)+7)%8))
	out["first fragment"] = datagram(peerMAC, a.src, a.from, a.to, 44, a.hops, fragment6(a.proto, 0, true, more))
	// The upper-layer header begins in the second fragment only (RFC 7112).
	out["headers in a fragment"] = datagram(peerMAC, a.src, a.from, a.to, 44, a.hops, fragment6(60, 0, true, []byte{a.proto, 1, 1, 4, 0, 0, 0, 0}))
}

func TestCleanEvasionMatrix(t *testing.T) {
	send, receive := sendRule(), NewCleanReceive(peerMAC, routerMAC)
	frames := 0
	for _, a := range attacks() {
		for how, b := range a.wraps() {
			frames++
			if got := send.Judge(parsed(b)); got == verdict.Delivered {
				t.Errorf("%s, %s passes: %x", a.what, how, b)
			}
		}
	}
	// What no receiver can check is the sender's address; the rest it refuses too.
	for _, b := range [][]byte{
		tag(eth(peerMAC, ownMAC, 0x86dd, nil), 0x8100), nd(peerMAC, ownMAC, ownLL, allNodes, 255, ra()),
		datagram(peerMAC, ownMAC, own4, peer4, 17, 64, udp(67, 68, bootp(2, peerMAC))),
	} {
		if receive.Judge(parsed(b)) == verdict.Delivered {
			t.Errorf("the receiver takes %x", b)
		}
	}
	t.Logf("%d frames", frames)
	if frames < 2000 {
		t.Errorf("only %d frames", frames)
	}
}

// legal gives what an honest client sends.
func legal() (out [][]byte) {
	send := func(src, dst netip.Addr, proto, hops uint8, upper []byte) {
		m := peerMAC
		if dst.IsMulticast() || dst == all4 {
			m = allMAC
		}
		b := datagram(m, ownMAC, src, dst, proto, hops, upper)
		out = append(out, b, cat(b, make([]byte, 9)))
	}
	pairs := [][2]netip.Addr{{own4, peer4}, {own4, ip("192.0.2.7")}, {own4, all4}, {own4, ip("224.0.0.251")}, {own6, peer6}, {ownLL, routerLL}, {own6, ip("ff02::fb")}, {ownLL, ip("2600::1")}}
	for _, p := range pairs {
		for size := 0; size <= 1400; size += 100 {
			send(p[0], p[1], 17, 64, udp(uint16(1024+size), 53, make([]byte, size)))
			send(p[0], p[1], 6, 64, tcp(uint16(1024+size), 443, frame.ACK, make([]byte, size)))
		}
		for _, proto := range []uint8{2, 4, 41, 47, 50, 132} {
			send(p[0], p[1], proto, 64, make([]byte, 40))
		}
		kind := uint8(8)
		if p[0].Is6() {
			kind = 128
		}
		proto := map[uint8]uint8{8: 1, 128: 58}[kind]
		for size := 4; size < 1400; size += 200 {
			send(p[0], p[1], proto, 64, icmp(kind, 0, make([]byte, size)))
		}
	}
	for _, frag := range []uint16{0x2000, 0x2001, 1, 100, 0x20b9} {
		out = append(out, eth(peerMAC, ownMAC, 0x800, inet4(own4, peer4, 17, frag, udp(5, 6, make([]byte, 16)))))
		out = append(out, datagram(peerMAC, ownMAC, own6, peer6, 44, 64, fragment6(17, frag&0x1fff<<3, true, udp(5, 6, make([]byte, 16)))))
	}
	for _, kinds := range [][]uint8{{60}, {0}, {44}, {0, 60}, {51}, {43, 60}} {
		first, payload := extended(kinds, 6, tcp(1, 2, 2, nil))
		out = append(out, datagram(peerMAC, ownMAC, own6, peer6, first, 64, payload))
	}
	for _, who := range []netip.Addr{peer4, router4, ip("10.0.0.200")} {
		out = append(out, eth(allMAC, ownMAC, 0x806, arp(1, ownMAC, own4, zeroMAC, who)), eth(peerMAC, ownMAC, 0x806, arp(2, ownMAC, own4, peerMAC, who)))
	}
	out = append(out, eth(allMAC, ownMAC, 0x806, arp(1, ownMAC, own4, zeroMAC, own4)), eth(allMAC, ownMAC, 0x806, arp(2, ownMAC, own4, allMAC, own4)),
		eth(allMAC, ownMAC, 0x806, arp(1, ownMAC, none4, zeroMAC, own4)))
	for _, me := range []netip.Addr{own6, ownLL} {
		out = append(out, nd(groupMAC(solicited(me)), ownMAC, none6, solicited(me), 255, neighbor(135, me)),
			nd(groupMAC(solicited(me)), ownMAC, none6, solicited(me), 255, neighbor(135, me, []byte{14, 1, 1, 2, 3, 4, 5, 6})),
			nd(groupMAC(solicited(peer6)), ownMAC, me, solicited(peer6), 255, neighbor(135, peer6, linkOption(1, ownMAC))),
			nd(peerMAC, ownMAC, me, peer6, 255, neighbor(135, peer6)), nd(peerMAC, ownMAC, me, peer6, 255, neighbor(136, me, linkOption(2, ownMAC))),
			nd(groupMAC(allNodes), ownMAC, me, allNodes, 255, neighbor(136, me, linkOption(2, ownMAC))), mld2(ownLL), mld2(none6),
			nd(groupMAC(ip("ff02::2")), ownMAC, me, ip("ff02::2"), 255, icmp(133, 0, cat(make([]byte, 4), linkOption(1, ownMAC)))),
			nd(groupMAC(ip("ff02::2")), ownMAC, none6, ip("ff02::2"), 255, icmp(133, 0, make([]byte, 4))))
	}
	return append(out, datagram(allMAC, ownMAC, none4, all4, 17, 64, udp(68, 67, bootp(1, ownMAC))),
		datagram(routerMAC, ownMAC, own4, router4, 17, 64, udp(68, 67, bootp(1, ownMAC))),
		datagram(groupMAC(ip("ff02::1:2")), ownMAC, ownLL, ip("ff02::1:2"), 17, 64, udp(546, 547, make([]byte, 60))))
}

func TestCleanLegalTraffic(t *testing.T) {
	send, frames := sendRule(), legal()
	for _, b := range frames {
		if got := send.Judge(parsed(b)); got != verdict.Delivered {
			t.Errorf("%v: %x", got, b)
		}
	}
	t.Logf("%d frames", len(frames))
	if len(frames) < 500 {
		t.Errorf("only %d frames", len(frames))
	}
	// What one sends legally, the other receives.
	for _, b := range frames {
		if p := parsed(b); !p.Dst.IsMulticast() {
			if got := NewCleanReceive(p.Dst, routerMAC).Judge(p); got != verdict.Delivered {
				t.Errorf("the receiver refuses, %v: %x", got, b)
			}
		}
	}
}

// A port without addresses can get one, and do nothing else.
func TestCleanWithoutAddresses(t *testing.T) {
	send := NewCleanSend(ownMAC, nil)
	for _, c := range []struct {
		what string
		b    []byte
		want verdict.Reason
	}{
		{"discover", datagram(allMAC, ownMAC, none4, all4, 17, 64, udp(68, 67, bootp(1, ownMAC))), verdict.Delivered},
		{"link-local NS", nd(peerMAC, ownMAC, ownLL, peerLL, 255, neighbor(135, peerLL, linkOption(1, ownMAC))), verdict.Delivered},
		{"IPv4", datagram(peerMAC, ownMAC, own4, peer4, 17, 64, udp(1, 2, nil)), verdict.SourceIP},
		{"ARP", eth(allMAC, ownMAC, 0x806, arp(1, ownMAC, own4, zeroMAC, peer4)), verdict.ARP},
		{"probe", eth(allMAC, ownMAC, 0x806, arp(1, ownMAC, none4, zeroMAC, own4)), verdict.ARP},
		{"IPv6", datagram(peerMAC, ownMAC, own6, peer6, 17, 64, udp(1, 2, nil)), verdict.SourceIP},
	} {
		if got := send.Judge(parsed(c.b)); got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}
