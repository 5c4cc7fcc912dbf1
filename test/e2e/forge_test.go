package e2e

import (
	be "encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"brane/frame"
)

// attack is one kind of hostile frame, and the reasons that may end it.
type attack struct {
	name    string
	reasons []string
	frames  [][]byte
}

// scene is who is on the network of the attacks.
type scene struct {
	a, v, s *tap // attacker, victim, spectator
	gw      frame.MAC
	rng     *rand.Rand
}

var (
	gw4      = netip.MustParseAddr("10.20.0.1")
	linkAll4 = netip.MustParseAddr("255.255.255.255")
	nodes6   = netip.MustParseAddr("ff02::1")
	nodesMAC = frame.MAC{0x33, 0x33, 0, 0, 0, 1}
)

func (p *tap) addr6() netip.Addr {
	for _, a := range p.reply.Addresses {
		if a.Addr().Is6() {
			return a.Addr()
		}
	}
	p.t.Fatal("no IPv6 address")
	return netip.Addr{}
}

func (p *tap) link() netip.Addr { return frame.EUI64(netip.MustParseAddr("fe80::"), p.mac()) }

// eth is an Ethernet frame of any content.
func eth(dst, src frame.MAC, kind uint16, payload ...byte) []byte {
	b := append(append([]byte{}, dst[:]...), src[:]...)
	return append(be.BigEndian.AppendUint16(b, kind), payload...)
}

// datagram is UDP with the mark of the attacks in it.
func datagram(src, dst frame.MAC, from, to netip.Addr, sport, dport uint16) []byte {
	return frame.AppendUDP(nil, src, dst, netip.AddrPortFrom(from, sport), netip.AddrPortFrom(to, dport), []byte(mark))
}

const mark = "HOSTILE"

// anyMAC is a unicast address nobody has.
func (c *scene) anyMAC() frame.MAC {
	var m frame.MAC

	r := c.rng.Uint64()
	for i := range m {
		m[i] = byte(r >> (8 * i))
	}
	m[0] &^= 1
	if m == c.a.mac() {
		m[5] ^= 1
	}
	return m
}

// any4 and any6 are addresses that the attacker does not have.
func (c *scene) any4() netip.Addr {
	for {
		var b [4]byte
		be.BigEndian.PutUint32(b[:], c.rng.Uint32())
		if a := netip.AddrFrom4(b); b[0] != 0 && a != c.a.addr4() {
			return a
		}
	}
}

func (c *scene) any6() netip.Addr {
	var b [16]byte
	be.BigEndian.PutUint64(b[:], c.rng.Uint64())
	be.BigEndian.PutUint64(b[8:], c.rng.Uint64())
	return netip.AddrFrom16(b)
}

// spoof is one frame with a source that is not the attacker's: the address of
// the link, of IPv4 or of IPv6.
func (c *scene) spoof(i int) []byte {
	switch i % 3 {
	case 0:
		return datagram(c.anyMAC(), c.v.mac(), c.a.addr4(), c.v.addr4(), 9, 9)
	case 1:
		return datagram(c.a.mac(), c.v.mac(), c.any4(), c.v.addr4(), 9, 9)
	}
	return datagram(c.a.mac(), c.v.mac(), c.any6(), c.v.addr6(), 9, 9)
}

func (c *scene) sources() []attack {
	var macs, four, six [][]byte
	for range 40 {
		macs = append(macs, datagram(c.anyMAC(), c.v.mac(), c.a.addr4(), c.v.addr4(), 9, 9))
		four = append(four, datagram(c.a.mac(), c.v.mac(), c.any4(), c.v.addr4(), 9, 9))
		six = append(six, datagram(c.a.mac(), c.v.mac(), c.any6(), c.v.addr6(), 9, 9))
	}
	for _, m := range []frame.MAC{c.v.mac(), c.s.mac(), c.gw, {}, frame.Broadcast(), nodesMAC} {
		macs = append(macs, datagram(m, c.v.mac(), c.a.addr4(), c.v.addr4(), 9, 9))
	}
	for _, a := range []netip.Addr{c.v.addr4(), c.s.addr4(), gw4, netip.IPv4Unspecified(), linkAll4} {
		four = append(four, datagram(c.a.mac(), c.v.mac(), a, c.v.addr4(), 9, 9))
	}
	for _, a := range []netip.Addr{c.v.addr6(), c.s.addr6(), c.s.link(), netip.IPv6Unspecified(), nodes6} {
		six = append(six, datagram(c.a.mac(), c.v.mac(), a, c.v.addr6(), 9, 9))
	}
	return []attack{{"source MAC", []string{"source-mac"}, macs}, {"source IPv4", []string{"source-ip"}, four}, {"source IPv6", []string{"source-ip"}, six}}
}

