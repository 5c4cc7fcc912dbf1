// Package dhcp is a DHCPv4 server (RFC 2131) without sockets, clocks or
// addresses of its own. It reads a client's message, says what it wants of
// whoever keeps the leases, and turns the answer into a reply:
//
//	payload --Receive--> Ask --(the keeper of the leases)--> Lease --Reply--> frame
//
// # Theory of operation
//
// Addresses come from the one pool of the network, which is kept elsewhere and
// made durable before the client hears of it. The server therefore holds no
// lease: it is a translator with a rate limit, and may be thrown away at any time.
//
// The server trusts nothing that a client says of itself but the source
// address of its frame, which the port's filter has checked. The chaddr field
// must be the same: nobody asks, renews or releases for another. Relayed
// messages (giaddr) are refused, since the network has no relays.
//
// The server is the only one on its network (the rule clean drops every
// other's messages), so it answers with authority: a client that believes in
// an address which is not its own gets a DHCPNAK at once instead of silence
// and a timeout.
//
// States of a client (RFC 2131 section 4.3.2), told apart by what the request carries:
//
//	               server id   requested address   ciaddr
//	selecting      ours        set                 0
//	init-reboot    -           set                 0
//	renewing       -           -                   set, sent to us
//	rebinding      -           -                   set, sent to all
//
// All four ask the keeper for the same thing: this address, durably.
package dhcp

import (
	"net/netip"
	"time"

	"brane/frame"
	"brane/internal/plan"
)

// Ports of the protocol.
const (
	ServerPort = 67
	ClientPort = 68
)

// Kind is what an Ask wants of the keeper of the leases.
type Kind uint8

// The kinds. Offer wants the address that the client would get, held for a
// minute; Commit wants one leased, durably; Release gives Ask.Addr back;
// Decline says that the client found Ask.Addr in use by another.
const (
	Offer Kind = iota + 1
	Commit
	Release
	Decline
)

// Ask is one wish of one client. A lease belongs to the MAC; the client
// identifier is kept for the record only.
type Ask struct {
	Kind     Kind
	MAC      frame.MAC
	Addr     netip.Addr // wished for, believed to be its own, given up; zero: no wish
	Exact    bool       // a Commit of Addr or of nothing
	Client   string     // client identifier (option 61), hexadecimal; empty when it sent none
	Hostname string     // as the client calls itself, one lower-case label; empty when it said nothing fit for use
	req      request
}

// Lease is the keeper's answer to Offer and Commit.
type Lease struct {
	Addr     netip.Addr
	Length   time.Duration // negative: for ever
	Hostname string        // the name under which the client is known, told to it; may be empty
}

// Config is what the server says to every client. It is immutable.
type Config struct {
	Gateway netip.Prefix // own address, with the length of the subnet
	MAC     frame.MAC    // own address of the replies
	Router  bool         // the gateway forwards: announce it
	DNS     []netip.Addr
	Domain  string   // may be empty
	Search  []string // domain search list
	MTU     int      // bytes; 0: not announced
	Routes  []Route  // classless static routes; when there are any the default route is among them
}

// Route is one classless static route (RFC 3442).
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// FromPlan makes the configuration for a gateway; false when it serves no DHCPv4.
func FromPlan(g *plan.Gateway, mtu int) (Config, bool) {
	if g == nil || g.DHCP4 == nil {
		return Config{}, false
	}
	own := g.DHCP4.Gateway
	for _, p := range g.Addrs {
		if !own.IsValid() && p.Addr().Is4() {
			own = p
		}
	}
	if !own.IsValid() {
		return Config{}, false
	}
	c := Config{Gateway: own, MAC: g.MAC, Router: g.NAT, DNS: []netip.Addr{own.Addr()}, Domain: g.Domain, MTU: mtu}
	if g.Domain != "" {
		c.Search = []string{g.Domain}
	}
	return c, true
}

// Reason says what became of a message.
type Reason uint8

// The reasons. Everything but Answered is silence towards the client.
const (
	Answered    Reason = iota // there is an Ask or a Reply
	Malformed                 // not a DHCP message of a client
	TooLong                   // longer than MaxMessage
	Foreign                   // not Ethernet, or chaddr is not the frame's source
	Relayed                   // giaddr is set
	Rate                      // over the client's rate
	OtherServer               // the client talks to another server
	Nonsense                  // fields that contradict the kind of message
	NoLease                   // the keeper could not say: full, or out of reach
	Done                      // a message that has no reply
	reasons
)

// Reasons is the number of reasons, for arrays of counters.
const Reasons = int(reasons)

// String is the reason's word.
func (r Reason) String() string {
	names := [Reasons]string{
		"answered", "malformed", "too-long", "foreign", "relayed", "rate", "other-server", "nonsense", "no-lease", "done",
	}
	if int(r) < Reasons {
		return names[r]
	}
	return "unknown"
}

// Reply is one message to a client, with its addresses.
type Reply struct {
	MAC     frame.MAC  // destination; broadcast or the client's
	Addr    netip.Addr // destination; broadcast or the client's
	Payload []byte     // of the UDP datagram, ServerPort to ClientPort
	cfg     *Config
}

// AppendFrame appends the whole Ethernet frame to b.
func (r *Reply) AppendFrame(b []byte) []byte {
	return frame.AppendUDP(b, r.cfg.MAC, r.MAC,
		netip.AddrPortFrom(r.cfg.Gateway.Addr(), ServerPort), netip.AddrPortFrom(r.Addr, ClientPort), r.Payload)
}
