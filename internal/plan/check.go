package plan

import (
	"net/netip"
	"strings"

	"brane/frame"
	"brane/internal/fault"
)

// Limits of a plan. A datapath may rely on them after Check.
const (
	MaxName    = 63 // bytes of a network's name, and of each part of a device path
	MaxPath    = 512
	MinMTU     = 576   // every IPv4 host takes as much (RFC 791)
	MaxMTU     = 65535 // of an IP packet
	MaxPorts   = 4096
	MaxFilters = 64 // of one port and direction
	MaxRule    = 64 << 10
	MaxBound   = 4096 // prefixes, ports or routers of one filter
	MaxLearn   = 16384
	MaxFlood   = 10_000_000
	MaxAddrs   = 64 // of a gateway
	MaxNames   = 65536
	MaxDepth   = 8 // muxes stacked by Port.To
)

// Check says whether a datapath can carry out m: counts within their bounds,
// identifiers and addresses unique, references to what is there. It judges form
// only; the rules themselves are read when they are compiled. The error is a
// *fault.Error of kind Invalid, or Limit for a count over its bound.
func Check(m *Mux) error {
	c := checker{m: m, ids: make(map[PortID]*Port, len(m.Ports)), macs: map[frame.MAC]string{}, devices: map[string]*Port{}}
	if err := c.mux(); err != nil {
		return err
	}
	for i := range m.Ports {
		if err := c.port(&m.Ports[i]); err != nil {
			return err
		}
	}
	for i := range m.Ports {
		if p := &m.Ports[i]; c.ids[p.To] != nil {
			return c.invalid("port %d is plugged into its own mux", p.ID)
		}
	}
	if m.Gateway != nil {
		return c.gateway(m.Gateway)
	}
	return nil
}

type checker struct {
	m       *Mux
	ids     map[PortID]*Port
	macs    map[frame.MAC]string // the device of each address
	devices map[string]*Port
}

func (c *checker) invalid(format string, args ...any) error {
	return fault.New(fault.Invalid, "check plan", c.m.Name, format, args...)
}

func (c *checker) limit(what string, n, most int) error {
	if n <= most {
		return nil
	}
	return fault.New(fault.Limit, "check plan", c.m.Name, "%d %s, at most %d are possible", n, what, most)
}

func (c *checker) mux() error {
	m := c.m
	if !validName(m.Name) {
		return c.invalid("%q is no name of a network", m.Name)
	}
	if m.MTU < MinMTU || m.MTU > MaxMTU {
		return c.invalid("an MTU of %d is not between %d and %d", m.MTU, MinMTU, MaxMTU)
	}
	if m.Aging < 0 {
		return c.invalid("addresses cannot age in %v", m.Aging)
	}
	return c.limit("ports", len(m.Ports), MaxPorts)
}

