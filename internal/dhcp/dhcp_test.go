package dhcp_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"pgregory.net/rapid"

	"brane/frame"
	"brane/internal/dhcp"
	"brane/internal/fault"
	"brane/internal/plan"
)

func config() dhcp.Config {
	return dhcp.Config{
		Gateway: netip.MustParsePrefix("10.20.0.1/24"), MAC: frame.MAC{2, 0, 0, 0, 0, 1}, Router: true,
		DNS: []netip.Addr{netip.MustParseAddr("10.20.0.1")}, Domain: "office", Search: []string{"office"}, MTU: 1500,
	}
}

func client() frame.MAC { return frame.MAC{0x52, 0x54, 0, 0, 0, 9} }

func start() time.Time { return time.Unix(1e9, 0) }

// keeper is the pool of the tests: it gives one address and remembers what it was asked.
type keeper struct {
	lease dhcp.Lease
	err   error
	asks  []dhcp.Ask
}

func (k *keeper) Lease(_ context.Context, a dhcp.Ask) (dhcp.Lease, error) {
	k.asks = append(k.asks, a)
	return k.lease, k.err
}

func (k *keeper) Release(_ context.Context, a dhcp.Ask) error {
	k.asks = append(k.asks, a)
	return k.err
}

func pool() *keeper {
	return &keeper{lease: dhcp.Lease{Addr: netip.MustParseAddr("10.20.0.77"), Length: time.Hour, Hostname: "web"}}
}

// message makes a client's message with a few modifications.
func message(kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	mac := client()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(mac[:]), dhcpv4.WithMessageType(kind)}, mods...)...)
	if err != nil {
		panic(err)
	}
	return m
}

// talk brings one message to a fresh server and reads the reply.
func talk(t *testing.T, cfg dhcp.Config, k *keeper, m *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, dhcp.Reply, dhcp.Reason) {
	t.Helper()
	a, why := dhcp.New(cfg).Receive(start(), client(), m.ToBytes())
	if why != dhcp.Answered {
		return nil, dhcp.Reply{}, why
	}
	r, why := a.Handle(context.Background(), k)
	if why != dhcp.Answered {
		return nil, r, why
	}
	out, err := dhcpv4.FromBytes(r.Payload)
	if err != nil {
		t.Fatal("reply cannot be read:", err)
	}
	if out.TransactionID != m.TransactionID || out.OpCode != dhcpv4.OpcodeBootReply || !bytes.Equal(out.ClientHWAddr, m.ClientHWAddr) {
		t.Errorf("reply to another: %v", out)
	}
	if !out.ServerIdentifier().Equal(net.IP{10, 20, 0, 1}) {
		t.Errorf("server identifier %v", out.ServerIdentifier())
	}
	return out, r, why
}

func ip(s string) net.IP { return net.ParseIP(s).To4() }

func withServer(s string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ip(s)))
}

func withRequested(s string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip(s)))
}

// stateCase is one message in one state and what is to come of it.
type stateCase struct {
	name  string
	m     *dhcpv4.DHCPv4
	err   error
	reply dhcpv4.MessageType // 0: none, for reason why
	why   dhcp.Reason
	ask   dhcp.Kind // 0: the keeper is not asked
	addr  string    // of the ask
	to    string    // destination of the reply
}

