package network

import (
	"net/netip"
	"sort"
	"time"

	"brane/frame"
	"brane/internal/plan"
)

// Host is what a plan needs to know of the machine.
type Host struct {
	Addrs     []netip.Addr // its own addresses: never reached through a gateway
	Resolvers []string     // host:port, asked in order
}

// Defaults of a mux.
const (
	defaultMTU   = 1500
	defaultLease = time.Hour
	aging        = 5 * time.Minute
	uplinkLearn  = 1024 // addresses that one nested mux may show to the mux above it
	rawLearn     = 1
)

// Build compiles the plan of one started network. It is a pure function of its
// arguments; nil means that the network is not to run.
func Build(s *State, name string, host Host) *plan.Mux {
	rec, ok := s.Networks[name]
	if !ok || !rec.Started {
		return nil
	}
	root, ok := s.Root(name)
	if !ok {
		return nil
	}
	m := &plan.Mux{Name: name, Revision: int64(s.Revision), MTU: rec.Definition.LinkMTU(), Aging: aging}
	for _, p := range s.PortsOf(name) {
		m.Ports = append(m.Ports, s.port(p, rec, root, host))
	}
	for _, lower := range s.below(name) {
		m.Ports = append(m.Ports, plan.Port{
			ID: lower.Uplink, Device: name + "/" + lower.Definition.Name, Role: plan.Interface,
			MAC: frame.DeriveMAC(name, "mux "+lower.Definition.Name), MTU: m.MTU, Learn: uplinkLearn,
		})
	}
	if rec.Definition.Uplink != "" {
		m.Ports = append(m.Ports, plan.Port{
			ID: rec.Uplink + 1, Device: name + "/uplink", Role: plan.Uplink,
			MAC: frame.DeriveMAC(name, "uplink"), MTU: m.MTU, Learn: uplinkLearn, To: rec.Uplink,
		})
	}
	if g := s.gateway(rec, host); g != nil {
		m.Gateway = g
		m.Ports = append(m.Ports, plan.Port{
			ID: g.Port, Device: name + "/gateway", Role: plan.Service, MAC: g.MAC, MTU: m.MTU,
		})
	}
	return m
}

// below are the started muxes plugged into a network, by name.
func (s *State) below(name string) []Record {
	var out []Record
	for _, r := range s.Networks {
		if r.Started && r.Definition.Uplink == name {
			out = append(out, r)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Definition.Name < out[j].Definition.Name })
	return out
}

// port is the plan of one open port: the client's own filter at the leaf, its
// owner's rules next, the network's rules at the root.
func (s *State) port(p Port, rec, root Record, host Host) plan.Port {
	def := &root.Definition
	owner, house := string(p.Owner), "network "+def.Name
	out := plan.Port{
		ID: p.ID, Device: p.Device(), Role: plan.Interface, MAC: p.MAC, MTU: p.MTU, Reject: true, Learn: 0,
	}
	for _, e := range p.Rules.Send {
		out.Send = append(out.Send, plan.Filter{Owner: owner, Rule: e})
	}
	if p.Filter != "" {
		out.Receive = append(out.Receive, plan.Filter{Owner: owner, Rule: p.Filter})
	}
	for _, e := range p.Rules.Receive {
		out.Receive = append(out.Receive, plan.Filter{Owner: owner, Rule: e})
	}
	lease, _ := s.LeaseOf(rec.Definition.Name, p.Interface)
	clean := plan.Filter{Owner: house, Rule: "clean", Bound: bound(lease, def, p.MAC)}
	if def.hasGateway() {
		clean.Router = def.GatewayMAC()
	}
	out.Send = append(out.Send, clean)
	out.Receive = append(out.Receive, clean)
	if def.hasGateway() {
		var replies []uint16
		for _, pub := range s.Branes[p.Brane].Publish {
			if pub.Proto == "udp" {
				replies = append(replies, pub.Port)
			}
		}
		out.Send = append(out.Send, plan.Filter{
			Owner: house, Rule: "guard", Bound: hostPrefixes(host), Ports: p.Rules.AllowHost, Replies: replies,
			Router: def.GatewayMAC(), Routers: def.GatewayAddrs(),
		})
	}
	return out
}

// bound are the addresses that an interface may use: its lease, and the
// address that a machine without DHCPv6 makes itself from the advertised prefix.
func bound(l Lease, def *Definition, mac frame.MAC) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range l.Addrs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	for _, n := range def.Subnets {
		if g := n.Gateway; g.Addr().Is6() && g.Bits() == 64 {
			out = append(out, netip.PrefixFrom(frame.EUI64(g.Addr(), mac), 128))
		}
	}
	return out
}

