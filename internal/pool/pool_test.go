package pool

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"brane/frame"
	"brane/internal/fault"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func addrOf(s string) netip.Addr { return netip.MustParseAddr(s) }

func rng(start, end string) Range { return Range{addrOf(start), addrOf(end)} }

// lan is 10.0.0.0/24 with gateway .1, a range .10 to .12 and some hosts.
func lan() Subnet {
	return Subnet{
		Prefix:  netip.MustParsePrefix("10.0.0.0/24"),
		Gateway: addrOf("10.0.0.1"),
		Ranges:  []Range{rng("10.0.0.10", "10.0.0.12")},
		Hosts: []Host{
			{MAC: frame.MAC{2, 0, 0, 0, 0, 1}, Addr: addrOf("10.0.0.5")},
			{Name: "web", Addr: addrOf("10.0.0.11")},
			{MAC: frame.MAC{2, 0, 0, 0, 0, 2}, Name: "both", Addr: addrOf("10.0.0.6")},
		},
	}
}

func lease(name string, expires time.Time, addrs ...string) Lease {
	l := Lease{Name: name, Expires: expires}
	for _, a := range addrs {
		l.Addrs = append(l.Addrs, addrOf(a))
	}
	return l
}

func held(l Lease) Lease {
	l.Held = true
	return l
}

// outcome is a choice in one line: address, "static" and the evicted; or the
// kind of the error.
func outcome(c Choice, err error) string {
	if err != nil {
		return string(fault.KindOf(err))
	}
	s := c.Addrs[0].String()
	if c.Static {
		s += " static"
	}
	if c.Evicted != nil {
		s += fmt.Sprint(" ", c.Evicted)
	}
	return s
}

func TestChoose(t *testing.T) {
	past, future := noon.Add(-time.Hour), noon.Add(time.Hour)
	mac := func(n byte) frame.MAC { return frame.MAC{2, 0, 0, 0, 0, n} }
	for _, c := range []struct {
		what   string
		leases []Lease
		r      Request
		want   string // address, "static" and the evicted; or the kind of the error
	}{
		{"host by MAC", nil, Request{Name: "x", MAC: mac(1)}, "10.0.0.5 static"},
		{"host by name", nil, Request{Name: "web", MAC: mac(9)}, "10.0.0.11 static"},
		{"host by either, the MAC", nil, Request{Name: "x", MAC: mac(2)}, "10.0.0.6 static"},
		{"host by either, the name", nil, Request{Name: "both", MAC: mac(9)}, "10.0.0.6 static"},
		{"the MAC counts before the name", nil, Request{Name: "web", MAC: mac(1)}, "10.0.0.5 static"},
		{"host with an older lease", []Lease{lease("web", future, "10.0.0.10")}, Request{Name: "web"}, "10.0.0.11 static"},
		{"static address of an expired", []Lease{lease("old", past, "10.0.0.11")}, Request{Name: "web"}, "10.0.0.11 static [old]"},
		{"static address of the living", []Lease{lease("old", future, "10.0.0.11")}, Request{Name: "web"}, "busy"},
		{"static address of the held", []Lease{held(lease("old", past, "10.0.0.11"))}, Request{Name: "web"}, "busy"},
		{
			"static address of itself under another name",
			[]Lease{{Name: "old", MAC: mac(1), Expires: future, Addrs: []netip.Addr{addrOf("10.0.0.5")}}},
			Request{Name: "new", MAC: mac(1)},
			"10.0.0.5 static [old]",
		},
		{"what it has", []Lease{lease("x", future, "10.0.0.12")}, Request{Name: "x"}, "10.0.0.12"},
		{"what it had", []Lease{lease("x", past, "10.0.0.12")}, Request{Name: "x"}, "10.0.0.12"},
		{"what it has before what it wants", []Lease{lease("x", past, "10.0.0.12")}, Request{Name: "x", Want: addrOf("10.0.0.10")}, "10.0.0.12"},
		{"what it has is another's by now", []Lease{held(lease("x", past, "10.0.0.11")), held(lease("y", past, "10.0.0.10"))}, Request{Name: "x"}, "10.0.0.12"},
		{"what it has is out of range by now", []Lease{held(lease("x", past, "10.0.0.20")), held(lease("y", past, "10.0.0.10"))}, Request{Name: "x"}, "10.0.0.12"},
		{
			"its MAC had one under another name",
			[]Lease{{Name: "old", MAC: mac(7), Expires: future, Addrs: []netip.Addr{addrOf("10.0.0.12")}}},
			Request{Name: "new", MAC: mac(7)},
			"10.0.0.12 [old]",
		},
		{
			"its MAC lives under another name",
			[]Lease{{Name: "old", MAC: mac(7), Held: true, Addrs: []netip.Addr{addrOf("10.0.0.12")}}},
			Request{Name: "new", MAC: mac(7)},
			"10.0.0.10",
		},
		{"wanted", nil, Request{Name: "x", Want: addrOf("10.0.0.12")}, "10.0.0.12"},
		{"wanted, the other one", nil, Request{Name: "x", Want: addrOf("10.0.0.10")}, "10.0.0.10"},
		{"wanted, as a mapped address", nil, Request{Name: "x", Want: addrOf("::ffff:10.0.0.12")}, "10.0.0.12"},
		{"wanted, of an expired", []Lease{lease("old", past, "10.0.0.12")}, Request{Name: "x", Want: addrOf("10.0.0.12")}, "10.0.0.12 [old]"},
		{"wanted, of the living", []Lease{lease("old", future, "10.0.0.12")}, Request{Name: "x", Want: addrOf("10.0.0.12")}, "10.0.0.10"},
		{"wanted, a host's", []Lease{held(lease("y", past, "10.0.0.12"))}, Request{Name: "x", Want: addrOf("10.0.0.11")}, "10.0.0.10"},
		{"wanted, the gateway's", []Lease{held(lease("y", past, "10.0.0.12"))}, Request{Name: "x", Want: addrOf("10.0.0.1")}, "10.0.0.10"},
		{"wanted, out of range", []Lease{held(lease("y", past, "10.0.0.12"))}, Request{Name: "x", Want: addrOf("10.0.0.99")}, "10.0.0.10"},
		{"never used before expired", []Lease{lease("y", past, "10.0.0.12")}, Request{Name: "x"}, "10.0.0.10"},
		{"never used before expired, the other one", []Lease{lease("y", past, "10.0.0.10")}, Request{Name: "x"}, "10.0.0.12"},
		{"the longest expired", []Lease{lease("y", past, "10.0.0.10"), lease("z", past.Add(-1), "10.0.0.12")}, Request{Name: "x"}, "10.0.0.12 [z]"},
		{"expired now", []Lease{lease("y", noon, "10.0.0.10"), held(lease("z", past, "10.0.0.12"))}, Request{Name: "x"}, "10.0.0.10 [y]"},
		{"exhausted", []Lease{lease("y", noon.Add(1), "10.0.0.10"), held(lease("z", past, "10.0.0.12"))}, Request{Name: "x"}, "limit"},
	} {
		t.Run(c.what, func(t *testing.T) {
			c.r.Now = noon
			choice, err := Choose([]Subnet{lan()}, c.leases, c.r)
			if got := outcome(choice, err); got != c.want {
				t.Errorf("%s, want %s (%v)", got, c.want, err)
			}
		})
	}
}