// arp is poison for the victim's neighbour table, gratuitous and not.
func (c *scene) arp() attack {
	a, v, all := c.a.mac(), c.v, frame.Broadcast()
	out := attack{name: "ARP poisoning", reasons: []string{"arp"}}
	add := func(dst frame.MAC, m frame.ARP) { out.frames = append(out.frames, frame.AppendARP(nil, a, dst, m)) }
	for _, ip := range []netip.Addr{gw4, c.s.addr4(), c.v.addr4(), netip.MustParseAddr("10.20.0.77")} {
		for _, op := range []uint16{1, 2} {
			add(v.mac(), frame.ARP{Op: op, SenderMAC: a, SenderIP: ip, TargetMAC: v.mac(), TargetIP: v.addr4()})
			add(all, frame.ARP{Op: op, SenderMAC: a, SenderIP: ip, TargetIP: ip}) // gratuitous
			add(all, frame.ARP{Op: op, SenderMAC: a, SenderIP: ip, TargetMAC: all, TargetIP: ip})
		}
	}
	own := c.a.addr4()
	add(v.mac(), frame.ARP{Op: 2, SenderMAC: c.s.mac(), SenderIP: own, TargetMAC: v.mac(), TargetIP: v.addr4()})
	add(v.mac(), frame.ARP{Op: 1, SenderMAC: c.s.mac(), SenderIP: c.s.addr4(), TargetIP: v.addr4()})
	add(all, frame.ARP{Op: 1, SenderMAC: a, SenderIP: netip.IPv4Unspecified(), TargetIP: v.addr4()}) // probe: "is it taken?"
	for _, op := range []uint16{0, 3, 4, 8, 9, 0xffff} {
		add(v.mac(), frame.ARP{Op: op, SenderMAC: a, SenderIP: own, TargetMAC: v.mac(), TargetIP: v.addr4()})
	}
	return out
}

// nd6 is a neighbour discovery message: target and one option.
func nd6(src, dst frame.MAC, from, to netip.Addr, kind uint8, flags uint32, target netip.Addr, option uint8, addr frame.MAC) []byte {
	t := target.As16()
	body := append(be.BigEndian.AppendUint32(nil, flags), t[:]...)
	body = append(append(body, option, 1), addr[:]...)
	return frame.AppendICMP(nil, src, dst, from, to, kind, 0, body)
}

const solicitedOverride = 0x60000000

func (c *scene) neighbours() attack {
	a, v := c.a.mac(), c.v
	own := c.a.addr6()
	out := attack{name: "ND poisoning", reasons: []string{"nd", "source-ip"}}
	add := func(b ...[]byte) { out.frames = append(out.frames, b...) }
	for _, target := range []netip.Addr{c.s.addr6(), c.s.link(), v.addr6(), netip.MustParseAddr("fd00:20::1"), netip.MustParseAddr("fe80::1")} {
		add(nd6(a, v.mac(), own, v.addr6(), 136, solicitedOverride, target, 2, a),
			nd6(a, nodesMAC, own, nodes6, 136, solicitedOverride>>1, target, 2, a),
			nd6(a, v.mac(), c.a.link(), v.link(), 136, 0xe0000000, target, 2, a),
			nd6(a, v.mac(), target, v.addr6(), 136, solicitedOverride, target, 2, a)) // from the very address
	}
	for _, m := range []frame.MAC{c.s.mac(), v.mac(), c.gw, frame.Broadcast()} {
		add(nd6(a, v.mac(), own, v.addr6(), 136, solicitedOverride, own, 2, m),
			nd6(a, v.mac(), own, v.addr6(), 136, solicitedOverride, own, 1, m),
			nd6(a, v.mac(), own, v.addr6(), 135, 0, v.addr6(), 1, m))
	}
	for _, hops := range []byte{0, 1, 64, 254} {
		b := nd6(a, v.mac(), own, v.addr6(), 136, solicitedOverride, own, 2, a)
		b[14+7] = hops
		q := nd6(a, v.mac(), own, v.addr6(), 135, 0, v.addr6(), 1, a)
		q[14+7] = hops
		add(b, q)
	}
	// "Is your address taken?", asked without an address: the victim would give it up.
	group := netip.AddrFrom16(solicited(v.addr6()))
	add(nd6(a, nodesMAC, netip.IPv6Unspecified(), group, 135, 0, v.addr6(), 14, frame.MAC{}))
	return out
}

func solicited(a netip.Addr) [16]byte {
	b := a.As16()
	return [16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]}
}

