package e2e

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"brane/client"
	"brane/frame"
)

// listener counts what arrives at a port, until the port is closed.
type listener struct {
	unicast, group, foreign atomic.Int64
	done                    chan struct{}
}

// listen reads a port to its end. Frames with the mark are told apart by their destination.
func (p *tap) listen(ours func(*frame.Packet) bool) *listener {
	l := &listener{done: make(chan struct{})}
	zero := syscall.Timeval{}
	_ = syscall.SetsockoptTimeval(p.fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &zero)
	fd := p.fd
	go func() {
		defer close(l.done)
		buf := make([]byte, 65536)
		for {
			n, err := syscall.Read(fd, buf)
			if err == syscall.EINTR {
				continue
			}
			if err != nil || n == 0 {
				return
			}
			var q frame.Packet
			q.Parse(buf[:n])
			switch {
			case ours(&q):
				l.unicast.Add(1)
			case !bytes.Contains(q.Frame, []byte(mark)):
			case q.Dst.IsMulticast():
				l.group.Add(1)
			default:
				l.foreign.Add(1)
			}
		}
	}()
	return l
}

// stop ends the reader, and with it the port.
func (p *tap) stop(l *listener) {
	_ = syscall.Shutdown(p.fd, syscall.SHUT_RDWR)
	<-l.done
}

// TestFlood: addresses by the thousand take nothing away from the victim: what
// is for the spectator arrives there, and none of it at the attacker.
func TestFlood(t *testing.T) {
	as(t, func(w *world) {
		c := w.scene()
		const honest = 300
		word := "for the spectator"
		atA := c.a.listen(has(word))
		atS := c.s.listen(has(word))
		n := sample(10_000, 100_000)
		for i := range n {
			src, dst := c.anyMAC(), c.anyMAC()
			if i%2 == 0 {
				src = c.s.mac() // theft
			}
			c.a.send(datagram(src, dst, c.a.addr4(), c.v.addr4(), 9, 9))
			c.a.send(c.spoof(i))
			if i%(n/honest) == 0 {
				c.v.send(udp(c.v, c.s, 7, word))
			}
		}
		sent := int64((n + n/honest - 1) / (n / honest))
		w.until("all frames for the spectator", func() bool { return atS.unicast.Load() == sent })
		if len(c.quiet(nil, c.v)) > 0 {
			w.t.Error("hostile frames arrived at the victim")
		}
		if got := atA.unicast.Load() + atA.foreign.Load(); got != 0 {
			w.t.Errorf("%d frames of others at the attacker", got)
		}
		if got := atS.foreign.Load() + atS.group.Load(); got != 0 {
			w.t.Errorf("%d hostile frames at the spectator", got)
		}
		from := w.port(c.a.reply.Port).From
		if sum(from) != uint64(2*n+1) || from["delivered"] != 1 {
			w.t.Errorf("%d frames sent, counted %v", 2*n+1, from)
		}
		for _, mac := range []string{c.s.reply.MAC, frame.DeriveMAC("office", "gateway").String()} {
			r := client.OpenRequest{Op: "open", Device: "office/thief", MAC: mac}
			if _, err := w.dial(r); err == nil {
				w.t.Errorf("a port with the address %s of another was opened", mac)
			}
		}
		c.a.stop(atA)
		c.s.stop(atS)
	})
}

// floodRate is what a port may send to groups, in frames a second, with a
// second's worth at once.
const floodRate = 1000

// TestStorm: of a storm of broadcasts the victim hears the documented rate,
// and what a third port sends arrives meanwhile.
func TestStorm(t *testing.T) {
	as(t, func(w *world) {
		c := w.scene()
		const word, honest = "through the storm", 200
		atV := c.v.listen(has(word))
		storm := datagram(c.a.mac(), frame.Broadcast(), c.a.addr4(), netip.MustParseAddr("10.20.0.255"), 9, 9)
		n, start := sample(20_000, 1_000_000), time.Now()
		for i := range n {
			c.a.send(storm)
			if i%(n/honest) == 0 {
				c.s.send(udp(c.s, c.v, 7, word))
			}
		}
		// A victim that reads too slowly on a busy machine loses to its own full queue.
		w.until("honest frames through the storm", func() bool {
			full := int64(w.port(c.v.reply.Port).To["queue-full"])
			return atV.unicast.Load() >= honest*9/10 && atV.unicast.Load()+full >= honest
		})
		w.until("verdicts on all frames", func() bool { return sum(w.port(c.a.reply.Port).From) >= uint64(n) })
		most := floodRate + int64(time.Since(start).Seconds()*floodRate) + 1
		got := atV.group.Load()
		if got > most {
			w.t.Errorf("%d broadcasts arrived, the rate allows %d", got, most)
		}
		from := w.port(c.a.reply.Port).From
		if got < floodRate/2 || int64(from["delivered"]) < got || from["rate"]+from["delivered"] != uint64(n) {
			w.t.Errorf("%d of %d broadcasts arrived; counted %v", got, n, from)
		}
		if w.reasons("office/a")["rate"] == 0 {
			w.t.Error("why does not name the rate")
		}
		c.v.stop(atV)
	})
}

