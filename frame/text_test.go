package frame

import "testing"

func TestString(t *testing.T) {
	icmp := func(kind, code uint8) []byte {
		return AppendICMP(nil, macA, macB, a4.Addr(), b4.Addr(), kind, code, make([]byte, 60))
	}
	arp := func(op uint16) []byte {
		return AppendARP(nil, macA, macB, ARP{Op: op, SenderMAC: macA, SenderIP: a4.Addr(), TargetIP: b4.Addr()})
	}
	port := func(b []byte, l4 int, src, dst byte) []byte { return edited(b, l4, 0, src, 0, dst) }
	for _, r := range []struct {
		b    []byte
		want string
	}{
		{tcp4(SYN, ""), "10.0.0.5:3311 > 10.0.0.1:22 tcp S len 0"},
		{tcp4(PSH|ACK, "hello"), "10.0.0.5:3311 > 10.0.0.1:22 tcp P. len 5"},
		{tcp4(0, ""), "10.0.0.5:3311 > 10.0.0.1:22 tcp none len 0"},
		{tcp6(FIN|URG|ECE|CWR, ""), "[fd00::5]:3311 > [fd00::1]:22 tcp FUEW len 0"},
		{udp4("hello"), "10.0.0.5:3311 > 10.0.0.1:22 udp len 5"},
		{port(udp4("hello"), 34, 68, 67), "10.0.0.5:68 > 10.0.0.1:67 udp dhcp len 5"},
		{port(udp6("hello"), 54, 9, 53), "[fd00::5]:9 > [fd00::1]:53 udp dns len 5"},
		{edited(udp6("hello"), 54, 2, 0x22, 2, 0x23), "[fd00::5]:546 > [fd00::1]:547 udp dhcpv6 len 5"},
		{icmp(8, 0), "10.0.0.5 > 10.0.0.1 icmp echo-request len 56"},
		{icmp(0, 0), "10.0.0.5 > 10.0.0.1 icmp echo-reply len 56"},
		{icmp(3, 13), "10.0.0.5 > 10.0.0.1 icmp type 3 code 13 len 56"},
		{AppendICMP(nil, macA, macB, a6.Addr(), b6.Addr(), 128, 0, make([]byte, 4)), "fd00::5 > fd00::1 icmp6 echo-request len 0"},
		{solicit(1, 1, 2, 0, 0, 0, 0, 0xa), "fd00::5 > fd00::1 icmp6 nd solicit fd00::1 lladdr 02:00:00:00:00:0a"},
		{solicit(1, 0, 0, 0, 0, 0, 0, 0), "fd00::5 > fd00::1 icmp6 nd solicit fd00::1 malformed"},
		{arpRequest(), "arp who-has 10.0.0.1 tell 10.0.0.5 (02:00:00:00:00:0a)"},
		{arp(2), "arp 10.0.0.5 is-at 02:00:00:00:00:0a"},
		{arp(3), "arp op 3 from 10.0.0.5"},
		{edited(udp4("12345678"), 20, 0x20, 0), "10.0.0.5:3311 > 10.0.0.1:22 udp first fragment len 8"},
		{edited(udp4("12345678"), 20, 0, 1), "10.0.0.5 > 10.0.0.1 udp later fragment"},
		{edited(udp4("12345678"), 23, 47), "10.0.0.5 > 10.0.0.1 proto 47 len 16"},
		{edited(udp4("12345678"), 23, 132), "10.0.0.5:3311 > 10.0.0.1:22 sctp len 4"},
		{edited(udp4("12345678"), 23, 2), "10.0.0.5 > 10.0.0.1 igmp len 8"},
		{edited(udp6("x"), 20, 59), "fd00::5 > fd00::1 proto 59"},
		{edited(udp4("x"), 16, 0, 0), "10.0.0.5 > 10.0.0.1 udp [bad length]"},
		{edited(tcp4(SYN, "")[:44], 16, 0, 30), "10.0.0.5 > 10.0.0.1 tcp [truncated]"},
		{extended(udp6("x"), 60, options(33)), "fd00::5 > fd00::1 proto 60 [header chain too long]"},
		{udp4("x")[:30], "02:00:00:00:00:0a > 02:00:00:00:00:0b type 0x0800 len 16 [truncated]"},
		{edited(udp4("x"), 12, 0x88, 0xcc), "02:00:00:00:00:0a > 02:00:00:00:00:0b type 0x88cc len 29"},
		{edited(udp4("x"), 12, 0, 10), "02:00:00:00:00:0a > 02:00:00:00:00:0b llc len 10"},
		{tagged(udp4("x"), TypeVLAN), "vlan 1 10.0.0.5:3311 > 10.0.0.1:22 udp len 1"},
		{tagged(udp4("x"), TypeVLAN, TypeVLAN, TypeVLAN), "vlan 1 02:00:00:00:00:0a > 02:00:00:00:00:0b type 0x8100 len 29"},
		{make([]byte, 9), "runt of 9 bytes"},
		{nil, "runt of 0 bytes"},
	} {
		if got := parsed(r.b).String(); got != r.want {
			t.Errorf("got  %s\nwant %s", got, r.want)
		}
	}
	if got := Fault(200).String(); got != "unknown" {
		t.Errorf("Fault(200) is %q", got)
	}
	if got := new(Packet).String(); got == "" {
		t.Error("a Packet that was never parsed has no line")
	}
}