func stateCases() []stateCase {
	const (
		discover, request = dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest
		offer, ack, nak   = dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak
	)
	rapidCommit := dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRapidCommit, nil))
	ciaddr := func(s string) dhcpv4.Modifier { return dhcpv4.WithClientIP(ip(s)) }
	return []stateCase{
		{name: "discover", m: message(discover), reply: offer, ask: dhcp.Offer, to: "10.20.0.77"},
		{name: "discover, broadcast flag", m: message(discover, dhcpv4.WithBroadcast(true)), reply: offer, ask: dhcp.Offer, to: "255.255.255.255"},
		{name: "discover with a wish", m: message(discover, withRequested("10.20.0.50")), reply: offer, ask: dhcp.Offer, addr: "10.20.0.50", to: "10.20.0.77"},
		{name: "discover with a wish from elsewhere", m: message(discover, withRequested("192.168.0.50")), reply: offer, ask: dhcp.Offer, to: "10.20.0.77"},
		{name: "discover, rapid commit", m: message(discover, rapidCommit), reply: ack, ask: dhcp.Commit, to: "10.20.0.77"},
		{name: "discover, pool full", m: message(discover), err: fault.New(fault.Limit, "lease", "", "full"), why: dhcp.NoLease, ask: dhcp.Offer},
		{name: "discover, refused", m: message(discover), err: fault.New(fault.Denied, "lease", "", "no"), why: dhcp.NoLease, ask: dhcp.Offer},
		{name: "discover with ciaddr", m: message(discover, ciaddr("10.20.0.77")), why: dhcp.Nonsense},
		{name: "selecting", m: message(request, withServer("10.20.0.1"), withRequested("10.20.0.77")), reply: ack, ask: dhcp.Commit, addr: "10.20.0.77", to: "10.20.0.77"},
		{name: "selecting another server", m: message(request, withServer("10.20.0.2"), withRequested("10.20.0.77")), why: dhcp.OtherServer},
		{name: "selecting, taken meanwhile", m: message(request, withServer("10.20.0.1"), withRequested("10.20.0.77")), err: fault.New(fault.Conflict, "lease", "", "taken"), reply: nak, ask: dhcp.Commit, addr: "10.20.0.77", to: "255.255.255.255"},
		{name: "selecting, keeper away", m: message(request, withServer("10.20.0.1"), withRequested("10.20.0.77")), err: fault.New(fault.Unavailable, "lease", "", "away"), why: dhcp.NoLease, ask: dhcp.Commit, addr: "10.20.0.77"},
		{name: "init-reboot", m: message(request, withRequested("10.20.0.77")), reply: ack, ask: dhcp.Commit, addr: "10.20.0.77", to: "10.20.0.77"},
		{name: "init-reboot, another's address", m: message(request, withRequested("10.20.0.78")), reply: nak, ask: dhcp.Commit, addr: "10.20.0.78", to: "255.255.255.255"},
		{name: "init-reboot, other network", m: message(request, withRequested("192.168.1.5")), reply: nak, to: "255.255.255.255"},
		{name: "init-reboot, the gateway's", m: message(request, withRequested("10.20.0.1")), reply: nak, to: "255.255.255.255"},
		{name: "init-reboot, broadcast address", m: message(request, withRequested("10.20.0.255")), reply: nak, to: "255.255.255.255"},
		{name: "renewing", m: message(request, ciaddr("10.20.0.77")), reply: ack, ask: dhcp.Commit, addr: "10.20.0.77", to: "10.20.0.77"},
		{name: "renewing, expired and gone", m: message(request, ciaddr("10.20.0.77")), err: fault.New(fault.NotFound, "lease", "", "gone"), reply: nak, ask: dhcp.Commit, addr: "10.20.0.77", to: "255.255.255.255"},
		{name: "rebinding", m: message(request, ciaddr("10.20.0.77"), dhcpv4.WithBroadcast(true)), reply: ack, ask: dhcp.Commit, addr: "10.20.0.77", to: "10.20.0.77"},
		{name: "request of nothing", m: message(request), why: dhcp.Nonsense},
		{name: "request of both", m: message(request, ciaddr("10.20.0.77"), withRequested("10.20.0.77")), why: dhcp.Nonsense},
		{name: "renewing with a server", m: message(request, ciaddr("10.20.0.77"), withServer("10.20.0.1")), why: dhcp.Nonsense},
		{name: "release", m: message(dhcpv4.MessageTypeRelease, ciaddr("10.20.0.77"), withServer("10.20.0.1")), why: dhcp.Done, ask: dhcp.Release, addr: "10.20.0.77"},
		{name: "release to another", m: message(dhcpv4.MessageTypeRelease, ciaddr("10.20.0.77"), withServer("10.20.0.2")), why: dhcp.OtherServer},
		{name: "release of nothing", m: message(dhcpv4.MessageTypeRelease, withServer("10.20.0.1")), why: dhcp.Nonsense},
		{name: "decline", m: message(dhcpv4.MessageTypeDecline, withRequested("10.20.0.77"), withServer("10.20.0.1")), why: dhcp.Done, ask: dhcp.Decline, addr: "10.20.0.77"},
		{name: "decline of elsewhere", m: message(dhcpv4.MessageTypeDecline, withRequested("10.21.0.77"), withServer("10.20.0.1")), why: dhcp.Nonsense},
		{name: "inform", m: message(dhcpv4.MessageTypeInform, ciaddr("10.20.0.5")), reply: ack, to: "10.20.0.5"},
		{name: "inform from elsewhere", m: message(dhcpv4.MessageTypeInform, ciaddr("8.8.8.8")), why: dhcp.Nonsense},
		{name: "a server's message", m: message(offer), why: dhcp.Malformed},
		{name: "no type", m: message(0), why: dhcp.Malformed},
	}
}

