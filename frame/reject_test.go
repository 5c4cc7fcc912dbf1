package frame

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
)

var gatewayMAC = MAC{2, 0, 0, 0, 0, 1}

// rejected parses the refusal of b, nil when there is none.
func rejected(t *testing.T, b []byte) *Packet {
	t.Helper()
	p := parsed(b)
	head := []byte("kept")
	out := Reject(head, p, gatewayMAC)
	if !bytes.HasPrefix(out, head) {
		t.Fatalf("Reject wrote over dst")
	}
	if len(out) == len(head) {
		return nil
	}
	r := parsed(out[len(head):])
	switch {
	case r.Fault != OK || !Verify(r):
		t.Fatalf("refusal of %s: %s, right %v", p, r, Verify(r))
	case r.Dst != p.Src || r.Src != gatewayMAC || r.Tags != p.Tags:
		t.Fatalf("refusal of %s goes from %v to %v with %d tags", p, r.Src, r.Dst, r.Tags)
	case r.Source() != p.Destination() && unicast(p.Destination()) || r.Destination() != p.Source():
		t.Fatalf("refusal of %s goes from %v to %v", p, r.Source(), r.Destination())
	case len(Reject(nil, r, gatewayMAC)) > 0:
		t.Fatalf("%s is refused in its turn", r)
	}
	return r
}

func TestRejectTCP(t *testing.T) {
	seq := func(b []byte, l4 int) []byte { return edited(b, l4+4, 0xff, 0xff, 0xff, 0xfe) }
	for _, r := range []struct {
		name     string
		b        []byte
		flags    uint8
		seq, ack uint32
	}{
		{"syn", tcp4(SYN, ""), RST | ACK, 0, 1001},
		{"syn with data", tcp4(SYN, "fast"), RST | ACK, 0, 1005},
		{"syn and fin", tcp4(SYN|FIN, ""), RST | ACK, 0, 1002},
		{"nothing set", tcp4(0, "data"), RST | ACK, 0, 1004},
		{"wraps around", seq(tcp4(SYN, "fast"), 34), RST | ACK, 0, 3},
		{"ack", tcp4(ACK, "data"), RST, 2000, 0},
		{"syn and ack", tcp4(SYN|ACK, ""), RST, 2000, 0},
		{"fin over IPv6", tcp6(FIN, "data"), RST | ACK, 0, 1005},
		{"ack over IPv6", tcp6(ACK, ""), RST, 2000, 0},
		{"tagged", tagged(tcp4(ACK, ""), TypeQinQ, TypeVLAN), RST, 2000, 0},
		{"padded", append(tcp4(SYN, ""), make([]byte, 6)...), RST | ACK, 0, 1001},
	} {
		got := rejected(t, r.b)
		if got == nil {
			t.Errorf("%s: no answer", r.name)
			continue
		}
		h := got.Frame[got.L4:]
		flags, isTCP := got.TCPFlags()
		s, a := binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint32(h[8:])
		if src, dst, _ := got.Ports(); !isTCP || src != 22 || dst != 3311 || len(got.Payload()) != 0 {
			t.Errorf("%s: %s", r.name, got)
		}
		if flags != r.flags || s != r.seq || a != r.ack {
			t.Errorf("%s: flags %x seq %d ack %d; want %x %d %d", r.name, flags, s, a, r.flags, r.seq, r.ack)
		}
	}
}

func TestRejectOthers(t *testing.T) {
	long := strings.Repeat("long ", 400)
	for _, r := range []struct {
		name   string
		b      []byte
		quoted int // bytes of the packet
	}{
		{"udp4", udp4("hello"), 33},
		{"udp4, padded", append(udp4("hello"), make([]byte, 20)...), 33},
		{"udp4, long", udp4(long), 576 - 28},
		{"udp6", udp6("hello"), 53},
		{"udp6, long", udp6(long), 1280 - 48},
		{"tagged", tagged(udp4("hello"), TypeVLAN), 33},
		{"echo request", AppendICMP(nil, macA, macB, a4.Addr(), b4.Addr(), 8, 0, make([]byte, 4)), 28},
		{"echo request over IPv6", AppendICMP(nil, macA, macB, a6.Addr(), b6.Addr(), 128, 0, make([]byte, 4)), 48},
		{"first fragment", edited(udp4("12345678"), 20, 0x20), 36},
		{"another protocol", edited(udp6("hello"), 20, 50), 53},
		{"extension headers", extended(udp6("hello"), 0, options(1)), 61},
	} {
		got := rejected(t, r.b)
		if got == nil {
			t.Errorf("%s: no answer", r.name)
			continue
		}
		p := parsed(r.b)
		kind, code, ok := got.ICMP()
		if v4 := p.Type == TypeIPv4; !ok || v4 && (kind != 3 || code != 13) || !v4 && (kind != 1 || code != 1) {
			t.Errorf("%s: type %d code %d, %v", r.name, kind, code, ok)
		}
		if !bytes.Equal(got.Payload(), p.Frame[p.L3:p.L3+r.quoted]) {
			t.Errorf("%s: quotes %d bytes, want %d", r.name, len(got.Payload()), r.quoted)
		}
	}
}

