package frame

import (
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"
)

// naiveSum is RFC 1071 word by word.
func naiveSum(b []byte, initial uint16) uint16 {
	sum := uint32(initial)
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		if sum += word; sum > 0xffff {
			sum -= 0xffff
		}
	}
	return uint16(sum)
}

// same holds two ones'-complement sums equal: 0 and 0xffff are both zero.
func same(a, b uint16) bool { return a == b || a%0xffff == b%0xffff }

func TestSumAgainstNaive(t *testing.T) {
	ones := make([]byte, 1<<16)
	for i := range ones {
		ones[i] = 0xff
	}
	for n := range 400 {
		if got := Sum(ones[:n], 0xffff); !same(got, naiveSum(ones[:n], 0xffff)) {
			t.Fatalf("%d bytes of ff: %#x, want %#x", n, got, naiveSum(ones[:n], 0xffff))
		}
	}
	if got := Sum(ones, 0xffff); got != 0xffff {
		t.Fatalf("64 KiB of ff: %#x", got)
	}
	if got := Sum(make([]byte, 100), 0); got != 0 {
		t.Fatalf("zeros: %#x", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "b")
		initial := rapid.Uint16().Draw(t, "initial")
		if got, want := Sum(b, initial), naiveSum(b, initial); !same(got, want) {
			t.Fatalf("Sum = %#x, want %#x", got, want)
		}
		cut := 2 * rapid.IntRange(0, len(b)/2).Draw(t, "cut")
		if got, want := Sum(b[cut:], Sum(b[:cut], initial)), Sum(b, initial); !same(got, want) {
			t.Fatalf("in two pieces %#x, in one %#x", got, want)
		}
	})
}

// sampleFrames has one frame of each kind that carries a checksum.
func sampleFrames() map[string][]byte {
	echo := []byte("\x00\x01\x00\x02ping")
	return map[string][]byte{
		"udp4": udp4("hello"), "udp6": udp6("hello"), "tcp4": tcp4(ACK, "hello"), "tcp6": tcp6(ACK, "hello"),
		"icmp":  AppendICMP(nil, macA, macB, a4.Addr(), b4.Addr(), 8, 0, echo),
		"icmp6": AppendICMP(nil, macA, macB, a6.Addr(), b6.Addr(), 128, 0, echo),
		"nd":    solicit(1, 1, 2, 0, 0, 0, 0, 0xa),
		"ext":   extended(udp6("hello"), 0, options(1)), "vlan": tagged(tcp4(ACK, "x"), TypeVLAN),
		"padded": append(udp4("hello"), make([]byte, 20)...),
	}
}

// Every checksum that is right is found right, and with any one bit turned in
// what it covers it is found wrong.
func TestVerify(t *testing.T) {
	for name, b := range sampleFrames() {
		p := parsed(b)
		if !Verify(p) {
			t.Errorf("%s: a right checksum is found wrong", name)
		}
		for at := p.L4; at < p.End; at++ {
			for bit := range 8 {
				broken := edited(b, at, b[at]^1<<bit)
				q := parsed(broken)
				none := q.Type == TypeIPv4 && q.Proto == ProtoUDP && broken[q.L4+6] == 0 && broken[q.L4+7] == 0
				shorter := q.Proto == ProtoUDP && at >= q.L4+4 && at < q.L4+6 && q.Fault != OK
				if Verify(q) && !none && !shorter {
					t.Errorf("%s: bit %d of byte %d turned, and found right", name, bit, at)
				}
			}
		}
	}
	for name, c := range map[string]struct {
		b    []byte
		want bool
	}{
		"udp4 without":        {edited(udp4("x"), 40, 0, 0), true},
		"udp6 without":        {edited(udp6("x"), 60, 0, 0), false},
		"ipv4 header":         {edited(udp4("x"), 22, 63), false},
		"arp":                 {arpRequest(), true},
		"fault":               {udp4("x")[:40], false},
		"runt":                {nil, false},
		"later fragment":      {extended(udp6("12345678"), ProtoFragment, fragmentHeader(8, true)), true},
		"routed":              {extended(udp6("x"), ProtoRouting, []byte{0, 0, 4, 1, 0, 0, 0, 0}), true},
		"protocol of its own": {edited(udp6("x"), 20, 200), true},
	} {
		if got := Verify(parsed(c.b)); got != c.want {
			t.Errorf("%s: Verify = %v", name, got)
		}
	}
}

func TestComplete(t *testing.T) {
	for _, name := range []string{"udp4", "udp6", "tcp4", "tcp6", "ext", "vlan", "padded"} {
		b := sampleFrames()[name]
		want := append([]byte(nil), b...)
		raw := pending(b)
		p := parsed(b)
		if Verify(p) {
			t.Errorf("%s: a checksum to be completed is found right", name)
		}
		v, ok := raw.Check(p)
		if !ok {
			t.Fatalf("%s: %+v refused", name, raw)
		}
		Complete(p, v)
		if string(b) != string(want) {
			t.Errorf("%s: completed to\n% x, want\n% x", name, b, want)
		}
		Complete(p, Vnet{})
		if string(b) != string(want) {
			t.Errorf("%s: changed without need", name)
		}
	}
}

// A UDP checksum that comes out as 0 is written as 0xffff (RFC 768).
func TestCompleteZero(t *testing.T) {
	for n := range 0x10000 {
		b := udp4(string([]byte{byte(n >> 8), byte(n)}))
		if binary.BigEndian.Uint16(b[40:]) != 0xffff {
			continue
		}
		v := pending(b)
		Complete(parsed(b), v)
		if got := binary.BigEndian.Uint16(b[40:]); got != 0xffff || !Verify(parsed(b)) {
			t.Errorf("completed to %#x", got)
		}
		return
	}
	t.Error("no payload has the sum in question")
}

func BenchmarkSum(b *testing.B) {
	for _, n := range []int{20, 64, 1460, 65483} {
		b.Run(itoa(n), func(b *testing.B) {
			buf := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				Sum(buf, 0)
			}
		})
	}
}

func itoa(n int) string { return string(appendNumber(nil, n, "")) }