// advert is a router advertisement of a default route and a prefix.
func advert(src, dst frame.MAC, from, to netip.Addr) []byte {
	body := []byte{64, 0x08, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}
	body = append(body, 3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0)
	prefix := netip.MustParseAddr("fd66::").As16()
	body = append(append(append(append(body, prefix[:]...), 1, 1), src[:]...), mark...)
	return frame.AppendICMP(nil, src, dst, from, to, 134, 0, append(body[:len(body)-len(mark)], 5, 1, 0, 0, 0, 0, 5, 0x78))
}

func (c *scene) routers() attack {
	a, v := c.a.mac(), c.v
	out := attack{name: "rogue router", reasons: []string{"router-advert"}}
	redirected := netip.MustParseAddr("2001:db8:51::1").As16()
	hop := c.a.link().As16()
	body := append(append(make([]byte, 4), hop[:]...), redirected[:]...)
	for _, from := range []netip.Addr{c.a.link(), c.a.addr6()} {
		for _, hops := range []byte{255, 64} {
			one, all := advert(a, v.mac(), from, v.link()), advert(a, nodesMAC, from, nodes6)
			red := frame.AppendICMP(nil, a, v.mac(), from, v.addr6(), 137, 0, body)
			one[14+7], all[14+7], red[14+7] = hops, hops, hops
			out.frames = append(out.frames, one, all, red)
		}
	}
	four := append(gw4.AsSlice(), datagram(a, v.mac(), v.addr4(), netip.MustParseAddr(outsideAddr), 9, 9)[14:42]...)
	for code := range uint8(4) {
		out.frames = append(out.frames, frame.AppendICMP(nil, a, v.mac(), c.a.addr4(), v.addr4(), 5, code, four))
	}
	for _, to := range []netip.Addr{v.addr4(), netip.MustParseAddr("224.0.0.1")} {
		out.frames = append(out.frames, frame.AppendICMP(nil, a, v.mac(), c.a.addr4(), to, 9, 0, append([]byte{1, 2, 7, 8}, append(c.a.addr4().AsSlice(), 0, 0, 0, 0)...)))
	}
	return out
}

// bootp is a DHCPv4 message of a server: an offer or an acknowledgement with
// routes of its own (options 121 and 249).
func bootp(kind byte, xid uint32, chaddr frame.MAC, yours, server netip.Addr) []byte {
	b := make([]byte, 240)
	b[0], b[1], b[2] = 2, 1, 6
	be.BigEndian.PutUint32(b[4:], xid)
	b[10] = 0x80
	copy(b[16:], yours.AsSlice())
	copy(b[20:], server.AsSlice())
	copy(b[28:], chaddr[:])
	copy(b[236:], []byte{0x63, 0x82, 0x53, 0x63})
	b = append(append(b, 53, 1, kind, 54, 4), server.AsSlice()...)
	b = append(b, 51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0)
	b = append(append(b, 3, 4), server.AsSlice()...)
	for _, option := range []byte{121, 249} {
		b = append(append(b, option, 5, 0), server.AsSlice()...)
	}
	return append(b, 255)
}

func (c *scene) dhcp() attack {
	a, v := c.a.mac(), c.v
	out := attack{name: "rogue DHCP", reasons: []string{"dhcp-server"}}
	for _, kind := range []byte{2, 5, 6} {
		b := bootp(kind, 1, v.mac(), v.addr4(), c.a.addr4())
		for _, to := range []netip.Addr{v.addr4(), linkAll4} {
			for _, ports := range [][2]uint16{{67, 68}, {9, 68}, {67, 9}} {
				for _, dst := range []frame.MAC{v.mac(), frame.Broadcast()} {
					out.frames = append(out.frames, frame.AppendUDP(nil, a, dst, netip.AddrPortFrom(c.a.addr4(), ports[0]), netip.AddrPortFrom(to, ports[1]), b))
				}
			}
		}
	}
	six := []byte{2, 0, 0, 1, 0, 2, 0, 10, 0, 3, 0, 1, a[0], a[1], a[2], a[3], a[4], a[5]}
	for _, kind := range []byte{2, 7, 10} {
		six[0] = kind
		for _, ports := range [][2]uint16{{547, 546}, {9, 546}, {547, 9}} {
			out.frames = append(out.frames, frame.AppendUDP(nil, a, v.mac(), netip.AddrPortFrom(c.a.link(), ports[0]), netip.AddrPortFrom(v.link(), ports[1]), six))
		}
	}
	return out
}

// cargo is what is hidden behind tags and LLC: honest and hostile alike, as EtherType and the rest.
func (c *scene) cargo() [][]byte {
	a, v := c.a.mac(), c.v
	out := [][]byte{
		datagram(a, v.mac(), c.a.addr4(), v.addr4(), 9, 9), datagram(a, v.mac(), c.a.addr6(), v.addr6(), 9, 9),
		datagram(a, v.mac(), c.s.addr4(), v.addr4(), 9, 9), datagram(a, v.mac(), c.s.addr6(), v.addr6(), 9, 9),
		c.arp().frames[0], c.neighbours().frames[0], advert(a, nodesMAC, c.a.link(), nodes6),
	}
	d := c.dhcp().frames
	return append(out, d[0], d[len(d)-1])
}

