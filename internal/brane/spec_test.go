package brane

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"brane/internal/fault"
)

func good() Spec {
	return Spec{Name: "web", Args: []string{"true"}, MAC: "02:00:00:00:00:01", MTU: 1500, Dir: "/"}
}

func TestCheck(t *testing.T) {
	s := good()
	if err := s.check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(s *Spec){
		"no name":          func(s *Spec) { s.Name = "" },
		"long name":        func(s *Spec) { s.Name = strings.Repeat("a", 65) },
		"line in the name": func(s *Spec) { s.Name = "web\n1.2.3.4 bank" },
		"line in domain":   func(s *Spec) { s.Domain = "office\nnameserver 1.2.3.4" },
		"no program":       func(s *Spec) { s.Args = nil },
		"empty program":    func(s *Spec) { s.Args = []string{""} },
		"MAC":              func(s *Spec) { s.MAC = "02:00" },
		"MTU":              func(s *Spec) { s.MTU = 67 },
		"address":          func(s *Spec) { s.Addrs = []netip.Prefix{{}} },
		"gateway":          func(s *Spec) { s.Gateways = []netip.Addr{{}} },
		"zone":             func(s *Spec) { s.DNS = []netip.Addr{netip.MustParseAddr("fe80::1%eth0")} },
		"many":             func(s *Spec) { s.DNS = make([]netip.Addr, maxAddrs+1) },
		"relative":         func(s *Spec) { s.Runtime = "run" },
	} {
		s := good()
		spoil(&s)
		if err := s.check(); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFiles(t *testing.T) {
	s := good()
	s.Domain = "office"
	s.Gateways = []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
	s.Addrs = []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}
	if got, want := string(resolvConf(&s)), "search office\nnameserver 10.0.0.1\nnameserver fd00::1\n"; got != want {
		t.Errorf("%q", got)
	}
	s.DNS = []netip.Addr{netip.MustParseAddr("10.0.0.53")}
	if got, want := string(resolvConf(&s)), "search office\nnameserver 10.0.0.53\n"; got != want {
		t.Errorf("%q", got)
	}
	if got := string(hosts(&s)); !strings.HasSuffix(got, "\n10.0.0.2\tweb.office web\n") {
		t.Errorf("%q", got)
	}
	s.Addrs, s.Domain = nil, ""
	if got := string(hosts(&s)); !strings.HasSuffix(got, "\n127.0.1.1\tweb\n") {
		t.Errorf("%q", got)
	}
}

func TestPingRange(t *testing.T) {
	for in, want := range map[string]string{
		"      1000          0          1\n": "1000 1000",
		"         0          0 4294967295\n": "0 2147483647",
		"0 100000 65536\n1 2 3\n":            "0 65535",
		"4000000000 0 1\n":                   "1 0",
		"":                                   "1 0",
		"x y z":                              "1 0",
	} {
		if got := pingRange([]byte(in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestCandidates(t *testing.T) {
	for _, c := range []struct{ name, path, want string }{
		{"a/b", "/bin", "a/b"},
		{"a", "/bin::/x", "/bin/a ./a /x/a"},
		{"a", "", "/usr/local/bin/a /usr/bin/a /bin/a"},
	} {
		if got := strings.Join(candidates(c.name, c.path), " "); got != c.want {
			t.Errorf("%v: %q", c, got)
		}
	}
}

func FuzzSpec(f *testing.F) {
	s := good()
	b, _ := json.Marshal(&s)
	f.Add(b)
	f.Add([]byte(`{"name":"a\nb","args":[]}`))
	f.Add([]byte(`{"addrs":["10.0.0.1/24",""],"mtu":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSpec(b)
		if err != nil {
			return
		}
		for _, text := range []string{string(resolvConf(s)), string(hosts(s))} {
			for line := range strings.Lines(text) {
				if line == "\n" || !strings.HasSuffix(line, "\n") || strings.ContainsRune(line, 0) {
					t.Fatalf("%q", text)
				}
			}
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"port":"tap"}`))
	f.Add([]byte(`{"fault":{"kind":"denied","detail":"x"},"status":126}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if (m == nil) == (err == nil) {
			t.Fatal(m, err)
		}
	})
}

// The jumps of the call filter stay inside it, and every path ends in a verdict.
func TestCallFilterEnds(t *testing.T) {
	p := callFilter()
	if len(p) < 10 {
		t.Skip("this architecture has no filter")
	}
	const jump, ret = 0x05, 0x06
	for i, in := range p {
		switch in.Code & 7 {
		case jump:
			if i+1+int(in.Jt) >= len(p) || i+1+int(in.Jf) >= len(p) {
				t.Errorf("instruction %d jumps out", i)
			}
		case ret:
		default:
			if i+1 == len(p) {
				t.Error("the end is no verdict")
			}
		}
	}
}
