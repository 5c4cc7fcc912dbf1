package network

import (
	"net/netip"

	"brane/internal/fault"
	"brane/internal/store"
)

// DefaultName is the built-in network, there without a file.
const DefaultName = "default"

// DefaultSubnets are tried in order for the built-in network: libvirt's, then
// others that home and office networks seldom use.
func DefaultSubnets() []netip.Prefix {
	out := []netip.Prefix{}
	for _, s := range []string{
		"192.168.122.0/24", "192.168.123.0/24", "192.168.124.0/24", "192.168.221.0/24",
		"10.122.0.0/24", "10.177.0.0/24", "172.29.122.0/24", "172.30.122.0/24",
	} {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// Default is the definition of the built-in network in the given IPv4 subnet.
func Default(v4 netip.Prefix) Definition {
	base := v4.Masked().Addr().As4()
	at := func(last byte) netip.Addr { b := base; b[3] = last; return netip.AddrFrom4(b) }
	ula := netip.MustParseAddr("fd42:7261:6e65::1").As16() // "Brane" in the global identifier
	ula[6], ula[7] = base[1]^base[0], base[2]
	return Definition{
		Name: DefaultName, Forward: NAT, Subnets: []Subnet{
			{Gateway: netip.PrefixFrom(at(1), v4.Bits()), DHCP: true, Ranges: []Range{{Start: at(2), End: at(254)}}},
			{Gateway: netip.PrefixFrom(netip.AddrFrom16(ula), 64)},
		},
	}
}

// EnsureDefault defines the built-in network in the first free subnet of the
// list, unless there is one of the name already, and starts it.
func (v *Service) EnsureDefault() (store.Revision, error) {
	return v.change("system", func(s *State, t *Txn) error {
		rec, ok := s.Networks[DefaultName]
		if ok && rec.Started {
			return nil
		}
		if ok {
			if err := v.fits(s, &rec.Definition); err != nil {
				return err
			}
			return v.start(s, t, rec)
		}
		list := v.Subnets
		if len(list) == 0 {
			list = DefaultSubnets()
		}
		for _, sub := range list {
			def := Default(sub)
			if v.fits(s, &def) != nil {
				continue
			}
			return v.start(s, t, Record{Definition: def, Persistent: true, Owner: "system"})
		}
		return fault.New(fault.Conflict, "start network", DefaultName, "every subnet of the built-in list overlaps one of this host").
			WithRemedy("define a network of this name with a free subnet: brane net define FILE")
	})
}
