package filter

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// number128 is an address as a number.
type number128 struct{ hi, lo uint64 }

func (a number128) less(b number128) bool { return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo }

func from6(b *[16]byte) number128 {
	return number128{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// addrRange is first to last, both included.
type addrRange[T any] struct{ first, last T }

// addrSet is a set of addresses, in ascending disjoint ranges by family.
type addrSet struct {
	four []addrRange[uint32]
	six  []addrRange[number128]
}

func newAddrSet(prefixes []netip.Prefix) addrSet {
	var s addrSet
	prefixes = slices.Clone(prefixes)
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	for _, p := range prefixes {
		p = p.Masked()
		if p.Addr().Is4() {
			a := p.Addr().As4()
			first := binary.BigEndian.Uint32(a[:])
			// Prefixes nest or are disjoint, so one that begins inside another adds nothing.
			if n := len(s.four); n == 0 || first > s.four[n-1].last {
				s.four = append(s.four, addrRange[uint32]{first, first | uint32(1<<(32-p.Bits())-1)})
			}
			continue
		}
		a := p.Addr().As16()
		first := from6(&a)
		last := first
		if host := 128 - p.Bits(); host > 64 {
			last = number128{first.hi | (1<<(host-64) - 1), ^uint64(0)}
		} else {
			last.lo |= 1<<host - 1
		}
		if n := len(s.six); n == 0 || s.six[n-1].last.less(first) {
			s.six = append(s.six, addrRange[number128]{first, last})
		}
	}
	return s
}

func (s *addrSet) has4(a uint32) bool {
	low, high := 0, len(s.four)
	for low < high {
		switch mid := (low + high) / 2; {
		case a < s.four[mid].first:
			high = mid
		case a > s.four[mid].last:
			low = mid + 1
		default:
			return true
		}
	}
	return false
}

func (s *addrSet) has6(a number128) bool {
	low, high := 0, len(s.six)
	for low < high {
		switch mid := (low + high) / 2; {
		case a.less(s.six[mid].first):
			high = mid
		case s.six[mid].last.less(a):
			low = mid + 1
		default:
			return true
		}
	}
	return false
}
