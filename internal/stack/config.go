package stack

import (
	"net/netip"
	"time"

	"brane/frame"
	"brane/internal/fault"
)

// Config is what one gateway does. The zero value of an optional field means
// what its comment says.
type Config struct {
	Name  string         // the network's, for errors and the log
	MAC   frame.MAC      // the gateway's own; unicast
	MTU   int            // bytes of a network datagram; 1500 when 0
	Addrs []netip.Prefix // the gateway's addresses, each with the length of its subnet; the IPv6 link-local one is derived
	NAT   bool           // carry guests' traffic to the outside

	// Denied says that a destination outside may not be reached; nil means
	// Special. It is asked at dial time about the address and about every IPv4
	// address that hides in it, and must not block.
	Denied func(netip.Addr) bool
	// HostPort says that a connection or datagram from src to one of the
	// gateway's addresses on this port goes to the host's loopback. nil: none do.
	HostPort func(src netip.Addr, port uint16) bool

	Limits Limits

	outside func(netip.AddrPort) netip.AddrPort // for tests: where the outside is
}

// Limits bound what guests can make the gateway hold; a zero field takes the
// default. A source is one guest address; Total counts the whole gateway.
type Limits struct {
	Conns, ConnsPerSource     int           // TCP connections; 16,384 and 4,096
	Dialing, DialingPerSource int           // TCP connections not yet established; 2,048 and 512
	Flows, FlowsPerSource     int           // UDP and echo flows, a host socket each; 8,192 and 1,024
	Buffers, BuffersPerSource int           // bytes of TCP buffers, each way; 256 MiB and 128 MiB
	DialTimeout               time.Duration // until a host connection is given up; 20 s
	UDPIdle                   time.Duration // RFC 4787 REQ-5: 2 min
	DNSIdle                   time.Duration // for flows to port 53: 15 s
	EchoIdle                  time.Duration // RFC 5508 REQ-2: 60 s
}

// MTUs that a gateway can have, in bytes: RFC 8200 section 5 to a superframe's worth.
const (
	minMTU     = 1280
	maxMTU     = 65520
	defaultMTU = 1500
)

func orDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

func (l *Limits) setDefaults() {
	orDefault(&l.Conns, 16384)
	orDefault(&l.ConnsPerSource, 4096)
	orDefault(&l.Dialing, 2048)
	orDefault(&l.DialingPerSource, 512)
	orDefault(&l.Flows, 8192)
	orDefault(&l.FlowsPerSource, 1024)
	orDefault(&l.Buffers, 256<<20)
	orDefault(&l.BuffersPerSource, 128<<20)
	orDefault(&l.DialTimeout, 20*time.Second)
	orDefault(&l.UDPIdle, 2*time.Minute)
	orDefault(&l.DNSIdle, 15*time.Second)
	orDefault(&l.EchoIdle, time.Minute)
}

// check fills in defaults and refuses what cannot be served, always of kind Invalid.
func (c *Config) check() error {
	const op = "configure gateway"
	if c.MTU == 0 {
		c.MTU = defaultMTU
	}
	if c.MTU < minMTU || c.MTU > maxMTU {
		return fault.New(fault.Invalid, op, c.Name, "MTU %d is not within %d and %d", c.MTU, minMTU, maxMTU)
	}
	if c.MAC.IsZero() || c.MAC.IsMulticast() {
		return fault.New(fault.Invalid, op, c.Name, "%v is not a unicast MAC address", c.MAC)
	}
	for _, a := range c.Addrs {
		if !a.IsValid() || a.Addr().Is4In6() || a.Addr().Zone() != "" || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
			return fault.New(fault.Invalid, op, c.Name, "%v cannot be a gateway's address", a)
		}
	}
	if c.Denied == nil {
		c.Denied = Special
	}
	if c.HostPort == nil {
		c.HostPort = func(netip.Addr, uint16) bool { return false }
	}
	c.Limits.setDefaults()
	return nil
}
