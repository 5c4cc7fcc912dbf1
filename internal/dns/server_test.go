package dns_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/miekg/dns"
	"go.uber.org/goleak"

	"brane/internal/dns"
	"brane/internal/plan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a server on loopback, UDP and TCP on one port, until the test ends.
func serve(t *testing.T, g *plan.Gateway, exchange dns.Exchange) (*dns.Server, string) {
	t.Helper()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := packets.LocalAddr().String()
	streams, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := dns.NewServer(dns.NewZone(g), exchange)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, packets, streams) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("server ended:", err)
		}
	})
	return s, addr
}

// dialUDP opens a client's socket with a deadline for the whole test.
func dial(t *testing.T, network, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func send(t *testing.T, c net.Conn, q []byte) {
	t.Helper()
	if _, err := c.Write(q); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, c net.Conn) *wire.Msg {
	t.Helper()
	buf := make([]byte, 65536)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return read(t, buf[:n])
}

func sendStream(t *testing.T, c net.Conn, q []byte) {
	t.Helper()
	send(t, c, append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...))
}

func receiveStream(t *testing.T, c net.Conn) *wire.Msg {
	t.Helper()
	var head [2]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, binary.BigEndian.Uint16(head[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return read(t, b)
}

// resolver answers every query for an address with 93.184.216.34.
func resolver(b []byte) []byte {
	q := new(wire.Msg)
	if q.Unpack(b) != nil {
		return nil
	}
	m := new(wire.Msg).SetReply(q)
	m.Answer = []wire.RR{&wire.A{Hdr: wire.RR_Header{Name: q.Question[0].Name, Rrtype: wire.TypeA, Class: wire.ClassINET, Ttl: 60}, A: net.IP{93, 184, 216, 34}}}
	out, _ := m.Pack()
	return out
}

func TestServe(t *testing.T) {
	var asked atomic.Int32
	s, addr := serve(t, gateway(), func(_ context.Context, network, server string, q []byte, fits func([]byte) bool) error {
		asked.Add(1)
		if network != "udp" || server != "192.0.2.53:53" {
			t.Errorf("asked %s over %s", server, network)
		}
		if !fits(resolver(q)) {
			return errors.New("does not fit")
		}
		return nil
	})
	udp, tcp := dial(t, "udp", addr), dial(t, "tcp", addr)
	for _, c := range []struct{ name, want string }{
		{"web.office.example.", "A 10.20.0.10"}, {"example.org.", "A 93.184.216.34"}, {"example.org.", "A 93.184.216.34"},
	} {
		q := query(c.name, wire.TypeA)
		send(t, udp, q)
		if m := receive(t, udp); brief(m.Answer) != c.want {
			t.Errorf("UDP: %v", m)
		}
		sendStream(t, tcp, q)
		if m := receiveStream(t, tcp); brief(m.Answer) != c.want {
			t.Errorf("TCP: %v", m)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the resolver was asked %d times", n)
	}

	g := gateway()
	g.DNS.Names, g.DNS.Resolvers = nil, nil
	s.SetZone(dns.NewZone(g))
	send(t, udp, query("web.office.example.", wire.TypeA))
	if m := receive(t, udp); m.Rcode != wire.RcodeNameError {
		t.Errorf("a name of the old zone: %v", m)
	}
	send(t, udp, query("example.org.", wire.TypeA))
	if m := receive(t, udp); m.Rcode != wire.RcodeServerFailure {
		t.Errorf("without resolvers: %v", m)
	}
}

// Many questions in one write are answered in order; a message longer than a
// question can be ends the connection.
func TestPipelining(t *testing.T) {
	_, addr := serve(t, gateway(), nil)
	tcp := dial(t, "tcp", addr)
	var all []byte
	for range 100 {
		q := query("web.office.example.", wire.TypeA)
		all = append(binary.BigEndian.AppendUint16(all, uint16(len(q))), q...)
	}
	send(t, tcp, all)
	for range 100 {
		receiveStream(t, tcp)
	}
	send(t, tcp, []byte{0xff, 0xff, 1, 2, 3})
	if n, err := tcp.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes after a message of 65,535", n)
	}
	tcp = dial(t, "tcp", addr) // the questions of one connection are counted
	send(t, tcp, all)
	send(t, tcp, all[:len(all)*28/100])
	for range 128 {
		receiveStream(t, tcp)
	}
	if _, err := tcp.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after 128 questions: %v", err)
	}
}

// holding is a resolver that answers when it is told to.
type holding struct {
	mu    sync.Mutex
	asked map[string]int
	begun chan string
	free  chan struct{}
}

func newHolding() *holding {
	return &holding{asked: map[string]int{}, begun: make(chan string, 10000), free: make(chan struct{})}
}

func (h *holding) exchange(ctx context.Context, _, _ string, q []byte, fits func([]byte) bool) error {
	m := new(wire.Msg)
	if err := m.Unpack(q); err != nil {
		return err
	}
	name := strings.ToLower(m.Question[0].Name)
	h.mu.Lock()
	h.asked[name]++
	h.mu.Unlock()
	h.begun <- name
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-h.free:
	}
	fits(resolver(q))
	return nil
}

