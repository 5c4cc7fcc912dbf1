// Package pool chooses addresses: for a name and a MAC, one in each subnet of a
// network, the same one again whenever it can be. It is told what is leased
// and keeps an index of it, so that a choice costs about the same in an empty
// and in a full pool. It has no clock: the present is part of a request.
package pool

import (
	"net/netip"
	"slices"
	"time"

	"brane/frame"
	"brane/internal/fault"
)

// Range is inclusive at both ends.
type Range struct{ Start, End netip.Addr }

// Host is a static assignment, by MAC or by name or by either.
type Host struct {
	MAC  frame.MAC
	Name string
	Addr netip.Addr
}

// Subnet is the pool of one subnet. Without ranges all of it is the pool. The
// gateway, the address of the subnet itself, the broadcast address and those of
// hosts are never given to anybody else. Of a very large range the first 2^62
// addresses are used.
type Subnet struct {
	Prefix  netip.Prefix
	Gateway netip.Addr
	Ranges  []Range
	Hosts   []Host
}

// Lease is what is given away already. One that is not held may be taken from
// its name at Expires.
type Lease struct {
	Name    string
	MAC     frame.MAC
	Addrs   []netip.Addr
	Held    bool
	Expires time.Time
}

// expired reports whether somebody else may have the addresses.
func (l *Lease) expired(now time.Time) bool { return !l.Held && !l.Expires.After(now) }

// Request asks for addresses.
type Request struct {
	Name string
	MAC  frame.MAC
	Want netip.Addr // of a DHCP client; the zero Addr for none
	Now  time.Time
}

// Choice is the answer: an address of each subnet in their order, whether all
// are static, and the names whose leases have to go for it, all of them expired
// or of the same MAC.
type Choice struct {
	Addrs   []netip.Addr
	Static  bool
	Evicted []string
}

// Pool is the addresses of one network. It is for one goroutine at a time.
type Pool struct {
	subnets []*subnet
	leases  map[string]*Lease
	macs    map[frame.MAC]*Lease // the latest of each
}

// New makes the pool of some subnets. A range or host outside of its subnet,
// or a range with its end before its start, is fault.Invalid.
func New(subnets []Subnet) (*Pool, error) {
	p := &Pool{leases: make(map[string]*Lease), macs: make(map[frame.MAC]*Lease)}
	for i := range subnets {
		s, err := newSubnet(&subnets[i])
		if err != nil {
			return nil, err
		}
		p.subnets = append(p.subnets, s)
	}
	return p, nil
}

// Choose is a choice from a pool made for it. Who asks often keeps a Pool.
func Choose(subnets []Subnet, leases []Lease, r Request) (Choice, error) {
	p, err := New(subnets)
	if err != nil {
		return Choice{}, err
	}
	for i := range leases {
		_ = p.Put(leases[i]) // an address that two leases name stays with the first
	}
	return p.Choose(r)
}

// Put notes a lease, in the place of what its name had. An address that
// another name has stays with that one; it is fault.Conflict, and the rest is noted.
func (p *Pool) Put(l Lease) error {
	p.Drop(l.Name)
	kept := &Lease{Name: l.Name, MAC: l.MAC, Addrs: slices.Clone(l.Addrs), Held: l.Held, Expires: l.Expires}
	p.leases[l.Name] = kept
	if l.MAC != (frame.MAC{}) {
		p.macs[l.MAC] = kept
	}
	var err error
	for i, a := range kept.Addrs {
		a = a.Unmap()
		kept.Addrs[i] = a
		for _, s := range p.subnets {
			if !s.Prefix.Contains(a) {
				continue
			}
			if o := s.owners[a]; o != nil && o.Lease != kept {
				err = fault.New(fault.Conflict, "note lease", l.Name, "%s is leased to %q", a, o.Name)
				continue
			}
			s.lease(a, kept)
		}
	}
	return err
}

// Drop forgets the lease of a name.
func (p *Pool) Drop(name string) {
	l := p.leases[name]
	if l == nil {
		return
	}
	delete(p.leases, name)
	if p.macs[l.MAC] == l {
		delete(p.macs, l.MAC)
	}
	for _, a := range l.Addrs {
		for _, s := range p.subnets {
			s.release(a, l)
		}
	}
}

// Choose finds an address in each subnet: that of the host with the MAC, else
// of the host with the name; else the one that the name has, or the MAC; else
// the one wanted; else one derived from the name, so that the same name gets
// the same address on every machine, or the next that was never used, or the
// one that expired first. It changes nothing: the caller drops the evicted and
// puts the lease when it is on record. The error is of kind fault.Limit when a
// pool is exhausted, fault.Busy when somebody else lives at a static address.
func (p *Pool) Choose(r Request) (Choice, error) {
	c := Choice{Static: len(p.subnets) > 0}
	own := p.own(r)
	for _, s := range p.subnets {
		a, static, err := s.choose(r, own)
		if err != nil {
			return Choice{}, err
		}
		c.Addrs = append(c.Addrs, a)
		c.Static = c.Static && static
		if o := s.owners[a]; o != nil && o.Name != r.Name && !slices.Contains(c.Evicted, o.Name) {
			c.Evicted = append(c.Evicted, o.Name)
		}
	}
	return c, nil
}

// own is the lease that r goes on with: of its name, else of its MAC when
// nothing alive has that.
func (p *Pool) own(r Request) *Lease {
	if l := p.leases[r.Name]; l != nil {
		return l
	}
	if l := p.macs[r.MAC]; l != nil && !l.Held {
		return l
	}
	return nil
}
