package frame

import (
	"bytes"
	"net/netip"
	"testing"
)

func TestBuild(t *testing.T) {
	p := parsed(AppendUDP([]byte("head"), macA, macB, a4, b4, []byte("hello"))[4:])
	if src, dst, _ := p.Ports(); p.Src != macA || p.Dst != macB || p.Source() != a4.Addr() || p.Destination() != b4.Addr() ||
		src != a4.Port() || dst != b4.Port() || string(p.Payload()) != "hello" || !Verify(p) {
		t.Errorf("built %s, right %v", p, Verify(p))
	}
	mapped := netip.AddrPortFrom(netip.AddrFrom16(a4.Addr().As16()), a4.Port())
	if got := AppendUDP(nil, macA, macB, mapped, b4, []byte("hello")); !bytes.Equal(got, udp4("hello")) {
		t.Errorf("a mapped address built %s", parsed(got))
	}
	nd, ok := parsed(solicit()).ND()
	if !ok || nd.HopLimit != 255 {
		t.Errorf("neighbour discovery with hop limit %d", nd.HopLimit)
	}
	for _, b := range sampleFrames() {
		if p := parsed(b); !Verify(p) {
			t.Errorf("%s: wrong checksum", p)
		}
	}
}

// What cannot be a packet is not appended, and what was there stays.
func TestBuildNothing(t *testing.T) {
	var none netip.AddrPort
	long := make([]byte, 0x10000)
	for name, out := range map[string][]byte{
		"two families":  AppendUDP([]byte("head"), macA, macB, a4, b6, nil),
		"no address":    AppendUDP([]byte("head"), macA, macB, none, none, nil),
		"udp4 too long": AppendUDP([]byte("head"), macA, macB, a4, b4, long[:0xffff-27]),
		"udp6 too long": AppendUDP([]byte("head"), macA, macB, a6, b6, long[:0xffff-7]),
		"tcp too long":  AppendTCP([]byte("head"), macA, macB, a4, b4, TCP{}, long[:0xffff-39]),
		"tcp families":  AppendTCP([]byte("head"), macA, macB, a6, b4, TCP{}, nil),
		"icmp families": AppendICMP([]byte("head"), macA, macB, a6.Addr(), b4.Addr(), 8, 0, nil),
		"icmp nothing":  AppendICMP([]byte("head"), macA, macB, none.Addr(), none.Addr(), 8, 0, nil),
	} {
		if string(out) != "head" {
			t.Errorf("%s: appended %s", name, parsed(out[4:]))
		}
	}
	for _, b := range [][]byte{
		AppendUDP(nil, macA, macB, a4, b4, long[:0xffff-28]), AppendUDP(nil, macA, macB, a6, b6, long[:0xffff-8]),
		AppendTCP(nil, macA, macB, a4, b4, TCP{}, long[:0xffff-40]),
	} {
		if p := parsed(b); p.Fault != OK || !Verify(p) {
			t.Errorf("the longest packet: %s", p)
		}
	}
}

func TestEUI64(t *testing.T) {
	// RFC 4291 appendix A has the address 34-56-78-9A-BC-DE as its example.
	got := EUI64(netip.MustParseAddr("fd00:1:2:3::"), MAC{0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde})
	if want := netip.MustParseAddr("fd00:1:2:3:3656:78ff:fe9a:bcde"); got != want {
		t.Errorf("EUI64 = %s, want %s", got, want)
	}
}
