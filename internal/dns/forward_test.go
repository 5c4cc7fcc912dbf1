package dns_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"brane/internal/dns"
)

func random(seed uint64) (out [dns.RandomLen]byte) {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(out[:])
	return out
}

func rr(t testing.TB, s string) wire.RR {
	t.Helper()
	r, err := wire.NewRR(s)
	if err != nil || r == nil {
		t.Fatalf("%q: %v", s, err)
	}
	return r
}

// ask forwards one question and gives the resolver's side of it.
func ask(t testing.TB, e *dns.Engine, q []byte) (*dns.Forward, *wire.Msg, dns.Probe) {
	t.Helper()
	reply, f := e.Ask(now(), q, false)
	if f == nil {
		t.Fatalf("not forwarded: %v", read(t, reply))
	}
	b, p, err := f.Key.Query(random(7))
	if err != nil {
		t.Fatal(err)
	}
	m := new(wire.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	return f, m, p
}

// answer is a resolver's answer with the given records (those after "--" are the authority's).
func answer(t testing.TB, q *wire.Msg, records ...string) *wire.Msg {
	m := new(wire.Msg).SetReply(q)
	m.RecursionAvailable = true
	section := &m.Answer
	for _, s := range records {
		if s == "--" {
			section = &m.Ns
			continue
		}
		*section = append(*section, rr(t, s))
	}
	return m
}

func pack(t testing.TB, m *wire.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// through sends a question to a resolver that answers with the records, and
// reads what the client gets.
func through(t testing.TB, e *dns.Engine, q []byte, records ...string) *wire.Msg {
	t.Helper()
	f, up, p := ask(t, e, q)
	m, j := p.Judge(pack(t, answer(t, up, records...)), false)
	if j != dns.Fit {
		t.Fatalf("judgement %v", j)
	}
	return read(t, f.Reply(now(), e.Accept(now(), f.Key, m)))
}

func TestQueryToResolver(t *testing.T) {
	e := dns.NewEngine(dns.NewZone(gateway()))
	_, m, _ := ask(t, e, query("Some.Example.ORG.", wire.TypeA, edns(4096, true), func(m *wire.Msg) {
		m.CheckingDisabled = true
		m.IsEdns0().Option = append(m.IsEdns0().Option, &wire.EDNS0_COOKIE{Code: wire.EDNS0COOKIE, Cookie: "0123456789abcdef"})
	}))
	o := m.IsEdns0()
	if !strings.EqualFold(m.Question[0].Name, "some.example.org.") || !m.RecursionDesired || !m.CheckingDisabled || o == nil || !o.Do() || o.UDPSize() != dns.UDPSize || len(o.Option) > 0 {
		t.Errorf("query %v", m)
	}
	names, ids := map[string]bool{}, map[uint16]bool{}
	for i := range uint64(100) {
		_, f := e.Ask(now(), query("a-long-name.example.org.", wire.TypeA), false)
		b, _, _ := f.Key.Query(random(i))
		q := new(wire.Msg)
		if err := q.Unpack(b); err != nil {
			t.Fatal(err)
		}
		names[q.Question[0].Name], ids[q.Id] = true, true
	}
	if len(names) < 95 || len(ids) < 95 {
		t.Errorf("100 queries have %d spellings and %d ids", len(names), len(ids))
	}
}

func TestAnswers(t *testing.T) {
	soa := "example.org. 600 IN SOA ns.example.org. root.example.org. 1 2 3 4 60"
	for _, c := range []struct {
		name    string
		query   []byte
		records []string
		want    string
	}{
		{"plain", query("example.org.", wire.TypeA), []string{"example.org. 60 IN A 93.184.216.34"}, "A 93.184.216.34"},
		{"alias", query("www.example.org.", wire.TypeA), []string{"www.example.org. 60 IN CNAME a.example.net.", "a.example.net. 60 IN A 93.184.216.34"}, "A 93.184.216.34, CNAME a.example.net."},
		{"renamed tree", query("www.example.org.", wire.TypeA), []string{"example.org. 60 IN DNAME example.net.", "www.example.org. 60 IN CNAME www.example.net.", "www.example.net. 60 IN A 93.184.216.34"}, "A 93.184.216.34, CNAME www.example.net., DNAME example.net."},
		{"none of the kind", query("example.org.", wire.TypeTXT), []string{"--", soa}, ""},
		{"not asked for", query("example.org.", wire.TypeA), []string{"example.org. 60 IN A 93.184.216.34", "bank.example. 60 IN A 6.6.6.6"}, "A 93.184.216.34"},
		{"other class", query("example.org.", wire.TypeA), []string{"example.org. 60 CH A 93.184.216.34"}, ""},
		{"private, but not ours", query("intranet.example.org.", wire.TypeA), []string{"intranet.example.org. 60 IN A 10.99.0.1"}, "A 10.99.0.1"},
	} {
		e := dns.NewEngine(dns.NewZone(gateway()))
		m := through(t, e, c.query, c.records...)
		if m.Rcode != 0 || brief(m.Answer) != c.want || m.Authoritative {
			t.Errorf("%s: %s %q, want %q", c.name, wire.RcodeToString[m.Rcode], brief(m.Answer), c.want)
		}
		for _, rr := range m.Ns {
			if rr.Header().Rrtype == wire.TypeNS {
				t.Errorf("%s: a referral gets through", c.name)
			}
		}
	}
}

// A foreign name must not point to the host, to this network, or to what each
// machine has of its own; in no form of the address.
func TestRebinding(t *testing.T) {
	for _, a := range []string{
		"0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.0.9", "169.254.169.254", "10.20.0.10", "10.20.15.255", "192.0.2.1",
		"::", "::1", "::ffff:127.0.0.1", "::ffff:93.184.216.34", "::127.0.0.1", "fe80::1", "febf::1", "fd00:20::10", "64:ff9b::7f00:1", "64:ff9b::a14:a", "2002:7f00:1::1",
	} {
		addr := netip.MustParseAddr(a)
		kind, good := wire.TypeA, "93.184.216.34"
		if addr.Is6() {
			kind, good = wire.TypeAAAA, "2606:2800::1"
		}
		word := wire.TypeToString[kind]
		bad, fine := fmt.Sprintf("x.evil.example. 0 IN %s %s", word, a), fmt.Sprintf("x.evil.example. 0 IN %s %s", word, good)

		e := dns.NewEngine(dns.NewZone(gateway()))
		m := through(t, e, query("x.evil.example.", kind, edns(1232, false)), bad)
		if m.Rcode != 0 || len(m.Answer) > 0 {
			t.Errorf("%s gets through: %v", a, m.Answer)
		}
		if o := m.IsEdns0(); o == nil || len(o.Option) != 1 || o.Option[0].(*wire.EDNS0_EDE).InfoCode != wire.ExtendedErrorCodeBlocked {
			t.Errorf("%s: the client is not told why: %v", a, o)
		}
		if m = through(t, e, query("x.evil.example.", kind), bad, fine); brief(m.Answer) != word+" "+good {
			t.Errorf("%s beside a good one: %v", a, m.Answer)
		}
		if m = through(t, e, query("x.evil.example.", kind), "x.evil.example. 0 IN CNAME y.evil.example.", "y.evil.example. 0 IN "+word+" "+a); strings.Contains(brief(m.Answer), a) {
			t.Errorf("%s behind an alias: %v", a, m.Answer)
		}
		if addr.Is4In6() {
			continue // the library does not read a mapped address as a hint
		}
		hint := map[bool]string{true: "ipv4hint=", false: "ipv6hint="}[addr.Is4()] + a
		if m = through(t, e, query("x.evil.example.", wire.TypeHTTPS), "x.evil.example. 0 IN HTTPS 1 . "+hint); len(m.Answer) > 0 {
			t.Errorf("%s as a hint: %v", a, m.Answer)
		}
	}
}

// One in a million forged replies may fit by luck: id and spelling would have
// to. Here the forger knows the question and not the rest.
func TestForgedReplies(t *testing.T) {
	e := dns.NewEngine(dns.NewZone(gateway()))
	_, up, p := ask(t, e, query("a-name-of-some-length.bank.example.", wire.TypeA))
	fit := pack(t, answer(t, up, "a-name-of-some-length.bank.example. 60 IN A 93.184.216.34"))
	if _, j := p.Judge(fit, false); j != dns.Fit {
		t.Fatalf("the true answer is %v", j)
	}
	forged := answer(t, up, "a-name-of-some-length.bank.example. 60 IN A 6.6.6.6")
	r := rand.New(rand.NewPCG(1, 2))
	for range 50_000 {
		forged.Id = uint16(r.Uint32())
		name := []byte("a-name-of-some-length.bank.example.")
		for i, c := range name {
			if c >= 'a' && r.IntN(2) == 0 {
				name[i] = c - 'a' + 'A'
			}
		}
		forged.Question[0].Name = string(name)
		if _, j := p.Judge(pack(t, forged), false); j == dns.Fit {
			t.Fatalf("forged reply fits: id %d, %s", forged.Id, name)
		}
	}
}

func TestJudge(t *testing.T) {
	e := dns.NewEngine(dns.NewZone(gateway()))
	_, up, p := ask(t, e, query("www.example.org.", wire.TypeA))
	change := func(f func(*wire.Msg)) []byte {
		m := answer(t, up, "www.example.org. 60 IN A 93.184.216.34")
		f(m)
		return pack(t, m)
	}
	lower := func(m *wire.Msg) { m.Question[0].Name = strings.ToLower(m.Question[0].Name) }
	for _, c := range []struct {
		name     string
		b        []byte
		udp, tcp dns.Judgement
	}{
		{"fit", change(func(*wire.Msg) {}), dns.Fit, dns.Fit},
		{"empty", nil, dns.Stranger, dns.Stranger},
		{"id", change(func(m *wire.Msg) { m.Id++ }), dns.Stranger, dns.Stranger},
		{"a query", change(func(m *wire.Msg) { m.Response = false }), dns.Stranger, dns.Stranger},
		{"no question", change(func(m *wire.Msg) { m.Question = nil }), dns.Stranger, dns.Stranger},
		{"other name", change(func(m *wire.Msg) { m.Question[0].Name = "www.example.net." }), dns.Stranger, dns.Stranger},
		{"other type", change(func(m *wire.Msg) { m.Question[0].Qtype = wire.TypeAAAA }), dns.Stranger, dns.Stranger},
		{"spelling lost", change(lower), dns.Again, dns.Fit},
		{"cut off", change(func(m *wire.Msg) { m.Truncated = true }), dns.Again, dns.Unfit},
		{"cut off in a record", change(func(m *wire.Msg) { m.Truncated = true })[:60], dns.Again, dns.Unfit},
		{"no such name", change(func(m *wire.Msg) { m.Rcode = wire.RcodeNameError }), dns.Fit, dns.Fit},
		{"failed", change(func(m *wire.Msg) { m.Rcode = wire.RcodeServerFailure }), dns.Unfit, dns.Unfit},
		{"refused", change(func(m *wire.Msg) { m.Rcode = wire.RcodeRefused }), dns.Unfit, dns.Unfit},
		{"broken", change(func(*wire.Msg) {})[:55], dns.Unfit, dns.Unfit},
	} {
		if _, j := p.Judge(c.b, false); j != c.udp {
			t.Errorf("%s over UDP: %v, want %v", c.name, j, c.udp)
		}
		if _, j := p.Judge(c.b, true); j != c.tcp {
			t.Errorf("%s over TCP: %v, want %v", c.name, j, c.tcp)
		}
	}
}

func TestFlags(t *testing.T) {
	sig := "example.org. 60 IN RRSIG A 8 2 60 20300101000000 20200101000000 1 example.org. AAAA"
	for _, c := range []struct {
		name       string
		change     func(*wire.Msg)
		ad, signed bool
	}{
		{"plain", func(*wire.Msg) {}, false, false},
		{"asks whether checked", func(m *wire.Msg) { m.AuthenticatedData = true }, true, false},
		{"asks for signatures", edns(1232, true), true, true},
		{"EDNS without", edns(1232, false), false, false},
	} {
		e := dns.NewEngine(dns.NewZone(gateway()))
		f, up, p := ask(t, e, query("example.org.", wire.TypeA, c.change))
		m := answer(t, up, "example.org. 60 IN A 93.184.216.34", sig)
		m.AuthenticatedData = true
		got, _ := p.Judge(pack(t, m), false)
		out := read(t, f.Reply(now(), e.Accept(now(), f.Key, got)))
		if out.AuthenticatedData != c.ad || (len(out.Answer) == 2) != c.signed {
			t.Errorf("%s: AD %v, answer %v", c.name, out.AuthenticatedData, out.Answer)
		}
	}
}

func TestCache(t *testing.T) {
	e := dns.NewEngine(dns.NewZone(gateway()))
	q := query("Example.org.", wire.TypeA)
	through(t, e, q, "example.org. 60 IN A 93.184.216.34")

	reply, f := e.Ask(now().Add(20*time.Second), query("eXample.ORG.", wire.TypeA), false)
	if f != nil {
		t.Fatal("asked again while it is remembered")
	}
	m := read(t, reply)
	if len(m.Answer) != 1 || m.Answer[0].Header().Ttl != 40 || m.Answer[0].Header().Name != "eXample.ORG." || m.Question[0].Name != "eXample.ORG." {
		t.Errorf("from memory: %v", m)
	}
	for name, ask := range map[string]func() *dns.Forward{
		"other type": func() *dns.Forward { _, f := e.Ask(now(), query("example.org.", wire.TypeAAAA), false); return f },
		"with DO": func() *dns.Forward {
			_, f := e.Ask(now(), query("example.org.", wire.TypeA, edns(1232, true)), false)
			return f
		},
		"outlived": func() *dns.Forward { _, f := e.Ask(now().Add(time.Minute), q, false); return f },
		"screened anew": func() *dns.Forward {
			g := gateway()
			g.Denied = append(g.Denied, netip.MustParsePrefix("93.184.216.34/32"))
			e.SetZone(dns.NewZone(g))
			_, f := e.Ask(now(), q, false)
			return f
		},
		"not positive": func() *dns.Forward {
			through(t, e, query("b.", wire.TypeA))
			_, f := e.Ask(now(), query("b.", wire.TypeA), false)
			return f
		},
	} {
		if ask() == nil {
			t.Errorf("%s: answered from memory", name)
		}
	}
	through(t, e, q, "example.org. 60 IN A 93.184.216.35")
	g := gateway() // a name more is no reason to forget
	g.Denied = append(g.Denied, netip.MustParsePrefix("93.184.216.34/32"))
	g.DNS.Names = g.DNS.Names[1:]
	e.SetZone(dns.NewZone(g))
	if _, f := e.Ask(now(), q, false); f != nil {
		t.Error("forgotten with a zone that screens alike")
	}
	soa := "org. 600 IN SOA ns.org. root.org. 1 2 3 4 60"
	through(t, e, query("no.org.", wire.TypeA), "--", soa)
	if _, f := e.Ask(now().Add(59*time.Second), query("no.org.", wire.TypeA), false); f != nil {
		t.Error("a no is not remembered")
	}
	if _, f := e.Ask(now().Add(60*time.Second), query("no.org.", wire.TypeA), false); f == nil {
		t.Error("a no is remembered too long")
	}
}

func TestCacheIsBounded(t *testing.T) {
	e := dns.NewEngine(dns.NewZone(gateway()))
	for i := range 3000 {
		name := fmt.Sprintf("n%d.example.org.", i)
		through(t, e, query(name, wire.TypeTXT), fmt.Sprintf("%s 60 IN TXT %q", name, strings.Repeat("x", 200)))
	}
	kept := 0
	for i := range 3000 {
		if _, f := e.Ask(now(), query(fmt.Sprintf("n%d.example.org.", i), wire.TypeTXT), false); f == nil {
			kept++
		}
	}
	if kept != 1024 {
		t.Errorf("%d answers kept, want 1024", kept)
	}
}

func FuzzResolver(f *testing.F) {
	e := dns.NewEngine(dns.NewZone(gateway()))
	_, up, _ := ask(f, e, query("www.example.org.", wire.TypeA))
	f.Add(pack(f, answer(f, up, "www.example.org. 60 IN CNAME a.example.net.", "a.example.net. 60 IN A 127.0.0.1"))[2:])
	f.Add(pack(f, answer(f, up, "--", "org. 600 IN SOA ns.org. root.org. 1 2 3 4 60"))[2:])
	f.Fuzz(func(t *testing.T, b []byte) {
		e := dns.NewEngine(dns.NewZone(gateway()))
		forward, up, p := ask(t, e, query("www.example.org.", wire.TypeA, edns(1232, true)))
		b = append([]byte{byte(up.Id >> 8), byte(up.Id)}, b...)
		m, j := p.Judge(b, true)
		if j != dns.Fit {
			return
		}
		reply := forward.Reply(now(), e.Accept(now(), forward.Key, m))
		out := read(t, reply)
		if len(reply) > dns.UDPSize {
			t.Fatalf("reply of %d bytes", len(reply))
		}
		zone := netip.MustParsePrefix("127.0.0.0/8")
		for _, rr := range out.Answer {
			if a, ok := rr.(*wire.A); ok && zone.Contains(netip.AddrFrom4([4]byte(a.A.To4()))) {
				t.Fatalf("loopback gets through: %v", a)
			}
		}
	})
}