// The kinds of message and the states of a client, RFC 2131 sections 4.3.1 to 4.3.5.
func TestStates(t *testing.T) {
	for _, c := range stateCases() {
		t.Run(c.name, func(t *testing.T) {
			k := pool()
			k.err = c.err
			out, r, why := talk(t, config(), k, c.m)
			if why != c.why {
				t.Fatalf("reason %v, want %v", why, c.why)
			}
			if c.ask == 0 && len(k.asks) > 0 {
				t.Errorf("keeper was asked: %+v", k.asks)
			}
			if c.ask != 0 {
				if len(k.asks) != 1 || k.asks[0].Kind != c.ask || k.asks[0].MAC != client() {
					t.Fatalf("asked %+v, want kind %v", k.asks, c.ask)
				}
				if got := k.asks[0].Addr; got.IsValid() != (c.addr != "") || got.IsValid() && got.String() != c.addr {
					t.Errorf("asked for %v, want %q", got, c.addr)
				}
			}
			if c.reply == 0 {
				return
			}
			if out.MessageType() != c.reply {
				t.Errorf("reply %v, want %v", out.MessageType(), c.reply)
			}
			if r.Addr.String() != c.to {
				t.Errorf("reply to %v, want %s", r.Addr, c.to)
			}
			if want := map[bool]frame.MAC{true: frame.Broadcast(), false: client()}[c.to == "255.255.255.255"]; r.MAC != want {
				t.Errorf("reply to %v, want %v", r.MAC, want)
			}
			leased := out.Options.Has(dhcpv4.OptionIPAddressLeaseTime)
			if want := c.reply != dhcpv4.MessageTypeNak && c.ask != 0; leased != want || out.YourIPAddr.Equal(ip("10.20.0.77")) != want {
				t.Errorf("lease time there: %v, your address %v", leased, out.YourIPAddr)
			}
			if out.Options.Has(dhcpv4.OptionRapidCommit) != c.m.Options.Has(dhcpv4.OptionRapidCommit) {
				t.Error("rapid commit is not echoed as asked")
			}
		})
	}
}

func TestOptions(t *testing.T) {
	k := pool()
	id := []byte{1, 2, 3}
	out, _, _ := talk(t, config(), k, message(dhcpv4.MessageTypeDiscover,
		dhcpv4.WithOption(dhcpv4.OptClientIdentifier(id)), dhcpv4.WithOption(dhcpv4.OptHostName("Laptop.home.example"))))
	if k.asks[0].Client != "010203" || k.asks[0].Hostname != "laptop" {
		t.Errorf("ask %+v", k.asks[0])
	}
	if !bytes.Equal(out.Options.Get(dhcpv4.OptionClientIdentifier), id) {
		t.Error("client identifier is not echoed (RFC 6842)")
	}
	got := fmt.Sprintln(net.IP(out.SubnetMask()), out.Router(), out.DNS(), out.DomainName(), out.HostName(), out.BroadcastAddress(),
		out.Options.Get(dhcpv4.OptionInterfaceMTU), out.IPAddressLeaseTime(0), out.IPAddressRenewalTime(0), out.IPAddressRebindingTime(0))
	want := "255.255.255.0 [10.20.0.1] [10.20.0.1] office web 10.20.0.255 [5 220] 1h0m0s 30m0s 52m30s\n"
	if got != want {
		t.Errorf("options\n%s, want\n%s", got, want)
	}
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionClasslessStaticRoute, dhcpv4.GenericOptionCode(249), dhcpv4.OptionDNSDomainSearchList} {
		if out.Options.Has(code) {
			t.Errorf("option %v was not asked for", code)
		}
	}
}