func (c *scene) encapsulated() []attack {
	tags := attack{name: "VLAN tags", reasons: []string{"vlan", "ethertype"}}
	llc := attack{name: "LLC and SNAP", reasons: []string{"llc", "ethertype"}}
	for _, b := range c.cargo() {
		for n := 1; n <= 4; n++ {
			for _, tpid := range []uint16{0x8100, 0x88a8, 0x9100} {
				for _, tci := range []uint16{0, 0xe000, 1, 0x0fff} { // VLAN 0, priority only, 1, the last
					q := slices.Clone(b[:12])
					for range n {
						q = be.BigEndian.AppendUint16(be.BigEndian.AppendUint16(q, tpid), tci)
					}
					tags.frames = append(tags.frames, append(q, b[12:]...))
				}
			}
		}
		snap := append([]byte{0xaa, 0xaa, 3, 0, 0, 0}, b[12:]...)
		for _, body := range [][]byte{snap, append([]byte{0xaa, 0xaa, 3, 0, 0, 0xf8}, b[12:]...), append([]byte{6, 6, 3}, b[14:]...), b[14:]} {
			for _, n := range []int{len(body), 0, 1, len(body) - 1, len(body) + 1, 1500, 1501, 1535} {
				llc.frames = append(llc.frames, eth(frame.MAC(b[:6]), frame.MAC(b[6:12]), uint16(n), body...))
			}
		}
	}
	return []attack{tags, llc}
}

// bridges are frames for the bridges of a link: STP, pause, LACP, 802.1X, LLDP, CDP.
func (c *scene) bridges() attack {
	a := c.a.mac()
	out := attack{name: "link control", reasons: []string{"link-local", "llc", "ethertype"}}
	for last := range byte(16) {
		to := frame.MAC{1, 0x80, 0xc2, 0, 0, last}
		out.frames = append(out.frames, datagram(a, to, c.a.addr4(), c.v.addr4(), 9, uint16(last)),
			eth(to, a, 39, append([]byte{0x42, 0x42, 3, 0, 0, 2, 2, 0x7c}, make([]byte, 36)...)...))
		for _, kind := range []uint16{0x8808, 0x8809, 0x888e, 0x88cc, 0x88f7} {
			out.frames = append(out.frames, eth(to, a, kind, make([]byte, 46)...), eth(c.v.mac(), a, kind, make([]byte, 46)...))
		}
	}
	cdp := frame.MAC{1, 0, 0x0c, 0xcc, 0xcc, 0xcc}
	out.frames = append(out.frames, eth(cdp, a, 40, append([]byte{0xaa, 0xaa, 3, 0, 0, 0x0c, 0x20, 0}, make([]byte, 32)...)...))
	return out
}

// lengths are runts, cut packets and frames over the MTU, all but the runts
// of the attacker to the victim.
func (c *scene) lengths() []attack {
	runts := attack{name: "runts", reasons: []string{"runt"}}
	cut := attack{name: "cut packets", reasons: []string{"undecidable", "malformed"}}
	over := attack{name: "oversize", reasons: []string{"oversize"}}
	four := datagram(c.a.mac(), c.v.mac(), c.a.addr4(), c.v.addr4(), 9, 9)
	for n := 1; n < frame.EthernetLen; n++ {
		runts.frames = append(runts.frames, four[:n])
	}
	for _, b := range [][]byte{four, datagram(c.a.mac(), c.v.mac(), c.a.addr6(), c.v.addr6(), 9, 9), frame.AppendARP(nil, c.a.mac(), c.v.mac(),
		frame.ARP{Op: 1, SenderMAC: c.a.mac(), SenderIP: c.a.addr4(), TargetIP: c.v.addr4()})} {
		for n := frame.EthernetLen; n < len(b); n++ {
			cut.frames = append(cut.frames, b[:n])
		}
		for _, n := range []int{1523, 1524, 2000, 4096, 9014, 16384, 32768, 65000, 65535, 1523 + c.rng.IntN(64000)} {
			over.frames = append(over.frames, append(slices.Clone(b), make([]byte, n-len(b))...))
		}
	}
	return []attack{runts, cut, over}
}

// all are the attacks of single frames. Every frame differs from every other.
func (c *scene) all() []attack {
	out := append(c.sources(), c.arp(), c.neighbours(), c.routers(), c.dhcp())
	out = append(append(out, c.encapsulated()...), c.bridges())
	return append(out, c.lengths()...)
}

func (x attack) String() string { return fmt.Sprintf("%s (%d frames)", x.name, len(x.frames)) }
