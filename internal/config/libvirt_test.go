package config_test

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"libvirt.org/go/libvirtxml"
	"pgregory.net/rapid"

	"brane/frame"
	"brane/internal/config"
	"brane/internal/fault"
	"brane/internal/network"
)

type refusal struct{ name, text, want string }

func refusals() []refusal {
	net := func(s string) string { return "<network>\n  <name>n</name>\n" + s + "\n</network>" }
	ip := func(s string) string { return net("<ip address='10.0.0.1' prefix='24'>\n" + s + "\n</ip>") }
	dhcp := func(s string) string { return ip("<dhcp>" + s + "</dhcp>") }
	return []refusal{
		{"empty", "", "1:1: no element"},
		{"another file", "<domain type='kvm'/>", "1:1: <domain>: this is no network file"},
		{"cut off", "<network>\n  <name>n", "2:10: malformed XML"},
		{"crossed", "<network>\n<name>n</network></name>", "2:18: malformed XML"},
		{"two roots", "<network><name>n</name></network>\n<network/>", "2:1: a second root element"},
		{"text outside", "<network><name>n</name></network>\nhello", "text outside"},
		{"text between", net("hello"), "<network>: there is text where none belongs: \"hello\""},
		{"doctype", "<!DOCTYPE network [<!ENTITY a 'b'>]>\n<network/>", "1:1: document types and entities"},
		{"entity", net("<domain name='&a;'/>"), "malformed XML: invalid character entity"},
		{"Latin-1", "<?xml version='1.0' encoding='iso-8859-1'?><network/>", "is not UTF-8"},
		{"not UTF-8", "<network><name>\xff</name></network>", "malformed XML: invalid UTF-8"},
		{"attribute twice", net("<domain name='a' name='b'/>"), "3:1: <domain>: the attribute name is there twice"},
		{"no name", "<network/>", "1:1: <network>: the network has no name"},
		{"name twice", net("<name>m</name>"), "3:1: <name>: there is one already, in line 2"},
		{"bad name", "<network>\n <name>a/b</name></network>", "2:2: <name>: \"a/b\" is not a name"},
		{"long name", "<network><name>" + strings.Repeat("a", 64) + "</name></network>", "1:10: <name>"},
		{"element in a name", "<network><name>a<b/></name></network>", "1:17: <b>: unknown element inside <name>"},
		{"unknown element", net("<frobnicate/>"), "3:1: <frobnicate>: unknown element inside <network>"},
		{"unknown attribute", net("<domain name='a' colour='red'/>"), "3:1: <domain>: unknown attribute colour"},
		{"of another vocabulary", "<network xmlns:x='urn:x'><x:name>n</x:name></network>", "<network>: the network has no name"},
		{"dnsmasq's options", "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>n</name><dnsmasq:options/></network>", "there is no dnsmasq"},
		{"uuid", net("<uuid>1234</uuid>"), "3:1: <uuid>: \"1234\" is not a UUID"},
		{"uuid of other letters", net("<uuid>" + strings.Repeat("g", 32) + "</uuid>"), "3:1: <uuid>"},
		{"mode", net("<forward mode='teleport'/>"), "3:1: <forward>: there is no mode \"teleport\""},
		{"nat without a subnet", net("<forward/>"), "3:1: <forward>: mode nat needs a subnet"},
		{"nat of one family", net("<forward><nat ipv6='no'/></forward>"), "3:10: <nat>: ipv6='no'"},
		{"nat ports", net("<forward><nat><port start='1' end='2'/></nat></forward>"), "3:15: <port>: not supported: the host chooses"},
		{"two devices", net("<forward dev='a'><interface dev='b'/></forward>"), "3:18: <interface>: traffic can leave by any"},
		{"firewalld zone", net("<bridge name='b' zone='z'/>"), "3:1: <bridge>: the attribute zone is not supported"},
		{"domain", net("<domain name='a_b'/>"), "3:1: <domain>: \"a_b\" is not a domain name"},
		{"no domain", net("<domain/>"), "3:1: <domain>: the attribute name is missing"},
		{"register", net("<domain name='a' register='yes'/>"), "3:1: <domain>: register"},
		{"mtu", net("<mtu size='70000'/>"), "3:1: <mtu>: 70000 is outside 576 to 65521"},
		{"mtu in words", net("<mtu size='big'/>"), "3:1: <mtu>: size=\"big\" is no number"},
		{"mtu with a sign", net("<mtu size='+1500'/>"), "3:1: <mtu>: size=\"+1500\" is no number"},
		{"mac", net("<mac address='52:54'/>"), "3:1: <mac>: address=\"52:54\" is no MAC address"},
		{"group's mac", net("<mac address='01:00:5e:00:00:01'/>"), "3:1: <mac>: 01:00:5e:00:00:01 is the address of a group"},
		{"no address", net("<ip/>"), "3:1: <ip>: the attribute address is missing"},
		{"address", net("<ip address='10.0.0.256'/>"), "3:1: <ip>: address=\"10.0.0.256\" is no IP address"},
		{"family", net("<ip family='ipv6' address='10.0.0.1'/>"), "3:1: <ip>: family=\"ipv6\" does not go with 10.0.0.1"},
		{"mask with a hole", net("<ip address='10.0.0.1' netmask='255.0.255.0'/>"), "has a hole"},
		{"mask and prefix", net("<ip address='10.0.0.1' netmask='255.0.0.0' prefix='8'/>"), "both prefix and netmask"},
		{"prefix", net("<ip address='10.0.0.1' prefix='33'/>"), "prefix=\"33\" is no number from 0 to 32"},
		{"loopback", net("<ip address='127.0.0.1' prefix='8'/>"), "127.0.0.1 cannot be a gateway's address"},
		{"class D", net("<ip address='224.0.0.1'/>"), "of no class"},
		{"overlap", net("<ip address='10.0.0.1' prefix='24'/>\n<ip address='10.0.0.129' prefix='25'/>"), "4:1: <ip>: 10.0.0.128/25 overlaps 10.0.0.0/24"},
		{"tftp", ip("<tftp root='/'/>"), "4:1: <tftp>: not supported"},
		{"range outside", dhcp("<range start='10.0.0.5' end='10.0.1.5'/>"), "4:7: <range>: 10.0.0.5 to 10.0.1.5 is not inside"},
		{"range without an end", dhcp("<range start='10.0.0.5'/>"), "4:7: <range>: the attribute end is missing"},
		{"second range", dhcp("<range start='10.0.0.5' end='10.0.0.9'/><range start='10.0.0.9' end='10.0.0.10'/>"), "4:47: <range>: 10.0.0.9 to 10.0.0.10 overlaps"},
		{"short lease", dhcp("<range start='10.0.0.5' end='10.0.0.9'><lease expiry='1'/></range>"), "4:7: <range>: a lease of 1m0s is shorter"},
		{"long lease", dhcp("<range start='10.0.0.5' end='10.0.0.9'><lease expiry='2000000000' unit='hours'/></range>"), "4:46: <lease>: a lease of"},
		{"unit", dhcp("<range start='10.0.0.5' end='10.0.0.9'><lease expiry='1' unit='weeks'/></range>"), "unit=\"weeks\" is none of"},
		{"second host", dhcp("<host name='a' ip='10.0.0.5'/><host name='A' ip='10.0.0.6'/>"), "4:37: <host>: a is taken by the static lease of a"},
		{"MAC twice", dhcp("<host mac='52:54:00:00:00:01' ip='10.0.0.5'/><host mac='52:54:00:00:00:01' ip='10.0.0.6'/>"), "52:54:00:00:00:01 is taken"},
		{"client identifier", dhcp("<host id='0:3' ip='10.0.0.5'/>"), "the attribute id is not supported"},
		{"names switched off", net("<dns enable='no'/>"), "cannot be switched off"},
		{"maybe", net("<dns enable='maybe'/>"), "enable=\"maybe\" is neither yes nor no"},
		{"nameless", net("<dns>\n<host ip='10.0.0.9'/></dns>"), "4:1: <host>: 10.0.0.9 has no name"},
		{"host name", net("<dns><host ip='10.0.0.9'><hostname>a b</hostname></host></dns>"), "3:6: <host>: \"a b\" is not a host name"},
		{"srv", net("<dns><srv/></dns>"), "3:6: <srv>: not supported"},
		{"portgroup", net("<portgroup name='a'/>"), "3:1: <portgroup>: not supported"},
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range refusals() {
		t.Run(c.name, func(t *testing.T) {
			d, _, err := config.Parse(strings.NewReader(c.text), "f.xml")
			if err == nil {
				t.Fatalf("accepted: %+v", d)
			}
			if !reflect.DeepEqual(d, network.Definition{}) {
				t.Error("a definition beside the error")
			}
			e := fault.As(err)
			if e == nil || e.Kind != fault.Invalid && e.Kind != fault.Unsupported {
				t.Fatalf("no designed error: %#v", err)
			}
			if !strings.HasPrefix(e.Subject, "f.xml:") || !strings.Contains(e.Error(), c.want) {
				t.Errorf("%v\nwant %s", err, c.want)
			}
		})
	}
}

func TestAccepted(t *testing.T) {
	for _, text := range []string{
		"<?xml version='1.0' encoding='UTF-8'?><!-- a comment --><network connections='2'><name> n </name></network>",
		"<network ipv6='no' trustGuestRxFilters='no'><name>n</name><forward mode='none'/></network>",
		"<network><name>n</name><title>t</title><description>d</description><metadata><x:y xmlns:x='urn:x'>z</x:y></metadata></network>",
		"<network><name>n</name><uuid>81FF0D90C91E674264DA4A736EDB9A9B</uuid><domain name='a.b' localOnly='yes' register='no'/></network>",
		"<network><name>n</name><ip address='10.0.0.1' prefix='24' localPtr='yes'><dhcp/></ip><dns enable='yes' forwardPlainNames='yes'/></network>",
		"<network><name>n</name><forward mode='nat'><interface dev='eth1'/></forward><ip address='192.168.1.1'/></network>",
		"<network><name>n</name><ip family='ipv6' address='fd00::1'><dhcp><range start='fd00::10' end='fd00::20'/><host name='a' ip='fd00::9'/></dhcp></ip></network>",
	} {
		d, _, err := config.Parse(strings.NewReader(text), "")
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if back := again(t, d); !reflect.DeepEqual(back, d) {
			t.Errorf("%s: printed and read again\n%+v\nwant\n%+v", text, back, d)
		}
	}
}

// Files made to hurt are refused whole, before anything is made of them.
func TestLimits(t *testing.T) {
	attrs := &strings.Builder{}
	for i := range 65 {
		fmt.Fprintf(attrs, " a%d=''", i)
	}
	for name, text := range map[string]string{
		"size":     "<network>" + strings.Repeat(" ", config.MaxBytes) + "</network>",
		"depth":    strings.Repeat("<a>", 65),
		"elements": "<network>" + strings.Repeat("<a/>", 4096) + "</network>",
		"width":    "<network" + attrs.String() + "/>",
	} {
		if _, _, err := config.Parse(strings.NewReader(text), "f.xml"); fault.KindOf(err) != fault.Limit {
			t.Errorf("%s: %v", name, err)
		}
	}
	hosts := &strings.Builder{}
	for i := range 4000 {
		fmt.Fprintf(hosts, "<host name='h%d' ip='10.0.%d.%d'/>", i, 1+i/250, 1+i%250)
	}
	text := "<network><name>n</name><ip address='10.0.0.1' prefix='16'><dhcp>" + hosts.String() + "</dhcp></ip></network>"
	begin := time.Now()
	d, _, err := config.Parse(strings.NewReader(text), "f.xml")
	if err != nil || len(d.Subnets[0].Hosts) != 4000 {
		t.Errorf("4000 static leases: %v", err)
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("4000 static leases take %v", d)
	}
	broken := errors.New("broken pipe")
	if _, _, err := config.Parse(failing{broken}, "f.xml"); fault.KindOf(err) != fault.Unavailable || !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// definitions draws sound definitions.
func definitions() *rapid.Generator[network.Definition] {
	label := rapid.StringMatching(`[a-zA-Z0-9]([a-zA-Z0-9-]{0,10}[a-zA-Z0-9])?`)
	lease := rapid.SampledFrom([]time.Duration{0, network.Never, 2 * time.Minute, 121 * time.Second, time.Hour, network.MaxLease})
	return rapid.Custom(func(t *rapid.T) network.Definition {
		d := network.Definition{Name: label.Draw(t, "name"), Forward: network.None}
		if rapid.Bool().Draw(t, "uuid") {
			d.UUID = rapid.StringMatching(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`).Draw(t, "id")
		}
		if rapid.Bool().Draw(t, "domain") {
			d.Domain = label.Draw(t, "a") + "." + label.Draw(t, "b")
		}
		d.MTU = rapid.SampledFrom([]int{0, 1280, 1500, 9000, 65521}).Draw(t, "mtu")
		if rapid.Bool().Draw(t, "mac") {
			d.MAC = frame.DeriveMAC(d.Name, "gateway")
		}
		for i := range rapid.IntRange(0, 4).Draw(t, "subnets") {
			v6 := rapid.Bool().Draw(t, "v6")
			base, bits := netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 24
			if v6 {
				base, bits = netip.AddrFrom16([16]byte{0: 0xfd, 5: byte(i)}), 64
			}
			s := network.Subnet{Gateway: netip.PrefixFrom(base.Next(), bits)}
			if first := !dhcpFor(d.Subnets, v6); first && rapid.Bool().Draw(t, "dhcp") {
				s.DHCP = true
				drawPool(t, &s, base, label, lease)
			}
			d.Subnets = append(d.Subnets, s)
		}
		if len(d.Subnets) > 0 && rapid.Bool().Draw(t, "nat") {
			d.Forward = network.NAT
			d.Device = rapid.SampledFrom([]string{"", "eth0"}).Draw(t, "device")
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "names") {
			d.Hosts = append(d.Hosts, network.DNSHost{
				Addr:  netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}),
				Names: rapid.SliceOfNDistinct(label, 1, 3, strings.ToLower).Draw(t, "hostnames"),
			})
		}
		return d
	})
}

func dhcpFor(subnets []network.Subnet, v6 bool) bool {
	for _, s := range subnets {
		if s.DHCP && s.Gateway.Addr().Is6() == v6 {
			return true
		}
	}
	return false
}

// drawPool fills a subnet with ranges and static leases that do not collide.
func drawPool(t *rapid.T, s *network.Subnet, base netip.Addr, label *rapid.Generator[string], lease *rapid.Generator[time.Duration]) {
	next := base.Next()
	step := func() netip.Addr {
		for range rapid.IntRange(1, 9).Draw(t, "step") {
			next = next.Next()
		}
		return next
	}
	for range rapid.IntRange(0, 3).Draw(t, "ranges") {
		s.Ranges = append(s.Ranges, network.Range{Start: step(), End: step(), Lease: lease.Draw(t, "lease")})
	}
	for i, name := range rapid.SliceOfNDistinct(label, 0, 3, strings.ToLower).Draw(t, "hosts") {
		h := network.DHCPHost{Name: name, Addr: step(), Lease: lease.Draw(t, "lease")}
		if rapid.Bool().Draw(t, "mac") {
			h.MAC = frame.MAC{0x52, 0x54, 0, 0, 0, byte(i)}
		}
		s.Hosts = append(s.Hosts, h)
	}
}

// What is printed is read back as it was, and libvirt's own types find the
// same in it.
func TestPrintedIsReadBack(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := definitions().Draw(rt, "definition")
		if err := d.Check(); err != nil {
			rt.Fatalf("drawn wrongly: %v", err)
		}
		if back := again(t, d); !reflect.DeepEqual(back, d) {
			rt.Fatalf("read back\n%+v\nwant\n%+v", back, d)
		}
		text, _ := config.Format(d)
		var n libvirtxml.Network
		if err := n.Unmarshal(string(text)); err != nil {
			rt.Fatal(err)
		}
		if n.Name != d.Name || len(n.IPs) != len(d.Subnets) || (n.Forward != nil) != (d.Forward == network.NAT) {
			rt.Fatalf("libvirt's types read %+v", n)
		}
		for i, s := range d.Subnets {
			if n.IPs[i].Address != s.Gateway.Addr().String() || int(n.IPs[i].Prefix) != s.Gateway.Bits() || (n.IPs[i].DHCP != nil) != s.DHCP {
				rt.Fatalf("libvirt's types read %+v", n.IPs[i])
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("<network><name>n</name><forward/><ip address='10.0.0.1' netmask='255.0.0.0'><dhcp><range start='10.0.0.2' end='10.0.0.9'><lease expiry='2'/></range></dhcp></ip></network>"))
	f.Add([]byte("<network><name>n</name><dns><host ip='::9'><hostname>a</hostname></host></dns></network>"))
	f.Add([]byte("<network>\n<name>n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, _, err := config.Parse(strings.NewReader(string(b)), "f.xml")
		if err != nil {
			if e := fault.As(err); e == nil || !strings.HasPrefix(e.Subject, "f.xml") || len(e.Error()) > 1000 {
				t.Fatalf("no designed error: %v", err)
			}
			return
		}
		if err := d.Check(); err != nil {
			t.Fatalf("accepted against the check: %v", err)
		}
		if back := again(t, d); !reflect.DeepEqual(back, d) {
			t.Fatalf("read back\n%+v\nwant\n%+v", back, d)
		}
	})
}
