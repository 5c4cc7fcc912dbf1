package pool

import (
	"container/heap"
	"hash/fnv"
	"net/netip"
	"slices"

	"brane/frame"
	"brane/internal/fault"
)

// subnet is the index of one subnet. The addresses of its spans are numbered
// from 0 to size-1. One whose bit is set is not free: it is leased, or fixed.
// The bits are in words that exist only where one is set, so that a /64 costs
// what is in use of it.
type subnet struct {
	Subnet
	spans  []span
	size   uint64
	fixed  map[netip.Addr]bool // nobody gets these by chance
	owners map[netip.Addr]*slot
	words  map[uint64]uint64
	set    uint64 // bits
	locked uint64 // of these, fixed
	expiry expiry
}

// span is a range of numbered addresses.
type span struct {
	first       uint64 // number of start
	start, last netip.Addr
}

// maxSize bounds the addresses of a subnet that are used.
const maxSize = 1 << 62

// slot is a leased address.
type slot struct {
	*Lease
	addr netip.Addr
	at   int // in expiry, -1: not in it
}

func newSubnet(config *Subnet) (*subnet, error) {
	s := &subnet{
		Subnet: *config,
		fixed:  make(map[netip.Addr]bool),
		owners: make(map[netip.Addr]*slot),
		words:  make(map[uint64]uint64),
	}
	if !s.Prefix.IsValid() {
		return nil, fault.New(fault.Invalid, "make pool", "", "the subnet has no prefix")
	}
	s.Prefix = s.Prefix.Masked()
	if err := s.number(); err != nil {
		return nil, err
	}
	s.reserve(s.Gateway)
	if host := s.Prefix.Addr().BitLen() - s.Prefix.Bits(); host > 1 {
		s.reserve(s.Prefix.Addr())
		if s.Prefix.Addr().Is4() {
			s.reserve(last(s.Prefix))
		}
	}
	for _, h := range s.Hosts {
		if !s.Prefix.Contains(h.Addr) || h.Addr == s.Gateway {
			return nil, fault.New(fault.Invalid, "make pool", s.Prefix.String(), "the address %s of host %q is not one for it", h.Addr, h.Name)
		}
		s.reserve(h.Addr)
	}
	return s, nil
}

// number gives every address of the ranges its number: in ascending order,
// each once, however the ranges are written.
func (s *subnet) number() error {
	ranges := slices.Clone(s.Ranges)
	if len(ranges) == 0 {
		ranges = []Range{{s.Prefix.Addr(), last(s.Prefix)}}
	}
	slices.SortFunc(ranges, func(a, b Range) int { return a.Start.Compare(b.Start) })
	for _, r := range ranges {
		if !s.Prefix.Contains(r.Start) || !s.Prefix.Contains(r.End) || r.End.Less(r.Start) {
			return fault.New(fault.Invalid, "make pool", s.Prefix.String(), "%s to %s is not a range of it", r.Start, r.End)
		}
		if n := len(s.spans); n > 0 && !s.spans[n-1].last.Less(r.Start) { // they overlap
			before := s.spans[n-1]
			if !before.last.Less(r.End) {
				continue
			}
			r.Start = before.last.Next()
		}
		n := min(distance(r.Start, r.End), maxSize-1) + 1
		if n > maxSize-s.size {
			break
		}
		s.spans = append(s.spans, span{first: s.size, start: r.Start, last: add(r.Start, n-1)})
		s.size += n
	}
	return nil
}

// index is the number of a.
func (s *subnet) index(a netip.Addr) (uint64, bool) {
	for i := range s.spans {
		if g := &s.spans[i]; !a.Less(g.start) && !g.last.Less(a) {
			return g.first + distance(g.start, a), true
		}
	}
	return 0, false
}

// addr is the address with a number.
func (s *subnet) addr(n uint64) netip.Addr {
	i, _ := slices.BinarySearchFunc(s.spans, n, func(g span, n uint64) int {
		if g.first+distance(g.start, g.last) < n {
			return -1
		}
		return 0
	})
	return add(s.spans[i].start, n-s.spans[i].first)
}

func (s *subnet) reserve(a netip.Addr) {
	if s.fixed[a] {
		return
	}
	s.fixed[a] = true
	if n, ok := s.index(a); ok {
		s.mark(n, true)
		s.locked++
	}
}

func (s *subnet) mark(n uint64, taken bool) {
	word, bit := n/64, uint64(1)<<(n%64)
	if taken {
		s.words[word] |= bit
		s.set++
		return
	}
	s.set--
	if s.words[word] &^= bit; s.words[word] == 0 {
		delete(s.words, word)
	}
}

// lease notes that a, which nobody has, belongs to l.
func (s *subnet) lease(a netip.Addr, l *Lease) {
	if s.owners[a] != nil { // named twice in one lease
		return
	}
	o := &slot{Lease: l, addr: a, at: -1}
	s.owners[a] = o
	if n, ok := s.index(a); ok && !s.fixed[a] {
		s.mark(n, true)
		if !l.Held {
			heap.Push(&s.expiry, o)
		}
	}
}

