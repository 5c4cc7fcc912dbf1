package filter

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"brane/internal/fault"
)

func mustParse(t testing.TB, s string) *Expr {
	t.Helper()
	e, err := Parse(s)
	if err != nil {
		t.Fatalf("Parse(%q): %v", s, err)
	}
	return e
}

// checkRoundTrip: the canonical text parses to an equal expression with the same text.
func checkRoundTrip(t testing.TB, e *Expr) {
	t.Helper()
	again, err := Parse(e.String())
	if err != nil {
		t.Fatalf("canonical text %q: %v", e, err)
	}
	if !reflect.DeepEqual(e, again) {
		t.Fatalf("canonical text %q parses to another expression, %q", e, again)
	}
}

// canonical maps texts to how they are printed.
var canonical = map[string]string{
	"":                                       "",
	" \t\n":                                  "",
	"port 80 or 443":                         "port 80 or port 443",
	"port (80 or 443)":                       "port 80 or port 443",
	"port 80 or (443 or 22)":                 "port 80 or port 443 or port 22",
	"tcp dst port ftp or ftp-data or domain": "tcp dst port 21 or tcp dst port 20 or tcp dst port 53",
	"not host 10.0.0.1 and 10.0.0.2":         "not host 10.0.0.1 and host 10.0.0.2",
	"not (host 10.0.0.1 or 10.0.0.2)":        "not (host 10.0.0.1 or host 10.0.0.2)",
	"host not 10.0.0.1":                      "not host 10.0.0.1",
	"tcp or udp and ip":                      "tcp or udp and ip",
	"tcp or (udp and ip)":                    "tcp or (udp and ip)",
	"(tcp or udp) and ip":                    "tcp or udp and ip",
	"tcp and (udp and (ip and arp))":         "tcp and udp and ip and arp",
	"! ! ip":                                 "ip",
	"ip||tcp&&!udp":                          "ip or tcp and not udp",
	"src or dst host 10.0.0.1":               "host 10.0.0.1",
	"dst and src port 80":                    "src and dst port 80",
	"src 10.0.0.1":                           "src host 10.0.0.1",
	"net 10":                                 "net 10.0.0.0/8",
	"net 10.1":                               "net 10.1.0.0/16",
	"net 192.168.3 or 10.1.2.3":              "net 192.168.3.0/24 or host 10.1.2.3",
	"net 10.1.0.0 mask 255.255":              "net 10.1.0.0/16",
	"net 10.0.1.0 mask 255.0.255.0":          "net 10.0.1.0 mask 255.0.255.0",
	"net 2001:db8::/32":                      "net 2001:db8::/32",
	"ip6 src net fe80::/10":                  "ip6 src net fe80::/10",
	"host 2001:DB8:0:0:0:0:0:1":              "host 2001:db8::1",
	"ether host 2:0:5e:10:0:1":               "ether host 02:00:5e:10:00:01",
	"ether src ffff.ffff.ffff":               "ether src host ff:ff:ff:ff:ff:ff",
	"ether dst 0a-0b-0c-0d-0e-0f":            "ether dst host 0a:0b:0c:0d:0e:0f",
	"ether host 0a0b0c0d0e0f":                "ether host 0a:0b:0c:0d:0e:0f",
	`ip proto \tcp`:                          "ip proto 6",
	`proto \tcp`:                             "tcp",
	"ip proto 1":                             "icmp",
	"ip6 proto 58":                           "icmp6",
	"ether proto 0x800":                      "ip",
	"ether proto 0x88cc":                     "ether proto 35020",
	"broadcast":                              "ether broadcast",
	"ip multicast":                           "ip multicast",
	"less 60":                                "len <= 60",
	"greater 0x40":                           "len >= 64",
	"port 010":                               "port 8",
	"portrange 53-25":                        "portrange 25-53",
	"portrange 20-ftp-data":                  "tcp port 20",
	"port syslog":                            "udp port 514",
	"port domain":                            "port 53",
	"tcp[tcpflags]&(tcp-syn|tcp-fin)!=0":     "tcp[13] & (2 | 1) != 0",
	"ip[2:2]-((ip[0]&0xf)<<2)==0":            "ip[2:2] - ((ip[0] & 15) << 2) = 0",
	"len - 4 = 3":                            "len - 4 = 3",
	"len - (4 - 3) = 3 - 2 - 1":              "len - (4 - 3) = 3 - 2 - 1",
	"(len & 3) % 2 = 1":                      "(len & 3) % 2 = 1",
	"5 * (2 + len) / 3 > 1":                  "5 * (2 + len) / 3 > 1",
	"--5 < -(len + 1)":                       "--5 < -(len + 1)",
	"port 80 or (443) = len":                 "port 80 or 443 = len",
	"((len)) > 5":                            "len > 5",
}

