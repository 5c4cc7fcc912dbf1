package frame

import "testing"

func TestVnetForms(t *testing.T) {
	v := Vnet{
		Flags: 1, GSOType: GSOTCPv4 | GSOECN, HdrLen: 0x0102, GSOSize: 0x0304, CsumStart: 0x0506,
		CsumOffset: 0x0708, NumBuffers: 0x090a,
	}
	want := []byte{1, 0x81, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9}
	b := make([]byte, VnetLen)
	v.Put(b)
	if string(b) != string(want) {
		t.Errorf("Put wrote % x, want % x", b, want)
	}
	if got, ok := ParseVnet(b); !ok || got != v {
		t.Errorf("ParseVnet = %+v, %v", got, ok)
	}
	short := make([]byte, VnetLegacyLen)
	v.Put(short)
	if string(short) != string(want[:10]) {
		t.Errorf("Put wrote % x into 10 bytes", short)
	}
	v.NumBuffers = 0
	if got, ok := ParseVnet(short); !ok || got != v {
		t.Errorf("ParseVnet of 10 bytes = %+v, %v", got, ok)
	}
	if _, ok := ParseVnet(short[:9]); ok {
		t.Error("ParseVnet took 9 bytes")
	}
}

// bigTCP4 and its fellows carry n bytes, for superframes.
func bigTCP4(n int) []byte { return tcp4(ACK, string(pattern(n))) }
func bigTCP6(n int) []byte { return tcp6(ACK, string(pattern(n))) }
func bigUDP4(n int) []byte { return udp4(string(pattern(n))) }
func bigUDP6(n int) []byte { return udp6(string(pattern(n))) }

