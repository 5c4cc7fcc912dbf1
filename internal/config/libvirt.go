// Package config reads and writes the files that people give to Brane: libvirt
// network XML and the daemon's own YAML. What is read becomes a typed
// definition once, here at the edge; every error names file, line and column,
// and nothing in a file is ignored silently.
package config

import (
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"brane/frame"
	"brane/internal/network"
)

// unsupported says why parts of libvirt's schema are refused.
var unsupported = map[string]string{
	"bandwidth":           "rates are not shaped yet",
	"portgroup":           "port groups are not read yet",
	"virtualport":         "no Open vSwitch or 802.1Qbh port is behind it",
	"vlan":                "tags are never forwarded",
	"route":               "static routes are not read yet",
	"metadata":            "metadata are not kept yet",
	"txt":                 "TXT records are not answered yet",
	"srv":                 "SRV records are not answered yet",
	"forwarder":           "the host's resolvers are asked",
	"bootp":               "no boot server yet",
	"tftp":                "no boot server yet",
	"interface":           "traffic leaves by the host's own routes",
	"dev":                 "traffic leaves by the host's own routes",
	"driver":              "no device of the host is passed through",
	"pf":                  "no device of the host is passed through",
	"isolated":            "isolation of single ports is not enforced yet",
	"localPtr":            "reverse names of the network are always answered here",
	"connections":         "",
	"trustGuestRxFilters": "the switch trusts no guest",
}

// Parse reads one libvirt network file. The errors are of kind Invalid or Limit
// and carry file:line:column.
func Parse(in io.Reader, file string) (network.Definition, []Warning, error) {
	r := &reader{file: file}
	if r.file == "" {
		r.file = "network"
	}
	root, err := r.parse(in)
	if err != nil {
		return network.Definition{}, nil, err
	}
	if root.name != "network" {
		return network.Definition{}, nil, r.at(root, "a network file begins with <network>", "this is no network file")
	}
	d, err := r.network(root)
	if err != nil {
		return network.Definition{}, nil, err
	}
	for _, p := range d.Problems() {
		e := r.place(root, p.Path)
		return network.Definition{}, nil, r.at(e, p.Remedy, "%s", p.Detail)
	}
	return d, r.warnings, nil
}

// place finds the element that a problem's path leads to, or the nearest above it.
func (r *reader) place(root *element, path string) *element {
	names := map[string]string{"subnets": "ip", "ranges": "range", "hosts": "host"}
	at := root
	steps := strings.Split(path, "/")
	for i := 0; i < len(steps); i++ {
		name, nth := steps[i], 0
		if to, ok := names[name]; ok {
			name = to
			if i+1 < len(steps) {
				nth, _ = strconv.Atoi(steps[i+1])
				i++
			}
		}
		for _, via := range []string{"dhcp", "dns"} {
			if l := at.all(via); len(l) == 1 && len(at.all(name)) == 0 {
				at = l[0]
			}
		}
		l := at.all(name)
		if nth >= len(l) {
			return at
		}
		at = l[nth]
	}
	return at
}

func (r *reader) network(e *element) (d network.Definition, err error) {
	for _, a := range []string{"ipv6", "connections"} {
		e.get(a) // libvirt's own remarks: guests may always speak IPv6 here
	}
	steps := []struct {
		name string
		read func(*network.Definition, *element) error
	}{
		{"name", func(d *network.Definition, c *element) error { d.Name = c.text; return nil }},
		{"uuid", r.uuid}, {"forward", r.forward}, {"domain", r.domain}, {"mtu", r.mtu}, {"mac", r.mac}, {"dns", r.dns},
		{"title", func(_ *network.Definition, c *element) error { r.warn(c, "is not kept"); return nil }},
		{"description", func(_ *network.Definition, c *element) error { r.warn(c, "is not kept"); return nil }},
		{"bridge", func(_ *network.Definition, c *element) error {
			r.warn(c, "has no effect: there is no bridge of the host behind a network here")
			return nil
		}},
	}
	d.Forward = network.None
	for _, s := range steps {
		c, err := r.one(e, s.name)
		if err != nil {
			return d, err
		}
		if c == nil {
			continue
		}
		if err := s.read(&d, c); err != nil {
			return d, err
		}
	}
	if d.Name == "" {
		return d, r.at(e, "add <name>", "the network has no name")
	}
	for _, c := range e.all("ip") {
		s, err := r.ip(c)
		if err != nil {
			return d, err
		}
		d.Subnets = append(d.Subnets, s)
	}
	return d, r.rest(e, unsupported)
}

