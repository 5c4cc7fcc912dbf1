package stack

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"brane/frame"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The network of the tests. The outside, 192.0.2.0/24 and 2001:db8:1::/64, is
// the host's loopback.
var (
	gw4    = netip.MustParseAddr("10.5.0.1")
	gw6    = netip.MustParseAddr("fd00:5::1")
	guest4 = netip.MustParseAddr("10.5.0.2")
	guest6 = netip.MustParseAddr("fd00:5::2")
	out4   = netip.MustParseAddr("192.0.2.7")
	out6   = netip.MustParseAddr("2001:db8:1::7")
	gwMAC  = frame.MAC{2, 0, 0, 0, 0, 1}
	gMAC   = frame.MAC{2, 0, 0, 0, 0, 2}
)

func testConfig() Config {
	return Config{
		Name: "test", MAC: gwMAC, MTU: 1500, NAT: true,
		Addrs: []netip.Prefix{netip.PrefixFrom(gw4, 24), netip.PrefixFrom(gw6, 64)},
		outside: func(a netip.AddrPort) netip.AddrPort {
			return netip.AddrPortFrom(loopback(a.Addr()), a.Port())
		},
	}
}

// guest is a machine on the gateway's network, in memory: a TCP/IP stack wired
// to the gateway frame by frame.
type guest struct {
	gw    *Gateway
	stack *stack.Stack
	link  *link
	tap   atomic.Pointer[func(frame []byte)] // sees each frame from the gateway, virtio-net header first
}

func newGuest(t testing.TB, cfg Config) *guest {
	t.Helper()
	gs := &guest{}
	gw, err := New(cfg, gs.fromGateway, nil)
	if err != nil {
		t.Fatal(err)
	}
	gs.gw = gw
	send := func(_ frame.MAC, b []byte) { gw.Deliver(b) }
	gs.link = &link{
		mtu: func() int { return 1500 }, mac: func() frame.MAC { return gMAC },
		bufs: new(bufPool), now: send, later: send,
	}
	gs.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			arp.NewProtocol, ipv4.NewProtocol, ipv6.NewProtocolWithOptions(ipv6.Options{NDPConfigs: ipv6.NDPConfigurations{}}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := gs.stack.CreateNIC(nicID, gs.link); err != nil {
		t.Fatal(err)
	}
	for _, a := range []netip.Addr{guest4, guest6} {
		proto, bits := tcpip.NetworkProtocolNumber(ipv4.ProtocolNumber), 24
		if a.Is6() {
			proto, bits = ipv6.ProtocolNumber, 64
		}
		if err := gs.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
			Protocol: proto, AddressWithPrefix: tcpip.AddressWithPrefix{Address: toAddress(a), PrefixLen: bits},
		}, stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
	}
	sub4, _ := tcpip.NewSubnet(toAddress(guest4.Prev().Prev()), tcpip.MaskFromBytes([]byte{255, 255, 255, 0}))
	sub6 := tcpip.AddressWithPrefix{Address: toAddress(guest6), PrefixLen: 64}.Subnet()
	gs.stack.SetRouteTable([]tcpip.Route{
		{Destination: sub4, NIC: nicID},
		{Destination: sub6, NIC: nicID},
		{Destination: header.IPv4EmptySubnet, Gateway: toAddress(gw4), NIC: nicID},
		{Destination: header.IPv6EmptySubnet, Gateway: toAddress(gw6), NIC: nicID},
	})
	t.Cleanup(func() {
		gw.Close()
		gs.stack.Close()
		gs.stack.Wait()
	})
	return gs
}

// fromGateway is the multiplexer: it judges the frame as one would, and hands it over.
func (gs *guest) fromGateway(buf []byte) {
	if tap := gs.tap.Load(); tap != nil {
		(*tap)(buf)
	}
	if gs.link == nil {
		return
	}
	var p frame.Packet
	p.Parse(buf[frame.VnetLen:])
	v, _ := frame.ParseVnet(buf)
	if _, ok := v.Check(&p); !ok || p.Fault != frame.OK {
		panic(fmt.Sprintf("the gateway sent a bad frame: fault %d, header %+v", p.Fault, v))
	}
	if p.Dst == gMAC || p.Dst.IsMulticast() {
		gs.link.inject(tcpip.NetworkProtocolNumber(p.Type), p.Frame[p.L3:p.End])
	}
}

func (gs *guest) watch(f func(p *frame.Packet)) {
	tap := func(buf []byte) {
		var p frame.Packet
		p.Parse(buf[frame.VnetLen:])
		f(&p)
	}
	gs.tap.Store(&tap)
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: toAddress(a.Addr()), Port: a.Port()}
}

func protoOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func (gs *guest) dial(t testing.TB, to netip.AddrPort) *gonet.TCPConn {
	t.Helper()
	c, err := gs.tryDial(to)
	if err != nil {
		t.Fatalf("guest dials %v: %v", to, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (gs *guest) tryDial(to netip.AddrPort) (*gonet.TCPConn, error) {
	return gonet.DialTCP(gs.stack, full(to), protoOf(to.Addr()))
}

func (gs *guest) udp(t testing.TB, to netip.AddrPort) *gonet.UDPConn {
	t.Helper()
	remote := full(to)
	c, err := gonet.DialUDP(gs.stack, nil, &remote, protoOf(to.Addr()))
	if err != nil {
		t.Fatalf("guest dials %v: %v", to, err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// families runs a test for each IP version.
func families(t *testing.T, f func(t *testing.T, gateway, outside netip.Addr)) {
	t.Run("IPv4", func(t *testing.T) { f(t, gw4, out4) })
	t.Run("IPv6", func(t *testing.T) { f(t, gw6, out6) })
}

// hostTCP listens on the host's loopback of a's family and serves each connection with f.
func hostTCP(t testing.TB, a netip.Addr, f func(c *net.TCPConn)) uint16 {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(loopback(a), 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c)
			}()
		}
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func hostUDP(t testing.TB, a netip.Addr, f func(c *net.UDPConn, b []byte, from *net.UDPAddr)) uint16 {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback(a), 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := c.ReadFromUDP(b)
			if err != nil {
				return
			}
			f(c, b[:n], from)
		}
	}()
	return uint16(c.LocalAddr().(*net.UDPAddr).Port)
}

func echoTCP(c *net.TCPConn) { io.Copy(c, c) }

func echoUDP(c *net.UDPConn, b []byte, from *net.UDPAddr) { c.WriteToUDP(b, from) }

// closedPort is a port of the host's loopback where nothing listens.
func closedPort(t testing.TB, a netip.Addr) uint16 {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(loopback(a), 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// eventually waits for what other goroutines are bound to do.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func isRefused(err error) bool { return err != nil && strings.Contains(err.Error(), "refused") }

// guestOf is the guest's address of a's family.
func guestOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return guest4
	}
	return guest6
}

func (gs *guest) listen(a netip.AddrPort) (net.Listener, error) {
	return gonet.ListenTCP(gs.stack, full(a), protoOf(a.Addr()))
}

func (gs *guest) listenUDP(t testing.TB, a netip.AddrPort) *gonet.UDPConn {
	t.Helper()
	local := full(a)
	c, err := gonet.DialUDP(gs.stack, &local, nil, protoOf(a.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
