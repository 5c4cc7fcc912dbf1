package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"brane/frame"
	"brane/internal/fault"
)

// Limits of a definition.
const (
	MaxName    = 63              // bytes of a network's name
	MaxDomain  = 253             // bytes of a domain name, RFC 1035 section 2.3.4 without the root
	MinMTU     = 576             // RFC 791: every host takes datagrams of this size
	MinMTU6    = 1280            // RFC 8200 section 5
	MaxMTU     = 65521           // the largest that leaves room for an Ethernet header in 65,535 bytes
	MinLease   = 2 * time.Minute // shorter ones make more traffic than sense
	MaxLease   = (1<<32 - 2) * time.Second
	MaxSubnets = 16
	MaxRanges  = 64   // of one subnet
	MaxHosts   = 4096 // static leases of one subnet
	MaxNames   = 4096 // fixed names of one network
)

// Problem is one fault of a definition.
type Problem struct {
	// Path leads to the faulty part: "name", "mtu", "subnets/0",
	// "subnets/0/ranges/1", "subnets/0/hosts/2", "hosts/1".
	Path   string
	Detail string // why it cannot be
	Remedy string // what the reader can do; may be empty
}

// Check says whether the definition can be a network. The error is of kind
// fault.Invalid about the first problem, with the network's name as subject.
func (d *Definition) Check() error {
	problems := d.Problems()
	if len(problems) == 0 {
		return nil
	}
	p := problems[0]
	return &fault.Error{
		Op: "check network", Kind: fault.Invalid, Subject: d.Name,
		Detail: p.Path + ": " + p.Detail, Remedy: p.Remedy,
	}
}

// Problems lists everything that is wrong with the definition, in order of
// the fields; nil when nothing is.
func (d *Definition) Problems() []Problem {
	c := checker{def: d, macs: map[frame.MAC]string{}}
	c.head()
	c.subnets()
	c.dns()
	return c.found
}

// checker collects problems. Maps remember who had a value first.
type checker struct {
	def   *Definition
	found []Problem
	macs  map[frame.MAC]string // static MACs of one family
}

