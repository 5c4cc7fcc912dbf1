package filter

import (
	"net/netip"
	"testing"

	"brane/frame"
	"brane/internal/fault"
	"brane/internal/verdict"
)

var (
	host4, host6 = ip("192.0.2.50"), ip("2001:db8:ffff::50")
	hostPrefixes = []netip.Prefix{netip.PrefixFrom(host4, 32), netip.PrefixFrom(host6, 128), netip.MustParsePrefix("172.17.0.0/16")}
)

func testGuard() Rule {
	return NewGuard(Params{Bound: hostPrefixes, Ports: []uint16{8080}, Replies: []uint16{5353}, Router: routerMAC, Routers: []netip.Addr{router4, router6}})
}

// deniedForms are the ways to write an address that leads to the host or to
// nobody.
var deniedForms = []string{
	"0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.254", "127.0.0.53", "169.254.169.254", "169.254.0.1", "100.100.100.200",
	"168.63.129.16", "192.0.0.192", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "255.255.255.254",
	"192.0.2.50", "172.17.0.1", "172.17.255.255",
	"::", "::1", "::2", "::127.0.0.1", "::192.0.2.50", "::8.8.8.8",
	"::ffff:127.0.0.1", "::ffff:0.0.0.0", "::ffff:169.254.169.254", "::ffff:192.0.2.50", "::ffff:8.8.8.8",
	"::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8",
	"64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::192.0.2.50", "64:ff9b::0.0.0.0", "64:ff9b::172.17.3.4", "64:ff9b::10.0.0.1",
	"64:ff9b:1::127.0.0.1", "64:ff9b:1:7f00:0:100::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
	"2002:7f00:1::", "2002:7f00:1::1", "2002:a9fe:a9fe::", "2002:c000:232::5", "2002:ac11:1::1", "2002:0:0::1", "2002:a00:1::",
	"2001:0:7f00:1::", "2001:0:808:808:0:0:80ff:fffe", "2001:0:a9fe:a9fe::1", "2001:0:808:808::3fff:fdcd", "2001:0:c000:232:8000:1:2:3",
	"2001:db8:1::5efe:127.0.0.1", "2001:db8:1::200:5efe:127.0.0.1", "2001:db8:1:0:200:5efe:a9fe:a9fe", "2600::5efe:192.0.2.50", "2600::5efe:10.0.0.1",
	"fe80::1", "febf::1", "fec0::1", "feff::1", "ff02::1", "ff0e::1", "2001:db8:ffff::50", "fd00:ec2::254", "fd20:ce::254",
	"fd00:c1::a9fe:a9fe", "fd00:42::42",
}

// openForms are their neighbours, which lead elsewhere.
var openForms = []string{
	"1.0.0.0", "126.255.255.255", "128.0.0.1", "169.253.255.255", "169.255.0.1", "100.100.100.201", "168.63.129.17",
	"223.255.255.255", "192.0.2.49", "192.0.2.51", "172.16.255.255", "172.18.0.1", "8.8.8.8", "10.0.0.2", "192.168.1.1",
	"2600::1", "64:ff9b::8.8.8.8", "64:ff9b:0:1::7f00:1", "64:ff9b:2::7f00:1", "2002:808:808::1", "2003:7f00:1::",
	"2001:0:808:808:0:0:f7f7:f7f7", "2001:1:7f00:1::", "2001:db8:1::5efe:8.8.8.8", "2001:db8:1::5eff:7f00:1", "2001:db8:ffff::51",
	"fd00::1", "fe7f::1", "fc00::1", "2001:db8::127",
}

func TestDenySet(t *testing.T) {
	d := NewDenySet(hostPrefixes, []netip.Addr{router4, router6})
	if len(deniedForms) < 60 {
		t.Errorf("only %d forms", len(deniedForms))
	}
	for _, s := range deniedForms {
		if !d.Denies(ip(s)) {
			t.Errorf("%s may be reached", s)
		}
	}
	for _, s := range openForms {
		if d.Denies(ip(s)) {
			t.Errorf("%s may not be reached", s)
		}
	}
	if !d.Denies(netip.Addr{}) {
		t.Error("no address may be reached")
	}
	if !d.Denies(ip("fe80::1%eth0")) {
		t.Error("a zone makes a difference")
	}
	if d.Denies(router4) || d.Denies(router6) {
		t.Error("the gateway's own addresses are denied as they are")
	}
}