func (c *checker) port(p *Port) error {
	if p.ID == 0 {
		return c.invalid("port of %s without an identifier", p.Device)
	}
	if c.ids[p.ID] != nil {
		return c.invalid("port %d is there twice", p.ID)
	}
	c.ids[p.ID] = p
	if p.Role != Interface && p.Role != Service && p.Role != Uplink {
		return c.invalid("port %d has an unknown role %q", p.ID, p.Role)
	}
	if p.To != 0 && p.Role != Uplink {
		return c.invalid("port %d is plugged into port %d, but is no uplink", p.ID, p.To)
	}
	if p.MTU < MinMTU || p.MTU > c.m.MTU {
		return c.invalid("port %d has an MTU of %d, not between %d and the mux's %d", p.ID, p.MTU, MinMTU, c.m.MTU)
	}
	if p.Learn < 0 || p.FloodRate < 0 {
		return c.invalid("port %d has a negative limit", p.ID)
	}
	if err := c.device(p); err != nil {
		return err
	}
	for _, err := range []error{
		c.limit("learned addresses", p.Learn, MaxLearn),
		c.limit("floods a second", p.FloodRate, MaxFlood),
		c.filters(p.Send),
		c.filters(p.Receive),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// device holds that a device has one address and one role, and an address one device.
func (c *checker) device(p *Port) error {
	if len(p.Device) > MaxPath || p.Device == "" {
		return c.invalid("port %d has no device path of 1 to %d bytes", p.ID, MaxPath)
	}
	for part := range strings.SplitSeq(p.Device, "/") {
		if !validName(part) {
			return c.invalid("port %d: %q is no device path", p.ID, p.Device)
		}
	}
	if first := c.devices[p.Device]; first != nil && (first.MAC != p.MAC || first.Role != p.Role) {
		return c.invalid("ports %d and %d of %s differ in address or role", first.ID, p.ID, p.Device)
	}
	c.devices[p.Device] = p
	if p.MAC.IsZero() {
		if p.Role != Uplink {
			return c.invalid("port %d of %s has no MAC address", p.ID, p.Device)
		}
		return nil
	}
	if p.MAC.IsMulticast() {
		return c.invalid("port %d of %s: %v is the address of a group", p.ID, p.Device, p.MAC)
	}
	if d, ok := c.macs[p.MAC]; ok && d != p.Device {
		return c.invalid("%s and %s have the same MAC address %v", d, p.Device, p.MAC)
	}
	c.macs[p.MAC] = p.Device
	return nil
}

func (c *checker) filters(fs []Filter) error {
	if err := c.limit("filters on a port", len(fs), MaxFilters); err != nil {
		return err
	}
	for i := range fs {
		f := &fs[i]
		if f.Rule == "" {
			return c.invalid("a filter of %s without a rule", f.Owner)
		}
		if n := max(len(f.Bound), len(f.Ports), len(f.Routers)); n > MaxBound {
			return c.limit("addresses or ports in a filter", n, MaxBound)
		}
		if err := c.limit("bytes in a rule", len(f.Rule), MaxRule); err != nil {
			return err
		}
		if err := c.prefixes("filter "+f.Rule, f.Bound); err != nil {
			return err
		}
		for _, a := range f.Routers {
			if !a.IsValid() {
				return c.invalid("filter %s: an empty router address", f.Rule)
			}
		}
	}
	return nil
}

func (c *checker) prefixes(what string, ps []netip.Prefix) error {
	for _, p := range ps {
		if !p.IsValid() || p.Addr().Is4In6() {
			return c.invalid("%s: %v is no prefix", what, p)
		}
	}
	return nil
}

func (c *checker) gateway(g *Gateway) error {
	p := c.ids[g.Port]
	if p == nil || p.Role != Service || p.MAC != g.MAC {
		return c.invalid("the gateway's port %d is not among the ports with its address and role", g.Port)
	}
	for _, err := range []error{
		c.limit("gateway addresses", len(g.Addrs), MaxAddrs),
		c.limit("names", len(g.DNS.Names), MaxNames),
		c.limit("resolvers", len(g.DNS.Resolvers), MaxAddrs),
		c.limit("denied prefixes", len(g.Denied), MaxBound),
		c.limit("allowed ports", len(g.Allowed), MaxBound),
		c.limit("forwards", len(g.Forward), MaxBound),
		c.prefixes("gateway", g.Addrs),
		c.prefixes("gateway", g.Denied),
	} {
		if err != nil {
			return err
		}
	}
	seen := map[uint64]bool{}
	for _, f := range g.Forward {
		if seen[f.ID] {
			return c.invalid("forward %d is there twice", f.ID)
		}
		seen[f.ID] = true
		if f.Proto != "tcp" && f.Proto != "udp" || !f.To.IsValid() || f.To.Port() == 0 {
			return c.invalid("forward %d leads to %s %v", f.ID, f.Proto, f.To)
		}
	}
	return nil
}

// validName holds for one part of a device path: 1 to MaxName bytes, no control
// characters, no slash, not a name of a folder.
func validName(s string) bool {
	if s == "" || len(s) > MaxName || s == "." || s == ".." {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '/' || r == 0x7f || r == '�' })
}

// CheckNesting says whether muxes that passed Check can run side by side: a
// port's identifier is in one of them, no port is the upper end of two
// uplinks, and uplinks lead to no mux that they came from, over at most
// MaxDepth muxes. An uplink to a port in none of them is allowed: it leads nowhere yet.
func CheckNesting(muxes []*Mux) error {
	home := map[PortID]*Mux{}
	for _, m := range muxes {
		for i := range m.Ports {
			if other := home[m.Ports[i].ID]; other != nil {
				return fault.New(fault.Invalid, "check plan", m.Name, "port %d is in mux %s too", m.Ports[i].ID, other.Name)
			}
			home[m.Ports[i].ID] = m
		}
	}
	above, taken := map[*Mux][]*Mux{}, map[PortID]bool{}
	for _, m := range muxes {
		for i := range m.Ports {
			p := &m.Ports[i]
			up := home[p.To]
			if up == nil {
				continue
			}
			if taken[p.To] {
				return fault.New(fault.Invalid, "check plan", m.Name, "two uplinks lead to port %d of %s", p.To, up.Name)
			}
			taken[p.To] = true
			above[m] = append(above[m], up)
		}
	}
	heights := map[*Mux]int{}
	for _, m := range muxes {
		if height(m, above, heights) > MaxDepth {
			return fault.New(fault.Invalid, "check plan", m.Name, "its uplinks form a loop, or lead through more than %d muxes", MaxDepth)
		}
	}
	return nil
}

// height gives how many muxes a frame may pass from m upwards, m included;
// more than MaxDepth when they form a loop.
func height(m *Mux, above map[*Mux][]*Mux, known map[*Mux]int) int {
	if h, ok := known[m]; ok {
		return h
	}
	known[m] = MaxDepth // whoever comes back here while we look has found a loop
	h := 1
	for _, up := range above[m] {
		h = max(h, 1+height(up, above, known))
	}
	known[m] = h
	return h
}
