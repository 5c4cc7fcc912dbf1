package frame

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"
)

// segments copies what Segment passes on.
func segments(p *Packet, v Vnet, mtu int) (segs [][]byte, ok bool) {
	scratch := make([]byte, int(v.HdrLen)+int(v.GSOSize))
	ok = Segment(p, v, mtu, scratch, func(seg []byte) { segs = append(segs, append([]byte(nil), seg...)) })
	return segs, ok
}

// checkSegments holds the segments of the superframe p against it, field by field.
func checkSegments(t interface {
	Helper()
	Fatalf(string, ...any)
}, p *Packet, v Vnet, segs [][]byte,
) {
	t.Helper()
	payload := p.Payload()
	if want := (len(payload) + int(v.GSOSize) - 1) / int(v.GSOSize); len(segs) != want {
		t.Fatalf("%d segments of %d bytes of %d", len(segs), v.GSOSize, len(payload))
	}
	var whole []byte
	for i, seg := range segs {
		q := parsed(seg)
		last := i == len(segs)-1
		if q.Fault != OK || q.End != len(seg) || !Verify(q) || q.L4 != p.L4 || !last && len(q.Payload()) != int(v.GSOSize) {
			t.Fatalf("segment %d: %s, right %v", i, q, Verify(q))
		}
		if p.Type == TypeIPv4 {
			if got, want := id4(q), id4(p)+uint16(i); got != want {
				t.Fatalf("segment %d: identification %d, want %d", i, got, want)
			}
		}
		if p.Proto == ProtoTCP {
			all, flags := p.Frame[p.L4+13], seg[q.L4+13]
			want := all
			if i > 0 {
				want &^= CWR
			}
			if !last {
				want &^= FIN | PSH
			}
			seq := binary.BigEndian.Uint32(p.Frame[p.L4+4:]) + uint32(len(whole))
			if flags != want || binary.BigEndian.Uint32(seg[q.L4+4:]) != seq {
				t.Fatalf("segment %d of flags %x: flags %x, want %x", i, all, flags, want)
			}
		}
		if !bytes.Equal(withoutVarying(q), withoutVarying(p)) {
			t.Fatalf("segment %d has other headers:\n% x\n% x", i, withoutVarying(q), withoutVarying(p))
		}
		whole = append(whole, q.Payload()...)
	}
	if !bytes.Equal(whole, payload) {
		t.Fatalf("the payload is not the same")
	}
}

func id4(p *Packet) uint16 { return binary.BigEndian.Uint16(p.Frame[p.L3+4:]) }

// withoutVarying is the headers of p without the fields that differ from segment to segment.
func withoutVarying(p *Packet) []byte {
	h := append([]byte(nil), p.Frame[:p.End-len(p.Payload())]...)
	zero := func(at, n int) { clear(h[at : at+n]) }
	if p.Type == TypeIPv4 {
		zero(p.L3+2, 4)
		zero(p.L3+10, 2)
	} else {
		zero(p.L3+4, 2)
	}
	if p.Proto == ProtoTCP {
		zero(p.L4+4, 4)
		zero(p.L4+13, 1)
		zero(p.L4+16, 2)
	} else {
		zero(p.L4+4, 4)
	}
	return h
}

// drawSuper draws a superframe of any kind with a header that fits it.
func drawSuper(t *rapid.T) ([]byte, Vnet) {
	n := rapid.IntRange(1, 9000).Draw(t, "payload")
	payload := string(pattern(n))
	tags := []uint16{TypeQinQ, TypeVLAN}[:rapid.IntRange(0, 2).Draw(t, "tags")]
	flags := rapid.Byte().Draw(t, "flags")
	var b []byte
	kind := uint8(GSOUDP)
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		kind = GSOTCPv4 | rapid.SampledFrom([]uint8{0, GSOECN}).Draw(t, "ecn")
		b = tcp4(flags, payload)
		words := rapid.IntRange(0, min(10, n/4)).Draw(t, "options") // the payload's first bytes become options
		b[46] = byte(5+words) << 4
		binary.BigEndian.PutUint16(b[18:], rapid.Uint16().Draw(t, "id"))
		putIPv4Sum(b[14:34])
	case 1:
		kind = GSOTCPv6 | rapid.SampledFrom([]uint8{0, GSOECN}).Draw(t, "ecn")
		b = tcp6(flags, payload)
		binary.BigEndian.PutUint32(b[58:], rapid.Uint32().Draw(t, "seq"))
		if rapid.Bool().Draw(t, "ext") {
			b = extended(b, ProtoHopByHop, options(1), ProtoDestOpts, options(2))
		}
	case 2:
		b = udp4(payload)
	case 3:
		b = udp6(payload)
	}
	b = tagged(b, tags...)
	return b, super(b, kind, rapid.IntRange(n/128+8, 9000).Draw(t, "size"))
}

func TestSegment(t *testing.T) {
	supers := 0
	rapid.Check(t, func(t *rapid.T) {
		b, raw := drawSuper(t)
		before := append([]byte(nil), b...)
		p := parsed(b)
		v, ok := raw.Check(p)
		if !ok {
			t.Fatalf("%+v refused for %s", raw, p)
		}
		if !v.IsSuper() {
			Complete(p, v)
			if !Verify(p) {
				t.Fatalf("%s: wrong checksum", p)
			}
			return
		}
		supers++
		segs, ok := segments(p, v, v.PacketLen(p))
		if !ok {
			t.Fatalf("%+v not segmented for %s", v, p)
		}
		checkSegments(t, p, v, segs)
		if !bytes.Equal(b, before) {
			t.Fatalf("the superframe was changed")
		}
	})
	if supers == 0 {
		t.Error("no superframe was drawn")
	}
}