// pattern is n bytes in which no two places look alike for long.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func TestVnetCheck(t *testing.T) {
	tcp, tcp6, udp := bigTCP4(4000), bigTCP6(4000), bigUDP4(4000)
	edit := func(b []byte, gsoType uint8, size int, f func(*Vnet)) Vnet {
		v := super(b, gsoType, size)
		f(&v)
		return v
	}
	for _, r := range []struct {
		name string
		b    []byte
		v    Vnet
		want Vnet
		ok   bool
	}{
		{"plain", tcp, Vnet{}, Vnet{}, true},
		{"plain runt", nil, Vnet{}, Vnet{}, true},
		{"hints without meaning", tcp, Vnet{HdrLen: 9, CsumStart: 9, CsumOffset: 9, NumBuffers: 9}, Vnet{}, true},
		{"data valid is not believed", tcp, Vnet{Flags: VnetDataValid}, Vnet{}, true},
		{"rsc info", tcp, Vnet{Flags: 4}, Vnet{}, false},
		{"unknown flag", tcp, Vnet{Flags: 0x80}, Vnet{}, false},
		{"tcp checksum", tcp, pending(tcp), Vnet{Flags: 1, CsumStart: 34, CsumOffset: 16}, true},
		{"udp checksum", udp, pending(udp), Vnet{Flags: 1, CsumStart: 34, CsumOffset: 6}, true},
		{"tcp6 checksum", tcp6, pending(tcp6), Vnet{Flags: 1, CsumStart: 54, CsumOffset: 16}, true},
		{"udp offset in tcp", tcp, Vnet{Flags: 1, CsumStart: 34, CsumOffset: 6}, Vnet{}, false},
		{"start in the IP header", tcp, Vnet{Flags: 1, CsumStart: 14, CsumOffset: 16}, Vnet{}, false},
		{"start behind", tcp, Vnet{Flags: 1, CsumStart: 35, CsumOffset: 16}, Vnet{}, false},
		{"start over the end", tcp, Vnet{Flags: 1, CsumStart: 0xffff, CsumOffset: 0xffff}, Vnet{}, false},
		{"of ARP", arpRequest(), Vnet{Flags: 1, CsumStart: 14, CsumOffset: 6}, Vnet{}, false},
		{"of ARP at 0", arpRequest(), Vnet{Flags: 1}, Vnet{}, false},
		{"of ICMP", edited(udp4("12345678"), 23, 1), Vnet{Flags: 1, CsumStart: 34, CsumOffset: 2}, Vnet{}, false},
		{"of SCTP", edited(udp4("12345678"), 23, 132), Vnet{Flags: 1, CsumStart: 34, CsumOffset: 8}, Vnet{}, false},
		{"of a first fragment", edited(udp4("12345678"), 20, 0x20), Vnet{Flags: 1, CsumStart: 34, CsumOffset: 6}, Vnet{}, false},
		{"of a truncated header", edited(tcp[:50], 16, 0, 36), Vnet{Flags: 1, CsumStart: 34, CsumOffset: 16}, Vnet{}, false},
		{"behind a tag", tagged(tcp, TypeVLAN), Vnet{Flags: 1, CsumStart: 38, CsumOffset: 16}, Vnet{Flags: 1, CsumStart: 38, CsumOffset: 16}, true},
		{"behind three tags", tagged(tcp, TypeVLAN, TypeVLAN, TypeVLAN), Vnet{Flags: 1, CsumStart: 46, CsumOffset: 16}, Vnet{}, false},
		{"super", tcp, super(tcp, GSOTCPv4, 1448), Vnet{Flags: 1, GSOType: 1, HdrLen: 54, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}, true},
		{"super with ECN", tcp6, super(tcp6, GSOTCPv6|GSOECN, 1428), Vnet{Flags: 1, GSOType: 0x84, HdrLen: 74, GSOSize: 1428, CsumStart: 54, CsumOffset: 16}, true},
		{"super UDP", udp, super(udp, GSOUDP, 1000), Vnet{Flags: 1, GSOType: 5, HdrLen: 42, GSOSize: 1000, CsumStart: 34, CsumOffset: 6}, true},
		{"header length is worked out", tcp, edit(tcp, 1, 1448, func(v *Vnet) { v.HdrLen = 0xffff }), Vnet{Flags: 1, GSOType: 1, HdrLen: 54, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}, true},
		{"fits one segment", tcp, super(tcp, GSOTCPv4, 4000), pending(tcp), true},
		{"one byte more than one", tcp, super(tcp, GSOTCPv4, 3999), Vnet{Flags: 1, GSOType: 1, HdrLen: 54, GSOSize: 3999, CsumStart: 34, CsumOffset: 16}, true},
		{"without checksum", tcp, edit(tcp, 1, 1448, func(v *Vnet) { v.Flags = 0 }), Vnet{}, false},
		{"data valid for a checksum", tcp, edit(tcp, 1, 1448, func(v *Vnet) { v.Flags = 2 }), Vnet{}, false},
		{"size without type", tcp, edit(tcp, 0, 1448, func(*Vnet) {}), Vnet{}, false},
		{"type without size", tcp, super(tcp, GSOTCPv4, 0), Vnet{}, false},
		{"ECN alone", tcp, super(tcp, GSOECN, 1448), Vnet{}, false},
		{"ECN for UDP", udp, super(udp, GSOUDP|GSOECN, 1000), Vnet{}, false},
		{"UFO", udp, super(udp, 3, 1000), Vnet{}, false},
		{"tunnel", tcp, super(tcp, GSOTCPv4|0x20, 1448), Vnet{}, false},
		{"tcp4 over IPv6", tcp6, super(tcp6, GSOTCPv4, 1448), Vnet{}, false},
		{"tcp6 over IPv4", tcp, super(tcp, GSOTCPv6, 1448), Vnet{}, false},
		{"UDP for TCP", tcp, super(tcp, GSOUDP, 1448), Vnet{}, false},
		{"TCP for UDP", udp, super(udp, GSOTCPv4, 1448), Vnet{}, false},
		{"256 TCP segments", bigTCP4(2560), super(bigTCP4(2560), 1, 10), Vnet{Flags: 1, GSOType: 1, HdrLen: 54, GSOSize: 10, CsumStart: 34, CsumOffset: 16}, true},
		{"257 TCP segments", bigTCP4(2561), super(bigTCP4(2561), 1, 10), Vnet{}, false},
		{"128 UDP segments", bigUDP4(128), super(bigUDP4(128), 5, 1), Vnet{Flags: 1, GSOType: 5, HdrLen: 42, GSOSize: 1, CsumStart: 34, CsumOffset: 6}, true},
		{"129 UDP segments", bigUDP4(129), super(bigUDP4(129), 5, 1), Vnet{}, false},
		{"TCP size 7", bigTCP4(100), super(bigTCP4(100), 1, 7), Vnet{}, false},
		{"TCP size 8", bigTCP4(100), super(bigTCP4(100), 1, 8), Vnet{Flags: 1, GSOType: 1, HdrLen: 54, GSOSize: 8, CsumStart: 34, CsumOffset: 16}, true},
		{"bytes behind the packet", append(bigTCP4(4000), 1, 2, 3), super(tcp, GSOTCPv4, 1448), Vnet{}, false},
		{"bytes behind the datagram", edited(udp, 38, 0, 100), super(udp, GSOUDP, 50), Vnet{}, false},
	} {
		got, ok := r.v.Check(parsed(r.b))
		if ok != r.ok || got != r.want {
			t.Errorf("%s: %+v, %v; want %+v, %v", r.name, got, ok, r.want, r.ok)
		}
	}
}

