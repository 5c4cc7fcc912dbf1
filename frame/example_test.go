package frame_test

import (
	"fmt"
	"net/netip"

	"brane/frame"
)

// A frame is parsed once; every judge reads the same Packet.
func ExamplePacket_Parse() {
	web, db := frame.DeriveMAC("office", "web"), frame.DeriveMAC("office", "db")
	from, to := netip.MustParseAddrPort("10.0.0.5:3311"), netip.MustParseAddrPort("10.0.0.1:22")
	b := frame.AppendTCP(nil, web, db, from, to, frame.TCP{Flags: frame.SYN}, nil)

	var p frame.Packet
	p.Parse(b)
	fmt.Println(p.Fault, p.String())

	p.Parse(b[:40])
	fmt.Println(p.Fault)
	// Output:
	// ok 10.0.0.5:3311 > 10.0.0.1:22 tcp S len 0
	// bad length
}

// The sender of a refused frame is told at once.
func ExampleReject() {
	web, gateway := frame.DeriveMAC("office", "web"), frame.DeriveMAC("office", "gateway")
	from, to := netip.MustParseAddrPort("[fd00::5]:3311"), netip.MustParseAddrPort("[fd00::1]:53")

	var p, reply frame.Packet
	p.Parse(frame.AppendUDP(nil, web, gateway, from, to, []byte("query")))
	reply.Parse(frame.Reject(nil, &p, gateway))
	fmt.Println(reply.String())
	// Output:
	// fd00::1 > fd00::5 icmp6 type 1 code 1 len 53
}
