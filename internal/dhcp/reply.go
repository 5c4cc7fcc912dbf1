package dhcp

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/rfc1035label"

	"brane/frame"
	"brane/internal/fault"
)

// Leaser keeps the leases.
type Leaser interface {
	// Lease answers Offer and Commit. After a Commit the lease is durable. When
	// a.Exact is set it gives a.Addr or an error. Errors of kind
	// fault.Limit, fault.Unavailable and fault.Internal mean that nothing can be
	// said; any other is a no to the client.
	Lease(ctx context.Context, a Ask) (Lease, error)
	// Release takes Release and Decline. It gives up what belongs to a.MAC, and
	// nothing of anybody else.
	Release(ctx context.Context, a Ask) error
}

// Handle does the whole of one message with a keeper. It blocks as long as the
// keeper does.
func (a Ask) Handle(ctx context.Context, keeper Leaser) (Reply, Reason) {
	if r, ok := a.Immediate(); ok {
		return r, Answered
	}
	if a.Kind == Release || a.Kind == Decline {
		if err := keeper.Release(ctx, a); err != nil {
			return Reply{}, NoLease
		}
		return Reply{}, Done
	}
	l, err := keeper.Lease(ctx, a)
	return a.Reply(l, err)
}

// Immediate is the reply to what needs no keeper: INFORM, and a REQUEST for
// an address that no client of this network can have.
func (a Ask) Immediate() (Reply, bool) {
	switch {
	case a.req.kind == dhcpv4.MessageTypeInform:
		return a.inform(), true
	case a.Exact && !a.req.cfg.servable(a.Addr):
		return a.nak("not an address of this network"), true
	}
	return Reply{}, false
}

// Reply turns the keeper's answer to Offer or Commit into a message.
func (a Ask) Reply(l Lease, err error) (Reply, Reason) {
	switch fault.KindOf(err) {
	case "":
	case fault.Limit, fault.Unavailable, fault.Internal:
		return Reply{}, NoLease
	default:
		if a.Exact {
			return a.nak("the address is not yours"), Answered
		}
		return Reply{}, NoLease
	}
	if !a.req.cfg.servable(l.Addr) {
		return Reply{}, NoLease
	}
	if a.Exact && l.Addr != a.Addr {
		return a.nak("the address is not yours"), Answered
	}
	kind := dhcpv4.MessageTypeAck
	if a.Kind == Offer {
		kind = dhcpv4.MessageTypeOffer
	}
	m := a.message(kind)
	m.YourIPAddr = l.Addr.AsSlice()
	if a.req.rapid {
		m.Options[dhcpv4.OptionRapidCommit.Code()] = nil
	}
	lease(m, l.Length)
	a.parameters(m, l.Hostname)
	return a.send(m, l.Addr), Answered
}

// servable says whether a client may have the address.
func (c *Config) servable(a netip.Addr) bool {
	return c.Gateway.Contains(a) && a != c.Gateway.Addr() && a != c.Gateway.Masked().Addr() && a != broadcast(c.Gateway)
}

// inform gives the parameters without a lease (RFC 2131 section 4.3.5).
func (a Ask) inform() Reply {
	m := a.message(dhcpv4.MessageTypeAck)
	a.parameters(m, "")
	return a.send(m, a.Addr)
}

// nak goes to all stations: the client may hold a wrong address.
func (a Ask) nak(why string) Reply {
	m := a.message(dhcpv4.MessageTypeNak)
	m.ClientIPAddr = net.IPv4zero
	m.UpdateOption(dhcpv4.OptMessage(why))
	r := a.send(m, netip.Addr{})
	r.MAC, r.Addr = frame.Broadcast(), everyone()
	return r
}

func everyone() netip.Addr { return netip.AddrFrom4([4]byte{255, 255, 255, 255}) }

// message begins a reply of the given kind.
func (a Ask) message(kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	req := a.req.msg
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: req.HWType, TransactionID: req.TransactionID, Flags: req.Flags & 0x8000,
		ClientIPAddr: net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero, GatewayIPAddr: net.IPv4zero,
		ClientHWAddr: req.ClientHWAddr, Options: dhcpv4.Options{},
	}
	if kind == dhcpv4.MessageTypeAck {
		m.ClientIPAddr = req.ClientIPAddr
	}
	m.UpdateOption(dhcpv4.OptMessageType(kind))
	m.UpdateOption(dhcpv4.OptServerIdentifier(a.req.cfg.Gateway.Addr().AsSlice()))
	if id := req.Options.Get(dhcpv4.OptionClientIdentifier); len(id) > 0 { // RFC 6842
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientIdentifier, id))
	}
	return m
}

// lease adds the lease time with T1 at half and T2 at seven eighths of it
// (RFC 2131 section 4.4.5).
func lease(m *dhcpv4.DHCPv4, length time.Duration) {
	seconds := uint32(0xffffffff)
	if length >= 0 {
		seconds = uint32(min(length/time.Second, 0xfffffffe))
	}
	put := func(code dhcpv4.OptionCode, v uint32) {
		m.Options[code.Code()] = binary.BigEndian.AppendUint32(nil, v)
	}
	put(dhcpv4.OptionIPAddressLeaseTime, seconds)
	if length >= 0 {
		put(dhcpv4.OptionRenewTimeValue, seconds/2)
		put(dhcpv4.OptionRebindingTimeValue, seconds-seconds/8)
	}
}

