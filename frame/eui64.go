package frame

import "net/netip"

// EUI64 is the address that a machine with this MAC makes itself in a /64
// prefix (RFC 4291 appendix A, RFC 4862 section 5.5.3). Only the first 8 bytes
// of prefix count.
func EUI64(prefix netip.Addr, mac MAC) netip.Addr {
	a := prefix.As16()
	a[8], a[9], a[10], a[11] = mac[0]^2, mac[1], mac[2], 0xff
	a[12], a[13], a[14], a[15] = 0xfe, mac[3], mac[4], mac[5]
	return netip.AddrFrom16(a)
}
