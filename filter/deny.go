package filter

import (
	"encoding/binary"
	"net/netip"
)

// DenySet holds the addresses that nothing behind a gateway may reach: the
// host's own, and those that no network may: this host, loopback, link-local
// with the metadata services there, the metadata services with addresses of
// their own, multicast and reserved ones. IPv6 addresses that contain an IPv4
// address are judged by it too.
type DenySet struct {
	always addrSet
	host   addrSet
	alias  addrSet // the gateway's own, denied only inside of other addresses
}

// NewDenySet makes the set from the addresses of the host and of the gateway.
// The gateway's own addresses are not denied as they are: what is open there is
// for others to judge. They are denied inside of others.
func NewDenySet(host []netip.Prefix, gateway []netip.Addr) *DenySet {
	d := &DenySet{always: newAddrSet(deniedPrefixes()), host: newAddrSet(host)}
	var own []netip.Prefix
	for _, a := range gateway {
		own = append(own, netip.PrefixFrom(a, a.BitLen()))
	}
	d.alias = newAddrSet(own)
	return d
}

func deniedPrefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, s := range [...]string{
		"0.0.0.0/8",          // this host (RFC 1122 section 3.2.1.3)
		"127.0.0.0/8",        // loopback
		"169.254.0.0/16",     // link-local (RFC 3927), where most clouds' metadata services are
		"100.100.100.200/32", // metadata services elsewhere
		"168.63.129.16/32",
		"192.0.0.192/32",
		"224.0.0.0/4", // multicast
		"240.0.0.0/4", // reserved, and limited broadcast
		"::/96",       // unspecified, loopback, IPv4-compatible (RFC 4291)
		"::ffff:0:0/96",
		"::ffff:0:0:0/96",   // IPv4-translated (RFC 7915)
		"64:ff9b:1::/48",    // local-use NAT64 (RFC 8215): where the IPv4 address is, only its owner knows
		"fe80::/10",         // link-local
		"fec0::/10",         // site-local (RFC 3879)
		"ff00::/8",          // multicast
		"fd00:ec2::254/128", // metadata services
		"fd20:ce::254/128",
		"fd00:c1::a9fe:a9fe/128",
		"fd00:42::42/128",
	} {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// Denies says whether addr may not be reached, in whatever form it is written.
// An address that is not valid is denied.
func (d *DenySet) Denies(addr netip.Addr) bool {
	switch {
	case addr.Is4():
		a := addr.As4()
		v := binary.BigEndian.Uint32(a[:])
		return d.always.has4(v) || d.host.has4(v)
	case addr.Is6():
		a := addr.As16()
		n := from6(&a)
		return d.always.has6(n) || d.host.has6(n) || d.inside(&a)
	}
	return true
}

// inside says whether an IPv6 address contains a denied IPv4 address by one of
// the transition mechanisms.
func (d *DenySet) inside(a *[16]byte) bool {
	last := binary.BigEndian.Uint32(a[12:])
	switch binary.BigEndian.Uint32(a[:4]) {
	case 0x0064ff9b: // NAT64, the well-known prefix (RFC 6052)
		if binary.BigEndian.Uint64(a[4:12]) == 0 && d.denied4(last) {
			return true
		}
	case 0x20010000: // Teredo: server, and client in complement (RFC 4380 section 4)
		if d.denied4(binary.BigEndian.Uint32(a[4:])) || d.denied4(^last) {
			return true
		}
	}
	if a[0] == 0x20 && a[1] == 0x02 && d.denied4(binary.BigEndian.Uint32(a[2:])) { // 6to4 (RFC 3056)
		return true
	}
	// ISATAP, with the universal bit or without (RFC 5214 section 6.1).
	return binary.BigEndian.Uint32(a[8:])&^0x02000000 == 0x00005efe && d.denied4(last)
}

func (d *DenySet) denied4(a uint32) bool {
	return d.always.has4(a) || d.host.has4(a) || d.alias.has4(a)
}
