package stack

import (
	"net/netip"

	"brane/frame"
)

// policy is a Config made ready for questions. It is immutable; Update swaps it.
type policy struct {
	Config
	own     []netip.Prefix // the gateway's addresses, the derived link-local last
	v4, v6  netip.Addr     // the first address of each family that is not link-local; zero when there is none
	linkLoc netip.Addr
}

// decision says what becomes of a flow that a guest starts.
type decision uint8

const (
	allowed     decision = iota
	refused              // nothing listens there: reset, or port unreachable
	prohibited           // an address that guests may not reach
	unreachable          // no road leads there
	ignored              // not to be answered: multicast, broadcast, a foreign source
)

var (
	allHosts4  = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	thisNet    = netip.MustParsePrefix("0.0.0.0/8")
	nat64      = netip.MustParsePrefix("64:ff9b::/96")   // RFC 6052
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215
	sixToFour  = netip.MustParsePrefix("2002::/16")      // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")      // RFC 4380
	compatible = netip.MustParsePrefix("::/96")          // RFC 4291 section 2.5.5.1
)

func newPolicy(c Config) (*policy, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	p := &policy{Config: c, linkLoc: frame.EUI64(netip.MustParseAddr("fe80::"), c.MAC)}
	for _, a := range c.Addrs {
		p.own = append(p.own, a)
		if a.Addr().Is4() && !p.v4.IsValid() {
			p.v4 = a.Addr()
		}
		if a.Addr().Is6() && !p.v6.IsValid() && !a.Addr().IsLinkLocalUnicast() {
			p.v6 = a.Addr()
		}
	}
	p.own = append(p.own, netip.PrefixFrom(p.linkLoc, 64))
	return p, nil
}

func (p *policy) isOwn(a netip.Addr) bool {
	for i := range p.own {
		if p.own[i].Addr() == a {
			return true
		}
	}
	return false
}

// onLink says that a is an address of the gateway's subnets.
func (p *policy) onLink(a netip.Addr) bool {
	for i := range p.own {
		if p.own[i].Contains(a) {
			return true
		}
	}
	return false
}

// guest says that a can be the source of a guest's traffic.
func (p *policy) guest(a netip.Addr) bool { return p.onLink(a) && !p.isOwn(a) }

// broadcast says that a is the limited broadcast or that of a subnet.
func (p *policy) broadcast(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	if a == allHosts4 {
		return true
	}
	for _, o := range p.own {
		if o.Addr().Is4() && o.Bits() < 31 && o.Contains(a) && !o.Contains(a.Next()) {
			return true
		}
	}
	return false
}

// self is the address that the gateway uses towards a guest of a's family.
func (p *policy) self(a netip.Addr) (netip.Addr, bool) {
	switch {
	case a.Is4():
		return p.v4, p.v4.IsValid()
	case a.IsLinkLocalUnicast() || !p.v6.IsValid():
		return p.linkLoc, true
	}
	return p.v6, true
}

// admit decides about a flow from src to dst, and where on the host it goes.
func (p *policy) admit(src netip.Addr, dst netip.AddrPort) (to netip.AddrPort, d decision) {
	a := dst.Addr()
	switch {
	case !p.guest(src), a.IsMulticast(), p.broadcast(a):
		return to, ignored
	case p.isOwn(a):
		if dst.Port() == 0 || !p.HostPort(src, dst.Port()) {
			return to, refused
		}
		return netip.AddrPortFrom(loopback(a), dst.Port()), allowed
	case !p.NAT || p.denied(a):
		return to, prohibited
	case p.onLink(a):
		return to, unreachable
	case p.outside != nil:
		return p.outside(dst), allowed
	}
	return dst, allowed
}

func loopback(family netip.Addr) netip.Addr {
	if family.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// denied asks about the address in each of its forms. Some forms have no
// business on a wire and are denied whatever Config says: RFC 4291 section
// 2.5.5 for mapped and compatible addresses, RFC 1122 section 3.2.1.3 for net 0.
func (p *policy) denied(a netip.Addr) bool {
	if a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || thisNet.Contains(a) || a == allHosts4 ||
		compatible.Contains(a) && a != netip.IPv6Loopback() {
		return true
	}
	if p.Denied(a) {
		return true
	}
	for _, v4 := range embedded(a) {
		if v4.IsValid() && (p.Denied(v4) || thisNet.Contains(v4)) {
			return true
		}
	}
	return false
}

// embedded gives the IPv4 addresses that a translator or tunnel on the way
// could take out of a; invalid ones fill the array.
func embedded(a netip.Addr) (v4 [2]netip.Addr) {
	if !a.Is6() {
		return v4
	}
	b := a.As16()
	last := netip.AddrFrom4([4]byte(b[12:16]))
	switch {
	case nat64.Contains(a), nat64Local.Contains(a):
		v4[0] = last
	case sixToFour.Contains(a):
		v4[0] = netip.AddrFrom4([4]byte(b[2:6]))
	case teredo.Contains(a):
		v4[0] = netip.AddrFrom4([4]byte(b[4:8]))
		v4[1] = netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]})
	case b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe: // ISATAP, RFC 5214 section 6.1
		v4[0] = last
	}
	return v4
}

// Special says that a is never somebody else's host: loopback, link-local
// (metadata services live there), unspecified, multicast or net 0.
func Special(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() || a.IsMulticast() || a.Is4() && thisNet.Contains(a)
}
