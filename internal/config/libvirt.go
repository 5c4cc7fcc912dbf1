// Package config reads and writes the files that people give to Brane: libvirt
// network XML and the daemon's own YAML. What is read becomes a typed
// definition once, here at the edge; every error names file, line, column and
// element, and nothing in a file is ignored silently: a part is honoured, or
// accepted with a warning that says why it has no effect, or refused.
package config

import (
	"io"
	"net/netip"
	"strconv"
	"strings"

	"brane/frame"
	"brane/internal/network"
)

// unsupported says why parts of libvirt's schema are refused.
func unsupported() map[string]string {
	return map[string]string{
		"bandwidth":           "rates are not shaped yet",
		"portgroup":           "port groups are not read yet",
		"virtualport":         "there is no Open vSwitch or 802.1Qbh port behind a network here",
		"vlan":                "tags are never forwarded",
		"route":               "static routes are not read yet",
		"txt":                 "TXT records are not answered yet",
		"srv":                 "SRV records are not answered yet",
		"forwarder":           "other questions go to the host's resolvers",
		"bootp":               "there is no boot server yet",
		"tftp":                "there is no boot server yet",
		"driver":              "no device of the host is passed through",
		"pf":                  "no device of the host is passed through",
		"address":             "no device of the host is passed through",
		"managed":             "no device of the host is passed through",
		"port":                "isolation of single ports is not enforced yet",
		"zone":                "there is no bridge of the host behind a network here, and no firewalld zone for it",
		"macTableManager":     "there is no bridge of the host behind a network here",
		"trustGuestRxFilters": "no guest is trusted here",
		"register":            "names are not registered with the host's resolver",
		"http://libvirt.org/schemas/network/dnsmasq/1.0:options": "there is no dnsmasq behind a network here",
	}
}

// Parse reads one libvirt network file; file is its name for messages. The
// errors are of kind fault.Invalid (wrong), fault.Unsupported (right, but not
// possible here), fault.Limit (too much) and fault.Unavailable (in failed);
// their subject is file:line:column.
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
		return network.Definition{}, nil, r.at(place(root, p.Path), p.Remedy, "%s", p.Detail)
	}
	return d, r.warnings, nil
}

