package config

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"time"

	"brane/internal/network"
)

// ip reads one subnet.
func (r *reader) ip(e *element) (s network.Subnet, err error) {
	a, err := r.addr(e, "address")
	if err != nil {
		return s, err
	}
	family, ok := e.get("family")
	if want := map[bool]string{true: "ipv4", false: "ipv6"}[a.Is4()]; ok && family != want {
		return s, r.at(e, "write family='"+want+"'", "family=%q does not go with %v", clip(family), a)
	}
	length, err := r.prefixLen(e, a)
	if err != nil {
		return s, err
	}
	if own, err := r.yes(e, "localPtr", true); err != nil {
		return s, err
	} else if !own {
		r.warn(e, "localPtr is always yes here: addresses of the network are never asked of others")
	}
	s.Gateway = netip.PrefixFrom(a, length)
	dhcp, err := r.one(e, "dhcp")
	if err != nil {
		return s, err
	}
	if dhcp != nil {
		if err := r.dhcp(&s, dhcp); err != nil {
			return s, err
		}
	}
	return s, r.rest(e, unsupported())
}

// prefixLen is the length of the subnet: prefix, or netmask, or what libvirt takes
// when there is neither: the class of old, and 64.
func (r *reader) prefixLen(e *element, a netip.Addr) (int, error) {
	mask, hasMask := e.get("netmask")
	switch {
	case e.has("prefix") && hasMask:
		return 0, r.at(e, "keep one of them", "both prefix and netmask")
	case e.has("prefix"):
		n, err := r.number(e, "prefix", 0, int64(a.BitLen()))
		return int(n), err
	case hasMask:
		m, err := netip.ParseAddr(mask)
		if err != nil || !m.Is4() || !a.Is4() {
			return 0, r.at(e, "write prefix='24'", "netmask=%q is no IPv4 mask for %v", clip(mask), a)
		}
		b := m.As4()
		v := binary.BigEndian.Uint32(b[:])
		n := bits.LeadingZeros32(^v)
		if bits.OnesCount32(v) != n {
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
	case first < 224:
		return 24, nil
	}
	return 0, r.at(e, "add prefix", "%v has neither prefix nor netmask, and is of no class", a)
}

func (r *reader) dhcp(s *network.Subnet, e *element) error {
	s.DHCP = true
	if s.Gateway.Addr().Is6() {
		r.warn(e, "there is no DHCPv6: these addresses are for branes; other machines make theirs from the router advertisement")
	}
	for _, c := range e.all("range") {
		v, err := r.dhcpRange(c)
		if err != nil {
			return err
		}
		s.Ranges = append(s.Ranges, v)
	}
	for _, c := range e.all("host") {
		h, err := r.dhcpHost(c)
		if err != nil {
			return err
		}
		s.Hosts = append(s.Hosts, h)
	}
	return r.rest(e, unsupported())
}

func (r *reader) dhcpRange(e *element) (v network.Range, err error) {
	if v.Start, err = r.addr(e, "start"); err != nil {
		return v, err
	}
	if v.End, err = r.addr(e, "end"); err != nil {
		return v, err
	}
	if v.Lease, err = r.lease(e); err != nil {
		return v, err
	}
	return v, r.rest(e, nil)
}

func (r *reader) dhcpHost(e *element) (h network.DHCPHost, err error) {
	if h.Addr, err = r.addr(e, "ip"); err != nil {
		return h, err
	}
	if e.has("mac") {
		if h.MAC, err = r.macOf(e, "mac"); err != nil {
			return h, err
		}
	}
	h.Name, _ = e.get("name")
	if h.Lease, err = r.lease(e); err != nil {
		return h, err
	}
	return h, r.rest(e, map[string]string{"id": "hosts are told apart by MAC or name"})
}

// lease reads the element lease of a range or host: minutes when there is no
// unit, for ever when the expiry is 0.
func (r *reader) lease(e *element) (time.Duration, error) {
	c, err := r.one(e, "lease")
	if err != nil || c == nil {
		return 0, err
	}
	n, err := r.number(c, "expiry", 0, 1<<32-1)
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
			return 0, r.at(c, "", "unit=%q is none of seconds, minutes, hours", clip(u))
		}
	}
	if n == 0 {
		return network.Never, r.rest(c, nil)
	}
	if time.Duration(n) > network.MaxLease/unit {
		return 0, r.at(c, "use 0 for ever", "a lease of %d times %v is longer than DHCP can say", n, unit)
	}
	return time.Duration(n) * unit, r.rest(c, nil)
}
