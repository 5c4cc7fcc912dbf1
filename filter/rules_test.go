package filter

import (
	"net/netip"
	"slices"
	"testing"

	"brane/frame"
	"brane/internal/verdict"
)

// No frame makes a rule fail, and none passes clean that has another's source
// MAC, or an address that is not the port's.
func FuzzRules(f *testing.F) {
	for _, b := range legal() {
		if len(b) < 120 {
			f.Add(b)
		}
	}
	rules := []Rule{sendRule(), receiveRule(), testGuard(), NewExpr(Compile(mustParse(f, "not tcp port 25 and ip[0] & 15 = 5")), Send)}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := parsed(b)
		for _, r := range rules {
			r.Judge(p)
		}
		if rules[0].Judge(p) != verdict.Delivered {
			return
		}
		src := p.Source()
		if p.Src != ownMAC || p.Tags != 0 || p.LLC || src.IsValid() && !slices.Contains([]netip.Addr{own4, own6, ownLL, none4, none6}, src) {
			t.Fatalf("passes: %x", b)
		}
	})
}

func BenchmarkClean(b *testing.B) {
	for name, p := range map[string]*frame.Packet{
		"tcp4": parsed(datagram(peerMAC, ownMAC, own4, peer4, 6, 64, tcp(1, 2, 16, make([]byte, 1000)))),
		"tcp6": parsed(datagram(peerMAC, ownMAC, own6, peer6, 6, 64, tcp(1, 2, 16, make([]byte, 1000)))),
		"arp":  parsed(eth(allMAC, ownMAC, 0x806, arp(1, ownMAC, own4, zeroMAC, peer4))),
		"ns":   parsed(nd(peerMAC, ownMAC, own6, peer6, 255, neighbor(135, peer6, linkOption(1, ownMAC)))),
	} {
		rules := []Rule{sendRule(), testGuard(), NewCleanReceive(peerMAC, routerMAC)}
		for i, rule := range []string{"send", "guard", "receive"} {
			b.Run(rule+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					rules[i].Judge(p)
				}
			})
		}
	}
}
