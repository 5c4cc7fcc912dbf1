package frame

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

var (
	macA, macB = MAC{2, 0, 0, 0, 0, 0xa}, MAC{2, 0, 0, 0, 0, 0xb}
	a4, b4     = netip.MustParseAddrPort("10.0.0.5:3311"), netip.MustParseAddrPort("10.0.0.1:22")
	a6, b6     = netip.MustParseAddrPort("[fd00::5]:3311"), netip.MustParseAddrPort("[fd00::1]:22")
)

func parsed(b []byte) *Packet {
	p := new(Packet)
	p.Parse(b)
	return p
}

func udp4(payload string) []byte { return AppendUDP(nil, macA, macB, a4, b4, []byte(payload)) }
func udp6(payload string) []byte { return AppendUDP(nil, macA, macB, a6, b6, []byte(payload)) }

func tcp4(flags uint8, payload string) []byte {
	return AppendTCP(nil, macA, macB, a4, b4, TCP{Seq: 1000, Ack: 2000, Flags: flags, Window: 512}, []byte(payload))
}

func tcp6(flags uint8, payload string) []byte {
	return AppendTCP(nil, macA, macB, a6, b6, TCP{Seq: 1000, Ack: 2000, Flags: flags, Window: 512}, []byte(payload))
}

func arpRequest() []byte {
	return AppendARP(nil, macA, Broadcast(), ARP{Op: 1, SenderMAC: macA, SenderIP: a4.Addr(), TargetIP: b4.Addr()})
}

// solicit is a neighbour solicitation with the options given.
func solicit(options ...byte) []byte {
	target := b6.Addr().As16()
	body := append(append(make([]byte, 4), target[:]...), options...)
	return AppendICMP(nil, macA, macB, a6.Addr(), b6.Addr(), NeighborSolicitation, 0, body)
}

// tagged puts VLAN tags with identifiers 1, 2, ... into a copy of the frame.
func tagged(b []byte, tpids ...uint16) []byte {
	out := append([]byte(nil), b[:12]...)
	for i, t := range tpids {
		out = binary.BigEndian.AppendUint16(out, t)
		out = binary.BigEndian.AppendUint16(out, uint16(i+1))
	}
	return append(out, b[12:]...)
}

// edited is a copy of the frame with bytes changed from at on.
func edited(b []byte, at int, with ...byte) []byte {
	out := append([]byte(nil), b...)
	copy(out[at:], with)
	return out
}

// extended puts a chain of extension headers into a copy of an IPv6 frame; the
// first byte of each header is filled in. chain alternates type and header.
func extended(b []byte, chain ...any) []byte {
	out := append([]byte(nil), b[:EthernetLen+ipv6Len]...)
	next := EthernetLen + 6
	last := out[next]
	for i := 0; i < len(chain); i += 2 {
		out[next] = byte(chain[i].(int))
		next = len(out)
		out = append(out, chain[i+1].([]byte)...)
	}
	out[next] = last
	out = append(out, b[EthernetLen+ipv6Len:]...)
	binary.BigEndian.PutUint16(out[EthernetLen+4:], uint16(len(out)-EthernetLen-ipv6Len))
	return out
}

// options is a hop-by-hop or destination options header of n*8 bytes.
func options(n int) []byte {
	b := make([]byte, n*8)
	b[1] = byte(n - 1)
	if n > 1 {
		b[2], b[3] = 1, byte(n*8-4) // PadN
	} else {
		b[2], b[3] = 1, 4
	}
	return b
}

// fragmentHeader is an IPv6 fragment header; offset in bytes.
func fragmentHeader(offset int, more bool) []byte {
	v := uint16(offset)
	if more {
		v |= 1
	}
	return []byte{0, 0, byte(v >> 8), byte(v), 1, 2, 3, 4}
}

// pending turns the transport checksum of a frame into one to be completed, and
// gives the header that says so.
func pending(b []byte) Vnet {
	p := parsed(b)
	at := p.L4 + p.csumOffset()
	binary.BigEndian.PutUint16(b[at:], p.PseudoSum(p.End-p.L4))
	return Vnet{Flags: VnetNeedsCsum, CsumStart: uint16(p.L4), CsumOffset: uint16(p.csumOffset())}
}

// super is pending with a GSO type and size besides.
func super(b []byte, gsoType uint8, size int) Vnet {
	v := pending(b)
	v.GSOType, v.GSOSize = gsoType, uint16(size)
	return v
}

func noAllocs(t *testing.T, name string, f func()) {
	t.Helper()
	if raceEnabled {
		f() // the detector allocates for its own purposes
		return
	}
	if n := testing.AllocsPerRun(100, f); n != 0 {
		t.Errorf("%s allocates %v times", name, n)
	}
}