// TestRejectNowhere: what no station may answer from is refused from the dummy address.
func TestRejectNowhere(t *testing.T) {
	for _, a := range []string{"0.0.0.1", "0.1.2.3", "127.0.0.1", "240.0.0.1", "255.255.255.254"} {
		to := netip.MustParseAddr(a).As4()
		for _, b := range [][]byte{udp4("x"), tcp4(SYN, "")} {
			r := rejected(t, edited(b, 30, to[:]...))
			if r == nil {
				t.Errorf("%s: no answer", a)
				continue
			}
			if kind, code, ok := r.ICMP(); !ok || kind != 3 || code != 13 || r.Source() != netip.MustParseAddr("192.0.0.8") || !Verify(r) {
				t.Errorf("%s answered with %s", a, r)
			}
		}
	}
}

func TestRejectIsSilent(t *testing.T) {
	u := udp4("12345678")
	icmp := func(from, to netip.AddrPort, kind uint8) []byte {
		return AppendICMP(nil, macA, macB, from.Addr(), to.Addr(), kind, 0, make([]byte, 36))
	}
	from4 := func(a ...byte) []byte { return edited(u, 26, a...) }
	to4 := func(a ...byte) []byte { return edited(u, 30, a...) }
	addr := func(at int, s string) []byte {
		a := netip.MustParseAddr(s).As16()
		return edited(udp6("x"), at, a[:]...)
	}
	silent := map[string][]byte{
		"runt": nil, "arp": arpRequest(), "llc": edited(u, 12, 0, 8), "unknown type": edited(u, 12, 0x88, 0xcc),
		"reset": tcp4(RST, ""), "reset with ack": tcp6(RST|ACK, ""), "three tags": tagged(u, TypeVLAN, TypeVLAN, TypeVLAN),
		"first fragment of tcp": edited(tcp4(SYN, "12345678"), 20, 0x20), "later fragment": edited(u, 20, 0, 1),
		"truncated": edited(u[:38], 16, 0, 24), "nothing next": edited(udp6("x"), 20, ProtoNone),
		"routed":    extended(udp6("x"), ProtoRouting, []byte{0, 0, 4, 1, 0, 0, 0, 0}),
		"broadcast": edited(u, 0, 255, 255, 255, 255, 255, 255), "group MAC": edited(u, 0, 1, 0, 0x5e), "from group MAC": edited(u, 6, 3),
		"from no MAC": edited(u, 6, 0, 0, 0, 0, 0, 0),
		"to group":    to4(224, 0, 0, 251), "to all": to4(255, 255, 255, 255), "to none": to4(0, 0, 0, 0),
		"reset to nowhere": edited(tcp4(RST, ""), 30, 0, 0, 0, 1),
		"from group":       from4(224, 0, 0, 1), "from all": from4(255, 255, 255, 255), "from none": from4(0, 0, 0, 0), "from loopback": from4(127, 0, 0, 1),
		"land": edited(tcp4(SYN, ""), 26, 10, 0, 0, 1),
		"ndp":  solicit(), "to group 6": addr(38, "ff02::fb"), "to none 6": addr(38, "::"), "from none 6": addr(22, "::"),
		"from group 6": addr(22, "ff02::1"), "from loopback 6": addr(22, "::1"), "from mapped": addr(22, "::ffff:10.0.0.1"),
	}
	for _, kind := range []uint8{0, 3, 4, 5, 11, 12, 9, 10, 14, 200} {
		silent["icmp "+itoa(int(kind))] = icmp(a4, b4, kind)
	}
	for _, kind := range []uint8{1, 2, 3, 4, 100, 127, 129, 133, 134, 136, 137, 143, 255} {
		silent["icmp6 "+itoa(int(kind))] = icmp(a6, b6, kind)
	}
	for name, b := range silent {
		if r := rejected(t, b); r != nil {
			t.Errorf("%s: %s answered with %s", name, parsed(b), r)
		}
	}
	for name, b := range map[string][]byte{"udp": u, "from elsewhere": from4(192, 168, 0, 1), "to elsewhere": to4(8, 8, 8, 8), "link-local": addr(22, "fe80::1")} {
		if rejected(t, b) == nil {
			t.Errorf("%s: no answer", name)
		}
	}
}

func TestRejectAllocatesNothing(t *testing.T) {
	dst := make([]byte, 0, 2048)
	for _, b := range [][]byte{tcp4(SYN, ""), tcp6(SYN, ""), udp4("x"), udp6("x"), tagged(udp4("x"), TypeVLAN)} {
		p := parsed(b)
		noAllocs(t, p.String(), func() { Reject(dst, p, gatewayMAC) })
	}
}

func FuzzReject(f *testing.F) {
	for _, b := range sampleFrames() {
		f.Add(b)
	}
	f.Add(tcp4(SYN, ""))
	f.Add(edited(udp4("12345678"), 20, 0x20))
	f.Fuzz(func(t *testing.T, b []byte) { rejected(t, b) })
}

func BenchmarkReject(b *testing.B) {
	dst := make([]byte, 0, 2048)
	for name, frame := range map[string][]byte{"tcp4": tcp4(SYN, ""), "udp6": udp6("hello")} {
		b.Run(name, func(b *testing.B) {
			p := parsed(frame)
			for b.Loop() {
				Reject(dst, p, gatewayMAC)
			}
		})
	}
}