func TestExhausted(t *testing.T) {
	_, err := Choose([]Subnet{lan()}, []Lease{lease("y", noon.Add(time.Hour), "10.0.0.10"), held(lease("z", noon, "10.0.0.12"))}, Request{Name: "x", Now: noon})
	for _, words := range []string{"10.0.0.0/24", "2 addresses", "2026-01-01 13:00:00Z", "x"} {
		if !strings.Contains(fmt.Sprint(err), words) {
			t.Errorf("%v does not say %q", err, words)
		}
	}
}

// What is given to those who want nothing, until there is no more.
func TestWholeSubnets(t *testing.T) {
	for prefix, c := range map[string]struct {
		gateway string
		count   int
		never   []string
	}{
		"192.0.2.0/29":    {"192.0.2.1", 5, []string{"192.0.2.0", "192.0.2.1", "192.0.2.7"}},
		"192.0.2.0/30":    {"192.0.2.2", 1, []string{"192.0.2.0", "192.0.2.2", "192.0.2.3"}},
		"192.0.2.0/31":    {"192.0.2.0", 1, []string{"192.0.2.0"}},
		"192.0.2.1/32":    {"192.0.2.1", 0, nil},
		"2001:db8::/125":  {"2001:db8::1", 6, []string{"2001:db8::", "2001:db8::1"}},
		"2001:db8::/127":  {"2001:db8::1", 1, []string{"2001:db8::1"}},
		"2001:db8::5/128": {"2001:db8::1", 1, nil},
	} {
		p, err := New([]Subnet{{Prefix: netip.MustParsePrefix(prefix), Gateway: addrOf(c.gateway)}})
		if err != nil {
			t.Fatal(err)
		}
		var given []string
		for i := range 10 {
			name := fmt.Sprint(i)
			choice, err := p.Choose(Request{Name: name, Now: noon})
			if err != nil {
				if fault.KindOf(err) != fault.Limit {
					t.Errorf("%s: %v", prefix, err)
				}
				break
			}
			given = append(given, choice.Addrs[0].String())
			if err = p.Put(Lease{Name: name, Addrs: choice.Addrs, Held: true}); err != nil {
				t.Fatal(err)
			}
		}
		slices.Sort(given)
		if len(slices.Compact(slices.Clone(given))) != c.count || len(given) != c.count {
			t.Errorf("%s gave %v, want %d", prefix, given, c.count)
		}
		for _, a := range c.never {
			if slices.Contains(given, a) {
				t.Errorf("%s gave %s", prefix, a)
			}
		}
	}
}