// TestLengths: each length that an honest frame can have arrives as it was
// sent, no byte more; of longer and shorter ones nothing does; and bytes that went
// through the same buffers before are never seen.
func TestLengths(t *testing.T) {
	as(t, func(w *world) {
		c := w.scene()
		const canary = "CANARY--"
		long := udp(c.a, c.s, 9, strings.Repeat(canary, 180))
		step := sample(37, 1)
		for n := 0; n <= 1472; n += step {
			c.a.send(long)
			b := udp(c.a, c.v, 9, strings.Repeat("y", n))
			c.a.send(b)
			got := c.v.next(soon, func(q *frame.Packet) bool { return q.Src == c.a.mac() })
			if !bytes.Equal(got, b) {
				w.t.Fatalf("%d bytes sent, %d arrived: %x", len(b), len(got), got)
			}
		}
		hostile := map[string]bool{}
		template := udp(c.a, c.v, 9, "")
		for n := 1; n <= 65535; n += 1 + c.rng.IntN(sample(600, 3)) {
			if n == len(template) {
				continue
			}
			b := make([]byte, n)
			copy(b, template)
			if n > len(template) && n <= 1522 {
				b[17]++ // an IP length that contradicts the UDP length, with padding
				b[14+20+4] = 0xff
			}
			c.a.send(long)
			c.a.send(b)
			hostile[string(b)] = n < len(template) || n > 1522
		}
		seen := func(q *frame.Packet) bool {
			if bytes.Contains(q.Frame, []byte(canary)) {
				w.t.Errorf("bytes of another frame arrived: %x", q.Frame)
			}
			if hostile[string(q.Frame)] {
				w.t.Errorf("a frame of %d bytes arrived", len(q.Frame))
			}
			return bytes.Contains(q.Frame, []byte("the end"))
		}
		c.a.send(udp(c.a, c.v, 7, "the end"))
		if c.v.next(soon, seen) == nil {
			w.t.Error("an honest frame did not arrive after the others")
		}
		// An empty message ends the port it comes from, and that one only.
		mute := w.open(client.OpenRequest{Device: "office/mute"})
		if _, err := syscall.Write(mute.fd, nil); err != nil {
			w.t.Fatal(err)
		}
		if !barrier(c.a, c.v, "") {
			w.t.Error("an empty message of another port disturbed the victim")
		}
	})
}

// header is a virtio-net header as 12 bytes: flags, type, header length, size
// of segments, start and offset of the checksum, buffers.
func header(flags, kind uint8, rest ...uint16) []byte {
	b := []byte{flags, kind}
	for _, x := range rest {
		b = append(b, byte(x), byte(x>>8))
	}
	return b
}

var warning = regexp.MustCompile(`(?i)WARNING:|BUG:|skb_|bad gso|hw csum failure|Call Trace`)

func warnings(t testing.TB) int {
	t.Helper()
	out, err := exec.Command("dmesg").Output()
	if err != nil {
		t.Fatal(err)
	}
	return len(warning.FindAll(out, -1))
}