func hostPrefixes(h Host) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range h.Addrs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

// gateway is the plan of the network's router and server; nil when it has no address.
func (s *State) gateway(rec Record, host Host) *plan.Gateway {
	def := &rec.Definition
	if !def.hasGateway() {
		return nil
	}
	g := &plan.Gateway{
		Port: rec.Gateway, MAC: def.GatewayMAC(), NAT: def.Forward == NAT, Domain: def.DomainName(),
		Denied: hostPrefixes(host), DNS: plan.DNS{Names: s.names(def)},
	}
	if g.NAT {
		g.DNS.Resolvers = host.Resolvers
	}
	for _, n := range def.Subnets {
		g.Addrs = append(g.Addrs, n.Gateway)
		g.RA = g.RA || n.Gateway.Addr().Is6()
		if n.DHCP && n.Gateway.Addr().Is4() {
			g.DHCP4 = &plan.DHCP4{Lease: n.leaseTime(), Gateway: n.Gateway}
		}
	}
	for _, p := range s.portsUnder(def.Name) {
		if len(p.Rules.AllowHost) == 0 {
			continue
		}
		l, _ := s.LeaseOf(p.Network, p.Interface)
		for _, port := range p.Rules.AllowHost {
			g.Allowed = append(g.Allowed, plan.HostPort{From: l.Addrs, Port: port})
		}
	}
	g.Forward = s.forwards(def.Name)
	return g
}

// portsUnder are the ports of a network and of all muxes plugged into it.
func (s *State) portsUnder(root string) []Port {
	var out []Port
	for name := range s.Networks {
		if r, ok := s.Root(name); ok && r.Definition.Name == root {
			out = append(out, s.PortsOf(name)...)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}

// names are what the name server answers: the gateway, leases in force, fixed hosts.
func (s *State) names(def *Definition) []plan.Name {
	var out []plan.Name
	out = append(out, plan.Name{Name: "gateway", Addrs: def.GatewayAddrs()})
	for name, l := range s.Leases[def.Name] {
		if !l.Held {
			continue // its brane or port is gone
		}
		out = append(out, plan.Name{Name: name, Addrs: l.Addrs})
	}
	for _, h := range def.Hosts {
		for _, n := range h.Names {
			out = append(out, plan.Name{Name: n, Addrs: []netip.Addr{h.Addr}})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// forwards are the published ports of the branes of a network, to the address
// of the family that the listener has.
func (s *State) forwards(network string) []plan.Forward {
	var out []plan.Forward
	for _, b := range s.Branes {
		if root, ok := s.Root(b.Network); !ok || root.Definition.Name != network {
			continue
		}
		for _, p := range b.Publish {
			if to, ok := pick(b.Addrs, p.Host.Addr().Is4()); ok {
				out = append(out, plan.Forward{ID: p.ID, Proto: p.Proto, To: netip.AddrPortFrom(to, p.Port)})
			}
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}

// pick is the address of the wanted family, or any.
func pick(addrs []netip.Addr, v4 bool) (netip.Addr, bool) {
	for _, a := range addrs {
		if a.Is4() == v4 {
			return a, true
		}
	}
	if len(addrs) > 0 {
		return addrs[0], true
	}
	return netip.Addr{}, false
}

// GatewayMAC is the MAC of the network's gateway.
func (d *Definition) GatewayMAC() frame.MAC {
	if d.MAC != (frame.MAC{}) {
		return d.MAC
	}
	return frame.DeriveMAC(d.Name, "gateway")
}

func (d *Definition) hasGateway() bool { return len(d.Subnets) > 0 }

// LinkMTU is the MTU of the network, the default one where none is given.
func (d *Definition) LinkMTU() int {
	if d.MTU == 0 {
		return defaultMTU
	}
	return d.MTU
}

// DomainName is the domain of the names on the network.
func (d *Definition) DomainName() string {
	if d.Domain == "" {
		return d.Name
	}
	return d.Domain
}

// GatewayAddrs are the gateway's own addresses, its link-local among them.
func (d *Definition) GatewayAddrs() []netip.Addr {
	var out []netip.Addr
	v6 := false
	for _, n := range d.Subnets {
		out = append(out, n.Gateway.Addr())
		v6 = v6 || n.Gateway.Addr().Is6()
	}
	if v6 {
		out = append(out, frame.EUI64(netip.MustParseAddr("fe80::"), d.GatewayMAC()))
	}
	return out
}

func (n *Subnet) leaseTime() time.Duration {
	for _, r := range n.Ranges {
		if r.Lease != 0 {
			return r.Lease
		}
	}
	return defaultLease
}
