package filter

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// What each kind of term says about frames that hide, or lie about, what it
// speaks of. libpcap is no oracle for these.
func TestUndecidable(t *testing.T) {
	v4 := datagram(peerMAC, ownMAC, ip("10.0.0.1"), ip("10.0.0.2"), 17, 64, udp(53, 80, make([]byte, 10)))
	v6 := datagram(peerMAC, ownMAC, ip("2001:db8::1"), ip("2001:db8::2"), 17, 64, udp(53, 80, make([]byte, 10)))
	query := eth(allMAC, ownMAC, 0x806, arp(1, ownMAC, ip("10.0.0.1"), zeroMAC, ip("10.0.0.2")))
	first, payload := extended([]uint8{0, 51, 43, 44, 60}, 17, udp(53, 80, nil))
	// An authentication header counts its length in words of 4 bytes.
	payload[9] = 0
	chain := datagram(peerMAC, ownMAC, ip("2001:db8::1"), ip("2001:db8::2"), first, 64, payload)
	long6, payload9 := extended(slices.Repeat([]uint8{60}, 9), 17, udp(53, 80, nil))
	over := datagram(peerMAC, ownMAC, ip("2001:db8::1"), ip("2001:db8::2"), long6, 64, payload9)
	stp := eth(allMAC, ownMAC, 3, []byte{0x42, 0x42, 3})
	iso := eth(allMAC, ownMAC, 3, []byte{0xfe, 0xfe, 3})
	yes, no, undecided := map[string][][]byte{}, map[string][][]byte{}, map[string][][]byte{}
	say := func(to map[string][][]byte, frames [][]byte, exprs ...string) {
		for _, e := range exprs {
			to[e] = append(to[e], frames...)
		}
	}
	hidden := [][]byte{tag(v4, 0x8100), tag(v6, 0x88a8, 0x8100), tag(v4, 0x8100, 0x8100, 0x8100), snap(peerMAC, ownMAC, 0x800, v4[14:]), v4[:13], {}}
	say(undecided, hidden, "ip", "arp", "ip6 proto 17", "udp", "udp port 53", "host 10.0.0.1", "host 2001:db8::1", "ether proto 0x88cc",
		"ip[0] = 0x45", "udp[0:2] = 53", "udp[0:2] - 1 = 52", "ip multicast", "ip6 multicast", "arp host 10.0.0.1", "icmp6[0] = 1")
	say(undecided, [][]byte{v4[:13], {}}, "ether host 02:00:00:00:00:0a", "broadcast", "multicast", "ether[13] = 0", "stp")
	say(undecided, [][]byte{tag(v4, 0x8100), snap(peerMAC, ownMAC, 0x800, v4)[:40]}, "stp", "iso", "ether proto 6")
	say(yes, hidden[:3], "ether host 02:00:00:00:00:0a", "ether[6] = 2", "greater 20")
	say(yes, [][]byte{tag(v4, 0x8100), tag(v4, 0x8100, 0x88a8)}, "ether proto 0x8100")
	say(undecided, [][]byte{tag(v4, 0x88a8, 0x8100)}, "ether proto 0x8100", "ether proto 0x800")
	say(no, [][]byte{v4, query}, "ether proto 0x8100", "stp", "iso")
	say(yes, [][]byte{stp}, "stp", "not iso", "not ether proto 6")
	say(yes, [][]byte{iso}, "iso", "not stp")
	say(no, [][]byte{with(iso, 15, 0x42)}, "iso")
	say(undecided, [][]byte{iso[:16]}, "iso", "stp")

	say(yes, [][]byte{chain}, "ip6 proto 0", "ip6 proto 51", "ip6 proto 43", "proto 44", "proto 60", "udp", "not tcp", "not ip6 proto 50", "udp port 53", "not ip proto 51")
	say(undecided, [][]byte{over, with(v6, 18, 0xff), v6[:30]}, "udp", "tcp", "ip6 proto 60", "udp port 53", "tcp port 53", "udp[0] = 0")
	say(no, [][]byte{over, with(v6, 18, 0xff), v6[:30]}, "ip proto 17", "ip", "ip[0] = 0x45", "arp host 10.0.0.1", "host 10.0.0.1")
	say(yes, [][]byte{over}, "ip6", "host 2001:db8::1", "ip6[6] = 60", "ip6 net 2001:db8::/32")
	say(undecided, [][]byte{with(v6, 18, 0xff), v6[:30]}, "host 2001:db8::1", "ip6[6] = 17", "ip6 multicast")
	say(undecided, [][]byte{with(v4, 16, 0xff), v4[:30]}, "host 10.0.0.1", "net 10", "udp", "tcp", "port 53", "ip[9] = 17", "ip multicast", "udp[0:2] = 53")
	say(undecided, [][]byte{v4[:38]}, "udp", "port 53")

	say(yes, [][]byte{query}, "host 10.0.0.1", "arp dst host 10.0.0.2", "not ip host 10.0.0.1", "not rarp host 10.0.0.1", "arp[6:2] = 1")
	say(undecided, [][]byte{query[:41], with(query, 18, 8), with(query, 14, 2)}, "host 10.0.0.1", "arp net 10")
	say(no, [][]byte{query[:41], with(query, 18, 8)}, "ip host 10.0.0.1", "host 2001:db8::1", "port 53", "udp")

	padded := cat(v4, []byte{1, 2, 3, 4, 5, 6})
	say(undecided, [][]byte{padded}, "ip[38] = 1", "udp[18] = 1", "ip[36:4] = 0", "ip[0xffffffff] = 0", "len / (ip[1]) = 1", "len % (ip[1]) = 1", "ether[0xfffffffe:4] = 1", "tcp[0] = 0 or udp[18] = 1")
	say(yes, [][]byte{padded}, "ether[52] = 1", "ip[37] = 0", "len = 58", "len << (len - 26) = 0", "not tcp[0] = tcp[0]", "not tcp[1000] = ip[1000]")
	say(no, [][]byte{padded}, "tcp[0] = ip[0]", "tcp[0] = 0 and udp[18] = 1")

	for want, table := range map[Truth]map[string][][]byte{Yes: yes, No: no, Undecidable: undecided} {
		for expr, frames := range table {
			g, e := Compile(mustParse(t, expr)), mustParse(t, expr)
			for _, b := range frames {
				if got := g.Match(parsed(b)); got != want {
					t.Errorf("%q: %v, want %v: %x", expr, got, want, b)
				}
				if got := kleene(e.Root(), parsed(b)); got != want {
					t.Errorf("%q: the tree says %v, want %v: %x", expr, got, want, b)
				}
			}
		}
	}
}

