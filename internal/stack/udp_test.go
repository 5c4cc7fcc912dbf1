package stack

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"brane/frame"
)

func TestUDPOut(t *testing.T) {
	families(t, func(t *testing.T, _, outside netip.Addr) {
		gs := newGuest(t, testConfig())
		port := hostUDP(t, outside, echoUDP)
		c := gs.udp(t, netip.AddrPortFrom(outside, port))
		for _, size := range []int{1, 0, 1472, 1473, 9000, 60000} { // from 1473 on in fragments, both ways
			want := bytes.Repeat([]byte{byte(size), 1, 2}, size/3+1)[:size]
			if _, err := c.Write(want); err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			got := make([]byte, 65536)
			n, err := c.Read(got)
			if err != nil || !bytes.Equal(got[:n], want) {
				t.Errorf("echo of %d bytes gave %d, %v", size, n, err)
			}
		}
		if s := gs.gw.Stats(); s.Flows != 1 || s.FlowsOut != 1 || s.Reassembly != 0 {
			t.Errorf("stats: %+v", s)
		}
	})
}

func TestUDPRefused(t *testing.T) {
	families(t, func(t *testing.T, gateway, outside netip.Addr) {
		cfg := testConfig()
		cfg.Denied = func(a netip.Addr) bool { return a == outside.Next() }
		gs := newGuest(t, cfg)
		for _, c := range []struct {
			name string
			to   netip.AddrPort
			code [2]uint8 // of ICMP and ICMPv6
		}{
			{"nothing listens outside", netip.AddrPortFrom(outside, closedPort(t, outside)), [2]uint8{3, 4}},
			{"denied", netip.AddrPortFrom(outside.Next(), 9), [2]uint8{13, 1}},
			{"the gateway's own", netip.AddrPortFrom(gateway, 9), [2]uint8{3, 4}},
		} {
			t.Run(c.name, func(t *testing.T) {
				errs := make(chan uint8, 16)
				gs.watch(func(p *frame.Packet) {
					if kind, code, ok := p.ICMP(); ok && isICMPError(p) && (kind == unreachable4 || kind == unreachable6) {
						errs <- code
					}
				})
				gs.udp(t, c.to).Write([]byte("x"))
				want := c.code[0]
				if outside.Is6() {
					want = c.code[1]
				}
				select {
				case code := <-errs:
					if code != want {
						t.Errorf("code %d, want %d", code, want)
					}
				case <-time.After(5 * time.Second):
					t.Error("no ICMP error")
				}
			})
		}
	})
}

