package datapathtest

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/netip"
	"strings"
	"testing"

	"brane/frame"
	"brane/internal/datapath"
	"brane/internal/plan"
	"brane/internal/verdict"
)

// tcp is a segment between two stations.
func tcp(src, dst int, port uint16, h frame.TCP, payload ...byte) []byte {
	return frame.AppendTCP(nil, MAC(src), MAC(dst),
		netip.AddrPortFrom(IP(src), 4000), netip.AddrPortFrom(IP(dst), port), h, payload)
}

// A refused sender is told at once, when the plan says so, and only then.
func testReject(t *testing.T, open Open, kind datapath.Kind) {
	loud, quiet := Interface(1, 1), Interface(2, 2)
	loud.Send = []plan.Filter{{Owner: "house", Rule: "not port 25"}}
	quiet.Send, loud.Reject = loud.Send, true
	w := NewWorld(t, open, kind, Lan(loud, quiet, Interface(3, 3)))
	for _, c := range []struct {
		b    []byte
		want string
	}{
		{tcp(1, 3, 25, frame.TCP{Flags: frame.SYN}), " tcp R"},
		{frame.AppendUDP(nil, MAC(1), MAC(3), netip.AddrPortFrom(IP(1), 9), netip.AddrPortFrom(IP(3), 25), nil), " icmp "},
	} {
		if r := w.Send(1, frame.Vnet{}, c.b); r != verdict.SendFilter {
			t.Fatal(r)
		}
		if kind == datapath.Local { // still inside its own Send, it gets no answer
			continue
		}
		_, got := w.Clients[1].Recv()
		var p frame.Packet
		p.Parse(got)
		if !strings.Contains(p.String(), c.want) || p.Dst != MAC(1) || !frame.Verify(&p) {
			t.Errorf("answer %q, want %q", p.String(), c.want)
		}
	}
	w.Check("no answer unless the plan says so", 2, tcp(2, 3, 25, frame.TCP{Flags: frame.SYN}), verdict.SendFilter)
	w.Check("what is allowed is not answered", 1, tcp(1, 3, 80, frame.TCP{Flags: frame.SYN}), verdict.Delivered, 3)
}

func testDrops(t *testing.T, open Open, kind datapath.Kind) {
	a, b := Interface(1, 1), Interface(2, 2)
	a.Send = []plan.Filter{{Owner: "uid:1", Rule: "ip"}, {Owner: "house", Rule: "not udp port 5000"}}
	b.Receive = []plan.Filter{{Owner: "uid:2", Rule: "not tcp port 80"}}
	w := NewWorld(t, open, kind, Lan(a, b))
	w.Send(1, frame.Vnet{}, UDP(1, 2))
	w.Send(1, frame.Vnet{}, tcp(1, 2, 80, frame.TCP{Flags: frame.SYN}))
	w.Send(1, frame.Vnet{}, tcp(1, 9, 81, frame.TCP{Flags: frame.SYN}))
	want := []datapath.Drop{
		{
			Seq: 1, Mux: Name, Port: 1, Reason: verdict.SendFilter, Rule: "not udp port 5000", Owner: "house",
			Frame: "10.0.0.1:4000 > 10.0.0.2:5000 udp",
		},
		{
			Seq: 2, Mux: Name, Port: 2, To: true, Reason: verdict.ReceiveFilter, Rule: "not tcp port 80", Owner: "uid:2",
			Frame: "10.0.0.1:4000 > 10.0.0.2:80 tcp S",
		},
		{Seq: 3, Mux: Name, Port: 1, Reason: verdict.NoReceiver, Frame: "10.0.0.1:4000 > 10.0.0.9:81 tcp S"},
	}
	got := w.Path.Drops(0)
	if len(got) != len(want) {
		t.Fatalf("%d drops, want %d: %v", len(got), len(want), got)
	}
	for i, d := range got {
		if d.Time.IsZero() || !strings.HasPrefix(d.Frame, want[i].Frame) {
			t.Errorf("drop %v", d)
		}
		d.Time, d.Frame = want[i].Time, want[i].Frame
		if d != want[i] {
			t.Errorf("drop %v, want %v", d, want[i])
		}
	}
	if later := w.Path.Drops(2); len(later) != 1 || later[0].Seq != 3 {
		t.Errorf("after 2: %v", later)
	}
	if none := w.Path.Drops(3); len(none) != 0 {
		t.Errorf("after the last: %v", none)
	}
	for range 3000 {
		w.Clients[1].Send(frame.Vnet{}, UDP(1, 2))
	}
	w.Await("all verdicts", func() bool { return Sum(w.Counters(1).From) == 3003 })
	if n := len(w.Path.Drops(0)); n > 1024 {
		t.Errorf("the ring holds %d", n)
	}
}

