package pool

import (
	"encoding/binary"
	"math"
	"math/bits"
	"net/netip"
)

func lowest(word uint64) uint64 { return uint64(bits.TrailingZeros64(word)) }

// distance is b - a, of one family with a <= b; at most 2^64-1.
func distance(a, b netip.Addr) uint64 {
	x, y := a.As16(), b.As16()
	lo, borrow := bits.Sub64(binary.BigEndian.Uint64(y[8:]), binary.BigEndian.Uint64(x[8:]), 0)
	hi, _ := bits.Sub64(binary.BigEndian.Uint64(y[:8]), binary.BigEndian.Uint64(x[:8]), borrow)
	if hi != 0 {
		return math.MaxUint64
	}
	return lo
}

// add is a + n, which is in the same family.
func add(a netip.Addr, n uint64) netip.Addr {
	x := a.As16()
	lo, carry := bits.Add64(binary.BigEndian.Uint64(x[8:]), n, 0)
	binary.BigEndian.PutUint64(x[8:], lo)
	binary.BigEndian.PutUint64(x[:8], binary.BigEndian.Uint64(x[:8])+carry)
	sum := netip.AddrFrom16(x)
	if a.Is4() {
		return sum.Unmap()
	}
	return sum
}

// last is the highest address of a masked prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
