package e2e

import (
	be "encoding/binary"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"brane/client"
	"brane/frame"
)

// canaryPort is where the canaries sit.
const canaryPort = 5432

// forms are ways to write the host, its loopback, link-local and metadata
// addresses. The first are what resolvers make addresses of; those with %eth0
// are for a neighbour. GW4, GW6 and HL stand for the gateway's addresses and the
// host's link-local address.
var forms = strings.Fields(`
	localhost 0 127.1 0x7f.1 017700000001 2130706433 0x7f000001 127.0.0.1 127.0.0.2 127.0.1.1 127.1.2.3 127.255.255.254
	0.0.0.0 0.0.0.1 0.1.2.3 0.255.255.255
	169.254.0.1 169.254.1.1 169.254.169.253 169.254.169.254 169.254.170.2 169.254.255.254
	100.100.100.200 168.63.129.16 192.0.0.192 240.0.0.1 255.255.255.254
	GW4 GW6 198.51.100.2 2001:db8:51::2 HL%eth0 fe80::1%eth0 fe80::a9fe:a9fe%eth0
	::1 :: ::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:0.0.0.0 ::ffff:169.254.169.254 ::ffff:198.51.100.2 ::ffff:GW4
	::127.0.0.1 ::198.51.100.2 ::169.254.169.254 ::ffff:0:127.0.0.1 ::ffff:0:198.51.100.2 ::ffff:0:169.254.169.254
	64:ff9b::127.0.0.1 64:ff9b::0.0.0.0 64:ff9b::169.254.169.254 64:ff9b::198.51.100.2 64:ff9b::GW4 64:ff9b::100.100.100.200 64:ff9b:1::127.0.0.1 64:ff9b:1::198.51.100.2
	2002:7f00:1:: 2002:7f00:1::1 2002:a9fe:a9fe::1 2002:c633:6402::1 2002::1
	2001:0:7f00:1:: 2001:0:c633:6402::1 2001:0:cb00:7101::80ff:fffe 2001:0:cb00:7101::5601:5601
	2001:db8:99::5efe:7f00:1 2001:db8:99::200:5efe:198.51.100.2 2001:db8:99::5efe:a9fe:a9fe
	fec0::1 fd00:ec2::254 fd20:ce::254 fd00:c1::a9fe:a9fe fd00:42::42`)

// reacher tries every form by TCP, UDP and ICMP echo, as any program would.
const reacher = `import concurrent.futures as f,json,socket,sys,time
port=int(sys.argv[1])
def addr(form):
    i=socket.getaddrinfo(form,port,type=socket.SOCK_STREAM)[0]
    return i[0],i[4]
def attempt(job):
    form,proto=job
    start=time.monotonic(); got=""; s=None
    try:
        fam,to=addr(form)
        six=fam==socket.AF_INET6
        if proto=="icmp":
            s=socket.socket(fam,socket.SOCK_DGRAM,58 if six else 1)
            s.setsockopt(41 if six else 0,25 if six else 11,1)
        else: s=socket.socket(fam,socket.SOCK_STREAM if proto=="tcp" else socket.SOCK_DGRAM)
        s.settimeout(1.5)
        s.connect(to)
        if proto=="udp": s.send(b"canary")
        if proto=="icmp": s.send(bytes([128 if six else 8,0,0,0,0,0,0,1])+b"canary")
        got=s.recv(100).decode("latin1")
    except socket.timeout: got="hang"
    except OSError as e: got="error "+str(e)
    finally:
        if s: s.close()
    return {"form":form,"proto":proto,"got":got,"ms":int(1000*(time.monotonic()-start))}
jobs=[(x,p) for x in sys.argv[2:] for p in ("tcp","udp","icmp")]
def paced(job): # a port is told of 500 refusals a second, no more
    time.sleep(.004)
    return pool.submit(attempt,job)
with f.ThreadPoolExecutor(24) as pool: print(json.dumps([x.result() for x in [paced(j) for j in jobs]]))
`