// In a /64 a name has an interface identifier of its own, everywhere the same.
func TestLargeSubnet(t *testing.T) {
	six := Subnet{Prefix: netip.MustParsePrefix("fd00:1:2:3::/64"), Gateway: addrOf("fd00:1:2:3::1")}
	p, err := New([]Subnet{lan(), six})
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.Choose(Request{Name: "db", Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(a.Addrs), "[10.0.0.10 fd00:1:2:3:6bf:2966:1f0f:8556]"; got != want {
		t.Errorf("%s, want %s as ever before", got, want)
	}
	_ = p.Put(held(Lease{Name: "other", Addrs: a.Addrs[1:]}))
	b, err := p.Choose(Request{Name: "db", Now: noon})
	if err != nil || b.Addrs[1] != a.Addrs[1].Next() {
		t.Errorf("%v after %v was taken, %v", b.Addrs, a.Addrs, err)
	}
	last, err := p.Choose(Request{Name: "x", Want: addrOf("fd00:1:2:3:3fff:ffff:ffff:ffff"), Now: noon})
	if err != nil || last.Addrs[1] != addrOf("fd00:1:2:3:3fff:ffff:ffff:ffff") {
		t.Errorf("wanted the last that is used: %v, %v", last.Addrs, err)
	}
}

func TestRanges(t *testing.T) {
	s := lan()
	s.Hosts = nil
	s.Ranges = []Range{rng("10.0.0.20", "10.0.0.21"), rng("10.0.0.5", "10.0.0.9"), rng("10.0.0.7", "10.0.0.10"), rng("10.0.0.6", "10.0.0.6"), rng("10.0.0.11", "10.0.0.11")}
	x, err := newSubnet(&s)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for n := range x.size {
		a := x.addr(n)
		if i, ok := x.index(a); !ok || i != n {
			t.Errorf("address %d is %s with number %d", n, a, i)
		}
		all = append(all, strings.TrimPrefix(a.String(), "10.0.0."))
	}
	if got := strings.Join(all, " "); got != "5 6 7 8 9 10 11 20 21" {
		t.Errorf("addresses %s", got)
	}
}

func TestInvalid(t *testing.T) {
	for what, change := range map[string]func(*Subnet){
		"no prefix":          func(s *Subnet) { s.Prefix = netip.Prefix{} },
		"range outside":      func(s *Subnet) { s.Ranges = []Range{rng("10.0.1.1", "10.0.1.2")} },
		"range ends outside": func(s *Subnet) { s.Ranges = []Range{rng("10.0.0.1", "10.0.1.2")} },
		"range backwards":    func(s *Subnet) { s.Ranges = []Range{rng("10.0.0.9", "10.0.0.8")} },
		"other family":       func(s *Subnet) { s.Ranges = []Range{rng("fd00::1", "fd00::2")} },
		"host outside":       func(s *Subnet) { s.Hosts = []Host{{Name: "x", Addr: addrOf("10.0.1.1")}} },
		"host at gateway":    func(s *Subnet) { s.Hosts = []Host{{Name: "x", Addr: s.Gateway}} },
	} {
		s := lan()
		change(&s)
		if _, err := New([]Subnet{s}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := New([]Subnet{lan()}); err != nil {
		t.Error(err)
	}
}

func TestPutConflict(t *testing.T) {
	p, err := New([]Subnet{lan()})
	if err != nil {
		t.Fatal(err)
	}
	if err = p.Put(lease("a", noon, "10.0.0.10")); err != nil {
		t.Fatal(err)
	}
	if err = p.Put(lease("b", noon.Add(time.Hour), "10.0.0.10", "10.0.0.12")); fault.KindOf(err) != fault.Conflict {
		t.Errorf("Put: %v", err)
	}
	c, err := p.Choose(Request{Name: "b", Now: noon})
	if err != nil || c.Addrs[0] != addrOf("10.0.0.12") || c.Evicted != nil {
		t.Errorf("b keeps what is its own: %+v, %v", c, err)
	}
	p.Drop("a")
	p.Drop("a")
	if err = p.Put(lease("c", noon, "10.0.0.10")); err != nil {
		t.Error(err)
	}
}
