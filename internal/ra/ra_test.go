package ra_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"pgregory.net/rapid"

	"brane/frame"
	"brane/internal/plan"
	"brane/internal/ra"
)

func gateway() *plan.Gateway {
	return &plan.Gateway{
		MAC: frame.MAC{0x52, 0x54, 0, 0, 0, 1}, NAT: true, RA: true, Domain: "office.example",
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.20.0.1/24"), netip.MustParsePrefix("fd00:20::1/64"), netip.MustParsePrefix("fd00:21::1/80")},
	}
}

// read parses a frame with Brane's own parser and its message with another's.
func read(t testing.TB, b []byte) (*frame.Packet, *ndp.RouterAdvertisement) {
	t.Helper()
	var p frame.Packet
	p.Parse(b)
	if p.Fault != frame.OK || !frame.Verify(&p) {
		t.Fatalf("frame is not sound: %v", &p)
	}
	if p.Frame[p.L3+7] != 255 {
		t.Errorf("hop limit %d", p.Frame[p.L3+7])
	}
	m, err := ndp.ParseMessage(p.Frame[p.L4:p.End])
	if err != nil {
		t.Fatal(err)
	}
	return &p, m.(*ndp.RouterAdvertisement)
}

func describe(m *ndp.RouterAdvertisement) string {
	s := []string{fmt.Sprintf("router %v managed %v other %v", m.RouterLifetime, m.ManagedConfiguration, m.OtherConfiguration)}
	for _, o := range m.Options {
		switch o := o.(type) {
		case *ndp.LinkLayerAddress:
			s = append(s, fmt.Sprint("source ", o.Addr))
		case *ndp.MTU:
			s = append(s, fmt.Sprint("mtu ", o.MTU))
		case *ndp.PrefixInformation:
			s = append(s, fmt.Sprintf("%v/%d link %v auto %v %v %v", o.Prefix, o.PrefixLength, o.OnLink, o.AutonomousAddressConfiguration, o.ValidLifetime, o.PreferredLifetime))
		case *ndp.RecursiveDNSServer:
			s = append(s, fmt.Sprint("dns ", o.Servers, o.Lifetime))
		case *ndp.DNSSearchList:
			s = append(s, fmt.Sprint("search ", o.DomainNames, o.Lifetime))
		default:
			s = append(s, fmt.Sprintf("%T", o))
		}
	}
	return strings.Join(s, "\n")
}

func TestAdvert(t *testing.T) {
	c, ok := ra.FromPlan(gateway(), 1500)
	if !ok {
		t.Fatal("nothing to advertise")
	}
	mac, to := ra.AllNodes()
	p, m := read(t, c.AppendAdvert(nil, mac, to))
	if p.Src != c.MAC || p.Dst != mac || p.Source().String() != "fe80::5054:ff:fe00:1" || p.Destination().String() != "ff02::1" {
		t.Errorf("addresses: %v", p)
	}
	want := `router 30m0s managed false other false
source 52:54:00:00:00:01
mtu 1500
fd00:20::/64 link true auto true 1h30m0s 45m0s
fd00:21::/80 link true auto false 1h30m0s 45m0s
dns [fd00:20::1 fd00:21::1] 1h30m0s
search [office.example] 1h30m0s`
	if got := describe(m); got != want {
		t.Errorf("advertised\n%s\nwant\n%s", got, want)
	}

	g := gateway()
	g.NAT, g.Domain = false, ""
	g.Addrs = g.Addrs[:2]
	c, _ = ra.FromPlan(g, 576)
	_, m = read(t, c.AppendAdvert(nil, mac, to))
	want = `router 0s managed false other false
source 52:54:00:00:00:01
fd00:20::/64 link true auto true 1h30m0s 45m0s
dns [fd00:20::1] 1h30m0s`
	if got := describe(m); got != want {
		t.Errorf("isolated network advertised\n%s\nwant\n%s", got, want)
	}

	c, _ = ra.FromPlan(gateway(), 1500)
	c.Withdraw = true
	if _, m = read(t, c.AppendAdvert(nil, mac, to)); strings.Contains(describe(m), "30m") {
		t.Errorf("last words\n%s", describe(m))
	}

	g = gateway()
	g.Addrs = g.Addrs[:1]
	if _, ok := ra.FromPlan(g, 1500); ok {
		t.Error("an advertisement without a prefix")
	}
	if _, ok := ra.FromPlan(nil, 1500); ok {
		t.Error("an advertisement without a gateway")
	}
}