func toward(dstMAC frame.MAC, dst netip.Addr, proto uint8, upper []byte) []byte {
	src := own4
	if dst.Is6() {
		src = own6
	}
	return datagram(dstMAC, ownMAC, src, dst, proto, 255, upper)
}

func TestGuardForms(t *testing.T) {
	g := testGuard()
	for _, m := range []frame.MAC{routerMAC, allMAC, {0x33, 0x33, 0, 0, 0, 1}, {1, 0, 0x5e, 0, 0, 1}} {
		for _, s := range deniedForms {
			a := ip(s)
			if m != routerMAC && (a.IsMulticast() || a == all4) {
				continue // to the stations of the link
			}
			for _, b := range [][]byte{toward(m, a, 6, tcp(1, 80, 2, nil)), toward(m, a, 17, udp(1, 53, nil)), toward(m, a, 1, icmp(8, 0, make([]byte, 4)))} {
				if got := g.Judge(parsed(b)); got != verdict.Host {
					t.Errorf("%s in a frame to %v: %v", s, m, got)
				}
			}
		}
		for _, s := range openForms {
			for _, b := range [][]byte{toward(m, ip(s), 6, tcp(1, 80, 2, nil)), toward(m, ip(s), 17, udp(1, 80, nil))} {
				if got := g.Judge(parsed(b)); got != verdict.Delivered {
					t.Errorf("%s in a frame to %v: %v", s, m, got)
				}
			}
		}
	}
}

// judged is a frame and what a rule says to it.
type judged struct {
	what string
	b    []byte
	want verdict.Reason
}

func TestGuardServices(t *testing.T) {
	g := testGuard()
	for _, c := range guardFrames() {
		t.Run(c.what, func(t *testing.T) {
			if got := g.Judge(parsed(c.b)); got != c.want {
				t.Errorf("%v, want %v: %x", got, c.want, c.b)
			}
		})
	}
}

// With no open port, a fragment to the host needs no ports to be refused.
func TestGuardClosed(t *testing.T) {
	g := NewGuard(Params{Bound: hostPrefixes, Router: routerMAC})
	if got := g.Judge(parsed(eth(routerMAC, ownMAC, 0x800, inet4(own4, host4, 17, 8, make([]byte, 8))))); got != verdict.Host {
		t.Errorf("%v, want host", got)
	}
}

