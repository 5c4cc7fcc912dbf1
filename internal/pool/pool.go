// Package pool chooses addresses: for a name and a MAC, one in each subnet of a
// network, the same one again whenever it can be. It keeps nothing: what is
// given away already comes in as leases.
package pool

import (
	"encoding/binary"
	"hash/fnv"
	"math/big"
	"net/netip"
	"time"

	"brane/frame"
	"brane/internal/fault"
)

// Range is inclusive at both ends.
type Range struct{ Start, End netip.Addr }

// Host is a static assignment, by MAC or by name or by both.
type Host struct {
	MAC  frame.MAC
	Name string
	Addr netip.Addr
}

// Subnet is the pool of one subnet. Without ranges all of it is the pool.
type Subnet struct {
	Prefix  netip.Prefix
	Gateway netip.Addr
	Ranges  []Range
	Hosts   []Host
}

// Lease is what is given away already. One that is not held may be taken from
// its name after Expires.
type Lease struct {
	Name    string
	MAC     frame.MAC
	Addrs   []netip.Addr
	Held    bool
	Expires time.Time
}

// Request asks for addresses.
type Request struct {
	Name string
	MAC  frame.MAC
	Want netip.Addr // of a DHCP client; the zero Addr for none
	Now  time.Time
}

// Choice is the answer: an address of each subnet in their order, whether all
// are static, and the names whose expired leases have to go for it.
type Choice struct {
	Addrs   []netip.Addr
	Static  bool
	Evicted []string
}

// probes bounds how many addresses are looked at before the expired are taken.
const probes = 1 << 16

// Choose finds an address in each subnet: the static one; else the one that the
// name has; else the one wanted; else one derived from the name, so that the
// same name gets the same address on every machine, moved on while it is taken.
// Never-used addresses go first, then the longest expired. The error is of kind
// fault.Limit when a pool is exhausted.
func Choose(subnets []Subnet, leases []Lease, r Request) (Choice, error) {
	var c Choice
	static := 0
	for i := range subnets {
		s := &subnets[i]
		if h, ok := s.host(r); ok {
			c.Addrs = append(c.Addrs, h)
			static++
			c.evict(leases, r, h)
			continue
		}
		a, err := s.choose(leases, r)
		if err != nil {
			return Choice{}, err
		}
		c.Addrs = append(c.Addrs, a)
		c.evict(leases, r, a)
	}
	c.Static = static > 0 && static == len(subnets)
	return c, nil
}

// evict notes who has the address now and loses it.
func (c *Choice) evict(leases []Lease, r Request, a netip.Addr) {
	for _, l := range leases {
		if l.Name == r.Name {
			continue
		}
		for _, b := range l.Addrs {
			if a == b {
				c.Evicted = append(c.Evicted, l.Name)
			}
		}
	}
}

// host is the static address of the request.
func (s *Subnet) host(r Request) (netip.Addr, bool) {
	for _, h := range s.Hosts {
		switch {
		case h.MAC != (frame.MAC{}) && h.MAC == r.MAC, h.MAC == (frame.MAC{}) && h.Name != "" && h.Name == r.Name:
			return h.Addr, true
		}
	}
	return netip.Addr{}, false
}

func (s *Subnet) choose(leases []Lease, r Request) (netip.Addr, error) {
	taken := map[netip.Addr]*Lease{}
	for i := range leases {
		for _, a := range leases[i].Addrs {
			if s.Prefix.Contains(a) {
				taken[a] = &leases[i]
			}
		}
		if leases[i].Name != r.Name {
			continue
		}
		for _, a := range leases[i].Addrs {
			if s.usable(a) {
				return a, nil
			}
		}
	}
	if r.Want.IsValid() && s.usable(r.Want) && taken[r.Want] == nil {
		return r.Want, nil
	}
	size := s.size()
	limit := min(size, probes)
	at := seed(r.Name, s.Prefix) % max(size, 1)
	var oldest *Lease
	var reuse netip.Addr
	for range limit {
		a := s.nth(at)
		at = (at + 1) % size
		if !s.usable(a) {
			continue
		}
		l := taken[a]
		if l == nil {
			return a, nil
		}
		if !l.Held && l.Expires.Before(r.Now) && (oldest == nil || l.Expires.Before(oldest.Expires)) {
			oldest, reuse = l, a
		}
	}
	if oldest != nil {
		return reuse, nil
	}
	return netip.Addr{}, fault.New(fault.Limit, "choose address", r.Name, "the pool of %s has %d addresses and all are in use", s.Prefix, size).
		WithRemedy("widen the range of the network, or stop a brane")
}

// usable says whether an address may be given to anybody at all.
func (s *Subnet) usable(a netip.Addr) bool {
	if !s.Prefix.Contains(a) || a == s.Gateway || a == s.Prefix.Masked().Addr() {
		return false
	}
	if a.Is4() && s.Prefix.Bits() < 31 && a == last(s.Prefix) {
		return false
	}
	for _, h := range s.Hosts {
		if h.Addr == a {
			return false
		}
	}
	if len(s.Ranges) == 0 {
		return true
	}
	for _, g := range s.Ranges {
		if a.Compare(g.Start) >= 0 && a.Compare(g.End) <= 0 {
			return true
		}
	}
	return false
}

// size is the number of addresses, at most 2^62.
func (s *Subnet) size() uint64 {
	var n uint64
	for _, g := range s.spans() {
		n += span(g)
	}
	return min(n, 1<<62)
}

// nth is the address number i of the pool.
func (s *Subnet) nth(i uint64) netip.Addr {
	for _, g := range s.spans() {
		n := span(g)
		if i < n {
			return add(g.Start, i)
		}
		i -= n
	}
	return netip.Addr{}
}

// spans are the ranges, or the whole subnet.
func (s *Subnet) spans() []Range {
	if len(s.Ranges) > 0 {
		return s.Ranges
	}
	return []Range{{Start: s.Prefix.Masked().Addr(), End: last(s.Prefix)}}
}

func number(a netip.Addr) *big.Int { return new(big.Int).SetBytes(a.AsSlice()) }

func span(g Range) uint64 {
	n := new(big.Int).Sub(number(g.End), number(g.Start))
	if !n.IsUint64() || n.Uint64() >= 1<<61 {
		return 1 << 61
	}
	return n.Uint64() + 1
}

func add(a netip.Addr, n uint64) netip.Addr {
	sum := new(big.Int).Add(number(a), new(big.Int).SetUint64(n))
	b := make([]byte, a.BitLen()/8)
	sum.FillBytes(b)
	out, _ := netip.AddrFromSlice(b)
	return out
}

// last is the highest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// seed spreads names over a pool, the same way everywhere.
func seed(name string, p netip.Prefix) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	_, _ = h.Write([]byte(p.String()))
	var b [8]byte
	return binary.BigEndian.Uint64(h.Sum(b[:0]))
}