func solicit(src frame.MAC, from string, hops byte, options ...byte) *frame.Packet {
	b := frame.AppendICMP(nil, src, frame.MAC{0x33, 0x33, 5: 2}, netip.MustParseAddr(from), netip.MustParseAddr("ff02::2"),
		frame.RouterSolicitation, 0, append(make([]byte, 4), options...))
	b[frame.EthernetLen+7] = hops
	p := &frame.Packet{}
	p.Parse(b)
	return p
}

func TestAnswer(t *testing.T) {
	c, _ := ra.FromPlan(gateway(), 1500)
	src := frame.MAC{0x52, 0x54, 0, 0, 0, 9}
	own := []byte{1, 1, 0x52, 0x54, 0, 0, 0, 9}
	broken := solicit(src, "fe80::9", 255)
	broken.Frame[broken.End-1]++
	for _, q := range []struct {
		name string
		p    *frame.Packet
		to   string // "": no answer
	}{
		{"from an address", solicit(src, "fe80::9", 255, own...), "fe80::9"},
		{"without options", solicit(src, "fe80::9", 255), "fe80::9"},
		{"from none", solicit(src, "::", 255), "ff02::1"},
		{"from none with a link address", solicit(src, "::", 255, own...), ""},
		{"through a router", solicit(src, "fe80::9", 254, own...), ""},
		{"option of length 0", solicit(src, "fe80::9", 255, 1, 0, 0, 0, 0, 0, 0, 0), ""},
		{"option over the end", solicit(src, "fe80::9", 255, 1, 2, 0, 0, 0, 0, 0, 0), ""},
		{"from a group", solicit(src, "ff02::9", 255), ""},
		{"from a group's MAC", solicit(frame.MAC{1, 0, 0x5e}, "fe80::9", 255), ""},
		{"wrong checksum", broken, ""},
		{"an advertisement", func() *frame.Packet {
			mac, to := ra.AllNodes()
			p := &frame.Packet{}
			p.Parse(c.AppendAdvert(nil, mac, to))
			return p
		}(), ""},
	} {
		b, ok := c.AppendAnswer(nil, q.p)
		if ok != (q.to != "") || ok != (len(b) > 0) {
			t.Errorf("%s: answered %v", q.name, ok)
			continue
		}
		if !ok {
			continue
		}
		if p, _ := read(t, b); p.Dst != src || p.Destination().String() != q.to {
			t.Errorf("%s: answer %v", q.name, p)
		}
	}
}

func TestNext(t *testing.T) {
	if d := ra.Next(0, 1234); d != 0 {
		t.Errorf("first after %v", d)
	}
	rapid.Check(t, func(t *rapid.T) {
		sent, random := rapid.IntRange(1, 100).Draw(t, "sent"), rapid.Uint64().Draw(t, "random")
		d := ra.Next(sent, random)
		if sent < 3 && d > ra.InitialInterval || sent >= 3 && (d < ra.MinInterval || d > ra.MaxInterval) {
			t.Fatalf("after %d: %v", sent, d)
		}
		if d >= ra.RouterLifetime/2 || d < 3*time.Second {
			t.Fatalf("%v is too long for the lifetime, or more often than allowed", d)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	c, _ := ra.FromPlan(gateway(), 1500)
	f.Add(solicit(frame.MAC{2}, "fe80::9", 255, 1, 1, 2, 0, 0, 0, 0, 0).Frame)
	f.Add(solicit(frame.MAC{2}, "::", 255).Frame)
	f.Fuzz(func(t *testing.T, b []byte) {
		var p frame.Packet
		p.Parse(b)
		if out, ok := c.AppendAnswer(nil, &p); ok {
			if q, _ := read(t, out); q.Dst != p.Src || q.Dst.IsMulticast() {
				t.Fatal("answer to another")
			}
		}
	})
}