// try is one result of the reacher.
type try struct {
	Form, Proto, Got string
	MS               int
}

// reach runs the reacher in a brane.
func (w *world) reach(port int, forms []string, flags ...string) []try {
	w.t.Helper()
	args := append([]string{"run", "-n", "office"}, flags...)
	args = append(args, "--", "/usr/bin/python3", w.file("reacher.py", reacher), itoa(port))
	var out []try
	if err := json.Unmarshal([]byte(w.ok(append(args, forms...)...)), &out); err != nil || len(out) != 3*len(forms) {
		w.t.Fatalf("reacher: %v, %d results", err, len(out))
	}
	return out
}

// canaries write down who came: the local address of each connection and datagram.
type canaries struct {
	mu   sync.Mutex
	seen []string
}

func (c *canaries) note(where string, a net.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, where+" "+a.Network()+" "+a.String())
}

// take gives what was seen since the last time.
func (c *canaries) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.seen
	c.seen = nil
	return out
}

// sit puts canaries on every address of a namespace.
func (c *canaries) sit(w *world, ns string, port int) {
	w.t.Helper()
	w.in(ns, func() error {
		l, err := net.Listen("tcp", ":"+itoa(port))
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", ":"+itoa(port))
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { _, _ = l.Close(), u.Close() })
		where := map[string]string{w.host: "host", w.outside: "outside"}[ns]
		go func() {
			for {
				x, err := l.Accept()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					c.note(where, x.LocalAddr())
					_, _ = x.Write([]byte(where))
					_ = x.Close()
				}
			}
		}()
		go func() {
			b := make([]byte, 100)
			for {
				_, from, err := u.ReadFrom(b)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					c.note(where, u.LocalAddr())
					_, _ = u.WriteTo([]byte(where), from)
				}
			}
		}()
		return nil
	})
}

// echoes is how many echo requests the kernel of a namespace was asked, in both families.
func (w *world) echoes(ns string) int {
	w.t.Helper()
	out := w.must("ip", "netns", "exec", ns, "sh", "-c", `awk '/^Icmp:/{n++; if(n==1){for(i=1;i<=NF;i++)if($i=="InEchos")k=i}else print $k}' /proc/net/snmp; awk '$1=="Icmp6InEchos"{print $2}' /proc/net/snmp6`)
	total := 0
	for _, f := range strings.Fields(out) {
		n, err := strconv.Atoi(f)
		if err != nil {
			w.t.Fatalf("echo counters: %q", out)
		}
		total += n
	}
	return total
}

// addressed gives the forms with their placeholders filled.
func (w *world) addressed() []string {
	link := w.must("ip", "-n", w.host, "-o", "-6", "addr", "show", "dev", "eth0", "scope", "link")
	r := strings.NewReplacer("GW4", "10.20.0.1", "GW6", "fd00:20::1", "HL", strings.Split(strings.Fields(link)[3], "/")[0])
	out := make([]string, len(forms))
	for i, f := range forms {
		out[i] = r.Replace(f)
	}
	return out
}

// TestReach: no way of writing the host's addresses, loopback, link-local or
// metadata reaches a canary there, and none hangs. "Outside" answers for every
// address of the world, so that what slips through the gateway is seen.
func TestReach(t *testing.T) {
	as(t, func(w *world) {
		for _, family := range []string{"-4", "-6"} {
			w.must("ip", "-n", w.outside, family, "route", "add", "local", "default", "dev", "lo", "table", "main")
		}
		var c canaries
		c.sit(w, w.host, canaryPort)
		c.sit(w, w.host, canaryPort+1)
		c.sit(w, w.outside, canaryPort)
		w.ok("up", w.file("office.xml", officeXML))
		all := w.addressed()
		if len(all) < 60 {
			w.t.Fatalf("only %d forms", len(all))
		}
		onHost, outside := w.echoes(w.host), w.echoes(w.outside)
		for _, flags := range [][]string{nil, {"--as-root"}} {
			for _, x := range w.reach(canaryPort, all, flags...) {
				if x.Got == "host" || x.Got == "outside" {
					w.t.Errorf("%v: %s by %s: the canary answered", flags, x.Form, x.Proto)
				}
				if x.Got == "" || x.MS > 1000 && !strings.HasSuffix(x.Form, "%eth0") { // neighbours that nobody is are asked for 3 s
					w.t.Errorf("%v: %s by %s: %q after %d ms", flags, x.Form, x.Proto, x.Got, x.MS)
				}
			}
		}
		w.rawReach(all)
		if seen := c.take(); len(seen) > 0 {
			w.t.Errorf("%d reached canaries: %q", len(seen), seen)
		}
		if h, o := w.echoes(w.host)-onHost, w.echoes(w.outside)-outside; h+o != 0 {
			w.t.Errorf("%d echo requests reached the host, %d the outside", h, o)
		}
		w.reachTwins(&c)
	})
}