func TestParseCanonical(t *testing.T) {
	for in, want := range canonical {
		t.Run(in, func(t *testing.T) {
			e := mustParse(t, in)
			if e.String() != want {
				t.Errorf("Parse(%q) = %q, want %q", in, e, want)
			}
			checkRoundTrip(t, e)
		})
	}
}

// refused are texts that Parse refuses, and how.
var refused = []struct {
	in      string
	at      int
	problem string // part of the text
	nearest string
}{
	{"portrang 3", 0, "expected a term", "portrange"},
	{"tcp and prot 80", 8, "expected a term", "port"},
	{"port htp", 5, "no service", "http"},
	{"tcp[tcpflag] = 1", 4, "expected a number", "tcpflags"},
	{"tcp xor udp", 4, "expected 'and'", "or"},
	{"foo", 0, "expected a term", ""},
	{"host web", 5, "host names are not resolved", ""},
	{"80", 0, "expected a comparison", ""},
	{"10.0.0.1", 0, "expected a term", ""},
	{"tcp 80", 4, "expected 'port'", ""},
	{"ip 10.0.0.1", 3, "expected 'host'", ""},
	{"ip host ::1", 8, "no IPv6 addresses", ""},
	{"ip6 host 10.0.0.1", 9, "no IPv4 addresses", ""},
	{"tcp host 10.0.0.1", 9, "'tcp' has no addresses", ""},
	{"icmp port 80", 10, "has no ports", ""},
	{"port 65536", 5, "larger than 65535", ""},
	{"tcp port syslog", 9, "not registered", ""},
	{"net 10.1.2.3/8", 4, "bits outside its mask", ""},
	{"net 10.0.0.0/33", 13, "prefix length up to 32", ""},
	{"net ::/129", 7, "prefix length up to 128", ""},
	{"host 10.0.0.0/8", 13, "only 'net' takes a mask", ""},
	{"net 10/8", 6, "after a dotted address", ""},
	{"net 0", 4, "ambiguous", ""},
	{"host 10.0.0.256", 5, "no IPv4 address", ""},
	{"host 010.0.0.1", 5, "no IPv4 address", ""},
	{"host 0:1:2:3:4:5", 5, "only after 'ether host'", ""},
	{"ether host 10.0.0.1", 11, "expected an Ethernet address", ""},
	{"ether", 5, "after 'ether'", ""},
	{"ip broadcast", 3, "netmask is not known", ""},
	{"arp multicast", 4, "has no multicast", ""},
	{"src broadcast", 4, "takes no direction", ""},
	{"src proto 1", 10, "takes no direction", ""},
	{"ip proto tcp", 9, "word of the language", ""},
	{"ip proto 256", 9, "larger than 255", ""},
	{"ether proto 1500", 12, "neither an EtherType", ""},
	{"tcp proto 6", 10, "has no meaning", ""},
	{"vlan 5", 0, "not compiled", ""},
	{"port 080", 5, "octal", ""},
	{"less 4294967296", 5, "larger than 32 bits", ""},
	{"len / 0 = 1", 4, "division by zero", ""},
	{"len << 32 = 1", 4, "shift by 32", ""},
	{"len ^ 1 + 1 = 0", 4, "needs parentheses", ""},
	{"len + 1 ^ 1 = 0", 8, "needs parentheses", ""},
	{"len % 4 % 2 = 0", 4, "needs parentheses", ""},
	{"ether[0:3] = 1", 8, "1, 2 or 4 bytes", ""},
	{"esp[0] = 1", 0, "no bytes can be read", ""},
	{"len = 1 = 2", 8, "expected 'and'", ""},
	{"(tcp", 4, "expected ')' for the '(' at byte 0", ""},
	{"tcp)", 3, "expected 'and'", ""},
	{"()", 1, "expected a term", ""},
	{"ip and", 6, "the end of the expression", ""},
	{"(port 80) or 443", 13, "", ""},
	{"tcp and 80", 8, "", ""},
	{"port 80 or (443 and tcp)", 20, "bare identifiers", ""},
	{"port (tcp)", 5, "list of identifiers", ""},
	{"ip \x00", 3, "not part of the language", ""},
	{"ip \\", 3, "backslash", ""},
}