// Equal questions share one query: else each would be one more chance to guess.
func TestEqualQuestionsShareAQuery(t *testing.T) {
	h := newHolding()
	_, addr := serve(t, gateway(), h.exchange)
	first := dial(t, "udp", addr)
	send(t, first, query("example.org.", wire.TypeA))
	<-h.begun
	for range 20 {
		send(t, first, query("EXAMPLE.org.", wire.TypeA))
	}
	// A local answer shows that the questions before it were taken.
	send(t, first, query("web.", wire.TypeA))
	if m := receive(t, first); brief(m.Answer) != "A 10.20.0.10" {
		t.Fatal(m)
	}
	close(h.free)
	for range 21 {
		if m := receive(t, first); brief(m.Answer) != "A 93.184.216.34" {
			t.Fatal(m)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.asked["example.org."]; n != 1 {
		t.Errorf("%d queries for one question", n)
	}
}

// One source may let 64 questions wait; then it gets SERVFAIL at once, and
// others are served all the same.
func TestInFlightLimit(t *testing.T) {
	h := newHolding()
	_, addr := serve(t, gateway(), h.exchange)
	c := dial(t, "udp", addr)
	for i := range 64 {
		send(t, c, query(fmt.Sprintf("n%d.example.org.", i), wire.TypeA))
		<-h.begun
	}
	send(t, c, query("one-more.example.org.", wire.TypeA))
	if m := receive(t, c); m.Rcode != wire.RcodeServerFailure || m.Question[0].Name != "one-more.example.org." {
		t.Errorf("question 65: %v", m)
	}
	// The other source is another loopback address.
	other := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IP{127, 0, 0, 2}}}
	v, err := other.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = v.Close() }()
	_ = v.SetDeadline(time.Now().Add(20 * time.Second))
	send(t, v, query("victim.example.org.", wire.TypeA))
	<-h.begun
	close(h.free)
	if m := receive(t, v); m.Rcode != 0 {
		t.Errorf("another source: %v", m)
	}
	for range 64 {
		if m := receive(t, c); m.Rcode != 0 {
			t.Fatal(m)
		}
	}
	send(t, c, query("again.example.org.", wire.TypeA))
	if m := receive(t, c); m.Rcode != 0 {
		t.Errorf("after the others were answered: %v", m)
	}
}

func TestConnectionLimit(t *testing.T) {
	_, addr := serve(t, gateway(), nil)
	ask := func(c net.Conn) error {
		q := query("web.", wire.TypeA)
		if _, err := c.Write(append([]byte{0, byte(len(q))}, q...)); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 512))
		return err
	}
	var open []net.Conn
	for range 8 {
		c := dial(t, "tcp", addr)
		if err := ask(c); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if ask(dial(t, "tcp", addr)) == nil {
		t.Error("a ninth connection of one address is served")
	}
	_ = open[0].Close()
	for { // the server hears of the end a little later
		if ask(dial(t, "tcp", addr)) == nil {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("a closed connection still counts")
		}
	}
}

// The resolvers are asked in order; one that fails is passed over, and when
// all do the client hears at once.
func TestResolversInOrder(t *testing.T) {
	g := gateway()
	g.DNS.Resolvers = []string{"a:53", "b:53", "c:53", "d:53"}
	var mu sync.Mutex
	var asked []string
	var good string
	refuse := func(q []byte) []byte {
		m := new(wire.Msg)
		_ = m.Unpack(q)
		out, _ := new(wire.Msg).SetRcode(m, wire.RcodeRefused).Pack()
		return out
	}
	_, addr := serve(t, g, func(_ context.Context, network, server string, q []byte, fits func([]byte) bool) error {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, network+" "+server)
		switch {
		case server == "a:53":
			return errors.New("refused")
		case server != good:
			fits(refuse(q))
		case network == "udp":
			m := new(wire.Msg)
			_ = m.Unpack(resolver(q))
			m.Answer, m.Truncated = nil, true
			b, _ := m.Pack()
			fits(b)
		default:
			fits(resolver(q))
		}
		return nil
	})
	c := dial(t, "udp", addr)
	for _, x := range []struct {
		good, want string
		rcode      int
	}{
		{"c:53", "udp a:53 udp b:53 udp c:53 tcp c:53", 0},
		{"none", "udp a:53 udp b:53 udp c:53 udp a:53 udp b:53 udp c:53", wire.RcodeServerFailure},
	} {
		mu.Lock()
		asked, good = nil, x.good
		mu.Unlock()
		send(t, c, query(x.good[:1]+".example.org.", wire.TypeA))
		if m := receive(t, c); m.Rcode != x.rcode {
			t.Errorf("%v", m)
		}
		mu.Lock()
		if got := strings.Join(asked, " "); got != x.want {
			t.Errorf("asked %s, want %s", got, x.want)
		}
		mu.Unlock()
	}
}

