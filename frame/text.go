package frame

import (
	"net/netip"
	"strconv"
)

var (
	faultNames = [...]string{"ok", "runt", "truncated", "bad length", "header chain too long"}
	ndNames    = [...]string{"router-solicit", "router-advert", "solicit", "advert", "redirect"}
)

// String gives the fault in a word or two.
func (f Fault) String() string {
	if int(f) < len(faultNames) {
		return faultNames[f]
	}
	return "unknown"
}

// String describes the frame in one line, much as tcpdump(8) does:
//
//	10.0.0.5:3311 > 10.0.0.1:22 tcp S len 0
//	[fd00::5]:546 > [ff02::1:2]:547 udp dhcpv6 len 52
//	10.0.0.5 > 10.0.0.1 icmp echo-request len 56
//	arp who-has 10.0.0.1 tell 10.0.0.5 (02:00:00:00:00:05)
//	02:00:00:00:00:05 > 01:80:c2:00:00:0e type 0x88cc len 46
//
// Lengths are payload bytes. A Fault stands at the end in brackets.
func (p *Packet) String() string {
	b, _ := p.AppendText(make([]byte, 0, 96))
	return string(b)
}

// AppendText appends the line of String to b; the error is always nil.
func (p *Packet) AppendText(b []byte) ([]byte, error) {
	if p.Fault == Runt {
		return appendNumber(append(b, "runt of "...), len(p.Frame), " bytes"), nil
	}
	if id, ok := p.VLAN(); ok {
		b = appendNumber(append(b, "vlan "...), int(id), " ")
	}
	arp, isARP := p.ARP()
	switch {
	case isARP:
		b = appendARP(b, &arp)
	case p.Source().IsValid():
		b = p.appendIPText(b)
	default:
		b = p.appendEthernetText(b)
	}
	if p.Fault != OK {
		b = append(append(append(b, " ["...), p.Fault.String()...), ']')
	}
	return b, nil
}

func appendNumber(b []byte, n int, after string) []byte {
	return append(strconv.AppendInt(b, int64(n), 10), after...)
}

func appendMAC(b []byte, m MAC) []byte {
	b, _ = m.AppendText(b)
	return b
}

func (p *Packet) appendEthernetText(b []byte) []byte {
	b = appendMAC(append(appendMAC(b, p.Src), " > "...), p.Dst)
	if p.LLC {
		b = append(b, " llc"...)
	} else {
		b = append(b, " type 0x"...)
		if p.Type < 0x1000 {
			b = append(b, '0')
		}
		b = strconv.AppendUint(b, uint64(p.Type), 16)
	}
	return appendNumber(append(b, " len "...), Vnet{}.PacketLen(p), "")
}

func appendARP(b []byte, a *ARP) []byte {
	const request, reply = 1, 2
	switch a.Op {
	case request:
		b = a.TargetIP.AppendTo(append(b, "arp who-has "...))
		b = a.SenderIP.AppendTo(append(b, " tell "...))
		b = appendMAC(append(b, " ("...), a.SenderMAC)
		return append(b, ')')
	case reply:
		b = a.SenderIP.AppendTo(append(b, "arp "...))
		return appendMAC(append(b, " is-at "...), a.SenderMAC)
	}
	b = appendNumber(append(b, "arp op "...), int(a.Op), " from ")
	return a.SenderIP.AppendTo(b)
}

func (p *Packet) appendIPText(b []byte) []byte {
	if src, dst, ok := p.Ports(); ok {
		b = netip.AddrPortFrom(p.Source(), src).AppendTo(b)
		b = netip.AddrPortFrom(p.Destination(), dst).AppendTo(append(b, " > "...))
	} else {
		b = p.Source().AppendTo(b)
		b = p.Destination().AppendTo(append(b, " > "...))
	}
	b = p.appendProto(append(b, ' '))
	switch p.Fragment {
	case Later:
		return append(b, " later fragment"...)
	case First:
		b = append(b, " first fragment"...)
	}
	if p.L4 == 0 {
		return b
	}
	if p.Proto == ProtoTCP {
		b = appendFlags(append(b, ' '), p.Frame[p.L4+13])
	}
	if nd, ok := p.ND(); ok {
		return appendND(b, &nd)
	}
	b = p.appendHint(b)
	return appendNumber(append(b, " len "...), len(p.Payload()), "")
}

func (p *Packet) appendProto(b []byte) []byte {
	switch p.Proto {
	case ProtoTCP:
		return append(b, "tcp"...)
	case ProtoUDP:
		return append(b, "udp"...)
	case ProtoSCTP:
		return append(b, "sctp"...)
	case ProtoIGMP:
		return append(b, "igmp"...)
	case ProtoICMP:
		return append(b, "icmp"...)
	case ProtoICMPv6:
		return append(b, "icmp6"...)
	}
	return appendNumber(append(b, "proto "...), int(p.Proto), "")
}

// appendFlags writes TCP flags in tcpdump's letters, "none" for none.
func appendFlags(b []byte, flags uint8) []byte {
	if flags == 0 {
		return append(b, "none"...)
	}
	for i, letter := range "FSRP.UEW" {
		if flags>>i&1 != 0 {
			b = append(b, byte(letter))
		}
	}
	return b
}

// appendHint names the ICMP message, or the service that a UDP port belongs to.
func (p *Packet) appendHint(b []byte) []byte {
	if kind, code, ok := p.ICMP(); ok {
		switch {
		case p.Type == TypeIPv4 && kind == icmpEchoRequest, p.Type == TypeIPv6 && kind == icmp6EchoRequest:
			return append(b, " echo-request"...)
		case p.Type == TypeIPv4 && kind == icmpEchoReply, p.Type == TypeIPv6 && kind == icmp6EchoReply:
			return append(b, " echo-reply"...)
		}
		b = appendNumber(append(b, " type "...), int(kind), " code ")
		return appendNumber(b, int(code), "")
	}
	if p.Proto != ProtoUDP {
		return b
	}
	src, dst, _ := p.Ports()
	switch {
	case src == 67 || src == 68 || dst == 67 || dst == 68:
		return append(b, " dhcp"...)
	case src == 546 || src == 547 || dst == 546 || dst == 547:
		return append(b, " dhcpv6"...)
	case src == 53 || dst == 53:
		return append(b, " dns"...)
	}
	return b
}

func appendND(b []byte, nd *ND) []byte {
	b = append(append(b, " nd "...), ndNames[nd.Type-RouterSolicitation]...)
	if nd.Target.IsValid() {
		b = nd.Target.AppendTo(append(b, ' '))
	}
	for _, mac := range nd.LinkAddrs {
		b = appendMAC(append(b, " lladdr "...), mac)
	}
	if nd.Malformed {
		b = append(b, " malformed"...)
	}
	return b
}