// rawReach sends the same by frames to the gateway, past the guest's kernel.
// What may be answered at all (RFC 1122 section 3.2.2) is answered at once.
func (w *world) rawReach(forms []string) {
	w.t.Helper()
	a := w.open(client.OpenRequest{Device: "office/raw"})
	gw := frame.DeriveMAC("office", "gateway")
	sent := uint64(0)
	for _, f := range forms {
		to, err := netip.ParseAddr(strings.TrimSuffix(f, "%eth0"))
		if err != nil {
			continue // a form for resolvers; its address is among the others
		}
		from := a.addr4()
		if to.Is6() {
			from = a.addr6()
		}
		for proto, b := range knocks(a, gw, from, to) {
			speaker := answerer(to)
			answered := !speaker.IsValid()
			for tries := 0; tries == 0 || !answered && tries < 2; tries++ { // answers are bounded: after many at once comes one only each 2 ms
				a.send(b)
				sent++
				answered = answered || a.next(500*time.Millisecond, func(q *frame.Packet) bool { return q.Source() == speaker && q.Dst == a.mac() }) != nil
			}
			if !answered {
				w.t.Errorf("%s by %s, raw: no answer", to, proto)
			}
		}
	}
	var counted map[string]uint64
	w.until("verdicts on all frames", func() bool { counted = w.port(a.reply.Port).From; return sum(counted) >= sent })
	if sum(counted) != sent || counted["host"] == 0 || w.reasons("office/raw")["host"] == 0 {
		w.t.Errorf("%d frames sent, counted %v", sent, counted)
	}
}

// knocks are a connection, a datagram and an echo request to an address.
func knocks(a *tap, gw frame.MAC, from, to netip.Addr) map[string][]byte {
	echo, via := uint8(8), to
	if to.Is6() {
		echo = 128
	}
	if to.Is4In6() {
		via = netip.MustParseAddr("2001:db8::1") // the builder knows mapped addresses as IPv4
	}
	x, y := netip.AddrPortFrom(from, 999), netip.AddrPortFrom(via, canaryPort)
	out := map[string][]byte{
		"tcp":  frame.AppendTCP(nil, a.mac(), gw, x, y, frame.TCP{Seq: 1, Flags: frame.SYN, Window: 1024}, nil),
		"udp":  frame.AppendUDP(nil, a.mac(), gw, x, y, []byte("canary")),
		"icmp": frame.AppendICMP(nil, a.mac(), gw, from, via, echo, 0, []byte{0, 9, 0, 1}),
	}
	for proto, b := range out {
		if via != to {
			mapped := to.As16()
			copy(b[frame.EthernetLen+24:], mapped[:])
			field := b[frame.EthernetLen+40+map[string]int{"tcp": 16, "udp": 6, "icmp": 2}[proto]:][:2]
			field[0], field[1] = 0, 0
			var p frame.Packet
			p.Parse(b)
			be.BigEndian.PutUint16(field, frame.Sum(b[p.L4:], p.PseudoSum(len(b)-p.L4)))
		}
	}
	return out
}