// Frames of every length are delivered as they are, or refused for their
// length; what other frames left behind in memory never shows.
func testLengths(t *testing.T, open Open, kind datapath.Kind) {
	w := NewWorld(t, open, kind, Lan(Interface(1, 1), Interface(2, 2)))
	long := bytes.Repeat([]byte{0xcc}, 65535)
	copy(long, Plain(MAC(1), MAC(2)))
	step, sent, runts, over := 1, uint64(0), uint64(0), uint64(0)
	if kind != datapath.Local {
		step = 61
	}
	for n := 65535; n >= 0; n-- {
		if n > 1600 && n%step != 0 || n < w.Clients[1].least() {
			continue
		}
		b := long[:n:n]
		w.Clients[1].Send(frame.Vnet{}, b)
		sent++
		switch {
		case n < frame.EthernetLen:
			runts++
		case n > frame.EthernetLen+1500:
			over++
		default:
			if _, got := w.Clients[2].Recv(); !bytes.Equal(got, b) {
				t.Fatalf("sent %d bytes, got %d: %x", n, len(got), got)
			}
			long[14+n%(n-13)] ^= byte(n) // the next one differs
		}
	}
	w.Await("all verdicts", func() bool { return Sum(w.Counters(1).From) == sent })
	if c := w.Counters(1).From; c[verdict.Runt] != runts || c[verdict.Oversize] != over || c[verdict.Delivered] != sent-runts-over {
		t.Errorf("of %d: %d runts (want %d), %d over (want %d), %d delivered", sent,
			c[verdict.Runt], runts, c[verdict.Oversize], over, c[verdict.Delivered])
	}
}

// Every corner of the virtio-net header on several frames: what is passed on
// is a header that belongs to the frame, and the receiver's kernel takes it.
func testHeaders(t *testing.T, open Open, kind datapath.Kind) {
	w := NewWorld(t, open, datapath.Local, Lan(Interface(1, 1), Interface(2, 2)))
	w.Apply(Lan(Interface(1, 1), Interface(2, 2), Interface(3, 2)))
	w.Attach(3, kind) // on the same device: it gets what port 2 gets, and is not read
	var p frame.Packet
	seen := 0
	for _, b := range [][]byte{
		tcp(1, 2, 80, frame.TCP{Flags: frame.ACK}, make([]byte, 4000)...),
		tcp(1, 2, 80, frame.TCP{Flags: frame.ACK}, 1),
		UDP(1, 2, make([]byte, 3000)...),
		UDP(1, 2),
		Plain(MAC(1), MAC(2), make([]byte, 100)...),
	} {
		for v := range corners {
			before := w.Counters(2).To[verdict.Delivered]
			w.Clients[1].Send(v, b)
			if w.Counters(2).To[verdict.Delivered] == before {
				continue
			}
			got, f := w.Clients[2].Recv()
			p.Parse(f)
			if again, ok := got.Check(&p); !ok || again != got {
				t.Fatalf("header %+v became %+v for %v", v, got, &p)
			}
			seen++
		}
	}
	to := w.Counters(3).To
	if to[verdict.Delivered]+to[verdict.QueueFull]+to[verdict.TooBig] != uint64(seen) {
		t.Errorf("a client of kind %s was given %d frames: %v", kind, seen, to)
	}
	from := w.Counters(1).From
	if seen == 0 || from[verdict.VnetHeader] == 0 || from[verdict.Delivered] != uint64(seen) {
		t.Errorf("%d delivered, counters %v", seen, from)
	}
}

// corners yields virtio-net headers with every field at its edges.
func corners(yield func(frame.Vnet) bool) {
	for _, flags := range []uint8{0, 1, 2, 3, 4, 0x80, 0xff} {
		for _, kind := range []uint8{0, 1, 3, 4, 5, 0x81, 0x85, 0xff} {
			for _, size := range []uint16{0, 1, 7, 8, 1400, 0xffff} {
				for _, start := range []uint16{0, 13, 14, 34, 54, 0xffff} {
					for _, offset := range []uint16{0, 6, 16, 0xffff} {
						for _, head := range []uint16{0, 54, 0xffff} {
							if !yield(frame.Vnet{
								Flags: flags, GSOType: kind, HdrLen: head, GSOSize: size,
								CsumStart: start, CsumOffset: offset, NumBuffers: head,
							}) {
								return
							}
						}
					}
				}
			}
		}
	}
}

