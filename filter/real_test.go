package filter

import (
	"net/netip"
	"testing"

	"brane/internal/verdict"
)

// testdata/linux.pcap is what a Linux 6.18 and its peer, which routes and
// serves addresses, say to each other on a cable: duplicate address detection,
// router solicitation, multicast reports, udhcpc with udhcpd, ping in one
// frame and in fragments, TCP, UDP over both families, errors.
func TestRealTraffic(t *testing.T) {
	send, receive, router := sendRule(), receiveRule(), NewCleanSend(routerMAC, []netip.Prefix{netip.PrefixFrom(router4, 32), netip.PrefixFrom(router6, 128)})
	stranger := NewCleanReceive(ownMAC, peerMAC)
	guard := NewGuard(Params{Ports: []uint16{8080}, Router: routerMAC, Routers: []netip.Addr{router4, router6}})
	sent, received, guarded, served := 0, 0, map[verdict.Reason]int{}, map[verdict.Reason]int{}
	for i, b := range capture(t, "../../linux.pcap") {
		p := parsed(b)
		if p.Src == ownMAC {
			sent++
			guarded[guard.Judge(p)]++
			if got := send.Judge(p); got != verdict.Delivered {
				t.Errorf("frame %d is refused as it is sent: %v: %x", i+1, got, b)
			}
			continue
		}
		received++
		served[router.Judge(p)]++
		if got := receive.Judge(p); got != verdict.Delivered {
			t.Errorf("frame %d is refused as it is received: %v: %x", i+1, got, b)
		}
		// From one that is not the router, only its DHCP is refused.
		if s, r := router.Judge(p), stranger.Judge(p); s != r {
			t.Errorf("frame %d: %v as it is sent, %v as it is received", i+1, s, r)
		}
	}
	if sent < 30 || received < 30 {
		t.Errorf("%d frames sent, %d received", sent, received)
	}
	if served[verdict.DHCPServer] != 2 || len(served) != 2 {
		t.Errorf("as if the peer were an ordinary port: %v, want an offer and an acknowledgement refused", served)
	}
	// Port 9 of the gateway is closed: two datagrams, each in three fragments.
	if guarded[verdict.Host] != 2 || guarded[verdict.Undecidable] != 4 || len(guarded) != 3 {
		t.Errorf("the guard says %v", guarded)
	}
}