// answerer is the address that a refusal comes from: the one asked for, the
// dummy address (RFC 7600) for what no station may have; invalid where no answer may be.
func answerer(a netip.Addr) netip.Addr {
	switch {
	case a.IsUnspecified() || a.Is4In6() || a == netip.IPv6Loopback():
		return netip.Addr{}
	case a.Is4() && (a.As4()[0] == 0 || a.IsLoopback() || a.As4()[0] >= 240):
		return netip.MustParseAddr("192.0.0.8")
	}
	return a
}

// reachTwins: what is not the host's is reached by all three, the canaries do
// see who comes, and --allow-host opens one port.
func (w *world) reachTwins(c *canaries) {
	w.t.Helper()
	far := []string{outsideAddr, outsideAddr6, "203.0.113.9", "64:ff9b::203.0.113.9", "2002:cb00:7109::1"}
	before := w.echoes(w.outside)
	for _, x := range w.reach(canaryPort, far) {
		own := x.Form == outsideAddr || x.Form == outsideAddr6 // the datagram canary answers with this address
		if x.Proto == "tcp" && x.Got != "outside" || x.Proto == "udp" && own && x.Got != "outside" ||
			strings.HasPrefix(x.Got, "error") || x.Got == "hang" && (own || x.Proto != "udp") {
			w.t.Errorf("%s by %s: %q", x.Form, x.Proto, x.Got)
		}
	}
	if seen := c.take(); len(seen) != 2*len(far) || w.echoes(w.outside)-before != len(far) {
		w.t.Errorf("of %d outside came %d echoes and %q", len(far), w.echoes(w.outside)-before, seen)
	}
	allow := []string{"--allow-host", itoa(canaryPort)}
	gateways := []string{"10.20.0.1", "fd00:20::1"}
	for _, x := range w.reach(canaryPort, gateways, allow...) {
		if x.Proto != "icmp" && x.Got != "host" {
			w.t.Errorf("--allow-host: %s by %s: %q", x.Form, x.Proto, x.Got)
		}
	}
	if seen := c.take(); len(seen) != 4 {
		w.t.Errorf("--allow-host: the canaries saw %q", seen)
	}
	for _, x := range w.reach(canaryPort+1, gateways, allow...) {
		if x.Proto != "icmp" && (!strings.HasPrefix(x.Got, "error") || x.MS > 1000) {
			w.t.Errorf("--allow-host opens another port: %s by %s: %q after %d ms", x.Form, x.Proto, x.Got, x.MS)
		}
	}
	for _, x := range w.reach(canaryPort, []string{"169.254.169.254", "127.0.0.1", "64:ff9b::127.0.0.1", "fd00:ec2::254"}, allow...) {
		if x.Got == "host" || x.Got == "outside" {
			w.t.Errorf("--allow-host opens %s by %s", x.Form, x.Proto)
		}
	}
	if seen := c.take(); len(seen) != 0 {
		w.t.Errorf("--allow-host opens more than one port: %q", seen)
	}
	w.abstract()
}

// abstract: sockets of the host without a path are not those of a brane; outside they answer.
func (w *world) abstract() {
	w.t.Helper()
	name := "@brane-reach-" + filepath.Base(w.dir)
	came := make(chan struct{}, 8)
	w.in(w.host, func() error {
		l, err := net.Listen("unix", name)
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				x, err := l.Accept()
				if err != nil {
					return
				}
				_ = x.Close()
				came <- struct{}{}
			}
		}()
		return nil
	})
	program := []string{"/usr/bin/python3", "-c", "import socket; s=socket.socket(socket.AF_UNIX); s.connect('\\0" + name[1:] + "')"}
	for _, flags := range [][]string{{"run"}, {"run", "--as-root"}} {
		if r := w.run(append(append(flags, "--"), program...)...); r.code == 0 || len(came) > 0 {
			w.t.Errorf("%v reached an abstract socket of the host", flags)
		}
	}
	if out, err := w.cmd(program...).CombinedOutput(); err != nil {
		w.t.Errorf("outside, the abstract socket does not answer: %v %s", err, out)
	}
	<-came
}