// least is the length of the shortest frame that the client can send.
func (c *Client) least() int {
	switch {
	case c.kind == datapath.Local:
		return 0
	case c.isInterface():
		return frame.EthernetLen
	}
	return 1
}

// A client that does not read loses its own frames and holds up nobody. What
// it finds when it reads again are whole frames.
func testSlowReader(t *testing.T, open Open, kind datapath.Kind) {
	if kind == datapath.Local || kind == datapath.TAP || kind == datapath.Packet {
		return // Deliver may not block, by contract; a kernel takes what it is given, and drops
	}
	w := NewWorld(t, open, kind, Lan(Interface(1, 1), Interface(2, 2), Interface(3, 3)))
	sent := uint32(0)
	for w.Counters(2).To[verdict.QueueFull] == 0 && sent < 100_000 {
		sent++
		w.Send(1, frame.Vnet{}, Plain(MAC(1), MAC(2), binary.BigEndian.AppendUint32(make([]byte, 1000), sent)...))
	}
	if w.Counters(2).To[verdict.QueueFull] == 0 {
		t.Errorf("%d frames were taken for a client that does not read", sent)
	}
	w.Check("others go on", 1, Plain(MAC(1), MAC(3)), verdict.Delivered, 3)
	last := uint32(0)
	for range w.Counters(2).To[verdict.Delivered] {
		_, b := w.Clients[2].Recv()
		n := binary.BigEndian.Uint32(b[len(b)-4:])
		if len(b) != 14+1004 || n <= last || n > sent {
			t.Fatalf("frame %d of %d bytes after %d", n, len(b), last)
		}
		last = n
	}
	w.Await("room again", func() bool {
		return w.Send(1, frame.Vnet{}, Plain(MAC(1), MAC(2), 1)) == verdict.Delivered
	})
	if _, b := w.Clients[2].Recv(); !bytes.Equal(b, Plain(MAC(1), MAC(2), 1)) {
		t.Errorf("got %x", b)
	}
}

// A client that goes away is reported, and its port waits for another.
func testLife(t *testing.T, open Open, kind datapath.Kind) {
	w := NewWorld(t, open, kind, Lan(Interface(1, 1), Interface(2, 2), Interface(3, 3)))
	if kind != datapath.Local {
		w.Clients[2].Leave()
		w.Await("the news", func() bool {
			if kind == datapath.Dgram || kind == datapath.Packet { // only a write tells
				w.Send(1, frame.Vnet{}, UDP(1, 2))
			}
			return len(w.Closed) > 0
		})
		if id := <-w.Closed; id != 2 {
			t.Errorf("port %d closed", id)
		}
		delete(w.Clients, 2)
		w.Check("nobody is there", 1, UDP(1, 2), verdict.Closed)
		w.Attach(2, kind)
		w.Check("another is there", 1, UDP(1, 2), verdict.Delivered, 2)
	}
	gone := w.Clients[3]
	w.Apply(Lan(Interface(1, 1), Interface(2, 2)))
	delete(w.Clients, 3)
	w.Check("no such port", 1, UDP(1, 3), verdict.NoReceiver)
	checkGone(t, gone)
	if err := w.Path.Remove(Name); err != nil {
		t.Fatal(err)
	}
	checkGone(t, w.Clients[1])
	select {
	case id := <-w.Closed:
		t.Errorf("the end of port %d was reported, though the plan ended it", id)
	default:
	}
	if w.Path.Counters(Name) != nil {
		t.Error("a removed mux has counters")
	}
}

// checkGone holds that a client sees the end of its port.
func checkGone(t *testing.T, c *Client) {
	t.Helper()
	switch c.kind {
	case datapath.Local:
		if r := c.path.Send(c.mux, c.id, make([]byte, 100)); r != verdict.Closed {
			t.Errorf("send on a closed port: %v", r)
		}
	case datapath.Packet: // the interface is not the switch's
	case datapath.Dgram:
		for err := error(nil); err == nil; _, err = c.conn.Write([]byte{1}) {
		}
	default:
		var b [1]byte
		if _, err := c.conn.Read(b[:]); err != io.EOF && !strings.Contains(err.Error(), "reset") && !strings.Contains(err.Error(), "down") {
			t.Errorf("read on a closed port: %v", err)
		}
	}
}