// A program that is not from Compile lets nothing pass; the empty expression
// lets everything pass, even what is no frame.
func TestEmptyProgram(t *testing.T) {
	for _, b := range [][]byte{nil, make([]byte, 13), make([]byte, 60)} {
		if got := new(Program).Match(parsed(b)); got != Undecidable {
			t.Errorf("zero program: %v", got)
		}
		if got := Compile(mustParse(t, "")).Match(parsed(b)); got != Yes {
			t.Errorf("empty expression: %v", got)
		}
	}
}

// A set is what its prefixes are.
func TestAddrSet(t *testing.T) {
	addr := rapid.Custom(func(t *rapid.T) netip.Addr {
		b := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 0x7f, 0x80, 0xfe, 0xff}), 16, 16).Draw(t, "bytes")
		if rapid.Bool().Draw(t, "six") {
			return netip.AddrFrom16([16]byte(b))
		}
		return netip.AddrFrom4([4]byte(b))
	})
	rapid.Check(t, func(t *rapid.T) {
		var prefixes []netip.Prefix
		for range rapid.IntRange(0, 12).Draw(t, "count") {
			a := addr.Draw(t, "prefix")
			prefixes = append(prefixes, netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits")).Masked())
		}
		s := newAddrSet(prefixes)
		probes := []netip.Addr{addr.Draw(t, "probe")}
		for _, p := range prefixes {
			probes = append(probes, p.Addr(), p.Addr().Prev(), p.Addr().Next(), lastOf(p), lastOf(p).Next())
		}
		for _, a := range probes {
			if !a.IsValid() {
				continue
			}
			want := slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
			got := false
			if b := a.As16(); a.Is4() {
				got = s.has4(binary.BigEndian.Uint32(b[12:]))
			} else {
				got = s.has6(from6(&b))
			}
			if got != want {
				t.Fatalf("%v in %v: %v", a, prefixes, got)
			}
		}
	})
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < p.Addr().BitLen(); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