// TestVnetHeaders: headers that contradict the frame are refused, those that
// do not are delivered as frames of their own; a kernel that gets what is delivered does not complain.
func TestVnetHeaders(t *testing.T) {
	as(t, func(w *world) {
		before := warnings(w.t)
		c := w.scene()
		a := w.open(client.OpenRequest{Device: "office/x", Vnet: true})
		kernel := w.shell("kernel")
		peer := kernel.station("kernel")
		edge := []uint16{0, 1, 13, 14, 33, 34, 35, 42, 53, 54, 55, 1500, 65535}
		four := frame.AppendTCP(nil, a.mac(), peer.mac, netip.AddrPortFrom(a.addr4(), 9), netip.AddrPortFrom(peer.addr4, 9), frame.TCP{Flags: frame.ACK, Window: 1}, bytes.Repeat([]byte(mark), 400))
		small := datagram(a.mac(), peer.mac, a.addr4(), peer.addr4, 9, 9)
		n := 0
		send := func(h, b []byte) { a.send(append(slices.Clone(h), b...)); n++ }
		types := []uint8{0, 1, 2, 3, 4, 5, 6, 0x7f, 0x80, 0x81, 0x84, 0x85, 0xff}
		for _, kind := range types {
			for _, size := range []uint16{0, 1, 7, 8, 100, 1460, 65535} {
				for _, start := range edge {
					for _, flags := range []uint8{0, 1, 2, 3, 4, 0xff} {
						h := header(flags, kind, edge[c.rng.IntN(len(edge))], size, start, edge[c.rng.IntN(len(edge))], edge[c.rng.IntN(len(edge))])
						send(h, four)
						send(h, small)
					}
				}
			}
		}
		for i := range frame.VnetLen {
			send(make([]byte, i+1), nil)
		}
		// The twins: a plain frame, and a superframe that the kernel takes in pieces or whole.
		send(make([]byte, 12), udpTo(a, peer, "plain"))
		send(header(1, 1, 54, 1460, 34, 16, 0), four)
		from := map[string]uint64{}
		w.until("verdicts on all frames", func() bool { from = w.port(a.reply.Port).From; return sum(from) >= uint64(n) })
		if sum(from) != uint64(n) || from["vnet-header"] == 0 || from["delivered"] < 2 || from["internal"] != 0 {
			w.t.Errorf("%d frames sent, counted %v", n, from)
		}
		if w.reasons("office/x")["vnet-header"] == 0 {
			w.t.Error("why does not name vnet-header")
		}
		if got := kernel.ask("ping -c1 -W2 10.20.0.1"); !strings.Contains(got, "1 received") {
			w.t.Errorf("the brane that got them does not go on: %s", got)
		}
		if after := warnings(w.t); after > before {
			w.t.Errorf("the kernel warned: %d lines before, %d after", before, after)
		}
		w.t.Logf("%d headers, counted %v", n, from)
	})
}

func udpTo(a *tap, to station, word string) []byte {
	return frame.AppendUDP(nil, a.mac(), to.mac, netip.AddrPortFrom(a.addr4(), 999), netip.AddrPortFrom(to.addr4, 9), []byte(word))
}

// spoofing opens ports one after the other, and sends forged frames behind the
// request without waiting for the answer; the last frame of each is honest.
const spoofing = `import json,socket,sys
path,template,n,script=sys.argv[1],bytes.fromhex(sys.argv[2]),int(sys.argv[3]),None
for i in range(n):
    s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)
    s.connect(path)
    s.send(json.dumps({"op":"open","device":"office/n%d"%i}).encode())
    for k in range(100): s.send(template[:6]+bytes([2,0,i,k,0,1])+template[12:])
    r=json.loads(s.recv(65536))
    if r.get("error"): sys.exit(str(r["error"]))
    mac=bytes.fromhex(r["mac"].replace(":",""))
    for k in range(100): s.send(template[:6]+mac+template[12:])
    arp=template[:6]+mac+bytes.fromhex("0806000108000604")+b"\0\1"+mac+socket.inet_aton([a for a in r["addresses"] if "." in a][0].split("/")[0])+bytes(6)+socket.inet_aton(sys.argv[4])
    s.send(arp)
    print(mac.hex(),flush=True)
    s.close()
`

// TestPolicyBeforeLink: 50 ports whose clients send forged frames before they
// know that the port is open, and after: none arrives. An honest one of each does.
func TestPolicyBeforeLink(t *testing.T) {
	as(t, func(w *world) {
		c := w.scene()
		ports := sample(50, 1000)
		template := datagram(c.v.mac(), c.v.mac(), c.s.addr4(), c.v.addr4(), 9, 9)
		honest := map[frame.MAC]bool{}
		cmd := w.cmd("/usr/bin/python3", "-c", spoofing, filepath.Join(w.dir, "run", "brane", "device.sock"), hex.EncodeToString(template), itoa(ports), c.v.addr4().String())
		cmd.Stderr = os.Stderr
		out := make(chan error, 1)
		go func() { _, err := cmd.Output(); out <- err }()
		for len(honest) < ports {
			if c.v.next(10*time.Second, func(q *frame.Packet) bool {
				if bytes.Contains(q.Frame, []byte(mark)) {
					w.t.Errorf("a forged frame arrived: %x", q.Frame)
				}
				if q.Type == frame.TypeARP && q.Src != c.gw {
					honest[q.Src] = true
					return true
				}
				return false
			}) == nil {
				w.t.Fatalf("the honest frames of %d of %d ports arrived", len(honest), ports)
			}
		}
		if err := <-out; err != nil {
			w.t.Fatal(err)
		}
	})
}