func TestParseErrors(t *testing.T) {
	for _, c := range refused {
		t.Run(c.in, func(t *testing.T) {
			_, err := Parse(c.in)
			var s *SyntaxError
			if !errors.As(err, &s) || fault.As(err) == nil {
				t.Fatalf("Parse(%q) gave %v, want a fault with a syntax error", c.in, err)
			}
			if s.Offset != c.at || !strings.Contains(s.Problem, c.problem) || s.Nearest != c.nearest {
				t.Errorf("Parse(%q): byte %d, %q, nearest %q; want %d, %q, %q", c.in, s.Offset, s.Problem, s.Nearest, c.at, c.problem, c.nearest)
			}
		})
	}
}

// Each bound is reached and not passed.
func TestParseBounds(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("(", n) + "ip" + strings.Repeat(")", n) }
	long := func(n int) string { return "ip" + strings.Repeat(" or ip", n-1) }
	right := func(n int) string { return strings.Repeat("len - (", n) + "1" + strings.Repeat(")", n) + " = 0" }
	for _, c := range []struct {
		what      string
		good, bad string
	}{
		{"length", "ip" + strings.Repeat(" ", MaxLength-2), "ip" + strings.Repeat(" ", MaxLength-1)},
		{"depth", deep(MaxDepth - 1), deep(MaxDepth)},
		{"nots", strings.Repeat("!", MaxDepth-1) + "ip", strings.Repeat("!", MaxDepth) + "ip"},
		{"terms", long(MaxTerms), long(MaxTerms + 1)},
		{"alternating terms", strings.Repeat("ip or tcp and ", MaxTerms/2-1) + "ip", strings.Repeat("ip or tcp and ", MaxTerms/2) + "ip"},
		{"sum", "len" + strings.Repeat("+1", MaxTerms-2) + " = 0", "len" + strings.Repeat("+1", MaxTerms-1) + " = 0"},
		{"registers", right(MaxRegisters - 1), right(MaxRegisters)},
		{"written out", "src and dst net 10.0.0.0/8" + strings.Repeat(" or 10.0.0.0/8", 2000), "src and dst net 10.0.0.0/8" + strings.Repeat(" or 10.0.0.0/8", 4000)},
		{"brackets", strings.Repeat("ip[", MaxDepth-2) + "0" + strings.Repeat("]", MaxDepth-2) + "=0", strings.Repeat("ip[", MaxDepth) + "0" + strings.Repeat("]", MaxDepth) + "=0"},
		{"hopeless", "ip", strings.Repeat("(", MaxLength)},
	} {
		t.Run(c.what, func(t *testing.T) {
			e := mustParse(t, c.good)
			checkRoundTrip(t, e)
			Compile(e).Match(parsed(make([]byte, 60)))
			if _, err := Parse(c.bad); fault.KindOf(err) != fault.Limit {
				t.Errorf("beyond the bound: %v, want a fault of kind limit", err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "ip", "not tcp port 25", "src net 10.0.0.0/8 or fe80::/10", "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
		"ether host 2:0:0:0:0:1 and not broadcast", "port (80 or 443) and host not 10.0.0.1", `ip proto \udp`,
		"ip[2:2] - ((ip[0]&0xf)<<2) > 20", "portrange 20-ftp-data", "less 60 or greater 1500", "net 10 mask 255",
	} {
		f.Add(s)
	}
	var b [64]byte
	b[12] = 8
	b[14] = 0x45
	p := parsed(b[:])
	f.Fuzz(func(t *testing.T, s string) {
		e, err := Parse(s)
		if err != nil {
			var se *SyntaxError
			if fault.As(err) == nil || !errors.As(err, &se) || se.Offset < 0 || se.Offset > len(s) {
				t.Fatalf("Parse(%q): not a proper error: %#v", s, err)
			}
			return
		}
		checkRoundTrip(t, e)
		Compile(e).Match(p)
	})
}