// Dial against a resolver whose forger is quicker: what does not fit is passed over.
func TestDial(t *testing.T) {
	up, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var ports sync.Map
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, from, err := up.ReadFrom(buf)
			if err != nil {
				return
			}
			ports.Store(from.String(), true)
			good := resolver(buf[:n])
			for i := range 200 {
				forged := bytes.Clone(good)
				copy(forged[len(forged)-4:], []byte{6, 6, 6, 6})
				binary.BigEndian.PutUint16(forged, binary.BigEndian.Uint16(good)+uint16(i)+1)
				_, _ = up.WriteTo(forged, from)
			}
			_, _ = up.WriteTo(good, from)
		}
	}()
	t.Cleanup(func() { _ = up.Close(); <-done })
	g := gateway()
	g.DNS.Resolvers = []string{up.LocalAddr().String()}
	_, addr := serve(t, g, nil)
	c := dial(t, "udp", addr)
	for i := range 20 {
		send(t, c, query(fmt.Sprintf("n%d.example.org.", i), wire.TypeA))
		if m := receive(t, c); brief(m.Answer) != "A 93.184.216.34" {
			t.Fatal(m)
		}
	}
	n := 0
	ports.Range(func(any, any) bool { n++; return true })
	if n < 19 {
		t.Errorf("20 queries from %d ports", n)
	}

	// A port where nobody listens refuses at once: no wait for a timeout.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	free, _ := net.ListenPacket("udp", "127.0.0.1:0")
	dead := free.LocalAddr().String()
	_ = free.Close()
	if err := dns.Dial(ctx, "udp", dead, []byte("x"), func([]byte) bool { return true }); err == nil || ctx.Err() != nil {
		t.Errorf("nobody there: %v", err)
	}
}

// dig is an independent reader of what the server writes.
func TestDig(t *testing.T) {
	path, err := exec.LookPath("dig")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("dig is missing: apt-get install dnsutils")
		}
		t.Skip("dig is not installed (apt-get install dnsutils)")
	}
	_, addr := serve(t, gateway(), func(_ context.Context, _, _ string, q []byte, fits func([]byte) bool) error {
		fits(resolver(q))
		return nil
	})
	_, port, _ := net.SplitHostPort(addr)
	for _, c := range []struct {
		args string
		want []string
	}{
		{"web.office.example A", []string{"status: NOERROR", "flags: qr aa rd ra", "10.20.0.10"}},
		{"web.office.example AAAA +tcp", []string{"status: NOERROR", "fd00:20::10"}},
		{"-x 10.20.0.10", []string{"status: NOERROR", "web.office.example."}},
		{"-x fd00:20::10", []string{"status: NOERROR", "web.office.example."}},
		{"nobody.office.example A", []string{"status: NXDOMAIN", "SOA"}},
		{"web.office.example MX", []string{"status: NOERROR", "ANSWER: 0", "SOA"}},
		{"example.org A +dnssec", []string{"status: NOERROR", "flags: qr rd ra", "do; udp: 1232", "93.184.216.34"}},
		{"example.org A +norecurse", []string{"status: REFUSED"}},
		{"web. A +noedns", []string{"10.20.0.10"}},
		{"web. A +edns=1 +noednsneg", []string{"status: BADVERS"}},
	} {
		args := append([]string{"@127.0.0.1", "-p", port, "+tries=1", "+time=5"}, strings.Fields(c.args)...)
		out, err := exec.Command(path, args...).CombinedOutput()
		if err != nil {
			t.Errorf("dig %s: %v\n%s", c.args, err, out)
		}
		for _, w := range append(c.want, "SERVER: 127.0.0.1") {
			if !strings.Contains(string(out), w) {
				t.Errorf("dig %s: no %q in\n%s", c.args, w, out)
			}
		}
		for _, w := range []string{"WARNING", "malformed", "mismatch"} {
			if strings.Contains(string(out), w) {
				t.Errorf("dig %s complains:\n%s", c.args, out)
			}
		}
	}
}
