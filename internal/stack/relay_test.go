package stack

import (
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
)

// patient reads r to its end, now little, now much, now and then with a pause:
// the writer runs against full buffers.
func patient(r io.Reader, seed uint64) (n int, h hash.Hash, err error) {
	rng := rand.New(rand.NewPCG(seed, 1))
	h = sha256.New()
	b := make([]byte, 1<<20)
	for {
		m, err := r.Read(b[:1+rng.IntN(1<<rng.IntN(21))])
		h.Write(b[:m])
		if n += m; err == io.EOF {
			return n, h, nil
		} else if err != nil {
			return n, h, err
		}
		if rng.IntN(50) == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// spasmodic writes size bytes in pieces of all sizes.
func spasmodic(w io.Writer, size int, seed uint64) (hash.Hash, error) {
	rng := rand.New(rand.NewPCG(seed, 2))
	h := sha256.New()
	b := make([]byte, 1<<20)
	src := rand.NewChaCha8([32]byte{byte(seed)})
	for size > 0 {
		n := min(size, 1+rng.IntN(1<<rng.IntN(21)))
		src.Read(b[:n])
		h.Write(b[:n])
		if _, err := w.Write(b[:n]); err != nil {
			return h, err
		}
		size -= n
	}
	return h, nil
}

// TestSlowReaders: streams through full buffers, both ways at once, arrive
// whole, and no more is held than the buffers take.
func TestSlowReaders(t *testing.T) {
	families(t, func(t *testing.T, _, outside netip.Addr) {
		cfg := testConfig()
		cfg.Limits.BuffersPerSource = 1 << 20 // small ones: they fill
		gs := newGuest(t, cfg)
		const size = 24 << 20
		type result struct {
			n   int
			sum [32]byte
			err error
		}
		sum := func(h hash.Hash) [32]byte { return [32]byte(h.Sum(nil)) }
		hostGot, hostSent := make(chan result, 1), make(chan result, 1)
		port := hostTCP(t, outside, func(c *net.TCPConn) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				h, err := spasmodic(c, size, 3)
				c.CloseWrite()
				hostSent <- result{size, sum(h), err}
			}()
			n, h, err := patient(c, 4)
			hostGot <- result{n, sum(h), err}
			<-done
		})
		c := gs.dial(t, netip.AddrPortFrom(outside, port))
		guestSent := make(chan result, 1)
		go func() {
			h, err := spasmodic(c, size, 5)
			c.CloseWrite()
			guestSent <- result{size, sum(h), err}
		}()
		n, h, err := patient(c, 6)
		if got, want := (result{n, sum(h), err}), <-hostSent; got != want {
			t.Errorf("inward %d bytes, %v; want %d, %v", got.n, got.err, want.n, want.err)
		}
		if got, want := <-hostGot, <-guestSent; got != want {
			t.Errorf("outward %d bytes, %v; want %d, %v", got.n, got.err, want.n, want.err)
		}
	})
}

// TestStalledHost: a host that reads nothing stops the guest; what the gateway
// holds is bounded by the buffers charged.
func TestStalledHost(t *testing.T) {
	gs := newGuest(t, testConfig())
	release := make(chan struct{})
	port := hostTCP(t, out4, func(*net.TCPConn) { <-release })
	defer close(release)
	c := gs.dial(t, netip.AddrPortFrom(out4, port))
	c.SetWriteDeadline(time.Now().Add(time.Second))
	sent := 0
	for b := make([]byte, 1<<20); ; {
		n, err := c.Write(b)
		if sent += n; err != nil {
			break
		}
		if sent > 64<<20 {
			t.Fatalf("%d bytes went nowhere", sent)
		}
	}
	if held := gs.gw.Stats().Buffers; held == 0 || held > 2*tcpBuffer {
		t.Errorf("%d bytes of buffers charged for one connection", held)
	}
}

// TestResetBehindEndOfStream: a guest that ended its stream and is then reset
// does not leave the connection to an idle host.
func TestResetBehindEndOfStream(t *testing.T) {
	gs := newGuest(t, testConfig())
	eof := make(chan struct{})
	gone := make(chan error, 1)
	port := hostTCP(t, out4, func(c *net.TCPConn) {
		io.Copy(io.Discard, c)
		close(eof)
		f, err := c.File() // to notice the reset without a byte sent
		if err != nil {
			gone <- err
			return
		}
		defer f.Close()
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if v, _ := syscall.GetsockoptInt(int(f.Fd()), syscall.SOL_SOCKET, syscall.SO_ERROR); v != 0 {
				gone <- syscall.Errno(v)
				return
			}
		}
		gone <- os.ErrDeadlineExceeded
	})
	c := gs.dial(t, netip.AddrPortFrom(out4, port))
	c.CloseWrite()
	<-eof
	for _, e := range gs.stack.RegisteredEndpoints() {
		e.Abort()
	}
	if err := <-gone; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("the host met %v, want a reset", err)
	}
	eventually(t, "it is given back", func() bool { return gs.gw.Stats().Conns == 0 })
}

// blackHole is a port of the host's loopback that answers no SYN: its backlog is full.
func blackHole(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(out4, uint16(sa.(*syscall.SockaddrInet4).Port))
	c, err := net.Dial("tcp", netip.AddrPortFrom(loopback(out4), to.Port()).String()) // takes the one place
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return to
}

// TestDialsAreBounded: connections that wait for a silent outside are limited
// for each guest, and those over the limit are refused at once.
func TestDialsAreBounded(t *testing.T) {
	cfg := testConfig()
	cfg.Limits.DialingPerSource = 3
	gs := newGuest(t, cfg)
	hole := blackHole(t)
	for range 3 {
		go gs.tryDial(hole)
	}
	eventually(t, "three wait", func() bool { return gs.gw.Stats().Dialing == 3 })
	if _, err := gs.tryDial(hole); !isRefused(err) {
		t.Errorf("the fourth: %v", err)
	}
	start := time.Now()
	gs.gw.Close()
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("Close took %v with dials under way", took)
	}
	if s := gs.gw.Stats(); s.Dialing != 0 || s.Conns != 0 {
		t.Errorf("after Close: %+v", s)
	}
	gs.stack.Close() // ends the dials of the guest's
}

// TestDialTimeout: silence outside is silence inside, but not for ever here.
func TestDialTimeout(t *testing.T) {
	cfg := testConfig()
	cfg.Limits.DialTimeout = 50 * time.Millisecond
	gs := newGuest(t, cfg)
	hole := blackHole(t)
	go gs.tryDial(hole)
	eventually(t, "it waits", func() bool { return gs.gw.Stats().Dialing == 1 })
	eventually(t, "it is given up", func() bool { return gs.gw.Stats().Dialing == 0 })
	gs.stack.Close()
}
