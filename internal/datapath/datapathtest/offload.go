package datapathtest

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"brane/frame"
	"brane/internal/datapath"
	"brane/internal/verdict"
)

// super makes a TCP superframe as a kernel hands it to a TAP: the sum of the
// pseudo-header in the checksum field, the rest in the header.
func super(src, dst int, size uint16, payload []byte) (frame.Vnet, []byte) {
	b := tcp(src, dst, 80, frame.TCP{Seq: 1000, Ack: 1, Flags: frame.ACK | frame.PSH, Window: 100}, payload...)
	v := partial(b, 16)
	v.GSOType, v.GSOSize, v.HdrLen = frame.GSOTCPv4, size, 54
	return v, b
}

// partial leaves the transport checksum of b to be completed, and gives the header that says so.
func partial(b []byte, offset int) frame.Vnet {
	var p frame.Packet
	p.Parse(b)
	binary.BigEndian.PutUint16(b[p.L4+offset:], p.PseudoSum(p.End-p.L4))
	return frame.Vnet{Flags: frame.VnetNeedsCsum, CsumStart: uint16(p.L4), CsumOffset: uint16(offset)}
}

func noise(n int) []byte {
	b := make([]byte, n)
	for i, x := 0, uint32(1); i < n; i++ {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

// A superframe reaches a client that takes such as it is, and others in segments.
func testSuperframes(t *testing.T, open Open, kind datapath.Kind) {
	w := &World{T: t}
	*w = *NewWorld(t, open, datapath.Local, Lan(Interface(1, 1)))
	w.Apply(Lan(Interface(1, 1), Interface(2, 2)))
	w.Attach(2, kind)
	c := w.Clients[2]
	for _, n := range []int{1401, 2800, 20_000, 65_000} {
		payload := noise(n)
		v, b := super(1, 2, 1400, payload)
		if r := w.Send(1, v, b); r != verdict.Delivered {
			t.Fatalf("%d bytes: %v", n, r)
		}
		if c.HasHeader() {
			if got, f := c.Recv(); got != v || !bytes.Equal(f, b) {
				t.Errorf("%d bytes: header %+v, %d bytes; want %+v, %d", n, got, len(f), v, len(b))
			}
			continue
		}
		var got []byte
		var p frame.Packet
		for len(got) < n {
			_, seg := c.Recv()
			p.Parse(seg)
			if !frame.Verify(&p) || len(seg) > 1514 {
				t.Fatalf("segment of %d bytes: %v", len(seg), &p)
			}
			if seq := binary.BigEndian.Uint32(seg[p.L4+4:]); seq != 1000+uint32(len(got)) {
				t.Fatalf("segment at %d, want %d", seq, 1000+len(got))
			}
			got = append(got, p.Payload()...)
		}
		if !bytes.Equal(got, payload) {
			t.Errorf("%d bytes: the segments carry something else", n)
		}
	}
	w.Check("a frame like others", 1, UDP(1, 2), verdict.Delivered, 2)
}

// One frame with a checksum to be completed, for clients of all kinds at once:
// who takes headers finishes it, who does not gets it finished.
func testChecksums(t *testing.T, open Open, kind datapath.Kind) {
	w := NewWorld(t, open, datapath.Local, Lan(Interface(1, 1)))
	m := Lan(Interface(1, 1))
	kinds := append(Kinds(), kind, datapath.SeqVnet)
	for i := range kinds {
		m.Ports = append(m.Ports, Interface(2+m.Ports[i].ID-1, i+2))
	}
	w.Apply(m)
	for i, k := range kinds {
		w.Attach(m.Ports[i+1].ID, k)
	}
	for _, payload := range [][]byte{nil, {1}, noise(1000)} {
		b := frame.AppendUDP(nil, MAC(1), frame.Broadcast(), netip.AddrPortFrom(IP(1), 7),
			netip.AddrPortFrom(netip.MustParseAddr("255.255.255.255"), 7), payload)
		v := partial(b, 6)
		if r := w.Send(1, v, b); r != verdict.Delivered {
			t.Fatal(r)
		}
		for id, c := range w.Clients {
			if id == 1 {
				continue
			}
			var p frame.Packet
			got, f := c.Recv()
			p.Parse(f)
			if got != (frame.Vnet{}) && got != v {
				t.Errorf("%s: header %+v", c.kind, got)
			}
			frame.Complete(&p, got)
			if !frame.Verify(&p) || !bytes.Equal(p.Payload(), payload) {
				t.Errorf("%s: %v", c.kind, &p)
			}
		}
	}
}

// Ports of different MTU share a mux. What does not fit is refused, and its
// sender is told what would.
func testMTU(t *testing.T, open Open, kind datapath.Kind) {
	large := Interface(1, 1)
	large.MTU = 9000
	w := NewWorld(t, open, kind, Lan(large, Interface(2, 2)))
	six := func(n int) netip.AddrPort {
		a := [16]byte{0xfd, 15: byte(n)}
		return netip.AddrPortFrom(netip.AddrFrom16(a), 4000)
	}
	w.Check("fits exactly", 1, UDP(1, 2, make([]byte, 1472)...), verdict.Delivered, 2)
	w.Check("too long for its own port", 2, UDP(2, 1, make([]byte, 1473)...), verdict.Oversize)
	for _, b := range [][]byte{
		UDP(1, 2, make([]byte, 1473)...),
		UDP(1, 2, make([]byte, 8000)...),
		frame.AppendUDP(nil, MAC(1), MAC(2), six(1), six(2), make([]byte, 1453)),
	} {
		if r := w.Send(1, frame.Vnet{}, b); r != verdict.TooBig {
			t.Errorf("%v", r)
		}
		if kind == datapath.Local {
			continue
		}
		_, got := w.Clients[1].Recv()
		var p frame.Packet
		p.Parse(got)
		typ, code, _ := p.ICMP()
		v4, v6 := typ == 3 && code == 4 && got[p.L4+6] == 5 && got[p.L4+7] == 0xdc, typ == 2 && code == 0 && got[p.L4+6] == 5 && got[p.L4+7] == 0xdc
		if !frame.Verify(&p) || p.Type == frame.TypeIPv4 && !v4 || p.Type == frame.TypeIPv6 && !v6 {
			t.Errorf("answer %v: %x", &p, got)
		}
	}
	b := UDP(1, 2, make([]byte, 1473)...)
	b[14+6] = 0 // may be fragmented: then nobody is told
	var p frame.Packet
	p.Parse(b)
	w.Check("without DF", 1, b, verdict.TooBig)
	if c := w.Counters(2).To; c[verdict.TooBig] != 4 {
		t.Errorf("receiver's counters %v", c)
	}
	if kind == datapath.Local || kind == datapath.SeqVnet {
		v, b := super(1, 2, 8000, noise(20_000))
		if r := w.Send(1, v, b); r != verdict.TooBig {
			t.Errorf("superframe of large segments: %v", r)
		}
	}
}