// Every corner of every field, over frames of every kind: a header gets through
// only when it says what the frame says, and what comes out is sound.
func TestVnetCorners(t *testing.T) {
	frames := sampleFrames()
	frames["arp"], frames["runt"], frames["cut"] = arpRequest(), make([]byte, 5), bigTCP4(900)[:60]
	frames["big4"], frames["big6"], frames["bigudp"] = bigTCP4(3000), bigTCP6(3000), bigUDP6(3000)
	frames["fragment"] = extended(bigUDP6(800), ProtoFragment, fragmentHeader(0, true))
	flags := []uint8{0, 1, 2, 3, 4, 5, 8, 0x80, 0xff}
	types := []uint8{0, 1, 2, 3, 4, 5, 6, 0x20, 0x21, 0x80, 0x81, 0x84, 0x85, 0xff}
	sizes := []uint16{0, 1, 7, 8, 23, 100, 1448, 0x7fff, 0xffff}
	tried := 0
	for name, b := range frames {
		p := parsed(b)
		starts := []uint16{0, 14, uint16(p.L4 - 1), uint16(p.L4), uint16(p.L4 + 1), uint16(p.End), 0xffff}
		for _, flag := range flags {
			for _, kind := range types {
				for _, size := range sizes {
					for _, start := range starts {
						for _, offset := range []uint16{0, 2, 6, 16, 0xffff} {
							tried++
							v := Vnet{flag, kind, 0xffff, size, start, offset, 7}
							out, ok := v.Check(p)
							if ok {
								checkSound(t, name, p, v, out)
							} else if out != (Vnet{}) {
								t.Fatalf("%s: %+v refused with %+v", name, v, out)
							}
						}
					}
				}
			}
		}
	}
	if tried < 100_000 {
		t.Errorf("only %d corners", tried)
	}
}

// checkSound holds a header that Check let through against the frame.
func checkSound(t *testing.T, name string, p *Packet, in, out Vnet) {
	t.Helper()
	if again, ok := out.Check(p); !ok || again != out {
		t.Fatalf("%s: %+v became %+v and then %+v, %v", name, in, out, again, ok)
	}
	if out.Flags&^VnetNeedsCsum != 0 || out.NumBuffers != 0 {
		t.Fatalf("%s: %+v keeps what is the sender's: %+v", name, in, out)
	}
	if out.Flags == 0 && out != (Vnet{}) {
		t.Fatalf("%s: %+v became %+v", name, in, out)
	}
	if out.Flags != 0 {
		transport := p.Proto == ProtoTCP && out.CsumOffset == 16 || p.Proto == ProtoUDP && out.CsumOffset == 6
		if !transport || int(out.CsumStart) != p.L4 || p.L4 == 0 || p.Fault != OK || p.Fragment != Whole {
			t.Fatalf("%s: %+v became %+v", name, in, out)
		}
	}
	if !out.IsSuper() {
		if out.GSOSize != 0 || out.HdrLen != 0 {
			t.Fatalf("%s: %+v became %+v", name, in, out)
		}
		return
	}
	payload := p.Payload()
	if out.GSOType != in.GSOType || out.GSOSize != in.GSOSize || out.Flags == 0 || len(payload) <= int(out.GSOSize) ||
		int(out.HdrLen)+len(payload) != len(p.Frame) || len(payload) > MaxTCPSegments*int(out.GSOSize) {
		t.Fatalf("%s: %+v became %+v", name, in, out)
	}
}

func TestPacketLen(t *testing.T) {
	tcp := bigTCP4(4000)
	v, _ := super(tcp, GSOTCPv4, 1448).Check(parsed(tcp))
	for name, c := range map[string]struct {
		v    Vnet
		b    []byte
		want int
	}{
		"super":  {v, tcp, 1488},
		"large":  {Vnet{}, tcp, 4040},
		"tagged": {Vnet{}, tagged(udp4("x"), TypeVLAN, TypeVLAN), 29},
		"padded": {Vnet{}, append(udp4("x"), 1, 2, 3), 29},
		"arp":    {Vnet{}, arpRequest(), 28},
		"runt":   {Vnet{}, make([]byte, 3), 0},
	} {
		if got := c.v.PacketLen(parsed(c.b)); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func BenchmarkVnetCheck(b *testing.B) {
	frame := bigTCP4(60000)
	raw, p := super(frame, GSOTCPv4, 1448), parsed(frame)
	for b.Loop() {
		if _, ok := raw.Check(p); !ok {
			b.Fatal("refused")
		}
	}
}
