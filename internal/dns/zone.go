package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	wire "github.com/miekg/dns"

	"brane/filter"
	"brane/internal/plan"
)

// Zone is what the server knows of its own network. It is immutable and
// swapped whole.
//
// Each name NAME is answered as NAME.DOMAIN and as NAME alone. All below the
// domain, and the reverse names of the network's own addresses, are answered
// here with authority and never asked of others.
type Zone struct {
	domain    string                  // lower case, with the final dot
	names     map[string][]netip.Addr // by full name, lower case; empty between names ("b.office." of "a.b.office.")
	pointers  map[netip.Addr][]string // full names
	own       []netip.Prefix          // the network's subnets
	deny      *filter.DenySet         // what a foreign answer may not name
	closed    []netip.Prefix          // what it was made of, own included
	resolvers []string
}

// NewZone makes the zone of a gateway. The domain itself has the gateway's addresses.
func NewZone(g *plan.Gateway) *Zone {
	z := &Zone{
		domain: wire.Fqdn(strings.ToLower(g.Domain)), names: map[string][]netip.Addr{}, pointers: map[netip.Addr][]string{},
		resolvers: g.DNS.Resolvers,
	}
	var gateway []netip.Addr
	for _, p := range g.Addrs {
		z.own = append(z.own, p.Masked())
		gateway = append(gateway, p.Addr())
	}
	z.closed = append(slices.Clone(g.Denied), z.own...)
	z.deny = filter.NewDenySet(z.closed, gateway)
	for _, n := range g.DNS.Names {
		z.add(strings.ToLower(n.Name), n.Addrs)
	}
	if z.domain != "." {
		z.put(z.domain, gateway)
	}
	return z
}

func (z *Zone) add(name string, addrs []netip.Addr) {
	alone := wire.Fqdn(name)
	full := alone
	if z.domain != "." {
		full = alone + z.domain
		z.put(full, addrs)
		for _, rest, more := strings.Cut(full, "."); more && rest != z.domain; _, rest, more = strings.Cut(rest, ".") {
			z.put(rest, nil)
		}
	}
	z.put(alone, addrs)
	if strings.Contains(name, ".") {
		full = alone
	}
	for _, a := range addrs {
		if !slices.Contains(z.pointers[a], full) {
			z.pointers[a] = append(z.pointers[a], full)
		}
	}
}

// put adds addresses to a name. Link-local ones mean nothing without their
// link, so they have no place in an answer.
func (z *Zone) put(name string, addrs []netip.Addr) {
	have := z.names[name]
	for _, a := range addrs {
		if a = a.Unmap(); a.IsValid() && !a.IsLinkLocalUnicast() && !slices.Contains(have, a) {
			have = append(have, a)
		}
	}
	z.names[name] = have
}

// screensLike says whether both zones keep the same of a foreign answer, and ask the same resolvers for it.
func (z *Zone) screensLike(o *Zone) bool {
	return slices.Equal(z.closed, o.closed) && slices.Equal(z.own, o.own) && slices.Equal(z.resolvers, o.resolvers)
}

// found is the zone's answer: rcode, records, and the owner of the SOA record
// that goes with a negative one.
type found struct {
	rcode int
	rrs   []wire.RR
	soa   string
}

// lookup answers a question, or says that it is for others. q.Name has the
// client's spelling, which the records keep.
func (z *Zone) lookup(q wire.Question) (found, bool) {
	name := strings.ToLower(q.Name)
	switch {
	case wire.IsSubDomain("localhost.", name): // RFC 6761 section 6.3
		return z.localhost(q), true
	case wire.IsSubDomain("invalid.", name), wire.IsSubDomain("onion.", name): // sections 6.4; RFC 7686
		return found{rcode: wire.RcodeNameError, soa: lastLabel(name)}, true
	}
	if addrs, ok := z.names[name]; ok {
		return z.named(q, name, addrs), true
	}
	if z.domain != "." && wire.IsSubDomain(z.domain, name) {
		return found{rcode: wire.RcodeNameError, soa: z.domain}, true
	}
	if p, ok := parseReverse(name); ok {
		if p.Bits() == p.Addr().BitLen() && len(z.pointers[p.Addr()]) > 0 {
			return z.reverse(q, p, p), true
		}
		for _, own := range z.own {
			if own.Bits() <= p.Bits() && own.Contains(p.Addr()) {
				return z.reverse(q, p, own), true
			}
		}
	}
	return found{}, false
}