func TestUDPOtherWayOfGateway(t *testing.T) {
	families(t, func(t *testing.T, gateway, outside netip.Addr) {
		port := hostUDP(t, outside, echoUDP)
		cfg := testConfig()
		cfg.HostPort = func(_ netip.Addr, p uint16) bool { return p == port }
		gs := newGuest(t, cfg)
		c := gs.udp(t, netip.AddrPortFrom(gateway, port))
		c.Write([]byte("x"))
		if n, err := c.Read(make([]byte, 9)); n != 1 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

func TestForwardUDP(t *testing.T) {
	families(t, func(t *testing.T, gateway, outside netip.Addr) {
		gs := newGuest(t, testConfig())
		me := netip.AddrPortFrom(guestOf(gateway), 5000)
		server := gs.listenUDP(t, me)
		from := make(chan net.Addr, 16)
		go func() {
			b := make([]byte, 4096)
			for {
				n, a, err := server.ReadFrom(b)
				if err != nil {
					return
				}
				from <- a
				server.WriteTo(append([]byte("re:"), b[:n]...), a)
			}
		}()
		host, err := net.ListenPacket("udp", netip.AddrPortFrom(loopback(outside), 0).String())
		if err != nil {
			t.Fatal(err)
		}
		if err := gs.gw.ForwardUDP(7, host, me); err != nil {
			t.Fatal(err)
		}
		ports := make(map[uint16]bool)
		for _, word := range []string{"one", "two"} { // two clients, each with answers of its own
			c, err := net.Dial("udp", host.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(5 * time.Second))
			c.Write([]byte(word))
			b := make([]byte, 4096)
			if n, err := c.Read(b); err != nil || string(b[:n]) != "re:"+word {
				t.Errorf("answer %q, %v", b[:n], err)
			}
			a := (<-from).(*net.UDPAddr).AddrPort()
			if a.Addr().Unmap() != gateway {
				t.Errorf("the client appears as %v, want %v", a, gateway)
			}
			ports[a.Port()] = true
		}
		if s := gs.gw.Stats(); s.Sessions != 2 || len(ports) != 2 {
			t.Errorf("%d sessions, %d ports; want 2 of each", s.Sessions, len(ports))
		}
		gs.gw.Unforward(7)
		if s := gs.gw.Stats(); s.Sessions != 0 {
			t.Errorf("%d sessions after Unforward", s.Sessions)
		}
	})
}

func TestFlowQuota(t *testing.T) {
	cfg := testConfig()
	cfg.Limits.FlowsPerSource = 4
	gs := newGuest(t, cfg)
	port := hostUDP(t, out4, echoUDP)
	var conns []net.Conn
	for range 6 {
		c := gs.udp(t, netip.AddrPortFrom(out4, port))
		c.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if s := gs.gw.Stats(); s.Flows != 4 || s.Evicted != 2 {
		t.Errorf("%d flows, %d evicted; want 4 and 2", s.Flows, s.Evicted)
	}
	conns[0].Write([]byte("x")) // evicted, and begun anew
	if _, err := conns[0].Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// pingFrame is an echo request as a guest sends it.
func pingFrame(src, dst netip.Addr, id, seq uint16, ttl uint8, body string) []byte {
	b := new([bufSize]byte)
	t := b[headroom:]
	d := datagram{src: src, dst: dst, proto: frame.ProtoICMP, ttl: ttl, csumAt: icmpCsumAt}
	t[0] = echoRequest4
	if src.Is6() {
		t[0], d.proto = echoRequest6, frame.ProtoICMPv6
	}
	binary.BigEndian.PutUint16(t[4:], id)
	binary.BigEndian.PutUint16(t[6:], seq)
	n := icmpLen + copy(t[icmpLen:], body)
	d.complete(t[:n])
	at := d.putIP(b[:], headroom, n, 0, 0)
	at = putLink(b[:], at, gwMAC, gMAC, src.Is4(), frame.Vnet{})
	return b[at : headroom+n]
}

// pong waits for the next ICMP message to the guest that is no neighbour discovery.
func (gs *guest) pong(t *testing.T, send func()) *frame.Packet {
	t.Helper()
	got := make(chan *frame.Packet, 64)
	gs.watch(func(p *frame.Packet) {
		if _, _, ok := p.ICMP(); ok {
			if _, nd := p.ND(); !nd {
				c := new(frame.Packet)
				c.Parse(bytes.Clone(p.Frame))
				got <- c
			}
		}
	})
	send()
	select {
	case p := <-got:
		if !transportSum(p) {
			t.Error("the checksum is wrong")
		}
		return p
	case <-time.After(5 * time.Second):
		t.Fatal("no answer")
		return nil
	}
}

func TestEchoOfGateway(t *testing.T) {
	families(t, func(t *testing.T, gateway, _ netip.Addr) {
		gs := newGuest(t, testConfig())
		p := gs.pong(t, func() { gs.gw.Deliver(pingFrame(guestOf(gateway), gateway, 7, 9, 64, "hello")) })
		kind, _, _ := p.ICMP()
		if kind != echoReply4 && kind != echoReply6 || p.Source() != gateway || string(p.Payload()) != "hello" {
			t.Errorf("type %d from %v: %q", kind, p.Source(), p.Payload())
		}
	})
}

// mayPing says whether this process may have ping sockets.
func mayPing(t *testing.T) bool {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, syscall.IPPROTO_ICMP)
	if err == nil {
		syscall.Close(fd)
	}
	return err == nil
}

func TestEchoOutside(t *testing.T) {
	families(t, func(t *testing.T, gateway, outside netip.Addr) {
		gs := newGuest(t, testConfig())
		p := gs.pong(t, func() { gs.gw.Deliver(pingFrame(guestOf(gateway), outside, 77, 3, 64, "far")) })
		kind, code, _ := p.ICMP()
		if !mayPing(t) { // then the answer says so, and the rest of the test does not apply
			if kind != adminProhibited().type4 && kind != adminProhibited().type6 {
				t.Errorf("type %d code %d, want administratively prohibited", kind, code)
			}
			return
		}
		m := p.Frame[p.L4:p.End]
		id, seq := binary.BigEndian.Uint16(m[4:]), binary.BigEndian.Uint16(m[6:])
		if kind != echoReply4 && kind != echoReply6 || p.Source() != outside || id != 77 || seq != 3 || string(p.Payload()) != "far" {
			t.Errorf("type %d from %v, id %d, seq %d: %q", kind, p.Source(), id, seq, p.Payload())
		}
	})
}

func TestEchoWithoutPingSockets(t *testing.T) {
	var log strings.Builder
	gs := newGuest(t, testConfig())
	gs.gw.log = slog.New(slog.NewTextHandler(&log, nil))
	for range 2 {
		if e := gs.gw.flowFailed(flowKey{}, errNoPing); e != adminProhibited() {
			t.Errorf("the answer is %+v", e)
		}
	}
	if n := strings.Count(log.String(), "ping_group_range="); n != 1 {
		t.Errorf("the log says it %d times", n)
	}
}

func TestTimeExceeded(t *testing.T) {
	families(t, func(t *testing.T, gateway, outside netip.Addr) {
		gs := newGuest(t, testConfig())
		p := gs.pong(t, func() { gs.gw.Deliver(pingFrame(guestOf(gateway), outside, 1, 1, 1, "")) })
		kind, code, _ := p.ICMP()
		want := ttlExceeded()
		if kind != want.type4 && kind != want.type6 || code != 0 || p.Source() != gateway {
			t.Errorf("type %d code %d from %v", kind, code, p.Source())
		}
		// The gateway itself is no hop away.
		p = gs.pong(t, func() { gs.gw.Deliver(pingFrame(guestOf(gateway), gateway, 1, 1, 1, "")) })
		if kind, _, _ := p.ICMP(); kind != echoReply4 && kind != echoReply6 {
			t.Errorf("the gateway answers type %d", kind)
		}
	})
}

func TestBadChecksumIsDropped(t *testing.T) {
	gs := newGuest(t, testConfig())
	b := pingFrame(guest4, gw4, 1, 1, 64, "hello")
	b[len(b)-1] ^= 1
	gs.gw.Deliver(b)
	if s := gs.gw.Stats(); s.BadSums != 1 {
		t.Errorf("BadSums = %d, want 1", s.BadSums)
	}
	gs.gw.Deliver(pingFrame(guest4, gw4, 1, 1, 64, "hello"))
	if s := gs.gw.Stats(); s.BadSums != 1 {
		t.Errorf("BadSums = %d after a good one", s.BadSums)
	}
}

func TestARP(t *testing.T) {
	gs := newGuest(t, testConfig())
	request := func(target netip.Addr) []byte {
		b := make([]byte, linkLen+arpLen)
		e := b[frame.VnetLen:]
		m := frame.Broadcast()
		copy(e, m[:])
		copy(e[6:], gMAC[:])
		copy(e[12:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1})
		copy(e[22:], gMAC[:])
		s, a := guest4.As4(), target.As4()
		copy(e[28:], s[:])
		copy(e[38:], a[:])
		return b
	}
	got := make(chan frame.ARP, 8)
	gs.watch(func(p *frame.Packet) {
		if a, ok := p.ARP(); ok {
			got <- a
		}
	})
	gs.gw.Deliver(request(out4))       // not the gateway's to answer,
	gs.gw.Deliver(request(gw4.Prev())) // nor this,
	gs.gw.Deliver(request(gw4))        // but this: answers come in order
	a := <-got
	if a.Op != arpReply || a.SenderIP != gw4 || a.SenderMAC != gwMAC || a.TargetMAC != gMAC || a.TargetIP != guest4 {
		t.Errorf("%+v", a)
	}
}

// TestDeliverDoesNotCallOut: a multiplexer holds its lock while it delivers.
func TestDeliverDoesNotCallOut(t *testing.T) {
	var mu sync.Mutex
	var bad string
	gs := newGuest(t, testConfig())
	gs.watch(func(*frame.Packet) {
		b := make([]byte, 16384)
		if s := string(b[:runtime.Stack(b, false)]); strings.Contains(s, "stack.(*Gateway).Deliver(") {
			mu.Lock()
			bad = s
			mu.Unlock()
		}
	})
	open, shut := hostTCP(t, out4, echoTCP), closedPort(t, out4)
	u := hostUDP(t, out4, echoUDP)
	for range 20 {
		c := gs.dial(t, netip.AddrPortFrom(out4, open))
		c.Write([]byte("x"))
		c.Read(make([]byte, 1))
		c.Close()
		gs.tryDial(netip.AddrPortFrom(out4, shut))
		d := gs.udp(t, netip.AddrPortFrom(out4, u))
		d.Write([]byte("x"))
		d.Read(make([]byte, 1))
		gs.udp(t, netip.AddrPortFrom(out4, shut)).Write([]byte("x"))
		gs.gw.Deliver(pingFrame(guest4, gw4, 1, 1, 64, ""))
	}
	mu.Lock()
	defer mu.Unlock()
	if bad != "" {
		t.Errorf("called out:\n%s", bad)
	}
}

func TestUpdateMovesAddresses(t *testing.T) {
	gs := newGuest(t, testConfig())
	l, err := gs.gw.ListenTCP(99)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := hostTCP(t, out4, echoTCP)
	c := gs.dial(t, netip.AddrPortFrom(out4, port))
	second := gw4.Next().Next().Next()
	cfg := testConfig()
	cfg.Addrs = append(cfg.Addrs, netip.PrefixFrom(second, 24))
	cfg.Denied = func(netip.Addr) bool { return true }
	if err := gs.gw.Update(cfg); err != nil {
		t.Fatal(err)
	}
	c.Write([]byte("x")) // the connection of before goes on,
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	if _, err := gs.tryDial(netip.AddrPortFrom(out4, port)); !isRefused(err) { // a new one is judged anew,
		t.Errorf("now denied: %v", err)
	}
	gs.dial(t, netip.AddrPortFrom(second, 99)) // and the new address serves.
	if err := gs.gw.Update(Config{Name: "bad"}); err == nil {
		t.Error("a Config without MAC was taken")
	}
	if err := gs.gw.Update(testConfig()); err != nil {
		t.Fatal(err)
	}
}

// TestCloseDuringHandshake: a guest that asks for a connection and never
// completes it does not hold Close up.
func TestCloseDuringHandshake(t *testing.T) {
	gs := newGuest(t, testConfig())
	port := hostTCP(t, out4, echoTCP)
	ghost := netip.MustParseAddr("10.5.0.99") // answers ARP, nothing else
	syn := make([]byte, 20)
	binary.BigEndian.PutUint16(syn, 1234)
	binary.BigEndian.PutUint16(syn[2:], port)
	syn[12], syn[13], syn[14] = 5<<4, 2, 0xff
	b := new([bufSize]byte)
	copy(b[headroom:], syn)
	d := datagram{src: ghost, dst: out4, proto: frame.ProtoTCP, ttl: 64, csumAt: tcpCsumAt}
	d.complete(b[headroom : headroom+20])
	at := d.putIP(b[:], headroom, 20, 0, 0)
	at = putLink(b[:], at, gwMAC, gMAC, true, frame.Vnet{})
	gs.gw.Deliver(b[at : headroom+20])
	eventually(t, "the outside accepted", func() bool {
		gs.gw.mu.Lock()
		defer gs.gw.mu.Unlock()
		return len(gs.gw.handshakes) == 1
	})
	start := time.Now()
	gs.gw.Close()
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("Close took %v", took)
	}
}

// TestCloseReleasesDescriptors: nothing of the host stays open.
func TestCloseReleasesDescriptors(t *testing.T) {
	count := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(d)
	}
	port, uport := hostTCP(t, out4, echoTCP), hostUDP(t, out4, echoUDP)
	before := count()
	gs := newGuest(t, testConfig())
	for range 10 {
		gs.dial(t, netip.AddrPortFrom(out4, port)).Write([]byte("x"))
		c := gs.udp(t, netip.AddrPortFrom(out4, uport))
		c.Write([]byte("x"))
		c.Read(make([]byte, 1))
	}
	gs.gw.Close()
	eventually(t, "all descriptors are closed", func() bool { return count() <= before })
}

func TestSumsAgreeWithFrames(t *testing.T) {
	b := pingFrame(guest4, gw4, 1, 2, 3, "abc")[linkLen:]
	if checksum.Checksum(b[:ipv4Len], 0) != 0xffff {
		t.Error("the header's checksum is wrong")
	}
}
