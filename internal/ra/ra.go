// Package ra writes router advertisements (RFC 4861, options of RFC 8106) and
// answers solicitations, without sockets or clocks.
//
// # Which addresses machines make themselves
//
// Brane leases every address and the rule clean drops what is not leased, yet a
// plain machine makes its IPv6 address itself and tells nobody. So the prefix
// is advertised for autonomous configuration (A set) and without DHCPv6 (M and O
// clear), and what the machine will choose is known beforehand: the EUI-64
// address of its MAC (frame.EUI64), which is pinned to the port. That address
// is bound to the port together with the leased one.
//
// # Ideal and reality
//
// A machine set to privacy (RFC 8981) or stable opaque (RFC 7217) addresses
// makes others, which the rule clean drops. Until there is DHCPv6 it must be told to
// use EUI-64, which the kernel itself does unless told otherwise (addr_gen_mode 0, use_tempaddr 0).
package ra

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"time"

	"brane/frame"
	"brane/internal/plan"
)

// Lifetimes. Prefix lifetimes are those of RFC 9096 section 3.4, short so
// that a prefix given up is soon forgotten.
const (
	RouterLifetime    = 30 * time.Minute
	ValidLifetime     = 90 * time.Minute
	PreferredLifetime = 45 * time.Minute
)

// Options of an advertisement.
const (
	optPrefix = 3  // RFC 4861 section 4.6.2
	optMTU    = 5  // RFC 4861 section 4.6.4
	optRDNSS  = 25 // RFC 8106 section 5.1
	optDNSSL  = 31 // RFC 8106 section 5.2
)

// Config is what is advertised. It is immutable.
type Config struct {
	MAC      frame.MAC      // the gateway's; the source is its link-local address
	Prefixes []netip.Prefix // IPv6; those of length 64 for autonomous configuration too
	Router   bool           // the gateway forwards: a default router
	MTU      int            // bytes; not announced below 1280
	DNS      []netip.Addr   // IPv6 addresses of name servers
	Search   []string       // domain search list
	Withdraw bool           // all lifetimes 0: the last words of a gateway
}

// FromPlan makes the configuration for a gateway; false when it advertises nothing.
func FromPlan(g *plan.Gateway, mtu int) (Config, bool) {
	if g == nil || !g.RA {
		return Config{}, false
	}
	c := Config{MAC: g.MAC, Router: g.NAT, MTU: mtu}
	for _, p := range g.Addrs {
		if p.Addr().Is6() && !p.Addr().IsLinkLocalUnicast() {
			c.Prefixes = append(c.Prefixes, p.Masked())
			c.DNS = append(c.DNS, p.Addr())
		}
	}
	if g.Domain != "" {
		c.Search = []string{g.Domain}
	}
	return c, len(c.Prefixes) > 0
}

// LinkLocal is the link-local address of a machine with this MAC.
func LinkLocal(mac frame.MAC) netip.Addr {
	return frame.EUI64(netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80}), mac)
}

// AllNodes is where unsolicited advertisements go (ff02::1).
func AllNodes() (frame.MAC, netip.Addr) {
	return frame.MAC{0x33, 0x33, 5: 1}, netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 15: 1})
}

// AppendAdvert appends the frame of an advertisement to b.
func (c *Config) AppendAdvert(b []byte, mac frame.MAC, to netip.Addr) []byte {
	return frame.AppendICMP(b, c.MAC, mac, LinkLocal(c.MAC), to, frame.RouterAdvertisement, 0, c.body())
}

// AppendAnswer appends the answer to p, when p is a sound router solicitation
// (RFC 4861 section 6.1.1), and says whether it was. The answer goes to the one
// who asked, as a frame even when it has no address yet (RFC 6085), so that
// one question never makes more than one answer on one port.
func (c *Config) AppendAnswer(b []byte, p *frame.Packet) ([]byte, bool) {
	nd, ok := p.ND()
	if !ok || nd.Type != frame.RouterSolicitation || nd.Malformed || nd.HopLimit != 255 || p.Src.IsMulticast() || !frame.Verify(p) {
		return b, false
	}
	to := p.Source()
	switch {
	case to.IsUnspecified():
		for kind := range nd.LinkAddrs {
			if kind == frame.OptSourceLinkAddr {
				return b, false
			}
		}
		_, to = AllNodes()
	case to.IsMulticast() || to.Is4In6() || to.IsLoopback():
		return b, false
	}
	return c.AppendAdvert(b, p.Src, to), true
}

// body is the message after its checksum (RFC 4861 section 4.2).
func (c *Config) body() []byte {
	router, valid, preferred := seconds(RouterLifetime), seconds(ValidLifetime), seconds(PreferredLifetime)
	named := valid
	if c.Withdraw {
		router, valid, preferred, named = 0, 0, 0, 0
	}
	if !c.Router {
		router = 0
	}
	b := make([]byte, 0, 160)
	b = append(b, 64, 0) // hop limit; M and O clear
	b = binary.BigEndian.AppendUint16(b, uint16(router))
	b = append(b, make([]byte, 8)...) // reachable time, retransmission timer: unspecified
	b = append(b, frame.OptSourceLinkAddr, 1)
	b = append(b, c.MAC[:]...)
	if c.MTU >= 1280 {
		b = append(b, optMTU, 1, 0, 0)
		b = binary.BigEndian.AppendUint32(b, uint32(c.MTU))
	}
	for _, p := range c.Prefixes {
		flags := byte(0x80) // L: on link
		if p.Bits() == 64 {
			flags |= 0x40 // A: autonomous
		}
		b = append(b, optPrefix, 4, byte(p.Bits()), flags)
		b = binary.BigEndian.AppendUint32(b, valid)
		b = binary.BigEndian.AppendUint32(b, preferred)
		b = append(b, 0, 0, 0, 0)
		b = append(b, p.Masked().Addr().AsSlice()...)
	}
	if len(c.DNS) > 0 {
		b = append(b, optRDNSS, byte(1+2*len(c.DNS)), 0, 0)
		b = binary.BigEndian.AppendUint32(b, named)
		for _, a := range c.DNS {
			b = append(b, a.AsSlice()...)
		}
	}
	return c.appendSearch(b, named)
}

// appendSearch adds the domain search list, padded to 8 bytes.
func (c *Config) appendSearch(b []byte, lifetime uint32) []byte {
	if len(c.Search) == 0 {
		return b
	}
	start := len(b)
	b = append(b, optDNSSL, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, lifetime)
	for _, d := range c.Search {
		for label := range strings.SplitSeq(d, ".") {
			b = append(append(b, byte(len(label))), label...)
		}
		b = append(b, 0)
	}
	for (len(b)-start)%8 != 0 {
		b = append(b, 0)
	}
	b[start+1] = byte((len(b) - start) / 8)
	return b
}

func seconds(d time.Duration) uint32 { return uint32(d / time.Second) }

// Times between unsolicited advertisements (RFC 4861 section 6.2.1), and for
// the first three (section 6.2.4).
const (
	MinInterval     = 200 * time.Second
	MaxInterval     = 600 * time.Second
	InitialInterval = 16 * time.Second
	initialCount    = 3
)

// Next says how long to wait before the next unsolicited advertisement when
// sent are out already; random is any number, drawn anew for each. The first
// one goes out at once.
func Next(sent int, random uint64) time.Duration {
	if sent == 0 {
		return 0
	}
	d := MinInterval + time.Duration(random%uint64(MaxInterval-MinInterval+1))
	if sent < initialCount {
		d = min(d, InitialInterval)
	}
	return d
}