// named answers for a name that exists.
func (z *Zone) named(q wire.Question, name string, addrs []netip.Addr) found {
	f := found{soa: name}
	if z.domain != "." && wire.IsSubDomain(z.domain, name) {
		f.soa = z.domain
	}
	f.rrs = addresses(q, addrs)
	if name == z.domain {
		switch q.Qtype {
		case wire.TypeSOA:
			f.rrs = append(f.rrs, z.soa(q.Name))
		case wire.TypeNS:
			f.rrs = append(f.rrs, &wire.NS{Hdr: header(q.Name, wire.TypeNS), Ns: z.domain})
		}
	}
	return f
}

// localhost never leaves the machine that asks.
func (z *Zone) localhost(q wire.Question) found {
	loop := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	return found{rrs: addresses(q, loop), soa: "localhost."}
}

func (z *Zone) reverse(q wire.Question, p, own netip.Prefix) found {
	f := found{soa: reverseZone(own)}
	if p.Bits() != p.Addr().BitLen() {
		return f // a name between: it exists and has no records
	}
	targets := z.pointers[p.Addr()]
	if len(targets) == 0 {
		f.rcode = wire.RcodeNameError
		return f
	}
	if q.Qtype == wire.TypePTR || q.Qtype == wire.TypeANY {
		for _, t := range targets {
			f.rrs = append(f.rrs, &wire.PTR{Hdr: header(q.Name, wire.TypePTR), Ptr: t})
		}
	}
	return f
}

// soa is the start of authority, there because negative answers need one
// (RFC 2308). Names come and go with programs, so nothing is to be remembered.
func (z *Zone) soa(owner string) wire.RR {
	ns := z.domain
	if ns == "." {
		ns = "gateway."
	}
	return &wire.SOA{
		Hdr: header(owner, wire.TypeSOA), Ns: ns, Mbox: "hostmaster." + strings.TrimPrefix(ns, "."),
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: 0,
	}
}

// header of a record of this zone; time to live 0, as for soa.
func header(name string, kind uint16) wire.RR_Header {
	return wire.RR_Header{Name: name, Rrtype: kind, Class: wire.ClassINET}
}

// addresses are the records of the family that is asked for.
func addresses(q wire.Question, addrs []netip.Addr) []wire.RR {
	var out []wire.RR
	for _, a := range addrs {
		switch {
		case a.Is4() && (q.Qtype == wire.TypeA || q.Qtype == wire.TypeANY):
			out = append(out, &wire.A{Hdr: header(q.Name, wire.TypeA), A: a.AsSlice()})
		case a.Is6() && (q.Qtype == wire.TypeAAAA || q.Qtype == wire.TypeANY):
			out = append(out, &wire.AAAA{Hdr: header(q.Name, wire.TypeAAAA), AAAA: a.AsSlice()})
		}
	}
	return out
}

// parseReverse reads a name below in-addr.arpa or ip6.arpa as the prefix that
// it stands for: whole bytes of IPv4, half bytes of IPv6, the last of them first.
func parseReverse(name string) (netip.Prefix, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		var b [4]byte
		labels := strings.Split(rest, ".")
		if len(labels) > len(b) {
			return netip.Prefix{}, false
		}
		for i, l := range labels {
			v, err := strconv.ParseUint(l, 10, 8)
			if err != nil || len(l) > 1 && l[0] == '0' {
				return netip.Prefix{}, false
			}
			b[len(labels)-1-i] = byte(v)
		}
		return netip.PrefixFrom(netip.AddrFrom4(b), 8*len(labels)), true
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa.")
	if !ok {
		return netip.Prefix{}, false
	}
	var b [16]byte
	labels := strings.Split(rest, ".")
	if len(labels) > 2*len(b) {
		return netip.Prefix{}, false
	}
	for i, l := range labels {
		v, err := strconv.ParseUint(l, 16, 4)
		if err != nil || len(l) != 1 {
			return netip.Prefix{}, false
		}
		n := len(labels) - 1 - i
		b[n/2] |= byte(v) << (4 * (1 - n%2))
	}
	return netip.PrefixFrom(netip.AddrFrom16(b), 4*len(labels)), true
}

// reverseZone is the name of the whole bytes (half bytes) of a prefix.
func reverseZone(p netip.Prefix) string {
	full, err := wire.ReverseAddr(p.Masked().Addr().String())
	if err != nil {
		return "."
	}
	unit, labels := 8, 4
	if p.Addr().Is6() {
		unit, labels = 4, 32
	}
	for range labels - p.Bits()/unit {
		_, full, _ = strings.Cut(full, ".")
	}
	return full
}

// lastLabel is the top-level domain of a name.
func lastLabel(name string) string {
	name = strings.TrimSuffix(name, ".")
	return name[strings.LastIndexByte(name, '.')+1:] + "."
}