func TestParameterRequestListIsHonoured(t *testing.T) {
	list := func(codes ...dhcpv4.OptionCode) dhcpv4.Modifier {
		return dhcpv4.WithRequestedOptions(codes...)
	}
	out, _, _ := talk(t, config(), pool(), message(dhcpv4.MessageTypeDiscover, list(dhcpv4.OptionRouter, dhcpv4.OptionDNSDomainSearchList)))
	if len(out.Router()) != 1 || out.DomainSearch() == nil || out.DomainSearch().Labels[0] != "office" {
		t.Errorf("asked and not given: %v", out.Summary())
	}
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionDomainNameServer, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionHostName, dhcpv4.OptionDomainName} {
		if out.Options.Has(code) {
			t.Errorf("given and not asked: %v", code)
		}
	}

	cfg := config()
	cfg.Routes = []dhcp.Route{
		{To: netip.MustParsePrefix("10.99.0.0/16"), Via: netip.MustParseAddr("10.20.0.3")},
		{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.20.0.1")},
	}
	out, _, _ = talk(t, cfg, pool(), message(dhcpv4.MessageTypeDiscover, list(dhcpv4.OptionRouter, dhcpv4.OptionClasslessStaticRoute)))
	if got := fmt.Sprint(out.ClasslessStaticRoute()); len(out.ClasslessStaticRoute()) != 2 || !strings.Contains(got, "10.99.0.0/16") || len(out.Router()) != 0 {
		t.Errorf("routes %v, router %v", got, out.Router())
	}

	cfg = config()
	cfg.Router = false
	out, _, _ = talk(t, cfg, pool(), message(dhcpv4.MessageTypeDiscover))
	if len(out.Router()) != 0 {
		t.Error("an isolated network announces a router")
	}
}

func TestLeaseForEver(t *testing.T) {
	k := pool()
	k.lease.Length = -1
	out, _, _ := talk(t, config(), k, message(dhcpv4.MessageTypeDiscover))
	if got := out.Options.Get(dhcpv4.OptionIPAddressLeaseTime); !bytes.Equal(got, []byte{255, 255, 255, 255}) {
		t.Errorf("lease time % x", got)
	}
	if out.Options.Has(dhcpv4.OptionRenewTimeValue) {
		t.Error("a time to renew what does not end")
	}
}

// What does not fit into the client's largest message is left out, the most
// important options never.
func TestReplyFits(t *testing.T) {
	cfg := config()
	cfg.Domain = strings.Repeat("abcdefg.", 31) + "abcde"
	cfg.Search = []string{cfg.Domain, "other." + cfg.Domain[8:]}
	all := dhcpv4.WithRequestedOptions(dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionInterfaceMTU,
		dhcpv4.OptionDomainName, dhcpv4.OptionHostName, dhcpv4.OptionDNSDomainSearchList)
	for _, size := range []uint16{0, 300, 576, 800, 1500, 65535} {
		out, r, _ := talk(t, cfg, pool(), message(dhcpv4.MessageTypeDiscover, all, dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(size))))
		if limit := min(max(576, int(size)), 1500) - 28; len(r.Payload) > limit {
			t.Errorf("%d bytes to a client that takes %d", len(r.Payload), limit)
		}
		if len(out.Router()) == 0 || len(out.DNS()) == 0 {
			t.Errorf("size %d: no router or name server", size)
		}
		if out.Options.Has(dhcpv4.OptionDNSDomainSearchList) != (size >= 1500) {
			t.Errorf("size %d: search list there: %v", size, out.Options.Has(dhcpv4.OptionDNSDomainSearchList))
		}
	}
}

