package frame

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"testing"
)

// want is what a row of a parse table says of a Packet.
type want struct {
	fault    Fault
	fragment Fragment
	proto    uint8
	ext      uint8
	l3, l4   int
	end      int // 0: the whole frame
	routed   bool
}

func (w want) check(t *testing.T, name string, b []byte) {
	t.Helper()
	p := parsed(b)
	if w.end == 0 {
		w.end = len(b)
	}
	got := want{p.Fault, p.Fragment, p.Proto, p.Ext, p.L3, p.L4, p.End, p.Routed}
	if got != w {
		t.Errorf("%s:\n got %+v\nwant %+v", name, got, w)
	}
}

func TestParseIPv4(t *testing.T) {
	u, c := udp4("payload!"), tcp4(ACK, "payload!")
	withOptions := func(opts ...byte) []byte {
		b := append(append([]byte(nil), u[:34]...), opts...)
		b = append(b, u[34:]...)
		b[14] += byte(len(opts) / 4)
		binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
		return b
	}
	for _, r := range []struct {
		name string
		b    []byte
		want want
	}{
		{"udp", u, want{proto: 17, l3: 14, l4: 34}},
		{"tcp", c, want{proto: 6, l3: 14, l4: 34}},
		{"padded", append(u[:len(u):len(u)], 0, 0, 0), want{proto: 17, l3: 14, l4: 34, end: len(u)}},
		{"header cut off", u[:33], want{fault: Truncated}},
		{"no header", u[:14], want{fault: Truncated}},
		{"version 6", edited(u, 14, 0x65), want{fault: BadLength}},
		{"header length 16", edited(u, 14, 0x44), want{fault: BadLength, proto: 17, l3: 14}},
		{"header longer than packet", edited(u, 14, 0x4f), want{fault: BadLength, proto: 17, l3: 14}},
		{"total length 0", edited(u, 16, 0, 0), want{fault: BadLength, proto: 17, l3: 14}},
		{"total length 19", edited(u, 16, 0, 19), want{fault: BadLength, proto: 17, l3: 14}},
		{"total length 20", edited(u, 16, 0, 20), want{fault: Truncated, proto: 17, l3: 14, end: 34}},
		{"one byte short of its length", u[:len(u)-1], want{fault: BadLength, proto: 17, l3: 14}},
		{"no-operation options", withOptions(1, 1, 1, 0), want{proto: 17, l3: 14, l4: 38}},
		{"record route", withOptions(7, 7, 4, 0, 0, 0, 0, 0), want{proto: 17, l3: 14, l4: 42}},
		{"loose source route", withOptions(131, 7, 4, 10, 0, 0, 9, 0), want{proto: 17, l3: 14, l4: 42, routed: true}},
		{"strict source route", withOptions(1, 137, 3, 4), want{proto: 17, l3: 14, l4: 38, routed: true}},
		{"source route after the end", withOptions(0, 131, 3, 4), want{proto: 17, l3: 14, l4: 38}},
		{"option of length 0", withOptions(7, 0, 0, 0), want{proto: 17, l3: 14, l4: 38, routed: true}},
		{"option over the end", withOptions(7, 9, 0, 0), want{proto: 17, l3: 14, l4: 38, routed: true}},
		{"first fragment", edited(u, 20, 0x20, 0), want{proto: 17, l3: 14, l4: 34, fragment: First}},
		{"later fragment", edited(u, 20, 0x20, 1), want{proto: 17, l3: 14, fragment: Later}},
		{"last fragment", edited(u, 20, 0, 1), want{proto: 17, l3: 14, fragment: Later}},
		{"don't fragment", edited(u, 20, 0x40, 0), want{proto: 17, l3: 14, l4: 34}},
		{"fragment not of 8 bytes", edited(udp4("payload"), 20, 0x20, 0), want{fault: BadLength, proto: 17, l3: 14, fragment: First}},
		{"last fragment not of 8 bytes", edited(udp4("payload"), 20, 0, 1), want{proto: 17, l3: 14, fragment: Later}},
		{"over 65,535 bytes", edited(u, 20, 0x1f, 0xff), want{fault: BadLength, proto: 17, l3: 14, fragment: Later}},
		{"tiny first fragment", edited(c[:42], 16, 0, 28, 0, 0, 0x20, 0), want{fault: Truncated, proto: 6, l3: 14, fragment: First}},
		{"tcp offset 4", edited(c, 46, 0x40), want{fault: BadLength, proto: 6, l3: 14}},
		{"tcp offset 7 of 28", edited(c, 46, 0x70), want{proto: 6, l3: 14, l4: 34}},
		{"tcp offset 8 of 28", edited(c, 46, 0x80), want{fault: Truncated, proto: 6, l3: 14}},
		{"udp length 7", edited(u, 38, 0, 7), want{fault: BadLength, proto: 17, l3: 14}},
		{"udp length 8", edited(u, 38, 0, 8), want{proto: 17, l3: 14, l4: 34}},
		{"udp length 17 of 16", edited(u, 38, 0, 17), want{fault: BadLength, proto: 17, l3: 14}},
		{"udp length 17, first of more", edited(edited(u, 38, 0, 17), 20, 0x20), want{proto: 17, l3: 14, l4: 34, fragment: First}},
		{"icmp of 8", edited(edited(u[:42], 23, 1), 16, 0, 28), want{proto: 1, l3: 14, l4: 34}},
		{"icmp of 7", edited(edited(u[:41], 23, 1), 16, 0, 27), want{fault: Truncated, proto: 1, l3: 14}},
		{"sctp of 12", edited(edited(u[:46], 23, 132), 16, 0, 32), want{proto: 132, l3: 14, l4: 34}},
		{"sctp of 11", edited(edited(u[:45], 23, 132), 16, 0, 31), want{fault: Truncated, proto: 132, l3: 14}},
		{"unknown protocol", edited(u, 23, 200), want{proto: 200, l3: 14, l4: 34}},
		{"hop-by-hop means nothing here", edited(u, 23, 0), want{proto: 0, l3: 14, l4: 34}},
	} {
		r.want.check(t, r.name, r.b)
	}
}