func (r *reader) uuid(d *network.Definition, e *element) error {
	s := strings.ToLower(strings.ReplaceAll(e.text, "-", ""))
	if len(s) == 32 {
		s = s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
	}
	d.UUID = s
	return nil
}

func (r *reader) forward(d *network.Definition, e *element) error {
	mode, ok := e.get("mode")
	if !ok {
		mode = "nat"
	}
	switch mode {
	case "nat":
		d.Forward = network.NAT
	case "none":
		d.Forward = network.None
	case "route", "open":
		return r.at(e, "use mode='nat', or none for an internal network", "mode %q needs a route of the host into the network, which takes root", mode)
	case "bridge", "private", "vepa", "passthrough", "hostdev":
		return r.at(e, "use mode='nat'", "mode %q hands out devices of the host", mode)
	default:
		return r.at(e, "the modes are nat and none", "there is no mode %q", mode)
	}
	nat, err := r.one(e, "nat")
	if err != nil {
		return err
	}
	if nat != nil {
		if _, ok := nat.get("ipv6"); ok {
			r.warn(nat, "ipv6 is always translated here")
		}
		if err := r.rest(nat, map[string]string{"port": "the host chooses the ports", "address": "the host chooses the address"}); err != nil {
			return err
		}
	}
	return r.rest(e, unsupported)
}

func (r *reader) domain(d *network.Definition, e *element) error {
	name, err := r.must(e, "name")
	if err != nil {
		return err
	}
	d.Domain = name
	if v, ok := e.get("localOnly"); ok && v != "yes" {
		r.warn(e, "localOnly is always yes here: names of the network are never asked of others")
	}
	return r.rest(e, map[string]string{"register": "names are not registered with the host's resolver"})
}

func (r *reader) number(e *element, name string, low, high int) (int, error) {
	s, err := r.must(e, name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		return 0, r.at(e, "", "%s=%q is no number from %d to %d", name, s, low, high)
	}
	return n, nil
}

func (r *reader) mtu(d *network.Definition, e *element) (err error) {
	if d.MTU, err = r.number(e, "size", 68, 65535); err != nil {
		return err
	}
	return r.rest(e, nil)
}

func (r *reader) mac(d *network.Definition, e *element) (err error) {
	if d.MAC, err = r.macOf(e, "address"); err != nil {
		return err
	}
	return r.rest(e, nil)
}

func (r *reader) macOf(e *element, name string) (frame.MAC, error) {
	s, err := r.must(e, name)
	if err != nil {
		return frame.MAC{}, err
	}
	m, err := frame.ParseMAC(strings.ToLower(s))
	if err != nil {
		return m, r.at(e, "", "%s=%q is no MAC address", name, s)
	}
	return m, nil
}

func (r *reader) addr(e *element, name string) (netip.Addr, error) {
	s, err := r.must(e, name)
	if err != nil {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return a, r.at(e, "", "%s=%q is no IP address", name, s)
	}
	return a, nil
}

func (r *reader) dns(d *network.Definition, e *element) error {
	if v, ok := e.get("enable"); ok && v != "yes" {
		return r.at(e, "remove it", "the name server cannot be switched off yet")
	}
	if v, ok := e.get("forwardPlainNames"); ok && v != "yes" {
		r.warn(e, "forwardPlainNames has no effect: single names are answered here and never forwarded")
	}
	for _, h := range e.all("host") {
		a, err := r.addr(h, "ip")
		if err != nil {
			return err
		}
		host := network.DNSHost{Addr: a}
		for _, n := range h.all("hostname") {
			host.Names = append(host.Names, n.text)
		}
		if len(host.Names) == 0 {
			return r.at(h, "add <hostname>", "no name for %s", a)
		}
		if err := r.rest(h, nil); err != nil {
			return err
		}
		d.Hosts = append(d.Hosts, host)
	}
	return r.rest(e, unsupported)
}