func TestRefusedSilently(t *testing.T) {
	sound := message(dhcpv4.MessageTypeDiscover)
	change := func(f func(m *dhcpv4.DHCPv4)) []byte {
		m, _ := dhcpv4.FromBytes(sound.ToBytes())
		f(m)
		return m.ToBytes()
	}
	for name, c := range map[string]struct {
		payload []byte
		src     frame.MAC
		why     dhcp.Reason
	}{
		"sound":           {sound.ToBytes(), client(), dhcp.Answered},
		"another's MAC":   {sound.ToBytes(), frame.MAC{2, 2, 2, 2, 2, 2}, dhcp.Foreign},
		"no chaddr":       {change(func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = nil }), client(), dhcp.Foreign},
		"not Ethernet":    {change(func(m *dhcpv4.DHCPv4) { m.HWType = 6 }), client(), dhcp.Foreign},
		"relayed":         {change(func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = net.IP{10, 20, 0, 9} }), client(), dhcp.Relayed},
		"hops":            {change(func(m *dhcpv4.DHCPv4) { m.HopCount = 1 }), client(), dhcp.Relayed},
		"a reply":         {change(func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootReply }), client(), dhcp.Malformed},
		"empty":           {nil, client(), dhcp.Malformed},
		"cut off":         {sound.ToBytes()[:239], client(), dhcp.Malformed},
		"no end":          {sound.ToBytes()[:243], client(), dhcp.Malformed},
		"wrong cookie":    {append(append(bytes.Clone(sound.ToBytes()[:236]), 1, 2, 3, 4), sound.ToBytes()[240:]...), client(), dhcp.Malformed},
		"long address":    {change(func(m *dhcpv4.DHCPv4) { m.Options[50] = []byte{1, 2, 3, 4, 5} }), client(), dhcp.Malformed},
		"long identifier": {change(func(m *dhcpv4.DHCPv4) { m.Options[61] = make([]byte, 256) }), client(), dhcp.Malformed},
		"longest":         {append(sound.ToBytes(), make([]byte, dhcp.MaxMessage-len(sound.ToBytes()))...), client(), dhcp.Answered},
		"too long":        {append(sound.ToBytes(), make([]byte, dhcp.MaxMessage+1-len(sound.ToBytes()))...), client(), dhcp.TooLong},
	} {
		if _, why := dhcp.New(config()).Receive(start(), c.src, c.payload); why != c.why {
			t.Errorf("%s: %v, want %v", name, why, c.why)
		}
	}
}

