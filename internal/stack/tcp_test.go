package stack

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestTCPOut(t *testing.T) {
	families(t, func(t *testing.T, _, outside netip.Addr) {
		gs := newGuest(t, testConfig())
		port := hostTCP(t, outside, echoTCP)
		c := gs.dial(t, netip.AddrPortFrom(outside, port))
		data := make([]byte, 4<<20)
		rand.NewChaCha8([32]byte{1}).Read(data)
		go func() {
			c.Write(data)
			c.CloseWrite() // the server's end of stream, after which it closes
		}()
		got, err := io.ReadAll(c)
		if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
			t.Fatalf("echo of %d bytes gave %d bytes, %v", len(data), len(got), err)
		}
		if s := gs.gw.Stats(); s.ConnsOut != 1 {
			t.Errorf("ConnsOut = %d, want 1", s.ConnsOut)
		}
		c.Close()
		eventually(t, "the connection is given back", func() bool { s := gs.gw.Stats(); return s.Conns == 0 && s.Buffers == 0 })
	})
}

func TestTCPHalfCloseInward(t *testing.T) {
	families(t, func(t *testing.T, _, outside netip.Addr) {
		gs := newGuest(t, testConfig())
		got := make(chan []byte, 1)
		port := hostTCP(t, outside, func(c *net.TCPConn) {
			c.Write([]byte("bye"))
			c.CloseWrite()
			b, _ := io.ReadAll(c)
			got <- b
		})
		c := gs.dial(t, netip.AddrPortFrom(outside, port))
		if b, err := io.ReadAll(c); err != nil || string(b) != "bye" {
			t.Fatalf("read %q, %v", b, err)
		}
		// The other way is still open.
		if _, err := c.Write([]byte("late")); err != nil {
			t.Fatal(err)
		}
		c.CloseWrite()
		if b := <-got; string(b) != "late" {
			t.Errorf("the host read %q after its own end of stream", b)
		}
	})
}

func TestTCPRefusedAtOnce(t *testing.T) {
	families(t, func(t *testing.T, gateway, outside netip.Addr) {
		cfg := testConfig()
		cfg.Denied = func(a netip.Addr) bool { return a == outside.Next() }
		gs := newGuest(t, cfg)
		open, shut := hostTCP(t, outside, echoTCP), closedPort(t, outside)
		for _, c := range []struct {
			name string
			to   netip.AddrPort
		}{
			{"nothing listens outside", netip.AddrPortFrom(outside, shut)},
			{"denied", netip.AddrPortFrom(outside.Next(), open)},
			{"the gateway's own, not opened", netip.AddrPortFrom(gateway, open)},
		} {
			t.Run(c.name, func(t *testing.T) {
				start := time.Now()
				conn, err := gs.tryDial(c.to)
				if conn != nil {
					conn.Close()
				}
				if !isRefused(err) || time.Since(start) > 2*time.Second {
					t.Errorf("%v after %v, want a refusal at once", err, time.Since(start))
				}
			})
		}
		gs.dial(t, netip.AddrPortFrom(outside, open)) // the positive twin
	})
}

func TestTCPReset(t *testing.T) {
	families(t, func(t *testing.T, _, outside netip.Addr) {
		gs := newGuest(t, testConfig())
		t.Run("by the host", func(t *testing.T) {
			port := hostTCP(t, outside, func(c *net.TCPConn) {
				c.Read(make([]byte, 1))
				c.SetLinger(0)
			})
			c := gs.dial(t, netip.AddrPortFrom(outside, port))
			c.Write([]byte("x"))
			if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("the guest read %v, want a reset", err)
			}
		})
		t.Run("by the guest", func(t *testing.T) {
			result := make(chan error, 1)
			port := hostTCP(t, outside, func(c *net.TCPConn) {
				c.Write([]byte("x"))
				_, err := c.Read(make([]byte, 1))
				result <- err
			})
			c := gs.dial(t, netip.AddrPortFrom(outside, port))
			c.Read(make([]byte, 1))
			for _, e := range gs.stack.RegisteredEndpoints() {
				e.Abort()
			}
			if err := <-result; err == nil || err == io.EOF {
				t.Errorf("the host read %v, want a reset", err)
			}
		})
		eventually(t, "both are given back", func() bool { return gs.gw.Stats().Conns == 0 })
	})
}

func TestHostPort(t *testing.T) {
	families(t, func(t *testing.T, gateway, outside netip.Addr) {
		port := hostTCP(t, outside, echoTCP)
		cfg := testConfig()
		cfg.HostPort = func(src netip.Addr, p uint16) bool { return p == port && (src == guest4 || src == guest6) }
		gs := newGuest(t, cfg)
		c := gs.dial(t, netip.AddrPortFrom(gateway, port))
		c.Write([]byte("hello"))
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
			t.Errorf("read %q, %v", b, err)
		}
		other := hostTCP(t, outside, echoTCP)
		if c, err := gs.tryDial(netip.AddrPortFrom(gateway, other)); !isRefused(err) {
			c.Close()
			t.Errorf("a port that was not opened: %v", err)
		}
	})
}