func (c *checker) add(path, remedy, format string, args ...any) {
	c.found = append(c.found, Problem{Path: path, Detail: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (c *checker) head() {
	d := c.def
	if !IsLabel(d.Name) {
		c.add("name", "use a name like office-2",
			"%q is not a name: 1 to %d letters, digits and hyphens, none of these hyphens at an end", clip(d.Name), MaxName)
	}
	if d.UUID != "" && !isUUID(d.UUID) {
		c.add("uuid", "leave it out, or write it as printed by uuidgen", "%q is not a UUID", clip(d.UUID))
	}
	if d.MAC.IsMulticast() {
		c.add("mac", "use one that begins with 52:54:00", "%v is the address of a group, not of a gateway", d.MAC)
	}
	switch d.Forward {
	case NAT:
		if len(d.Subnets) == 0 && d.Uplink == "" {
			c.add("forward", "give it one, or leave forward out", "mode nat needs a subnet, and there is none")
		}
	case None:
		if d.Device != "" {
			c.add("device", "leave the device out", "a network that forwards nothing has no device to forward by")
		}
	default:
		c.add("forward", "use nat, or none for an isolated network", "mode %q is not supported", clip(string(d.Forward)))
	}
	if d.Device != "" && !isInterfaceName(d.Device) {
		c.add("device", "see ip link", "%q cannot be the name of a host interface", clip(d.Device))
	}
	if d.Domain != "" && !IsDomain(d.Domain) {
		c.add("domain", "use a domain like office.example", "%q is not a domain name", clip(d.Domain))
	}
	if d.Uplink != "" {
		c.uplink()
	}
	c.mtu()
}

// uplink: a mux below another takes its services from there.
func (c *checker) uplink() {
	d := c.def
	if !IsLabel(d.Uplink) {
		c.add("uplink", "", "%q is not the name of a network", clip(d.Uplink))
	}
	if d.Uplink == d.Name {
		c.add("uplink", "plug it into another network", "a network cannot be its own uplink")
	}
	if len(d.Subnets) > 0 || len(d.Hosts) > 0 {
		c.add("uplink", "leave out the uplink or the subnets", "addresses and names come from the network above, %s", d.Uplink)
	}
}

func (c *checker) mtu() {
	d := c.def
	if d.MTU == 0 {
		return
	}
	if d.MTU < MinMTU || d.MTU > MaxMTU {
		c.add("mtu", "1500 is the usual one", "%d is outside %d to %d", d.MTU, MinMTU, MaxMTU)
		return
	}
	for _, s := range d.Subnets {
		if s.Gateway.Addr().Is6() && d.MTU < MinMTU6 {
			c.add("mtu", "raise it, or leave IPv6 out", "%d is too small for IPv6, which needs %d", d.MTU, MinMTU6)
			return
		}
	}
}

func (c *checker) subnets() {
	d := c.def
	if len(d.Subnets) > MaxSubnets {
		c.add("subnets", "make several networks", "%d subnets, at most %d are possible", len(d.Subnets), MaxSubnets)
		return
	}
	dhcp := map[bool]int{}
	for i := range d.Subnets {
		s := &d.Subnets[i]
		path := fmt.Sprintf("subnets/%d", i)
		if !c.gateway(path, s.Gateway) {
			continue
		}
		for j := range i {
			if o := d.Subnets[j].Gateway; o.IsValid() && o.Masked().Overlaps(s.Gateway.Masked()) {
				c.add(path, "choose subnets that have no address in common", "%v overlaps %v", s.Gateway.Masked(), o.Masked())
			}
		}
		if !s.DHCP {
			if len(s.Ranges)+len(s.Hosts) > 0 {
				c.add(path, "switch dhcp on", "ranges and static leases without dhcp")
			}
			continue
		}
		is4 := s.Gateway.Addr().Is4()
		if first, twice := dhcp[is4]; twice {
			c.add(path, "keep one of the two", "dhcp twice for one family: %v has it already", d.Subnets[first].Gateway.Masked())
		}
		dhcp[is4] = i
		clear(c.macs)
		c.ranges(path, s)
		c.hosts(path, s)
	}
}

// gateway reports whether the subnet is sound enough to judge what is in it.
func (c *checker) gateway(path string, p netip.Prefix) bool {
	a, n := p.Addr(), len(c.found)
	switch {
	case !p.IsValid() || a.Zone() != "" || a.Is4In6():
		c.add(path, "write it like 10.20.0.1/24 or fd00:20::1/64", "no valid gateway address with the length of its subnet")
		return false
	case a.Is4() && (p.Bits() < 8 || p.Bits() > 30):
		c.add(path, "use 8 to 30", "an IPv4 prefix of length %d leaves no room for machines or for the rest of the world", p.Bits())
	case a.Is6() && (p.Bits() < 16 || p.Bits() > 126):
		c.add(path, "use 64", "an IPv6 prefix of length %d leaves no room for machines or for the rest of the world", p.Bits())
	case !assignable(a):
		c.add(path, "use an address of a private range, such as 10.20.0.1 or fd00:20::1", "%v cannot be a gateway's address", a)
	case reserved(p, a):
		c.add(path, "use the next one", "%v is the address of the subnet itself or of its broadcast", a)
	}
	return len(c.found) == n
}

func (c *checker) ranges(path string, s *Subnet) {
	if len(s.Ranges) > MaxRanges {
		c.add(path, "join ranges that touch", "%d ranges, at most %d are possible", len(s.Ranges), MaxRanges)
		return
	}
	for i, r := range s.Ranges {
		at := fmt.Sprintf("%s/ranges/%d", path, i)
		switch {
		case !inside(s.Gateway, r.Start) || !inside(s.Gateway, r.End):
			c.add(at, "keep both ends in the subnet", "%v to %v is not inside %v", r.Start, r.End, s.Gateway.Masked())
			continue
		case r.End.Less(r.Start):
			c.add(at, "exchange the two", "the start %v is after the end %v", r.Start, r.End)
			continue
		case reserved(s.Gateway, r.Start) || reserved(s.Gateway, r.End):
			c.add(at, "leave out the first and last address of the subnet",
				"%v to %v holds the address of the subnet itself or of its broadcast", r.Start, r.End)
		}
		for _, o := range s.Ranges[:i] {
			if o.Start.IsValid() && !r.End.Less(o.Start) && !o.End.Less(r.Start) {
				c.add(at, "join the two", "%v to %v overlaps %v to %v", r.Start, r.End, o.Start, o.End)
			}
		}
		c.lease(at, r.Lease)
	}
}

func (c *checker) hosts(path string, s *Subnet) {
	if len(s.Hosts) > MaxHosts {
		c.add(path, "", "%d static leases, at most %d are possible", len(s.Hosts), MaxHosts)
		return
	}
	names, addrs := map[string]string{}, map[netip.Addr]string{}
	for i, h := range s.Hosts {
		at := fmt.Sprintf("%s/hosts/%d", path, i)
		who := h.Name
		if who == "" {
			who = h.MAC.String()
		}
		switch {
		case h.Name == "" && h.MAC.IsZero():
			c.add(at, "give a mac or a name", "a static lease for nobody")
		case h.Name != "" && !IsDomain(h.Name):
			c.add(at, "use a name like printer-2", "%q is not a host name", clip(h.Name))
		case h.MAC.IsMulticast():
			c.add(at, "", "%v is the address of a group, not of a machine", h.MAC)
		case !h.MAC.IsZero() && h.MAC == c.def.MAC:
			c.add(at, "", "%v is the gateway's own", h.MAC)
		}
		switch {
		case !inside(s.Gateway, h.Addr):
			c.add(at, "keep it in the subnet", "%v is not inside %v", h.Addr, s.Gateway.Masked())
		case h.Addr == s.Gateway.Addr():
			c.add(at, "use another", "%v is the gateway's own address", h.Addr)
		case reserved(s.Gateway, h.Addr):
			c.add(at, "use another", "%v is the address of the subnet itself or of its broadcast", h.Addr)
		}
		if !h.MAC.IsZero() {
			unique(c, at, c.macs, h.MAC, who)
		}
		if h.Name != "" {
			unique(c, at, names, strings.ToLower(h.Name), who)
		}
		unique(c, at, addrs, h.Addr, who)
		c.lease(at, h.Lease)
	}
}

// unique remembers the value, or reports who had it before.
func unique[K comparable](c *checker, at string, seen map[K]string, value K, who string) {
	if first, twice := seen[value]; twice {
		c.add(at, "each may be given once", "%v is taken by the static lease of %s", value, first)
		return
	}
	seen[value] = who
}

func (c *checker) lease(at string, d time.Duration) {
	switch {
	case d <= 0: // the default, or for ever
	case d < MinLease:
		c.add(at, "use 2 minutes or more, or 0 for ever", "a lease of %v is shorter than %v", d, MinLease)
	case d > MaxLease:
		c.add(at, "use 0 for ever", "a lease of %v is longer than DHCP can say", d)
	case d%time.Second != 0:
		c.add(at, "", "a lease of %v is not whole seconds", d)
	}
}

func (c *checker) dns() {
	type entry struct {
		name string
		addr netip.Addr
	}
	seen, total := map[entry]bool{}, 0
	for i, h := range c.def.Hosts {
		at := fmt.Sprintf("hosts/%d", i)
		if !h.Addr.IsValid() || h.Addr.Zone() != "" || h.Addr.IsUnspecified() || h.Addr.IsMulticast() {
			c.add(at, "", "%v is not the address of a machine", h.Addr)
		}
		if len(h.Names) == 0 {
			c.add(at, "give a hostname", "%v has no name", h.Addr)
		}
		for _, n := range h.Names {
			if !IsDomain(n) {
				c.add(at, "use a name like printer", "%q is not a host name", clip(n))
			}
			e := entry{strings.ToLower(n), h.Addr}
			if seen[e] {
				c.add(at, "once is enough", "%s is given the address %v twice", n, h.Addr)
			}
			seen[e] = true
		}
		if total += len(h.Names); total > MaxNames {
			c.add(at, "", "more than %d fixed names", MaxNames)
			return
		}
	}
}

// inside says whether a is an address of the gateway's subnet.
func inside(gateway netip.Prefix, a netip.Addr) bool { return a.IsValid() && gateway.Contains(a) }

// reserved says whether a stands for its whole subnet: the first address (in
// IPv6 the anycast address of its routers, RFC 4291 section 2.6.1), and in IPv4
// the last, the broadcast address.
func reserved(subnet netip.Prefix, a netip.Addr) bool {
	if a == subnet.Masked().Addr() {
		return true
	}
	if !a.Is4() {
		return false
	}
	b := a.As4()
	host := uint32(1)<<(32-subnet.Bits()) - 1
	return binary.BigEndian.Uint32(b[:])&host == host
}

// assignable says whether a machine may have the address a.
func assignable(a netip.Addr) bool {
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		return false
	}
	if a.Is4() {
		first := a.As4()[0]
		return first != 0 && first < 224
	}
	return true
}

// Overlaps refuses a definition that has addresses in common with a network of
// the host, given as its addresses' and routes' prefixes: traffic meant for one
// would reach the other. Default routes are passed over. The error is of kind
// fault.Conflict and names both.
func (d *Definition) Overlaps(host []netip.Prefix) error {
	for _, s := range d.Subnets {
		for _, p := range host {
			if p.Bits() == 0 || !p.IsValid() || !p.Overlaps(s.Gateway) {
				continue
			}
			return fault.New(fault.Conflict, "check network", d.Name,
				"subnet %v overlaps %v, which the host uses itself", s.Gateway.Masked(), p.Masked()).
				WithRemedy("choose another subnet, or remove the host's route (ip route show)")
		}
	}
	return nil
}