// place finds the element that a problem's path leads to, or the nearest above it.
func place(root *element, path string) *element {
	names := map[string]string{"subnets": "ip", "ranges": "range", "hosts": "host", "device": "forward"}
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

// network reads the root element.
func (r *reader) network(e *element) (d network.Definition, err error) {
	e.get("connections") // how many ports it had when it was printed
	if v, err := r.yes(e, "ipv6", false); err != nil {
		return d, err
	} else if v {
		r.warn(e, "ipv6='yes' has no effect: without an IPv6 subnet only link-local addresses pass between machines")
	}
	if v, err := r.yes(e, "trustGuestRxFilters", false); err != nil {
		return d, err
	} else if v {
		return d, r.beyond(e, "remove it", "trustGuestRxFilters: %s", unsupported()["trustGuestRxFilters"])
	}
	d.Forward = network.None
	for _, s := range []struct {
		name string
		read func(*network.Definition, *element) error
	}{
		{"name", r.name},
		{"uuid", r.uuid},
		{"title", r.remark},
		{"description", r.remark},
		{"metadata", r.metadata},
		{"forward", r.forward},
		{"bridge", r.bridge},
		{"domain", r.domain},
		{"mtu", r.mtu},
		{"mac", r.mac},
		{"dns", r.dns},
	} {
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
	return d, r.rest(e, unsupported())
}

func (r *reader) name(d *network.Definition, e *element) error {
	d.Name = e.text()
	return r.rest(e, nil)
}

// uuid takes the forms that libvirt takes: with hyphens anywhere or nowhere.
func (r *reader) uuid(d *network.Definition, e *element) error {
	s := strings.ToLower(strings.ReplaceAll(e.text(), "-", ""))
	if len(s) != 32 {
		return r.at(e, "leave it out, or write it as printed by uuidgen", "%q is not a UUID", clip(e.text()))
	}
	d.UUID = s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
	return r.rest(e, nil)
}

func (r *reader) remark(_ *network.Definition, e *element) error {
	e.text()
	r.warn(e, "is not kept")
	return r.rest(e, nil)
}

// metadata belong to other programs, in their own words.
func (r *reader) metadata(_ *network.Definition, e *element) error {
	r.warn(e, "is not kept")
	return nil
}

func (r *reader) bridge(_ *network.Definition, e *element) error {
	for _, name := range []string{"name", "stp", "delay"} {
		if _, ok := e.get(name); ok {
			r.warn(e, "%s has no effect: there is no bridge of the host behind a network here", name)
		}
	}
	return r.rest(e, unsupported())
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
		return r.beyond(e, "use mode='nat', or leave forward out for an isolated network",
			"mode %s needs a route of the host into the network, which takes root", mode)
	case "bridge", "private", "vepa", "passthrough":
		return r.beyond(e, "use mode='nat'", "mode %s puts machines on a network of the host", mode)
	case "hostdev":
		return r.beyond(e, "use mode='nat'", "mode hostdev hands devices of the host to machines")
	default:
		return r.at(e, "the modes are nat and none", "there is no mode %q", clip(mode))
	}
	nat, err := r.one(e, "nat")
	if err != nil {
		return err
	}
	if nat != nil {
		if err := r.nat(nat); err != nil {
			return err
		}
	}
	if err := r.device(d, e); err != nil {
		return err
	}
	return r.rest(e, unsupported())
}

// device reads the one interface that traffic may leave by: attribute dev, or
// an element interface, or both alike.
func (r *reader) device(d *network.Definition, e *element) error {
	d.Device, _ = e.get("dev")
	list := e.all("interface")
	for _, c := range list {
		dev, err := r.must(c, "dev")
		if err != nil {
			return err
		}
		if len(list) > 1 || d.Device != "" && d.Device != dev {
			return r.beyond(c, "name one", "traffic can leave by any interface or by one, not by some")
		}
		d.Device = dev
		if err := r.rest(c, map[string]string{"connections": "that is for libvirt to know"}); err != nil {
			return err
		}
	}
	if d.Device != "" {
		r.warn(e, "dev is not enforced yet: traffic leaves by the host's routes, perhaps by another interface than %s", clip(d.Device))
	}
	return nil
}

// nat: here both families are translated.
func (r *reader) nat(e *element) error {
	both, err := r.yes(e, "ipv6", true)
	if err != nil {
		return err
	}
	if !both {
		return r.beyond(e, "leave it out, or leave out the IPv6 subnet", "ipv6='no': both families are translated here")
	}
	return r.rest(e, map[string]string{"port": "the host chooses the ports", "address": "the host chooses the address"})
}

func (r *reader) domain(d *network.Definition, e *element) (err error) {
	if d.Domain, err = r.must(e, "name"); err != nil {
		return err
	}
	if own, err := r.yes(e, "localOnly", true); err != nil {
		return err
	} else if !own {
		r.warn(e, "localOnly is always yes here: names of the domain are never asked of others")
	}
	if v, err := r.yes(e, "register", false); err != nil {
		return err
	} else if v {
		return r.beyond(e, "remove it", "register: %s", unsupported()["register"])
	}
	return r.rest(e, nil)
}

func (r *reader) mtu(d *network.Definition, e *element) error {
	n, err := r.number(e, "size", 1, 1<<31-1)
	if err != nil {
		return err
	}
	d.MTU = int(n)
	return r.rest(e, nil)
}

func (r *reader) mac(d *network.Definition, e *element) (err error) {
	if d.MAC, err = r.macOf(e, "address"); err != nil {
		return err
	}
	return r.rest(e, nil)
}

func (r *reader) dns(d *network.Definition, e *element) error {
	if on, err := r.yes(e, "enable", true); err != nil {
		return err
	} else if !on {
		return r.beyond(e, "remove it", "the name server cannot be switched off yet")
	}
	if forward, err := r.yes(e, "forwardPlainNames", true); err != nil {
		return err
	} else if !forward {
		return r.beyond(e, "remove it", "forwardPlainNames='no': names of one label that are not known here are asked of the host's resolvers")
	}
	for _, h := range e.all("host") {
		a, err := r.addr(h, "ip")
		if err != nil {
			return err
		}
		host := network.DNSHost{Addr: a}
		for _, n := range h.all("hostname") {
			host.Names = append(host.Names, n.text())
			if err := r.rest(n, nil); err != nil {
				return err
			}
		}
		if err := r.rest(h, nil); err != nil {
			return err
		}
		d.Hosts = append(d.Hosts, host)
	}
	return r.rest(e, unsupported())
}

// number takes an attribute that is a decimal number from low to high.
func (r *reader) number(e *element, name string, low, high int64) (int64, error) {
	s, err := r.must(e, name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || int64(n) < low || int64(n) > high {
		return 0, r.at(e, "", "%s=%q is no number from %d to %d", name, clip(s), low, high)
	}
	return int64(n), nil
}

func (r *reader) macOf(e *element, name string) (frame.MAC, error) {
	s, err := r.must(e, name)
	if err != nil {
		return frame.MAC{}, err
	}
	m, err := frame.ParseMAC(s)
	if err != nil || m.IsZero() {
		return m, r.at(e, "write it like 52:54:00:12:34:56", "%s=%q is no MAC address", name, clip(s))
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
		return a, r.at(e, "", "%s=%q is no IP address", name, clip(s))
	}
	return a, nil
}
