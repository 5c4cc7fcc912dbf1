package stack

import (
	"net/netip"
	"testing"

	"brane/internal/fault"
)

func testPolicy(t testing.TB, change func(*Config)) *policy {
	t.Helper()
	c := testConfig()
	c.outside = nil
	if change != nil {
		change(&c)
	}
	p, err := newPolicy(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestDeniedInEveryForm: no form of a denied IPv4 address, and no address that
// is nobody's, is reached.
func TestDeniedInEveryForm(t *testing.T) {
	host := netip.MustParseAddr("198.51.100.10") // of the host itself, say
	p := testPolicy(t, func(c *Config) {
		c.Denied = func(a netip.Addr) bool { return Special(a) || a == host }
	})
	forms := []string{
		"0.0.0.0", "0.0.0.1", "0.1.2.3", "0.255.255.255", "224.0.0.1", "239.255.255.250", "255.255.255.255", "10.5.0.255",
		"::", "::1", "ff02::1", "ff05::2", "ff0e::1", "fe80::1", "fe80::dead:beef", "febf::1", "127.0.0.53", "127.1.2.3", "127.255.255.254",
		"169.254.0.1", "169.254.170.2", "fe80::a9fe:a9fe", "::ffff:8.8.8.8", "::8.8.8.8", "::2", "::ffff:0:0",
	}
	for _, v4 := range []string{"127.0.0.1", "169.254.169.254", "0.0.0.0", "198.51.100.10"} {
		a := netip.MustParseAddr(v4).As4()
		at := func(prefix string, i int, invert byte) string {
			b := netip.MustParseAddr(prefix).As16()
			for j, v := range a {
				b[i+j] = v ^ invert
			}
			return netip.AddrFrom16(b).String()
		}
		forms = append(forms, v4,
			at("::ffff:0:0", 12, 0), at("::", 12, 0), at("64:ff9b::", 12, 0), at("64:ff9b:1::", 12, 0), at("64:ff9b:1:7::", 12, 0),
			at("2002::", 2, 0), at("2001::", 12, 0xff), at("2001:0:4136:e378::", 12, 0xff), at("2001::", 4, 0),
			at("2001:db8::5efe:0:0", 12, 0), at("2001:db8::200:5efe:0:0", 12, 0))
	}
	if len(forms) < 60 {
		t.Fatalf("only %d forms", len(forms))
	}
	for _, f := range forms {
		a := netip.MustParseAddr(f)
		if _, d := p.admit(guestOf(a), netip.AddrPortFrom(a, 80)); d == allowed {
			t.Errorf("%s is reached", f)
		}
	}
	// The positive twins: public addresses in the same forms.
	for _, f := range []string{"8.8.8.8", "198.51.100.11", "2001:4860:4860::8888", "64:ff9b::808:808", "2002:808:808::1", "2001:0:4136:e378:8000:63bf:f7f7:f7f7"} {
		a := netip.MustParseAddr(f)
		if to, d := p.admit(guestOf(a), netip.AddrPortFrom(a, 80)); d != allowed || to != netip.AddrPortFrom(a, 80) {
			t.Errorf("%s is not reached: decision %d", f, d)
		}
	}
}

func TestAdmit(t *testing.T) {
	p := testPolicy(t, func(c *Config) {
		c.HostPort = func(src netip.Addr, port uint16) bool { return port == 8080 && src == guest4 }
	})
	isolated := testPolicy(t, func(c *Config) { c.NAT = false })
	for _, c := range []struct {
		name string
		p    *policy
		src  netip.Addr
		dst  string
		to   string
		want decision
	}{
		{"outside", p, guest4, "8.8.8.8:53", "8.8.8.8:53", allowed},
		{"without NAT", isolated, guest4, "8.8.8.8:53", "", prohibited},
		{"opened port of the host", p, guest4, "10.5.0.1:8080", "127.0.0.1:8080", allowed},
		{"of another guest", p, guest4.Next(), "10.5.0.1:8080", "", refused},
		{"port not opened", p, guest4, "10.5.0.1:22", "", refused},
		{"port 0", p, guest4, "10.5.0.1:0", "", refused},
		{"neighbour", p, guest4, "10.5.0.77:80", "", unreachable},
		{"neighbour", p, guest6, "[fd00:5::77]:80", "", unreachable},
		{"broadcast", p, guest4, "10.5.0.255:80", "", ignored},
		{"foreign source", p, netip.MustParseAddr("10.6.0.2"), "8.8.8.8:53", "", ignored},
		{"the gateway as source", p, gw4, "8.8.8.8:53", "", ignored},
		{"loopback", p, guest4, "127.0.0.1:80", "", prohibited},
		{"metadata", p, guest4, "169.254.169.254:80", "", prohibited},
	} {
		to, d := c.p.admit(c.src, netip.MustParseAddrPort(c.dst))
		if d != c.want || d == allowed && to.String() != c.to {
			t.Errorf("%s: %v to %s gives %d, %v", c.name, c.src, c.dst, d, to)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no MAC":            func(c *Config) { c.MAC = [6]byte{} },
		"multicast MAC":     func(c *Config) { c.MAC = [6]byte{1} },
		"small MTU":         func(c *Config) { c.MTU = 1279 },
		"large MTU":         func(c *Config) { c.MTU = 65521 },
		"mapped address":    func(c *Config) { c.Addrs[0] = netip.MustParsePrefix("::ffff:10.0.0.1/120") },
		"multicast address": func(c *Config) { c.Addrs[0] = netip.MustParsePrefix("224.0.0.1/24") },
		"unspecified":       func(c *Config) { c.Addrs[0] = netip.MustParsePrefix("0.0.0.0/24") },
		"invalid":           func(c *Config) { c.Addrs[0] = netip.Prefix{} },
	} {
		c := testConfig()
		change(&c)
		if _, err := newPolicy(c); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := testConfig()
	c.MTU = 0
	if p, err := newPolicy(c); err != nil || p.MTU != 1500 || p.Limits.Conns != 16384 || p.linkLoc.String() != "fe80::ff:fe00:1" {
		t.Errorf("%+v, %v", p, err)
	}
}