func TestSegmentRefuses(t *testing.T) {
	tcp := bigTCP4(4000)
	good, ok := super(tcp, GSOTCPv4, 1448).Check(parsed(tcp))
	if !ok {
		t.Fatal("no superframe to begin with")
	}
	routed := extended(bigTCP6(4000), ProtoRouting, []byte{0, 0, 4, 1, 0, 0, 0, 0})
	routedV, ok := super(routed, GSOTCPv6, 1400).Check(parsed(routed))
	if !ok {
		t.Fatal("a routed superframe is refused by Check")
	}
	edit := func(f func(*Vnet)) Vnet {
		v := good
		f(&v)
		return v
	}
	for _, r := range []struct {
		name    string
		b       []byte
		v       Vnet
		mtu     int
		scratch int
		want    bool
	}{
		{"good", tcp, good, 1488, 1502, true},
		{"mtu", tcp, good, 1487, 1502, false},
		{"scratch", tcp, good, 1488, 1501, false},
		{"no scratch", tcp, good, 1488, 0, false},
		{"plain", tcp, Vnet{}, 1500, 2000, false},
		{"raw header length", tcp, edit(func(v *Vnet) { v.HdrLen = 50 }), 1500, 2000, false},
		{"size 0", tcp, edit(func(v *Vnet) { v.GSOSize = 0 }), 1500, 2000, false},
		{"size 1", tcp, edit(func(v *Vnet) { v.GSOSize = 1 }), 1500, 2000, false},
		{"too many", tcp, edit(func(v *Vnet) { v.GSOSize = 15 }), 1500, 2000, false},
		{"another frame", bigUDP4(4000), good, 1500, 2000, false},
		{"arp", arpRequest(), good, 1500, 2000, false},
		{"runt", nil, good, 1500, 2000, false},
		{"routed", routed, routedV, 1500, 2000, false},
	} {
		called := false
		got := Segment(parsed(r.b), r.v, r.mtu, make([]byte, r.scratch), func([]byte) { called = true })
		if got != r.want || called != r.want {
			t.Errorf("%s: %v, called %v", r.name, got, called)
		}
	}
}

func TestSegmentAllocatesNothing(t *testing.T) {
	b := bigTCP4(60000)
	p, scratch, total := parsed(b), make([]byte, 2000), 0
	raw := super(b, GSOTCPv4, 1448)
	noAllocs(t, "Check and Segment", func() {
		v, ok := raw.Check(p)
		if !ok || !Segment(p, v, 1500, scratch, func(seg []byte) { total += len(seg) }) {
			t.Error("refused")
		}
	})
}

// FuzzVnet takes any header and any frame through Check, and what passes
// through Segment or Complete.
func FuzzVnet(f *testing.F) {
	add := func(b []byte, v Vnet) {
		h := make([]byte, VnetLen)
		v.Put(h)
		f.Add(h, b)
	}
	for _, n := range []int{1, 100, 3000} {
		t4, t6, u := bigTCP4(n), bigTCP6(n), bigUDP6(n)
		add(t4, super(t4, GSOTCPv4, 90))
		add(t6, super(t6, GSOTCPv6|GSOECN, 90))
		add(u, super(u, GSOUDP, 90))
		add(u, pending(u))
	}
	add(arpRequest(), Vnet{Flags: 1})
	ext := extended(bigTCP6(500), ProtoDestOpts, options(3))
	add(ext, super(ext, GSOTCPv6, 90))
	f.Fuzz(func(t *testing.T, header, b []byte) {
		raw, ok := ParseVnet(header)
		if !ok {
			return
		}
		p := parsed(b)
		v, ok := raw.Check(p)
		if !ok {
			return
		}
		checkSound(t, p.String(), p, raw, v)
		if !v.IsSuper() {
			end := append([]byte(nil), b[p.End:]...)
			Complete(p, v)
			if !bytes.Equal(end, b[p.End:]) {
				t.Error("padding was written to")
			}
			return
		}
		segs, ok := segments(p, v, 0xffff)
		switch {
		case ok:
			checkSegments(t, p, v, segs)
		case !p.Routed:
			t.Fatalf("%+v not segmented for %s", v, p)
		}
	})
}

func BenchmarkSegment(b *testing.B) {
	for name, c := range map[string]struct {
		frame []byte
		kind  uint8
		size  int
	}{
		"tcp4": {bigTCP4(65000), GSOTCPv4, 1448},
		"tcp6": {bigTCP6(65000), GSOTCPv6, 1428},
		"udp4": {bigUDP4(65000), GSOUDP, 1472},
	} {
		b.Run(name, func(b *testing.B) {
			raw, p, scratch := super(c.frame, c.kind, c.size), parsed(c.frame), make([]byte, 2000)
			v, ok := raw.Check(p)
			if !ok {
				b.Fatal("refused")
			}
			b.SetBytes(int64(len(c.frame)))
			for b.Loop() {
				if !Segment(p, v, 1500, scratch, func([]byte) {}) {
					b.Fatal("refused")
				}
			}
		})
	}
}
