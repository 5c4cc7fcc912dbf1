package dns_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"brane/internal/dns"
	"brane/internal/plan"
)

func now() time.Time { return time.Unix(1e9, 0) }

func gateway() *plan.Gateway {
	addrs := func(s ...string) (out []netip.Addr) {
		for _, a := range s {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	return &plan.Gateway{
		Domain: "Office.Example",
		Addrs:  []netip.Prefix{netip.MustParsePrefix("10.20.0.1/20"), netip.MustParsePrefix("fd00:20::1/64")},
		Denied: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")},
		DNS: plan.DNS{
			Resolvers: []string{"192.0.2.53:53"},
			Names: []plan.Name{
				{Name: "gateway", Addrs: addrs("10.20.0.1", "fd00:20::1", "fe80::1")},
				{Name: "web", Addrs: addrs("10.20.0.10", "fd00:20::10")},
				{Name: "Four", Addrs: addrs("10.20.0.11")},
				{Name: "www.example.com", Addrs: addrs("10.20.0.12")},
				{Name: "outside", Addrs: addrs("198.51.100.7")},
				{Name: "alias", Addrs: addrs("10.20.0.10")},
			},
		},
	}
}

// query is a message as a client sends it.
func query(name string, kind uint16, change ...func(*wire.Msg)) []byte {
	m := new(wire.Msg).SetQuestion(name, kind)
	m.Id = 4711
	for _, c := range change {
		c(m)
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

func edns(size uint16, do bool) func(*wire.Msg) {
	return func(m *wire.Msg) { m.SetEdns0(size, do) }
}

func read(t testing.TB, b []byte) *wire.Msg {
	t.Helper()
	m := new(wire.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("reply cannot be read: %v: % x", err, b)
	}
	if !m.Response || m.Id != 4711 {
		t.Fatalf("no response to the query: %v", m)
	}
	return m
}

// brief is the answer section in one line: type and data, sorted.
func brief(rrs []wire.RR) string {
	var out []string
	for _, rr := range rrs {
		f := strings.Fields(rr.String())
		out = append(out, strings.Join(f[3:], " "))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func TestOwnNames(t *testing.T) {
	e := dns.NewEngine(dns.NewZone(gateway()))
	for _, c := range []struct {
		name  string
		kind  uint16
		rcode int
		want  string
	}{
		{"web.office.example.", wire.TypeA, 0, "A 10.20.0.10"},
		{"web.office.example.", wire.TypeAAAA, 0, "AAAA fd00:20::10"},
		{"web.office.example.", wire.TypeANY, 0, "A 10.20.0.10, AAAA fd00:20::10"},
		{"web.office.example.", wire.TypeTXT, 0, ""},
		{"web.", wire.TypeA, 0, "A 10.20.0.10"},
		{"WeB.OFFICE.example.", wire.TypeA, 0, "A 10.20.0.10"},
		{"four.", wire.TypeA, 0, "A 10.20.0.11"},
		{"four.", wire.TypeAAAA, 0, ""},
		{"gateway.", wire.TypeAAAA, 0, "AAAA fd00:20::1"},
		{"www.example.com.", wire.TypeA, 0, "A 10.20.0.12"},
		{"www.example.com.office.example.", wire.TypeA, 0, "A 10.20.0.12"},
		{"com.office.example.", wire.TypeA, 0, ""},
		{"nobody.office.example.", wire.TypeA, wire.RcodeNameError, ""},
		{"deep.web.office.example.", wire.TypeA, wire.RcodeNameError, ""},
		{"office.example.", wire.TypeA, 0, "A 10.20.0.1"},
		{"office.example.", wire.TypeNS, 0, "NS office.example."},
		{"office.example.", wire.TypeSOA, 0, "SOA office.example. hostmaster.office.example. 1 3600 600 86400 0"},
		{"localhost.", wire.TypeA, 0, "A 127.0.0.1"},
		{"a.localhost.", wire.TypeAAAA, 0, "AAAA ::1"},
		{"a.invalid.", wire.TypeA, wire.RcodeNameError, ""},
		{"hidden.onion.", wire.TypeA, wire.RcodeNameError, ""},
		{"10.0.20.10.in-addr.arpa.", wire.TypePTR, 0, "PTR alias.office.example., PTR web.office.example."},
		{"12.0.20.10.in-addr.arpa.", wire.TypePTR, 0, "PTR www.example.com."},
		{"7.100.51.198.in-addr.arpa.", wire.TypePTR, 0, "PTR outside.office.example."},
		{"99.0.20.10.in-addr.arpa.", wire.TypePTR, wire.RcodeNameError, ""},
		{"99.15.20.10.in-addr.arpa.", wire.TypePTR, wire.RcodeNameError, ""},
		{"5.20.10.in-addr.arpa.", wire.TypePTR, 0, ""},
		{"10.0.20.10.in-addr.arpa.", wire.TypeA, 0, ""},
		{reverse("fd00:20::10"), wire.TypePTR, 0, "PTR web.office.example."},
		{reverse("fd00:20::99"), wire.TypePTR, wire.RcodeNameError, ""},
	} {
		reply, f := e.Ask(now(), query(c.name, c.kind), false)
		if f != nil {
			t.Errorf("%s %s is forwarded", c.name, wire.TypeToString[c.kind])
			continue
		}
		m := read(t, reply)
		if m.Rcode != c.rcode || brief(m.Answer) != c.want {
			t.Errorf("%s %s: %s %q, want %s %q", c.name, wire.TypeToString[c.kind],
				wire.RcodeToString[m.Rcode], brief(m.Answer), wire.RcodeToString[c.rcode], c.want)
		}
		if !m.Authoritative || !m.RecursionAvailable {
			t.Errorf("%s: flags %v", c.name, m.MsgHdr)
		}
		if m.Question[0].Name != c.name {
			t.Errorf("question %q comes back as %q", c.name, m.Question[0].Name)
		}
		for _, rr := range m.Answer {
			if rr.Header().Name != c.name {
				t.Errorf("%q is answered for %q", c.name, rr.Header().Name)
			}
		}
		if len(m.Answer) == 0 {
			if len(m.Ns) != 1 || m.Ns[0].Header().Rrtype != wire.TypeSOA || !wire.IsSubDomain(m.Ns[0].Header().Name, strings.ToLower(c.name)) {
				t.Errorf("%s: no authority for a no: %v", c.name, m.Ns)
			}
		}
	}
}

func reverse(addr string) string {
	s, err := wire.ReverseAddr(addr)
	if err != nil {
		panic(err)
	}
	return s
}

func TestForwardsTheRest(t *testing.T) {
	e := dns.NewEngine(dns.NewZone(gateway()))
	for _, name := range []string{
		"example.org.", "example.", "notoffice.example.", "com.", ".", "unknown.", "1.16.20.10.in-addr.arpa.", "20.10.in-addr.arpa.",
		reverse("fd00:21::1"), "x.y.in-addr.arpa.", "01.0.20.10.in-addr.arpa.", "1.2.3.4.5.in-addr.arpa.",
	} {
		if reply, f := e.Ask(now(), query(name, wire.TypePTR), false); f == nil {
			t.Errorf("%s is answered: %v", name, read(t, reply))
		}
	}
}

func TestNoDomain(t *testing.T) {
	g := gateway()
	g.Domain = ""
	e := dns.NewEngine(dns.NewZone(g))
	reply, _ := e.Ask(now(), query("web.", wire.TypeA), false)
	if m := read(t, reply); brief(m.Answer) != "A 10.20.0.10" {
		t.Error(m)
	}
	if _, f := e.Ask(now(), query("example.", wire.TypeA), false); f == nil {
		t.Error("everything is taken for the network's own")
	}
}

func TestRefusals(t *testing.T) {
	e := dns.NewEngine(dns.NewZone(gateway()))
	two := func(m *wire.Msg) { m.Question = append(m.Question, m.Question[0]) }
	for _, c := range []struct {
		name  string
		query []byte
		rcode int
	}{
		{"update", query("a.", wire.TypeSOA, func(m *wire.Msg) { m.Opcode = wire.OpcodeUpdate }), wire.RcodeNotImplemented},
		{"two questions", query("a.", wire.TypeA, two), wire.RcodeFormatError},
		{"no question", query("a.", wire.TypeA, func(m *wire.Msg) { m.Question = nil }), wire.RcodeFormatError},
		{"chaos", query("version.bind.", wire.TypeTXT, func(m *wire.Msg) { m.Question[0].Qclass = wire.ClassCHAOS }), wire.RcodeRefused},
		{"transfer", query("office.example.", wire.TypeAXFR), wire.RcodeRefused},
		{"foreign, all types", query("example.org.", wire.TypeANY), wire.RcodeNotImplemented},
		{"without recursion", query("example.org.", wire.TypeA, func(m *wire.Msg) { m.RecursionDesired = false }), wire.RcodeRefused},
		{"EDNS version", query("web.", wire.TypeA, edns(1232, false), func(m *wire.Msg) { m.IsEdns0().SetVersion(1) }), wire.RcodeBadVers},
		{"cut off", query("web.", wire.TypeA)[:14], wire.RcodeFormatError},
		{"header only", query("web.", wire.TypeA)[:12], wire.RcodeFormatError},
		{"name that points to itself", append(query("web.", wire.TypeA)[:12], 0xc0, 12, 0, 1, 0, 1), wire.RcodeFormatError},
		{"too long", append(query("web.", wire.TypeA), make([]byte, dns.MaxQuery)...), wire.RcodeFormatError},
	} {
		reply, f := e.Ask(now(), c.query, false)
		if f != nil || reply == nil {
			t.Errorf("%s: no refusal", c.name)
			continue
		}
		if m := read(t, reply); m.Rcode != c.rcode || len(m.Answer) > 0 {
			t.Errorf("%s: %v, want %s", c.name, m, wire.RcodeToString[c.rcode])
		}
	}
	response := query("web.", wire.TypeA, func(m *wire.Msg) { m.Response = true })
	for _, b := range [][]byte{nil, {1, 2, 3}, response} {
		if reply, f := e.Ask(now(), b, false); reply != nil || f != nil {
			t.Errorf("% x is answered", b)
		}
	}
}

func TestSizes(t *testing.T) {
	g := gateway()
	for i := range 200 {
		g.DNS.Names = append(g.DNS.Names, plan.Name{Name: "many", Addrs: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.20.1.%d", i))}})
	}
	e := dns.NewEngine(dns.NewZone(g))
	for _, c := range []struct {
		query  []byte
		stream bool
		limit  int
		whole  bool
	}{
		{query("many.", wire.TypeA), false, 512, false},
		{query("many.", wire.TypeA, edns(100, false)), false, 512, false},
		{query("many.", wire.TypeA, edns(1000, false)), false, 1000, false},
		{query("many.", wire.TypeA, edns(4096, false)), false, 1232, false},
		{query("many.", wire.TypeA), true, 65535, true},
		{query("web.", wire.TypeA), false, 512, true},
	} {
		reply, _ := e.Ask(now(), c.query, c.stream)
		m := read(t, reply)
		if len(reply) > c.limit || m.Truncated == c.whole {
			t.Errorf("%d bytes of at most %d, truncated %v", len(reply), c.limit, m.Truncated)
		}
	}
	reply, _ := e.Ask(now(), query("web.", wire.TypeA, edns(4096, true)), false)
	if o := read(t, reply).IsEdns0(); o == nil || o.UDPSize() != dns.UDPSize || !o.Do() {
		t.Errorf("EDNS %v", o)
	}
	reply, _ = e.Ask(now(), query("web.", wire.TypeA), false)
	if read(t, reply).IsEdns0() != nil {
		t.Error("EDNS to a client that has none")
	}
}

func FuzzAsk(f *testing.F) {
	f.Add(query("web.office.example.", wire.TypeA, edns(1232, true)), false)
	f.Add(query("10.0.20.10.in-addr.arpa.", wire.TypePTR), true)
	f.Add(query("example.org.", wire.TypeHTTPS), false)
	f.Fuzz(func(t *testing.T, b []byte, stream bool) {
		e := dns.NewEngine(dns.NewZone(gateway()))
		reply, forward := e.Ask(now(), b, stream)
		if reply != nil {
			if forward != nil || len(reply) > 12 && new(wire.Msg).Unpack(reply) != nil {
				t.Fatalf("unreadable reply % x", reply)
			}
			if !stream && len(reply) > dns.UDPSize {
				t.Fatalf("reply of %d bytes", len(reply))
			}
		}
		if forward != nil {
			q, p, err := forward.Key.Query([dns.RandomLen]byte{1, 2, 3})
			if err != nil {
				t.Fatal(err)
			}
			q[2] |= 0x80
			if _, j := p.Judge(q, false); j != dns.Fit {
				t.Fatalf("own question is not known again: %v", j)
			}
		}
	})
}

func BenchmarkOwnName(b *testing.B) {
	e := dns.NewEngine(dns.NewZone(gateway()))
	q := query("web.office.example.", wire.TypeA, edns(1232, false))
	b.ReportAllocs()
	for b.Loop() {
		e.Ask(now(), q, false)
	}
}
