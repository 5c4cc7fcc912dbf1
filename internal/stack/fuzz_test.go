package stack

import (
	"bytes"
	"net/netip"
	"testing"

	"brane/frame"
)

// FuzzDeliver: no frame breaks the gateway, and whatever it says in answer is a
// good frame of its own.
func FuzzDeliver(f *testing.F) {
	f.Add(pingFrame(guest4, gw4, 1, 1, 64, "hello"))
	f.Add(pingFrame(guest6, gw6, 1, 1, 64, "hello"))
	f.Add(pingFrame(guest4, out4, 1, 1, 1, "hello"))
	f.Add(pingFrame(guest4, netip.MustParseAddr("127.0.0.1"), 1, 1, 64, ""))
	for _, a := range []netip.Addr{guest4, guest6} {
		to := gw4
		if a.Is6() {
			to = gw6
		}
		pieces, whole := fragmentsOf(f, a, to, 1280, 9, make([]byte, 2000))
		for _, p := range pieces {
			f.Add(append(make([]byte, frame.VnetLen), p...))
		}
		b := new([bufSize]byte)
		n := copy(b[headroom:], whole[:100])
		for _, proto := range []uint8{frame.ProtoTCP, frame.ProtoUDP, frame.ProtoSCTP, frame.ProtoICMP, frame.ProtoICMPv6} {
			d := datagram{src: a, dst: to, proto: proto, ttl: 255}
			at := d.putIP(b[:], headroom, n, 0, 0)
			at = putLink(b[:], at, gwMAC, gMAC, a.Is4(), frame.Vnet{Flags: frame.VnetNeedsCsum, CsumStart: 34, CsumOffset: 16})
			f.Add(bytes.Clone(b[at : headroom+n]))
		}
	}
	cfg := testConfig()
	cfg.outside = nil
	cfg.Denied = func(netip.Addr) bool { return true } // nothing leaves the machine
	gs := newGuest(f, cfg)
	u, err := gs.gw.ListenUDP(53)
	if err != nil {
		f.Fatal(err)
	}
	go func() {
		b := make([]byte, 1500)
		for {
			n, a, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			u.WriteTo(b[:n], a)
		}
	}()
	f.Fuzz(func(t *testing.T, b []byte) {
		gs.gw.Deliver(b)
		if len(b) >= linkLen { // once more to the gateway's MAC, checksums vouched for
			c := bytes.Clone(b)
			copy(c[frame.VnetLen:], gwMAC[:])
			gs.gw.Deliver(c)
		}
		if held := gs.gw.Stats().Reassembly; held > fragTotalBytes {
			t.Errorf("%d bytes of fragments held", held)
		}
	})
}