// A client's name reaches the name server and other clients: letters, digits
// and hyphens of one label, and no name that software looks up by itself.
func TestHostnames(t *testing.T) {
	ask := func(name string) string {
		a, why := dhcp.New(config()).Receive(start(), client(), message(dhcpv4.MessageTypeDiscover,
			dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionHostName, []byte(name)))).ToBytes())
		if why != dhcp.Answered {
			t.Fatalf("%q: %v", name, why)
		}
		return a.Hostname
	}
	for in, want := range map[string]string{
		"web": "web", "WEB-2": "web-2", "web.office": "web", "web\x00": "web", "9": "9", strings.Repeat("a", 63): strings.Repeat("a", 63),
		strings.Repeat("a", 64): "", "": "", "-a": "", "a-": "", "a b": "", "a\nb": "", "a_b": "", "ä": "", "a/../b": "",
		"wpad": "", "WPAD.office": "", "isatap": "", "localhost": "", "gateway": "",
	} {
		if got := ask(in); got != want {
			t.Errorf("%q gives %q, want %q", in, got, want)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 { // mostly control characters around a good name
		b := []byte("web")
		for range 1 + r.IntN(3) {
			b = slices.Insert(b, r.IntN(len(b)+1), byte(r.IntN(0x2d)))
		}
		if got := ask(string(b)); got != "" && got != strings.TrimRight(string(b), "\x00") {
			t.Fatalf("%q gives %q", b, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		for _, c := range ask(rapid.String().Draw(t, "name")) {
			if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-", c) {
				t.Fatalf("%q in a name", c)
			}
		}
	})
}

func TestRate(t *testing.T) {
	s, now := dhcp.New(config()), start()
	discover := message(dhcpv4.MessageTypeDiscover).ToBytes()
	count := func() (n int) {
		for {
			if _, why := s.Receive(now, client(), discover); why != dhcp.Answered {
				if why != dhcp.Rate {
					t.Fatal(why)
				}
				return n
			}
			n++
		}
	}
	if n := count(); n != 10 {
		t.Errorf("%d messages at once, want 10", n)
	}
	now = now.Add(time.Second)
	if n := count(); n != 2 {
		t.Errorf("%d messages a second later, want 2", n)
	}
	if _, why := s.Receive(now, frame.MAC{2, 9}, discover); why != dhcp.Foreign {
		t.Errorf("another client is limited too: %v", why)
	}
	now = now.Add(-10 * 365 * 24 * time.Hour) // a clock set back
	count()
	now = now.Add(6 * time.Second)
	if n := count(); n != 10 {
		t.Errorf("%d messages after the clock was set back, want 10", n)
	}
}

func TestStarvationLeavesOthersAlone(t *testing.T) {
	s, now := dhcp.New(config()), start()
	discover := message(dhcpv4.MessageTypeDiscover).ToBytes()
	for i := range 100_000 {
		s.Receive(now, frame.MAC{2, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}, discover)
	}
	if _, why := s.Receive(now, client(), discover); why != dhcp.Answered {
		t.Errorf("victim gets %v", why)
	}
}

func TestFrame(t *testing.T) {
	_, r, _ := talk(t, config(), pool(), message(dhcpv4.MessageTypeDiscover))
	var p frame.Packet
	p.Parse(r.AppendFrame(nil))
	if p.Fault != frame.OK || p.Src != config().MAC || p.Dst != client() || p.Proto != frame.ProtoUDP ||
		p.Source() != config().Gateway.Addr() || p.Destination().String() != "10.20.0.77" {
		t.Errorf("frame %+v", p)
	}
}

func TestFromPlan(t *testing.T) {
	g := &plan.Gateway{
		MAC: frame.MAC{2}, NAT: true, Domain: "office",
		Addrs: []netip.Prefix{netip.MustParsePrefix("fd00::1/64"), netip.MustParsePrefix("10.20.0.1/24"), netip.MustParsePrefix("10.30.0.1/24")},
	}
	if _, ok := dhcp.FromPlan(g, 1500); ok {
		t.Error("served without a plan for it")
	}
	g.DHCP4 = &plan.DHCP4{}
	if c, ok := dhcp.FromPlan(g, 1500); !ok || c.Gateway != g.Addrs[1] || !c.Router || c.Domain != "office" {
		t.Errorf("%+v", c)
	}
	g.DHCP4.Gateway = g.Addrs[2]
	if c, _ := dhcp.FromPlan(g, 1500); c.Gateway != g.Addrs[2] {
		t.Errorf("%+v", c)
	}
}

func FuzzReceive(f *testing.F) {
	f.Add(message(dhcpv4.MessageTypeDiscover, dhcpv4.WithOption(dhcpv4.OptHostName("web"))).ToBytes())
	f.Add(message(dhcpv4.MessageTypeRequest, withServer("10.20.0.1"), withRequested("10.20.0.77")).ToBytes())
	f.Add(message(dhcpv4.MessageTypeInform, dhcpv4.WithClientIP(net.IP{10, 20, 0, 7})).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, why := dhcp.New(config()).Receive(start(), client(), b)
		if why != dhcp.Answered {
			return
		}
		if a.MAC != client() {
			t.Fatal("asked for another")
		}
		r, why := a.Handle(context.Background(), pool())
		if why != dhcp.Answered {
			return
		}
		if len(r.Payload) > 1472 || !r.Addr.Is4() {
			t.Fatalf("reply of %d bytes to %v", len(r.Payload), r.Addr)
		}
		if _, err := dhcpv4.FromBytes(r.Payload); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkDiscover(b *testing.B) {
	s, now, k := dhcp.New(config()), start(), pool()
	m := message(dhcpv4.MessageTypeDiscover).ToBytes()
	for b.Loop() {
		now = now.Add(time.Second)
		a, _ := s.Receive(now, client(), m)
		k.asks = k.asks[:0]
		a.Handle(context.Background(), k)
	}
}