// release undoes lease.
func (s *subnet) release(a netip.Addr, l *Lease) {
	o := s.owners[a]
	if o == nil || o.Lease != l {
		return
	}
	delete(s.owners, a)
	if n, ok := s.index(a); ok && !s.fixed[a] {
		s.mark(n, false)
	}
	if o.at >= 0 {
		heap.Remove(&s.expiry, o.at)
	}
}

func (s *subnet) choose(r Request, own *Lease) (a netip.Addr, static bool, err error) {
	if a, ok := s.host(r); ok {
		if o := s.owners[a]; o != nil && o.Name != r.Name && o.alive(r) {
			return a, true, fault.New(fault.Busy, "choose address", r.Name, "its static address %s is in use by %q", a, o.Name).
				WithRemedy("stop %q, or wait until its lease expires", o.Name)
		}
		return a, true, nil
	}
	if own != nil {
		for _, a := range own.Addrs {
			if s.dynamic(a) && s.owners[a] != nil && s.owners[a].Lease == own {
				return a, false, nil
			}
		}
	}
	if want := r.Want.Unmap(); s.dynamic(want) && (s.owners[want] == nil || s.owners[want].expired(r.Now)) {
		return want, false, nil
	}
	if s.set < s.size {
		return s.addr(s.free(hash(r, s.Prefix) % s.size)), false, nil
	}
	if len(s.expiry) > 0 && s.expiry[0].expired(r.Now) {
		return s.expiry[0].addr, false, nil
	}
	return netip.Addr{}, false, s.exhausted(r)
}

// alive reports whether the holder of a static address is somebody else than
// who asks: not the same device under another name, not expired.
func (l *Lease) alive(r Request) bool {
	sameDevice := !l.Held && l.MAC == r.MAC && r.MAC != frame.MAC{}
	return !sameDevice && !l.expired(r.Now)
}

func (s *subnet) exhausted(r Request) error {
	err := fault.New(fault.Limit, "choose address", r.Name, "the pool of %s has %d addresses and all are in use", s.Prefix, s.size-s.locked)
	if len(s.expiry) > 0 {
		return err.WithRemedy("the next lease expires at %s; or widen the range of the network", s.expiry[0].Expires.UTC().Format("2006-01-02 15:04:05Z"))
	}
	return err.WithRemedy("widen the range of the network, or stop what uses it")
}

// host is the static address for the request: the MAC counts before the name.
func (s *subnet) host(r Request) (netip.Addr, bool) {
	for _, h := range s.Hosts {
		if h.MAC == r.MAC && r.MAC != (frame.MAC{}) {
			return h.Addr, true
		}
	}
	for _, h := range s.Hosts {
		if h.Name == r.Name && r.Name != "" {
			return h.Addr, true
		}
	}
	return netip.Addr{}, false
}

// dynamic reports whether a may be given to whoever comes.
func (s *subnet) dynamic(a netip.Addr) bool {
	_, ok := s.index(a)
	return ok && !s.fixed[a]
}

// free is the first number from at on, and around, whose bit is not set; there
// is one.
func (s *subnet) free(at uint64) uint64 {
	word, words := at/64, (s.size+63)/64
	skip := uint64(1)<<(at%64) - 1 // of the first word, what is before at
	for {
		for open := ^(s.words[word] | skip); open != 0; open &= open - 1 {
			if n := word*64 + lowest(open); n < s.size {
				return n
			}
		}
		word, skip = (word+1)%words, 0
	}
}

// hash spreads names, or MACs where there is no name, the same way everywhere.
func hash(r Request, p netip.Prefix) uint64 {
	h := fnv.New64a()
	if r.Name != "" {
		_, _ = h.Write([]byte(r.Name))
	} else {
		_, _ = h.Write(r.MAC[:])
	}
	_, _ = h.Write([]byte(p.String()))
	return h.Sum64()
}

// expiry is a heap of leased addresses that are not held, the first to expire
// on top.
type expiry []*slot

func (e expiry) Len() int { return len(e) }

func (e expiry) Less(i, j int) bool {
	if c := e[i].Expires.Compare(e[j].Expires); c != 0 {
		return c < 0
	}
	return e[i].addr.Less(e[j].addr)
}

func (e expiry) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].at, e[j].at = i, j
}

// Push implements heap.Interface.
func (e *expiry) Push(x any) {
	o := x.(*slot)
	o.at = len(*e)
	*e = append(*e, o)
}

// Pop implements heap.Interface.
func (e *expiry) Pop() any {
	old := *e
	o := old[len(old)-1]
	old[len(old)-1] = nil
	o.at = -1
	*e = old[:len(old)-1]
	return o
}
