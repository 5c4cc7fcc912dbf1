package dhcp

import (
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"brane/frame"
)

// Limits of a message.
const (
	MaxMessage  = 1472 // bytes of payload: an Ethernet frame's worth
	maxClientID = 255  // bytes, one option's worth
)

// request is what a reply takes from the message that it answers.
type request struct {
	cfg    *Config
	msg    *dhcpv4.DHCPv4
	kind   dhcpv4.MessageType
	ciaddr netip.Addr // zero when 0.0.0.0
	server netip.Addr // option 54; zero when absent
	rapid  bool       // a DISCOVER with rapid commit (RFC 4039)
}

// Server reads messages. It remembers nothing but how often each client spoke.
// It is for one goroutine; an Ask and its Reply may be handled in any other.
type Server struct {
	cfg   *Config
	limit limiter
}

// New makes a server.
func New(cfg Config) *Server { return &Server{cfg: &cfg} }

// Configure replaces the configuration. An Ask made before keeps the old one.
func (s *Server) Configure(cfg Config) { s.cfg = &cfg }

// Receive judges the payload of a UDP datagram to ServerPort that came in a
// frame from src. With Answered the Ask is to be put to the keeper of the
// leases, by Handle or in the caller's own way (Immediate first); with any
// other reason there is nothing to do. Payload is not kept.
func (s *Server) Receive(now time.Time, src frame.MAC, payload []byte) (Ask, Reason) {
	if len(payload) > MaxMessage {
		return Ask{}, TooLong
	}
	if !s.limit.allow(now, src) {
		return Ask{}, Rate
	}
	msg, err := dhcpv4.FromBytes(payload)
	if err != nil || msg.OpCode != dhcpv4.OpcodeBootRequest {
		return Ask{}, Malformed
	}
	if msg.HWType != iana.HWTypeEthernet || len(msg.ClientHWAddr) != len(src) || frame.MAC(msg.ClientHWAddr) != src || src.IsMulticast() {
		return Ask{}, Foreign
	}
	if !msg.GatewayIPAddr.Equal(net.IPv4zero) || msg.HopCount != 0 {
		return Ask{}, Relayed
	}
	client := msg.Options.Get(dhcpv4.OptionClientIdentifier)
	if len(client) > maxClientID {
		return Ask{}, Malformed
	}
	a := Ask{MAC: src, Client: hex.EncodeToString(client), Hostname: hostname(msg.Options.Get(dhcpv4.OptionHostName))}
	a.req = request{cfg: s.cfg, msg: msg, kind: msg.MessageType()}
	requested, ok1 := address(msg.Options, dhcpv4.OptionRequestedIPAddress)
	server, ok2 := address(msg.Options, dhcpv4.OptionServerIdentifier)
	if !ok1 || !ok2 {
		return Ask{}, Malformed
	}
	a.req.server = server
	if c := fromIP(msg.ClientIPAddr); !c.IsUnspecified() {
		a.req.ciaddr = c
	}
	return a.classify(requested)
}

// classify fills in Kind and Addr by the kind of message and, for a REQUEST,
// the state of the client.
func (a Ask) classify(requested netip.Addr) (Ask, Reason) {
	r := &a.req
	own := r.cfg.Gateway.Addr()
	switch r.kind {
	case dhcpv4.MessageTypeDiscover:
		if r.ciaddr.IsValid() || r.server.IsValid() {
			return Ask{}, Nonsense
		}
		a.Kind, a.Addr = Offer, requested
		if r.rapid = r.msg.Options.Has(dhcpv4.OptionRapidCommit); r.rapid {
			a.Kind = Commit
		}
		if a.Addr.IsValid() && !r.cfg.Gateway.Contains(a.Addr) {
			a.Addr = netip.Addr{} // a wish from another network
		}
	case dhcpv4.MessageTypeRequest:
		switch {
		case r.server.IsValid() && r.server != own:
			return Ask{}, OtherServer
		case requested.IsValid() == r.ciaddr.IsValid(): // neither, or both
			return Ask{}, Nonsense
		case r.server.IsValid() && r.ciaddr.IsValid():
			return Ask{}, Nonsense
		}
		a.Kind, a.Addr, a.Exact = Commit, requested, true
		if r.ciaddr.IsValid() {
			a.Addr = r.ciaddr
		}
	case dhcpv4.MessageTypeRelease:
		if r.server != own {
			return Ask{}, OtherServer
		}
		a.Kind, a.Addr = Release, r.ciaddr
	case dhcpv4.MessageTypeDecline:
		if r.server != own {
			return Ask{}, OtherServer
		}
		a.Kind, a.Addr = Decline, requested
	case dhcpv4.MessageTypeInform:
		if !r.ciaddr.IsValid() || !r.cfg.Gateway.Contains(r.ciaddr) {
			return Ask{}, Nonsense
		}
		a.Addr = r.ciaddr
	default:
		return Ask{}, Malformed
	}
	if (a.Kind == Release || a.Kind == Decline) && (!a.Addr.IsValid() || !r.cfg.Gateway.Contains(a.Addr)) {
		return Ask{}, Nonsense
	}
	return a, Answered
}

// address reads an option of four bytes; absent gives the zero address. An
// option of any other length makes it false.
func address(o dhcpv4.Options, code dhcpv4.OptionCode) (netip.Addr, bool) {
	if !o.Has(code) {
		return netip.Addr{}, true
	}
	b := o.Get(code)
	if len(b) != 4 {
		return netip.Addr{}, false
	}
	a := netip.AddrFrom4([4]byte(b))
	if a.IsUnspecified() {
		return netip.Addr{}, true
	}
	return a, true
}

func fromIP(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	return a
}

// hostname gives what a client may be called: one label of letters, digits and
// hyphens, in lower case, the first of a full name. Names that software looks
// up by itself and trusts (proxy discovery, tunnels, the machine itself) are
// not for clients to take.
func hostname(b []byte) string {
	s := strings.ToLower(strings.TrimRight(string(b), "\x00"))
	s, _, _ = strings.Cut(s, ".")
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return ""
	}
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-' {
			return ""
		}
	}
	switch s {
	case "wpad", "isatap", "localhost", "gateway":
		return ""
	}
	return s
}
