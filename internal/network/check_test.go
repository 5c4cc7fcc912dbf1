package network_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"brane/frame"
	"brane/internal/fault"
	"brane/internal/network"
)

func mac(t testing.TB, s string) frame.MAC {
	t.Helper()
	m, err := frame.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// office is a sound definition for the tests to spoil.
func office(t testing.TB) *network.Definition {
	return &network.Definition{
		Name: "office", Forward: network.NAT, Domain: "office.example", MTU: 1500,
		Subnets: []network.Subnet{
			{
				Gateway: netip.MustParsePrefix("10.20.0.1/24"), DHCP: true,
				Ranges: []network.Range{{Start: netip.MustParseAddr("10.20.0.2"), End: netip.MustParseAddr("10.20.0.200"), Lease: time.Hour}},
				Hosts:  []network.DHCPHost{{MAC: mac(t, "52:54:00:00:00:01"), Name: "web", Addr: netip.MustParseAddr("10.20.0.10")}},
			},
			{Gateway: netip.MustParsePrefix("fd00:20::1/64")},
		},
		Hosts: []network.DNSHost{{Addr: netip.MustParseAddr("10.20.0.250"), Names: []string{"printer"}}},
	}
}

func TestCheckAcceptsSound(t *testing.T) {
	for name, change := range map[string]func(*network.Definition){
		"as it is":               func(*network.Definition) {},
		"isolated":               func(d *network.Definition) { d.Forward = network.None },
		"isolated, no subnet":    func(d *network.Definition) { d.Forward, d.Subnets, d.Hosts = network.None, nil, nil },
		"below another":          func(d *network.Definition) { d.Uplink, d.Subnets, d.Hosts = "default", nil, nil },
		"name of 63 bytes":       func(d *network.Definition) { d.Name = strings.Repeat("a", 63) },
		"largest mtu":            func(d *network.Definition) { d.MTU = 65521 },
		"smallest mtu with IPv6": func(d *network.Definition) { d.MTU = 1280 },
		"smallest mtu":           func(d *network.Definition) { d.MTU, d.Subnets = 576, d.Subnets[:1] },
		"device":                 func(d *network.Definition) { d.Device = "eth1" },
		"lease for ever":         func(d *network.Definition) { d.Subnets[0].Ranges[0].Lease = network.Never },
		"shortest lease":         func(d *network.Definition) { d.Subnets[0].Ranges[0].Lease = 2 * time.Minute },
		"whole subnet":           func(d *network.Definition) { d.Subnets[0].Ranges[0] = span("10.20.0.1", "10.20.0.254") },
		"range of one":           func(d *network.Definition) { d.Subnets[0].Ranges[0] = span("10.20.0.7", "10.20.0.7") },
		"full name":              func(d *network.Definition) { d.Subnets[0].Hosts[0].Name = "a.example.com" },
		"name in both families": func(d *network.Definition) {
			d.Subnets[1].DHCP = true
			d.Subnets[1].Hosts = []network.DHCPHost{{Name: "web", Addr: netip.MustParseAddr("fd00:20::10")}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := office(t)
			change(d)
			if err := d.Check(); err != nil {
				t.Error(err)
			}
		})
	}
}

func span(start, end string) network.Range {
	return network.Range{Start: netip.MustParseAddr(start), End: netip.MustParseAddr(end)}
}

// spoilt is one thing wrong and the path that leads to it.
type spoilt struct {
	name   string
	change func(*network.Definition)
	path   string
}

func spoiltHeads(t *testing.T) []spoilt {
	return []spoilt{
		{"no name", func(d *network.Definition) { d.Name = "" }, "name"},
		{"name of 64 bytes", func(d *network.Definition) { d.Name = strings.Repeat("a", 64) }, "name"},
		{"name with a slash", func(d *network.Definition) { d.Name = "../etc" }, "name"},
		{"name with a newline", func(d *network.Definition) { d.Name = "a\nb" }, "name"},
		{"name with a hyphen in front", func(d *network.Definition) { d.Name = "-a" }, "name"},
		{"uuid", func(d *network.Definition) { d.UUID = "1234" }, "uuid"},
		{"multicast mac", func(d *network.Definition) { d.MAC = mac(t, "01:00:5e:00:00:01") }, "mac"},
		{"mode", func(d *network.Definition) { d.Forward = "route" }, "forward"},
		{"nat of nothing", func(d *network.Definition) { d.Subnets, d.Hosts = nil, nil }, "forward"},
		{"device without forward", func(d *network.Definition) { d.Forward, d.Device = network.None, "eth0" }, "device"},
		{"device name", func(d *network.Definition) { d.Device = "an interface" }, "device"},
		{"domain", func(d *network.Definition) { d.Domain = "a..b" }, "domain"},
		{"domain with a control character", func(d *network.Definition) { d.Domain = "a\x00b" }, "domain"},
		{"long domain", func(d *network.Definition) { d.Domain = strings.Repeat("a.", 127) + "b" }, "domain"},
		{"small mtu", func(d *network.Definition) { d.MTU = 575 }, "mtu"},
		{"mtu below IPv6's", func(d *network.Definition) { d.MTU = 1279 }, "mtu"},
		{"large mtu", func(d *network.Definition) { d.MTU = 65522 }, "mtu"},
		{"own uplink", func(d *network.Definition) { d.Uplink, d.Subnets, d.Hosts = d.Name, nil, nil }, "uplink"},
		{"uplink and subnets", func(d *network.Definition) { d.Uplink = "default" }, "uplink"},
		{"fixed name", func(d *network.Definition) { d.Hosts[0].Names = []string{"a\nb"} }, "hosts/0"},
		{"nameless", func(d *network.Definition) { d.Hosts[0].Names = nil }, "hosts/0"},
		{"fixed name twice", func(d *network.Definition) { d.Hosts = append(d.Hosts, d.Hosts[0]) }, "hosts/1"},
		{"no address", func(d *network.Definition) { d.Hosts[0].Addr = netip.Addr{} }, "hosts/0"},
		{"too many names", func(d *network.Definition) {
			d.Hosts[0].Names = make([]string, network.MaxNames+1)
		}, "hosts/0"},
		{"too many subnets", func(d *network.Definition) { d.Subnets = make([]network.Subnet, 1e6) }, "subnets"},
	}
}

func spoiltSubnets(t *testing.T) []spoilt {
	host := func(m, name, addr string) network.DHCPHost {
		h := network.DHCPHost{Name: name, Addr: netip.MustParseAddr(addr)}
		if m != "" {
			h.MAC = mac(t, m)
		}
		return h
	}
	addHost := func(h network.DHCPHost) func(*network.Definition) {
		return func(d *network.Definition) { d.Subnets[0].Hosts = append(d.Subnets[0].Hosts, h) }
	}
	addSubnet := func(p string) func(*network.Definition) {
		return func(d *network.Definition) {
			d.Subnets = append(d.Subnets, network.Subnet{Gateway: netip.MustParsePrefix(p)})
		}
	}
	addRange := func(r network.Range) func(*network.Definition) {
		return func(d *network.Definition) { d.Subnets[0].Ranges = append(d.Subnets[0].Ranges, r) }
	}
	return []spoilt{
		{"no gateway", func(d *network.Definition) { d.Subnets[1].Gateway = netip.Prefix{} }, "subnets/1"},
		{"mapped", addSubnet("::ffff:10.9.0.1/120"), "subnets/2"},
		{"everything", addSubnet("11.0.0.1/0"), "subnets/2"},
		{"point to point", addSubnet("11.0.0.1/31"), "subnets/2"},
		{"one address", addSubnet("fd01::1/128"), "subnets/2"},
		{"loopback", addSubnet("127.0.0.1/8"), "subnets/2"},
		{"link-local", addSubnet("169.254.0.1/16"), "subnets/2"},
		{"link-local 6", addSubnet("fe80::1/64"), "subnets/2"},
		{"multicast", addSubnet("224.0.0.1/24"), "subnets/2"},
		{"network's address", addSubnet("11.0.0.0/24"), "subnets/2"},
		{"broadcast address", addSubnet("11.0.0.255/24"), "subnets/2"},
		{"overlap", addSubnet("10.0.0.1/8"), "subnets/2"},
		{"same", addSubnet("fd00:20::2/64"), "subnets/2"},
		{"dhcp twice", func(d *network.Definition) {
			d.Subnets = append(d.Subnets, network.Subnet{Gateway: netip.MustParsePrefix("11.0.0.1/24"), DHCP: true})
		}, "subnets/2"},
		{"range without dhcp", func(d *network.Definition) { d.Subnets[0].DHCP = false }, "subnets/0"},
		{"range outside", addRange(span("10.20.1.2", "10.20.1.9")), "subnets/0/ranges/1"},
		{"range of the other family", addRange(span("fd00:20::2", "fd00:20::3")), "subnets/0/ranges/1"},
		{"range backwards", addRange(span("10.20.0.220", "10.20.0.210")), "subnets/0/ranges/1"},
		{"range with broadcast", addRange(span("10.20.0.220", "10.20.0.255")), "subnets/0/ranges/1"},
		{"range twice", addRange(span("10.20.0.200", "10.20.0.210")), "subnets/0/ranges/1"},
		{"short lease", func(d *network.Definition) { d.Subnets[0].Ranges[0].Lease = 119 * time.Second }, "subnets/0/ranges/0"},
		{"half a second", func(d *network.Definition) { d.Subnets[0].Ranges[0].Lease = time.Hour + time.Second/2 }, "subnets/0/ranges/0"},
		{"long lease", func(d *network.Definition) { d.Subnets[0].Hosts[0].Lease = 1 << 32 * time.Second }, "subnets/0/hosts/0"},
		{"lease for nobody", addHost(host("", "", "10.20.0.11")), "subnets/0/hosts/1"},
		{"lease for a group", addHost(host("01:00:5e:00:00:01", "", "10.20.0.11")), "subnets/0/hosts/1"},
		{"mac twice", addHost(host("52:54:00:00:00:01", "db", "10.20.0.11")), "subnets/0/hosts/1"},
		{"name twice", addHost(host("52:54:00:00:00:02", "WEB", "10.20.0.11")), "subnets/0/hosts/1"},
		{"address twice", addHost(host("52:54:00:00:00:02", "db", "10.20.0.10")), "subnets/0/hosts/1"},
		{"lease outside", addHost(host("", "db", "10.21.0.11")), "subnets/0/hosts/1"},
		{"gateway's address", addHost(host("", "db", "10.20.0.1")), "subnets/0/hosts/1"},
		{"subnet's address", addHost(host("", "db", "10.20.0.0")), "subnets/0/hosts/1"},
		{"host name", addHost(host("", "a b", "10.20.0.11")), "subnets/0/hosts/1"},
	}
}

func TestCheckRefuses(t *testing.T) {
	for _, c := range append(spoiltHeads(t), spoiltSubnets(t)...) {
		t.Run(c.name, func(t *testing.T) {
			d := office(t)
			c.change(d)
			problems := d.Problems()
			if len(problems) == 0 {
				t.Fatal("accepted")
			}
			if problems[0].Path != c.path {
				t.Errorf("problem at %q, want %q: %v", problems[0].Path, c.path, problems)
			}
			err := d.Check()
			if fault.KindOf(err) != fault.Invalid {
				t.Errorf("kind %q of %v", fault.KindOf(err), err)
			}
			if strings.ContainsAny(problems[0].Detail, "\x00\n") || len(problems[0].Detail) > 300 {
				t.Errorf("the message is not fit to be printed: %q", problems[0].Detail)
			}
		})
	}
}

func TestOverlaps(t *testing.T) {
	prefixes := func(s ...string) (out []netip.Prefix) {
		for _, p := range s {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	free := prefixes("0.0.0.0/0", "::/0", "192.168.1.0/24", "10.20.1.0/24", "fd00:21::/64")
	if err := office(t).Overlaps(free); err != nil {
		t.Error("free subnet refused:", err)
	}
	for _, p := range []string{"10.20.0.0/16", "10.20.0.77/32", "10.20.0.9/24", "fd00:20::5/128", "10.0.0.0/8"} {
		err := office(t).Overlaps(append(free, prefixes(p)...))
		if fault.KindOf(err) != fault.Conflict {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestNamesAreStrict(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "name")
		for _, r := range s {
			alnum := r < 0x80 && strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-", r)
			if !alnum && network.IsLabel(s) {
				t.Fatalf("%q is taken for a label", s)
			}
			if !alnum && r != '.' && network.IsDomain(s) {
				t.Fatalf("%q is taken for a domain", s)
			}
		}
	})
	for _, s := range []string{"a", "a.b", "office.example", "8021q", "a-b.c-d"} {
		if !network.IsDomain(s) {
			t.Errorf("%q is refused", s)
		}
	}
	for _, s := range []string{"", ".", "a.", ".a", "a..b", "a.-b", "a_b"} {
		if network.IsDomain(s) {
			t.Errorf("%q is taken for a domain", s)
		}
	}
}