func TestHostPortOfOtherFamily(t *testing.T) {
	port := hostTCP(t, gw4, echoTCP) // 127.0.0.1 only
	cfg := testConfig()
	cfg.HostPort = func(netip.Addr, uint16) bool { return true }
	gs := newGuest(t, cfg)
	c := gs.dial(t, netip.AddrPortFrom(gw6, port))
	c.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestThousandConnections(t *testing.T) {
	gs := newGuest(t, testConfig())
	port := hostTCP(t, out4, echoTCP)
	var wg sync.WaitGroup
	gate := make(chan struct{}, 64)
	for i := range 1000 {
		wg.Add(1)
		gate <- struct{}{}
		go func() {
			defer wg.Done()
			defer func() { <-gate }()
			c, err := gs.tryDial(netip.AddrPortFrom(out4, port))
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				return
			}
			defer c.Close()
			want := []byte{byte(i), byte(i >> 8)}
			c.Write(want)
			b := make([]byte, 2)
			if _, err := io.ReadFull(c, b); err != nil || !bytes.Equal(b, want) {
				t.Errorf("connection %d: %x, %v", i, b, err)
			}
		}()
	}
	wg.Wait()
	eventually(t, "all are given back", func() bool { s := gs.gw.Stats(); return s.Conns == 0 && s.Dialing == 0 && s.Buffers == 0 })
}

func TestConnectionLimit(t *testing.T) {
	cfg := testConfig()
	cfg.Limits.ConnsPerSource = 3
	gs := newGuest(t, cfg)
	port := hostTCP(t, out4, echoTCP)
	to := netip.AddrPortFrom(out4, port)
	first := gs.dial(t, to)
	gs.dial(t, to)
	gs.dial(t, to)
	if c, err := gs.tryDial(to); !isRefused(err) {
		c.Close()
		t.Fatalf("connection 4 of 3: %v", err)
	}
	if s := gs.gw.Stats(); s.Limited != 1 || s.Conns != 3 {
		t.Errorf("stats: %+v", s)
	}
	first.Close()
	eventually(t, "one is given back", func() bool { return gs.gw.Stats().Conns == 2 })
	gs.dial(t, to)
}

func TestForwardTCP(t *testing.T) {
	families(t, func(t *testing.T, gateway, outside netip.Addr) {
		gs := newGuest(t, testConfig())
		me := netip.AddrPortFrom(guestOf(gateway), 80)
		l, err := gs.listen(me)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		from := make(chan net.Addr, 1)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				from <- c.RemoteAddr()
				io.Copy(c, c)
				c.Close()
			}
		}()
		hl, err := net.Listen("tcp", netip.AddrPortFrom(loopback(outside), 0).String())
		if err != nil {
			t.Fatal(err)
		}
		if err := gs.gw.ForwardTCP(1, hl, me); err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", hl.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte("ping"))
		c.(*net.TCPConn).CloseWrite()
		if b, err := io.ReadAll(c); err != nil || string(b) != "ping" {
			t.Errorf("read %q, %v", b, err)
		}
		if a := (<-from).(*net.TCPAddr).AddrPort().Addr().Unmap(); a != gateway {
			t.Errorf("the client appears as %v, want %v", a, gateway)
		}
		gs.gw.Unforward(1)
		if c, err := net.Dial("tcp", hl.Addr().String()); err == nil {
			c.Close()
			t.Error("the host port is open after Unforward")
		}
	})
}

func TestForwardTCPRefused(t *testing.T) {
	gs := newGuest(t, testConfig())
	hl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := gs.gw.ForwardTCP(1, hl, netip.AddrPortFrom(guest4, 81)); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", hl.Addr().String()) // the reset may be faster than Dial
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client of a closed port met %v, want a reset", err)
	}
	eventually(t, "it is given back", func() bool { s := gs.gw.Stats(); return s.Conns == 0 && s.Dialing == 0 })
}

func TestServices(t *testing.T) {
	families(t, func(t *testing.T, gateway, _ netip.Addr) {
		gs := newGuest(t, testConfig())
		l, err := gs.gw.ListenTCP(53)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				io.Copy(c, c)
				c.Close()
			}
		}()
		u, err := gs.gw.ListenUDP(53)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			b := make([]byte, 1500)
			for {
				n, a, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				u.WriteTo(b[:n], a)
			}
		}()
		if _, err := gs.gw.ListenTCP(53); err == nil {
			t.Error("the port was opened twice")
		}
		c := gs.dial(t, netip.AddrPortFrom(gateway, 53))
		c.Write([]byte("tcp"))
		b := make([]byte, 3)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "tcp" {
			t.Errorf("TCP service: %q, %v", b, err)
		}
		d := gs.udp(t, netip.AddrPortFrom(gateway, 53))
		d.Write([]byte("udp"))
		if n, err := d.Read(b); err != nil || string(b[:n]) != "udp" {
			t.Errorf("UDP service: %q, %v", b, err)
		}
		l.Close()
		u.Close()
		if c, err := gs.tryDial(netip.AddrPortFrom(gateway, 53)); !isRefused(err) {
			c.Close()
			t.Errorf("after Close: %v", err)
		}
	})
}