func TestParseIPv6(t *testing.T) {
	u := udp6("payload!")
	ah := []byte{0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	many := make([]any, 0, 2*(MaxExt+1))
	for range MaxExt {
		many = append(many, ProtoDestOpts, options(1))
	}
	for _, r := range []struct {
		name string
		b    []byte
		want want
	}{
		{"udp", u, want{proto: 17, l3: 14, l4: 54}},
		{"tcp", tcp6(SYN, ""), want{proto: 6, l3: 14, l4: 54}},
		{"padded", append(u[:len(u):len(u)], 1, 2), want{proto: 17, l3: 14, l4: 54, end: len(u)}},
		{"header cut off", u[:53], want{fault: Truncated}},
		{"version 4", edited(u, 14, 0x40), want{fault: BadLength}},
		{"one byte short", u[:len(u)-1], want{fault: BadLength, proto: 17, l3: 14}},
		{"length 0", edited(u, 18, 0, 0), want{fault: BadLength, proto: 17, l3: 14}},
		{"jumbogram", edited(u, 18, 0, 0, 0), want{fault: BadLength, proto: 0, l3: 14}},
		{"nothing next", edited(u[:54], 18, 0, 0, 59), want{proto: 59, l3: 14}},
		{"nothing next but bytes", edited(u, 20, 59), want{proto: 59, l3: 14}},
		{"hop-by-hop", extended(u, 0, options(1)), want{proto: 17, ext: 1, l3: 14, l4: 62}},
		{"options of 16", extended(u, 60, options(2)), want{proto: 17, ext: 1, l3: 14, l4: 70}},
		{"ah", extended(u, 51, ah), want{proto: 17, ext: 1, l3: 14, l4: 78}},
		{"routing, done", extended(u, 43, []byte{0, 0, 4, 0, 0, 0, 0, 0}), want{proto: 17, ext: 1, l3: 14, l4: 62}},
		{"routing", extended(u, 43, []byte{0, 0, 4, 1, 0, 0, 0, 0}), want{proto: 17, ext: 1, l3: 14, l4: 62, routed: true}},
		{"atomic fragment", extended(u, 44, fragmentHeader(0, false)), want{proto: 17, ext: 1, l3: 14, l4: 62, fragment: First}},
		{"first fragment", extended(u, 44, fragmentHeader(0, true)), want{proto: 17, ext: 1, l3: 14, l4: 62, fragment: First}},
		{"later fragment", extended(u, 44, fragmentHeader(8, true)), want{proto: 17, ext: 1, l3: 14, fragment: Later}},
		{"later fragment claims a chain", extended(u, 44, fragmentHeader(8, true), 60, options(1)), want{proto: 60, ext: 1, l3: 14, fragment: Later}},
		{"later inside first", extended(u, 44, fragmentHeader(0, true), 44, fragmentHeader(8, true)), want{proto: 17, ext: 2, l3: 14, fragment: Later}},
		{"chain in first", extended(u, 44, fragmentHeader(0, true), 60, options(1)), want{proto: 17, ext: 2, l3: 14, l4: 70, fragment: First}},
		{"fragment not of 8", extended(udp6("seven.."), 44, fragmentHeader(0, true)), want{fault: BadLength, proto: 17, ext: 1, l3: 14, fragment: First}},
		{"over 65,535 bytes", extended(u, 44, fragmentHeader(65528, false)), want{fault: BadLength, proto: 17, ext: 1, l3: 14, fragment: Later}},
		{"just 65,535 bytes", extended(udp6("seven.."), 44, fragmentHeader(65520, false)), want{proto: 17, ext: 1, l3: 14, fragment: Later}},
		{"first fragment of 4 bytes", extended(u[:58], 44, fragmentHeader(0, true)), want{fault: BadLength, proto: 17, ext: 1, l3: 14, fragment: First}},
		{"first with half a header", edited(extended(tcp6(SYN, "")[:70], 44, fragmentHeader(0, true))[:78], 20, 44), want{fault: Truncated, proto: 6, ext: 1, l3: 14, fragment: First}},
		{"chain of 8", extended(u, many...), want{proto: 17, ext: 8, l3: 14, l4: 54 + 64}},
		{"chain of 9", extended(u, append(many, 60, options(1))...), want{fault: ChainLimit, proto: 60, ext: 8, l3: 14}},
		{"chain of 256 bytes", extended(u, 60, options(32)), want{proto: 17, ext: 1, l3: 14, l4: 54 + 256}},
		{"chain of 264 bytes", extended(u, 60, options(33)), want{fault: ChainLimit, proto: 60, l3: 14}},
		{"chain cut off", edited(extended(u[:54], 60, options(2))[:62], 18, 0, 8), want{fault: Truncated, proto: 60, l3: 14}},
		{"chain of 7 bytes", edited(extended(u[:54], 60, options(1))[:61], 18, 0, 7), want{fault: Truncated, proto: 60, l3: 14}},
		{"icmp6 of 4", edited(u[:58], 18, 0, 4, 58), want{proto: 58, l3: 14, l4: 54}},
		{"icmp6 of 3", edited(u[:57], 18, 0, 3, 58), want{fault: Truncated, proto: 58, l3: 14}},
		{"mobility header is no extension", edited(u, 20, 135), want{proto: 135, l3: 14, l4: 54}},
	} {
		r.want.check(t, r.name, r.b)
	}
}

func TestParseOthers(t *testing.T) {
	llc := func(length int) []byte {
		return binary.BigEndian.AppendUint16(append([]byte(nil), udp4("")[:12]...), uint16(length))
	}
	body := make([]byte, 46)
	arp := arpRequest()
	for _, r := range []struct {
		name string
		b    []byte
		want want
	}{
		{"empty", nil, want{fault: Runt}},
		{"runt", make([]byte, 13), want{fault: Runt}},
		{"arp", arp, want{l3: 14, end: 42}},
		{"arp, padded", append(arp, body...), want{l3: 14, end: 42}},
		{"arp cut off", arp[:41], want{fault: Truncated}},
		{"arp for no Ethernet", edited(arp, 14, 0, 6), want{l3: 14, fault: BadLength}},
		{"arp for no IPv4", edited(arp, 16, 0x86, 0xdd), want{l3: 14, fault: BadLength}},
		{"arp with long MAC", edited(arp, 18, 8), want{l3: 14, fault: BadLength}},
		{"arp with long IP", edited(arp, 19, 16), want{l3: 14, fault: BadLength}},
		{"llc", append(llc(46), body...), want{}},
		{"llc, padded", append(llc(3), body...), want{end: 17}},
		{"llc without control", append(llc(2), body...), want{fault: Truncated}},
		{"llc over the end", append(llc(47), body...), want{fault: BadLength}},
		{"llc 0x5ff", append(llc(0x5ff), body...), want{fault: BadLength}},
		{"first EtherType", append(llc(0x600), body...), want{l3: 14}},
		{"lldp", append(llc(0x88cc), body...), want{l3: 14}},
		{"EtherType alone", llc(0x88cc), want{}},
		{"tag cut off", tagged(arp, TypeVLAN)[:17], want{fault: Truncated}},
	} {
		r.want.check(t, r.name, r.b)
		if p := parsed(r.b); p.LLC != (len(r.name) > 2 && r.name[:3] == "llc") || p.LLC && p.Type != 0 {
			t.Errorf("%s: LLC %v, type %#x", r.name, p.LLC, p.Type)
		}
	}
}

// Every tag count and kind over every kind of frame: up to two tags the inner
// frame is understood as without, and more are never looked through.
func TestParseTags(t *testing.T) {
	inner := map[string][]byte{
		"arp": arpRequest(), "udp4": udp4("x"), "udp6": udp6("x"), "nd": solicit(),
		"llc": append(append(udp4("")[:12:12], 0, 3), 0x42, 0x42, 3),
	}
	tpids := []uint16{TypeVLAN, TypeQinQ, TypeOldQinQ}
	for name, b := range inner {
		plain := parsed(b)
		for n := range 5 {
			for i := range 81 { // 3 to the power of 4
				stack := []uint16{tpids[i%3], tpids[i/3%3], tpids[i/9%3], tpids[i/27]}[:n]
				p := parsed(tagged(b, stack...))
				label := fmt.Sprintf("%s under %x", name, stack)
				id, ok := p.VLAN()
				if ok != (n > 0) || ok && id != 1 {
					t.Fatalf("%s: VLAN = %d, %v", label, id, ok)
				}
				if n > MaxTags {
					if p.Tags != MaxTags+1 || p.Type != stack[MaxTags] || p.L3 != 0 || p.L4 != 0 || p.Source().IsValid() {
						t.Fatalf("%s: looked through: %+v", label, p)
					}
					continue
				}
				if int(p.Tags) != n || p.Type != plain.Type || p.LLC != plain.LLC || p.Fault != OK || p.End != plain.End+4*n {
					t.Fatalf("%s: %+v", label, p)
				}
				if plain.L3 > 0 && p.L3 != plain.L3+4*n || plain.L4 > 0 && p.L4 != plain.L4+4*n || p.Proto != plain.Proto {
					t.Fatalf("%s: %+v", label, p)
				}
			}
		}
	}
}

// Every length that a frame can have, cut from the same bytes and stretched by
// padding: never a byte beyond, never a panic.
func TestParseEveryLength(t *testing.T) {
	long := make([]byte, MaxFrame)
	for _, whole := range [][]byte{tcp4(ACK, "data"), tcp6(ACK, "data"), arpRequest(), solicit(1, 1, 2, 0, 0, 0, 0, 0xa)} {
		copy(long, whole)
		for n := range long {
			p := parsed(long[:n:n])
			_, _, _ = p.Payload(), p.End, p.String()
			if n < EthernetLen && p.Fault != Runt || n >= len(whole) && (p.Fault != OK || p.End != len(whole)) {
				t.Fatalf("%d bytes of %s: %+v", n, parsed(whole), p.Fault)
			}
			if n >= EthernetLen && n < len(whole) && (p.Fault == OK || p.L4 != 0) {
				t.Fatalf("%d bytes of %s: no fault", n, parsed(whole))
			}
		}
	}
}

func TestParseSetsEveryField(t *testing.T) {
	dirty := Packet{
		Frame: []byte{1}, Dst: macA, Src: macB, Type: 7, Tags: 7, LLC: true, Routed: true, Fault: 7, Fragment: 7,
		Proto: 7, Ext: 7, L3: 7, L4: 7, End: 7, SrcIP: [16]byte{7}, DstIP: [16]byte{7},
	}
	for _, b := range [][]byte{nil, udp4(""), udp6(""), arpRequest(), tagged(udp4(""), TypeVLAN, TypeVLAN, TypeVLAN)} {
		p := dirty
		p.Parse(b)
		if fresh := parsed(b); !reflect.DeepEqual(&p, fresh) {
			t.Errorf("a used Packet parsed to\n%+v, a fresh one to\n%+v", p, *fresh)
		}
	}
}

func TestAccessors(t *testing.T) {
	p := parsed(tcp4(SYN|ACK, "hello"))
	src, dst, ok := p.Ports()
	flags, isTCP := p.TCPFlags()
	if !ok || src != 3311 || dst != 22 || !isTCP || flags != SYN|ACK || string(p.Payload()) != "hello" {
		t.Errorf("tcp: %d %d %v, flags %x %v, payload %q", src, dst, ok, flags, isTCP, p.Payload())
	}
	if p.Source() != a4.Addr() || p.Destination() != b4.Addr() || p.Src != macA || p.Dst != macB {
		t.Errorf("tcp: %v > %v, %v > %v", p.Source(), p.Destination(), p.Src, p.Dst)
	}
	p.Parse(edited(udp6("hello there"), 58, 0, 13))
	if _, isTCP = p.TCPFlags(); isTCP || string(p.Payload()) != "hello" || p.Source() != a6.Addr() {
		t.Errorf("udp: tcp %v, payload %q, source %v", isTCP, p.Payload(), p.Source())
	}
	p.Parse(AppendICMP(nil, macA, macB, a4.Addr(), b4.Addr(), 8, 0, []byte("\x00\x01\x00\x02ping")))
	if kind, code, ok := p.ICMP(); !ok || kind != 8 || code != 0 || string(p.Payload()) != "ping" {
		t.Errorf("icmp: %d %d %v, payload %q", kind, code, ok, p.Payload())
	}
	if _, _, ok := p.Ports(); ok {
		t.Error("ICMP has ports")
	}
	p.Parse(edited(udp6("12345678"), 20, ProtoICMP))
	if _, _, ok := p.ICMP(); ok {
		t.Error("ICMP over IPv6 passes for ICMP")
	}
	p.Parse(edited(udp4("payload!"), 20, 0, 1))
	if _, _, ok := p.Ports(); ok || p.Payload() != nil {
		t.Error("a later fragment has ports or payload")
	}
}

func TestARP(t *testing.T) {
	want := ARP{Op: 2, SenderMAC: macA, TargetMAC: macB, SenderIP: a4.Addr(), TargetIP: b4.Addr()}
	b := AppendARP(nil, macA, macB, want)
	if got, ok := parsed(b).ARP(); !ok || got != want {
		t.Errorf("ARP = %+v, %v", got, ok)
	}
	for _, wrong := range [][]byte{edited(b, 18, 7), b[:30], udp4("")} {
		if got, ok := parsed(wrong).ARP(); ok || got != (ARP{}) {
			t.Errorf("ARP of %s = %+v", parsed(wrong), got)
		}
	}
	if out := AppendARP(nil, macA, macB, ARP{SenderIP: a6.Addr(), TargetIP: b4.Addr()}); out != nil {
		t.Error("ARP built for IPv6")
	}
}

func TestND(t *testing.T) {
	lla := []byte{OptSourceLinkAddr, 1, 2, 0, 0, 0, 0, 0xa}
	other := []byte{OptTargetLinkAddr, 1, 2, 0, 0, 0, 0, 0xb}
	nonce := []byte{14, 1, 1, 2, 3, 4, 5, 6}
	join := func(parts ...[]byte) (all []byte) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	for _, r := range []struct {
		name      string
		options   []byte
		malformed bool
		macs      []MAC
	}{
		{"no option", nil, false, nil},
		{"source", lla, false, []MAC{macA}},
		{"both", join(nonce, lla, other), false, []MAC{macA, macB}},
		{"twice", join(lla, lla), false, []MAC{macA, macA}},
		{"length 0", join(lla, []byte{1, 0, 0, 0, 0, 0, 0, 0}), true, nil},
		{"over the end", edited(lla, 1, 2), true, nil},
		{"address of 14 bytes", join(edited(lla, 1, 2), nonce), true, nil},
		{"cut off", lla[:7], true, nil},
		{"one byte", lla[:1], true, nil},
	} {
		nd, ok := parsed(solicit(r.options...)).ND()
		if !ok || nd.Malformed != r.malformed || nd.Type != NeighborSolicitation || nd.Target != b6.Addr() || nd.HopLimit != 255 {
			t.Errorf("%s: %+v, %v", r.name, nd, ok)
		}
		var macs []MAC
		for _, m := range nd.LinkAddrs {
			macs = append(macs, m)
		}
		if !reflect.DeepEqual(macs, r.macs) {
			t.Errorf("%s: link addresses %v, want %v", r.name, macs, r.macs)
		}
	}
	for n, malformed := range map[int]bool{MaxNDOptions: false, MaxNDOptions + 1: true} {
		var opts []byte
		for range n {
			opts = append(opts, nonce...)
		}
		if nd, _ := parsed(solicit(opts...)).ND(); nd.Malformed != malformed {
			t.Errorf("%d options: malformed %v", n, nd.Malformed)
		}
	}
}

func TestNDKinds(t *testing.T) {
	target, dest := netip.MustParseAddr("fd00::7"), netip.MustParseAddr("fd00::8")
	t16, d16 := target.As16(), dest.As16()
	for kind, fixed := range map[uint8]int{133: 8, 134: 16, 135: 24, 136: 24, 137: 40} {
		body := append(append(make([]byte, 4), t16[:]...), d16[:]...)[:fixed-4]
		nd, ok := parsed(AppendICMP(nil, macA, macB, a6.Addr(), b6.Addr(), kind, 0, body)).ND()
		if !ok || nd.Malformed || nd.Type != kind {
			t.Errorf("type %d: %+v, %v", kind, nd, ok)
		}
		if kind >= 135 && nd.Target != target || kind < 135 && nd.Target.IsValid() || kind == 137 && nd.Destination != dest {
			t.Errorf("type %d: target %v, destination %v", kind, nd.Target, nd.Destination)
		}
		nd, ok = parsed(AppendICMP(nil, macA, macB, a6.Addr(), b6.Addr(), kind, 0, body[:fixed-5])).ND()
		if !ok || !nd.Malformed {
			t.Errorf("type %d, one byte short: %+v, %v", kind, nd, ok)
		}
		nd, ok = parsed(AppendICMP(nil, macA, macB, a6.Addr(), b6.Addr(), kind, 1, body)).ND()
		if !ok || !nd.Malformed {
			t.Errorf("type %d, code 1: %+v, %v", kind, nd, ok)
		}
	}
	for _, b := range [][]byte{
		AppendICMP(nil, macA, macB, a6.Addr(), b6.Addr(), 132, 0, make([]byte, 40)),
		AppendICMP(nil, macA, macB, a6.Addr(), b6.Addr(), 138, 0, make([]byte, 40)),
		AppendICMP(nil, macA, macB, a4.Addr(), b4.Addr(), 135, 0, make([]byte, 40)), udp6(""),
	} {
		if nd, ok := parsed(b).ND(); ok {
			t.Errorf("%s is neighbour discovery: %+v", parsed(b), nd)
		}
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	frames := [][]byte{tcp4(ACK, "x"), extended(udp6("x"), 60, options(2)), arpRequest(), solicit(1, 1, 2, 0, 0, 0, 0, 0xa)}
	var p Packet
	line := make([]byte, 0, 256)
	noAllocs(t, "Parse and accessors", func() {
		for _, b := range frames {
			p.Parse(b)
			p.Ports()
			p.ARP()
			if nd, ok := p.ND(); ok {
				for _, m := range nd.LinkAddrs {
					if m != macA {
						t.Error(m)
					}
				}
			}
			_, _ = p.AppendText(line)
			Verify(&p)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, b := range [][]byte{
		nil, tcp4(SYN, "x"), udp6("x"), arpRequest(), solicit(1, 1, 2, 0, 0, 0, 0, 0xa),
		tagged(udp4("x"), TypeQinQ, TypeVLAN), extended(udp6("x"), 0, options(1), 44, fragmentHeader(0, true)),
		append(append(udp4("")[:12:12], 0, 3), 0x42, 0x42, 3), edited(udp4("payload!"), 20, 0x20, 1),
	} {
		f.Add(b, []byte{1, 2, 3})
	}
	f.Fuzz(func(t *testing.T, b, behind []byte) {
		p := parsed(b[:len(b):len(b)])
		checkInvariants(t, p)
		// What lies behind the frame in its buffer, and padding behind the packet, are no part of it.
		q := parsed(append(b[:len(b):len(b)], behind...)[:len(b)])
		q.Frame = p.Frame
		if !reflect.DeepEqual(p, q) {
			t.Errorf("depends on bytes behind the frame:\n%+v\n%+v", p, q)
		}
		if p.Fault == OK && p.L3 > 0 && p.End < len(b) {
			q := parsed(b[:p.End])
			q.Frame = p.Frame
			if !reflect.DeepEqual(p, q) {
				t.Errorf("depends on padding:\n%+v\n%+v", p, q)
			}
		}
	})
}

// checkInvariants holds what the documentation of Packet promises against p.
func checkInvariants(t *testing.T, p *Packet) {
	t.Helper()
	n := len(p.Frame)
	switch {
	case p.End < 0 || p.End > n, p.L3 < 0 || p.L3 > n, p.L4 < 0 || p.L4 > p.End:
		t.Errorf("offsets out of the frame: %+v", p)
	case p.L4 > 0 && (p.L3 == 0 || p.L4 <= p.L3 || p.Fault != OK || p.Fragment == Later):
		t.Errorf("L4 without ground: %+v", p)
	case p.Ext > MaxExt || p.Tags > MaxTags+1 || p.LLC && p.Type != 0:
		t.Errorf("limits: %+v", p)
	}
	_, _ = p.ARP()
	_, _ = p.VLAN()
	_, _, _ = p.ICMP()
	if nd, ok := p.ND(); ok {
		n := 0
		for range nd.Options {
			n++
		}
		if n > MaxNDOptions || n > 0 && nd.Malformed {
			t.Errorf("%d options of %+v", n, nd)
		}
	}
	for _, c := range p.String() {
		if c < ' ' || c > '~' {
			t.Errorf("unprintable %q", p.String())
		}
	}
	Verify(p)
}

func BenchmarkParse(b *testing.B) {
	for _, c := range []struct {
		name  string
		frame []byte
	}{
		{"tcp4", tcp4(ACK, "data")},
		{"tcp6", tcp6(ACK, "data")},
		{"udp4", udp4("data")},
		{"arp", arpRequest()},
		{"tagged-tcp4", tagged(tcp4(ACK, "data"), TypeVLAN)},
		{"ext-udp6", extended(udp6("data"), 0, options(1), 44, fragmentHeader(0, false))},
	} {
		b.Run(c.name, func(b *testing.B) {
			var p Packet
			for b.Loop() {
				p.Parse(c.frame)
			}
		})
	}
}