// parameters adds what the client asked for (option 55) and there is something
// to say of; a client that sent no list gets the usual ones. The order is that
// of importance: what does not fit into the client's largest message is left
// out from the end.
func (a Ask) parameters(m *dhcpv4.DHCPv4, name string) {
	c := a.req.cfg
	m.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(c.Gateway.Bits(), 32)))
	room := a.room() - length(m)
	add := func(code dhcpv4.OptionCode, value []byte) {
		size := optionLen(len(value))
		if len(value) == 0 || size > room || !a.wants(code) {
			return
		}
		m.Options[code.Code()] = value
		room -= size
	}
	if len(c.Routes) > 0 && a.asked(dhcpv4.OptionClasslessStaticRoute) {
		// RFC 3442: who understands these ignores the router option.
		add(dhcpv4.OptionClasslessStaticRoute, routes(c.Routes))
	} else if c.Router {
		add(dhcpv4.OptionRouter, c.Gateway.Addr().AsSlice())
	}
	add(dhcpv4.OptionDomainNameServer, addresses(c.DNS))
	if c.MTU >= 68 && c.MTU <= 0xffff { // RFC 2132 section 5.1
		add(dhcpv4.OptionInterfaceMTU, binary.BigEndian.AppendUint16(nil, uint16(c.MTU)))
	}
	add(dhcpv4.OptionBroadcastAddress, broadcast(c.Gateway).AsSlice())
	add(dhcpv4.OptionDomainName, []byte(c.Domain))
	add(dhcpv4.OptionHostName, []byte(hostname([]byte(name))))
	if len(c.Search) > 0 && a.asked(dhcpv4.OptionDNSDomainSearchList) {
		add(dhcpv4.OptionDNSDomainSearchList, (&rfc1035label.Labels{Labels: c.Search}).ToBytes())
	}
}

// length of m in bytes: BOOTP's fields, the magic cookie, the options and
// their end; without padding.
func length(m *dhcpv4.DHCPv4) int {
	n := 236 + 4 + 1
	for _, v := range m.Options {
		n += optionLen(len(v))
	}
	return n
}

// optionLen is the length of an option with n bytes of value; a long one is
// split (RFC 3396).
func optionLen(n int) int { return n + 2*max(1, (n+254)/255) }

// room is the largest reply in bytes of UDP payload: what the client says it
// takes, at least the 576-byte datagram that everyone takes (RFC 2131 section 2).
func (a Ask) room() int {
	const headers = 28 // IP and UDP
	n := 576
	if b := a.req.msg.Options.Get(dhcpv4.OptionMaximumDHCPMessageSize); len(b) == 2 {
		n = max(n, int(binary.BigEndian.Uint16(b)))
	}
	n = min(n, 1500)
	if mtu := a.req.cfg.MTU; mtu >= 576 {
		n = min(n, mtu)
	}
	return n - headers
}

// asked says whether the client's list names the option.
func (a Ask) asked(code dhcpv4.OptionCode) bool {
	for _, c := range a.req.msg.Options.Get(dhcpv4.OptionParameterRequestList) {
		if c == code.Code() {
			return true
		}
	}
	return false
}

// wants is asked, or true for a client without a list.
func (a Ask) wants(code dhcpv4.OptionCode) bool {
	return !a.req.msg.Options.Has(dhcpv4.OptionParameterRequestList) || a.asked(code)
}

// send addresses a message (RFC 2131 section 4.1): to ciaddr when the client
// has an address, to all stations when it asks for that, else to the address
// that it is being given.
func (a Ask) send(m *dhcpv4.DHCPv4, to netip.Addr) Reply {
	r := Reply{MAC: a.MAC, Addr: to, Payload: m.ToBytes(), cfg: a.req.cfg}
	switch {
	case a.req.ciaddr.IsValid():
		r.Addr = a.req.ciaddr
	case a.req.msg.IsBroadcast():
		r.MAC, r.Addr = frame.Broadcast(), everyone()
	}
	return r
}

func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	v := binary.BigEndian.Uint32(b[:]) | (1<<(32-p.Bits()) - 1)
	binary.BigEndian.PutUint32(b[:], v)
	return netip.AddrFrom4(b)
}

func addresses(as []netip.Addr) []byte {
	var b []byte
	for _, a := range as {
		if a.Is4() {
			b = append(b, a.AsSlice()...)
		}
	}
	return b
}

func routes(rs []Route) []byte {
	var b []byte
	for _, r := range rs {
		to := r.To.Masked()
		b = append(b, byte(to.Bits()))
		b = append(b, to.Addr().AsSlice()[:(to.Bits()+7)/8]...)
		b = append(b, r.Via.AsSlice()...)
	}
	return b
}