func guardFrames() []judged {
	routed := func(b []byte) []byte {
		b = cat(b[:34], []byte{131, 7, 4, 127, 0, 0, 1, 0}, b[34:])
		return with(with(b, 14, 0x47), 16, 0, byte(len(b)-14))
	}
	first, segmentsLeft := extended([]uint8{43}, 17, udp(1, 53, nil))
	big := make([]byte, 64)
	return []judged{
		{"DNS", toward(routerMAC, router4, 17, udp(5000, 53, nil)), verdict.Delivered},
		{"DNS over TCP", toward(routerMAC, router6, 6, tcp(5000, 53, frame.SYN, nil)), verdict.Delivered},
		{"DHCP", toward(routerMAC, router4, 17, udp(68, 67, nil)), verdict.Delivered},
		{"DHCP to all, through the router", toward(routerMAC, all4, 17, udp(68, 67, nil)), verdict.Delivered},
		{"DHCP to all", toward(allMAC, all4, 17, udp(68, 67, nil)), verdict.Delivered},
		{"from the DHCP port to all", toward(routerMAC, all4, 17, udp(68, 9, nil)), verdict.Host},
		{"DHCP to all from another port", toward(routerMAC, all4, 17, udp(9, 67, nil)), verdict.Host},
		{"UDP 67 over IPv6", toward(routerMAC, router6, 17, udp(68, 67, nil)), verdict.Host},
		{"echo", toward(routerMAC, router4, 1, icmp(8, 0, big)), verdict.Delivered},
		{"echo IPv6", toward(routerMAC, router6, 58, icmp(128, 0, big)), verdict.Delivered},
		{"unreachable", toward(routerMAC, router4, 1, icmp(3, 3, big)), verdict.Delivered},
		{"redirect", toward(routerMAC, router4, 1, icmp(5, 3, big)), verdict.Host},
		{"mask request", toward(routerMAC, router4, 1, icmp(17, 0, big)), verdict.Host},
		{"NS to the link-local", toward(routerMAC, routerLL, 58, neighbor(135, routerLL)), verdict.Delivered},
		{"RA to the link-local", toward(routerMAC, routerLL, 58, ra()), verdict.Host},
		{"DNS to the link-local", toward(routerMAC, routerLL, 17, udp(1, 53, nil)), verdict.Host},
		{"NS to a group", toward(groupMAC(solicited(router6)), solicited(router6), 58, neighbor(135, router6)), verdict.Delivered},
		{"ssh", toward(routerMAC, router4, 6, tcp(5000, 22, frame.SYN, nil)), verdict.Host},
		{"ssh IPv6", toward(routerMAC, router6, 6, tcp(5000, 22, frame.SYN, nil)), verdict.Host},
		{"ssh in a broadcast", toward(allMAC, router4, 6, tcp(5000, 22, frame.SYN, nil)), verdict.Host},
		{"answer of a forward", toward(routerMAC, router4, 6, tcp(22, 40000, frame.SYN|frame.ACK, nil)), verdict.Delivered},
		{"reset", toward(routerMAC, router4, 6, tcp(22, 40000, frame.RST, nil)), verdict.Delivered},
		{"no flags", toward(routerMAC, router4, 6, tcp(22, 40000, 0, nil)), verdict.Host},
		{"open port", toward(routerMAC, router4, 6, tcp(5000, 8080, frame.SYN, nil)), verdict.Delivered},
		{"open port UDP", toward(routerMAC, router6, 17, udp(5000, 8080, nil)), verdict.Delivered},
		{"open port SCTP", toward(routerMAC, router4, 132, cat(be16(5), be16(8080), big)), verdict.Host},
		{"beside the open port", toward(routerMAC, router4, 6, tcp(5000, 8081, frame.SYN, nil)), verdict.Host},
		{"open port of the host", toward(routerMAC, host4, 6, tcp(5000, 8080, frame.SYN, nil)), verdict.Delivered},
		{"open port of the host IPv6", toward(routerMAC, host6, 6, tcp(5000, 8080, frame.SYN, nil)), verdict.Delivered},
		{"DNS of the host", toward(routerMAC, host4, 17, udp(5000, 53, nil)), verdict.Host},
		{"answer to the host", toward(routerMAC, host4, 6, tcp(22, 40000, frame.ACK, nil)), verdict.Host},
		{"open port of loopback", toward(routerMAC, ip("127.0.0.1"), 6, tcp(5000, 8080, frame.SYN, nil)), verdict.Host},
		{"open port, embedded", toward(routerMAC, ip("64:ff9b::192.0.2.50"), 6, tcp(5000, 8080, frame.SYN, nil)), verdict.Host},
		{"answer of a UDP forward", toward(routerMAC, router4, 17, udp(5353, 40000, nil)), verdict.Delivered},
		{"UDP", toward(routerMAC, router4, 17, udp(5354, 40000, nil)), verdict.Host},
		{"GRE", toward(routerMAC, router4, 47, big), verdict.Host},
		{"later UDP fragment", eth(routerMAC, ownMAC, 0x800, inet4(own4, router4, 17, 8, big)), verdict.Undecidable},
		{"later echo fragment", eth(routerMAC, ownMAC, 0x800, inet4(own4, router4, 1, 8, big)), verdict.Delivered},
		{"later fragment to the host", eth(routerMAC, ownMAC, 0x800, inet4(own4, host4, 17, 8, big)), verdict.Undecidable},
		{"later fragment outside", eth(routerMAC, ownMAC, 0x800, inet4(own4, ip("8.8.8.8"), 17, 8, big)), verdict.Delivered},
		{"first TCP fragment", eth(routerMAC, ownMAC, 0x800, inet4(own4, router4, 6, 0x2000, tcp(1, 53, 2, make([]byte, 4)))), verdict.Undecidable},
		{"source route", routed(toward(routerMAC, ip("8.8.8.8"), 17, udp(1, 53, nil))), verdict.Host},
		{"routing header", toward(routerMAC, ip("2600::1"), first, segmentsLeft), verdict.Host},
		{"multicast through the router", toward(routerMAC, ip("224.0.0.251"), 17, udp(1, 2, nil)), verdict.Host},
		{"multicast", toward(frame.MAC{1, 0, 0x5e, 0, 0, 0xfb}, ip("224.0.0.251"), 17, udp(1, 2, nil)), verdict.Delivered},
		{"tagged", tag(toward(routerMAC, ip("8.8.8.8"), 17, udp(1, 2, nil)), 0x8100), verdict.Undecidable},
		{"SNAP", snap(routerMAC, ownMAC, 0x800, inet(own4, host4, 17, 64, udp(1, 2, nil))), verdict.Undecidable},
		{"bad length", with(toward(routerMAC, ip("8.8.8.8"), 17, udp(1, 2, nil)), 16, 0xff), verdict.Undecidable},
		{"cut", toward(routerMAC, ip("8.8.8.8"), 17, udp(1, 2, nil))[:30], verdict.Undecidable},
		{"bad length IPv6", with(toward(routerMAC, ip("2600::1"), 17, udp(1, 2, nil)), 18, 0xff), verdict.Undecidable},
		{"cut IPv6", toward(routerMAC, ip("2600::1"), 17, udp(1, 2, nil))[:50], verdict.Undecidable},
		{"ARP", eth(routerMAC, ownMAC, 0x806, arp(1, ownMAC, own4, zeroMAC, router4)), verdict.Delivered},
		{"to a neighbour", toward(peerMAC, ip("127.0.0.1"), 17, udp(1, 2, nil)), verdict.Delivered},
		{"runt", make([]byte, 13), verdict.Runt},
	}
}

