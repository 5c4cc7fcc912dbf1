package dns

import (
	"net"
	"net/netip"

	wire "github.com/miekg/dns"
)

// denied says whether a record leads to an address that a foreign name may not
// have: in its data, or as a hint beside it (RFC 9460 section 7.3).
func (z *Zone) denied(rr wire.RR) bool {
	switch rr := rr.(type) {
	case *wire.A:
		return z.deniedIP(rr.A.To4())
	case *wire.AAAA:
		return z.deniedIP(rr.AAAA.To16())
	case *wire.SVCB:
		return z.deniedHints(rr.Value)
	case *wire.HTTPS:
		return z.deniedHints(rr.Value)
	}
	return false
}

func (z *Zone) deniedHints(values []wire.SVCBKeyValue) bool {
	for _, v := range values {
		var hints []net.IP
		switch v := v.(type) {
		case *wire.SVCBIPv4Hint:
			hints = v.Hint
		case *wire.SVCBIPv6Hint:
			hints = v.Hint
		}
		for _, h := range hints {
			if z.deniedIP(h) {
				return true
			}
		}
	}
	return false
}

func (z *Zone) deniedIP(ip net.IP) bool {
	a, ok := netip.AddrFromSlice(ip)
	return !ok || z.deny.Denies(a)
}