func (r *reader) ip(e *element) (s network.Subnet, err error) {
	a, err := r.addr(e, "address")
	if err != nil {
		return s, err
	}
	if family, ok := e.get("family"); ok && (family == "ipv6") != a.Is6() {
		return s, r.at(e, "", "family=%q does not go with %s", family, a)
	}
	bits, err := r.bits(e, a)
	if err != nil {
		return s, err
	}
	s.Gateway = netip.PrefixFrom(a, bits)
	dhcp, err := r.one(e, "dhcp")
	if err != nil {
		return s, err
	}
	if dhcp != nil {
		s.DHCP = true
		if err := r.dhcp(&s, dhcp); err != nil {
			return s, err
		}
	}
	return s, r.rest(e, unsupported)
}

// bits is the length of the subnet: prefix, netmask, or the class of old.
func (r *reader) bits(e *element, a netip.Addr) (int, error) {
	_, hasPrefix := e.get("prefix")
	mask, hasMask := e.get("netmask")
	switch {
	case hasPrefix && hasMask:
		return 0, r.at(e, "give one of them", "both prefix and netmask")
	case hasPrefix:
		return r.number(e, "prefix", 1, a.BitLen())
	case hasMask:
		m, err := netip.ParseAddr(mask)
		if err != nil || !m.Is4() || !a.Is4() {
			return 0, r.at(e, "", "netmask=%q is no IPv4 mask", mask)
		}
		b := m.As4()
		v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		n := 0
		for v&0x80000000 != 0 {
			v <<= 1
			n++
		}
		if v != 0 {
			return 0, r.at(e, "", "netmask=%q has a hole", mask)
		}
		return n, nil
	case a.Is6():
		return 64, nil
	}
	switch first := a.As4()[0]; {
	case first < 128:
		return 8, nil
	case first < 192:
		return 16, nil
	}
	return 24, nil
}

func (r *reader) dhcp(s *network.Subnet, e *element) error {
	for _, c := range e.all("range") {
		start, err := r.addr(c, "start")
		if err != nil {
			return err
		}
		end, err := r.addr(c, "end")
		if err != nil {
			return err
		}
		lease, err := r.lease(c)
		if err != nil {
			return err
		}
		s.Ranges = append(s.Ranges, network.Range{Start: start, End: end, Lease: lease})
		if err := r.rest(c, nil); err != nil {
			return err
		}
	}
	for _, c := range e.all("host") {
		h := network.DHCPHost{}
		var err error
		if h.Addr, err = r.addr(c, "ip"); err != nil {
			return err
		}
		if _, ok := c.get("mac"); ok {
			if h.MAC, err = r.macOf(c, "mac"); err != nil {
				return err
			}
		}
		h.Name, _ = c.get("name")
		s.Hosts = append(s.Hosts, h)
		if err := r.rest(c, map[string]string{"lease": "a host has the lease time of its range", "id": "hosts are told apart by MAC or name"}); err != nil {
			return err
		}
	}
	return r.rest(e, unsupported)
}

// lease reads <lease expiry unit>: minutes when there is no unit, for ever when 0.
func (r *reader) lease(e *element) (time.Duration, error) {
	c, err := r.one(e, "lease")
	if err != nil || c == nil {
		return 0, err
	}
	n, err := r.number(c, "expiry", 0, 1<<30)
	if err != nil {
		return 0, err
	}
	unit := time.Minute
	if u, ok := c.get("unit"); ok {
		switch u {
		case "seconds":
			unit = time.Second
		case "minutes":
		case "hours":
			unit = time.Hour
		default:
			return 0, r.at(c, "", "unit=%q is none of seconds, minutes, hours", u)
		}
	}
	if err := r.rest(c, nil); err != nil {
		return 0, err
	}
	if n == 0 {
		return -1, nil
	}
	return time.Duration(n) * unit, nil
}