func TestBuild(t *testing.T) {
	frames := map[string][]byte{
		"own":   toward(peerMAC, peer4, 17, udp(1, 2, nil)),
		"peer":  datagram(ownMAC, peerMAC, peer4, own4, 17, 64, udp(1, 2, nil)),
		"host":  toward(routerMAC, host4, 17, udp(1, 2, nil)),
		"later": eth(peerMAC, ownMAC, 0x800, inet4(own4, peer4, 17, 8, make([]byte, 8))),
	}
	for _, c := range []struct {
		way   Way
		rule  string
		frame string
		want  verdict.Reason
	}{
		{Send, Clean, "own", verdict.Delivered},
		{Send, Clean, "peer", verdict.SourceMAC},
		{Receive, Clean, "peer", verdict.Delivered},
		{Receive, Clean, "own", verdict.ReceiveFilter},
		{Send, Guard, "own", verdict.Delivered},
		{Send, Guard, "host", verdict.Host},
		{Send, "udp port 2", "own", verdict.Delivered},
		{Send, "tcp", "own", verdict.SendFilter},
		{Receive, "tcp", "peer", verdict.ReceiveFilter},
		{Send, "udp port 2", "later", verdict.Undecidable},
		{Receive, "", "peer", verdict.Delivered},
	} {
		p := Params{Rule: c.rule, MAC: ownMAC, Bound: bound, Router: routerMAC, Routers: []netip.Addr{router4}}
		if c.rule == Guard {
			p.Bound = hostPrefixes
		}
		r, err := Build(c.way, p)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Judge(parsed(frames[c.frame])); got != c.want {
			t.Errorf("way %d, %q, %s: %v, want %v", c.way, c.rule, c.frame, got, c.want)
		}
	}
	for _, p := range []Params{
		{Rule: Guard},
		{Rule: "tcp prot 80"},
		{Rule: Clean, Bound: []netip.Prefix{netip.MustParsePrefix("10.0.0.10/24")}},
		{Rule: Clean, Bound: []netip.Prefix{{}}},
		{Rule: Clean, Bound: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/120")}},
	} {
		if _, err := Build(Receive, p); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%+v: %v, want a fault of kind invalid", p, err)
		}
	}
}

func TestRulesDoNotAllocate(t *testing.T) {
	p := parsed(nd(routerMAC, ownMAC, own6, router6, 255, neighbor(135, router6, linkOption(1, ownMAC))))
	for _, r := range []Rule{sendRule(), testGuard(), NewCleanReceive(routerMAC, zeroMAC), NewExpr(Compile(mustParse(t, "icmp6")), Send)} {
		if got := r.Judge(p); got != verdict.Delivered {
			t.Fatalf("%T: %v", r, got)
		}
		if n := testing.AllocsPerRun(100, func() { r.Judge(p) }); n != 0 {
			t.Errorf("%T: %v allocations a frame", r, n)
		}
	}
}
