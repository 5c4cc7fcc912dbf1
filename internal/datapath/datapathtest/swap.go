package datapathtest

import (
	"encoding/binary"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"brane/frame"
	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/plan"
	"brane/internal/verdict"
)

// swaps is how many plans testSwap goes through: a sample, or with
// BRANE_TORTURE=1 all of them.
func swaps(kind datapath.Kind) int {
	switch {
	case os.Getenv("BRANE_TORTURE") == "1":
		return 10_000
	case kind == datapath.Local:
		return 1000
	}
	return 300
}

// rotation gives plan k. It lets pass port 5000, which all do, and 6000+k,
// which no other does; in every second one a further port is there.
func rotation(k int) *plan.Mux {
	rule := "udp port 5000 or udp port " + strconv.Itoa(6000+k)
	m := Lan(Interface(1, 1), Interface(2, 2), Interface(3, 3), Interface(4, 4), Interface(9, 9))
	m.Revision = int64(k)
	for i := range 4 {
		m.Ports[i].Send = []plan.Filter{{Owner: "house", Rule: rule}}
	}
	if k%2 == 1 {
		m.Ports = append(m.Ports, Interface(plan.PortID(100+k), 20))
	}
	return m
}

// flow is a sender of testSwap.
type flow struct {
	client *Client
	sent   uint64 // frames, all ports
	always uint64 // of those for port 5000
	err    error
}

// run sends frames to station 9 until stop, each with the number of plans that
// had been acknowledged when it was sent.
func (f *flow) run(stop *atomic.Bool, acked *atomic.Int64) {
	src := int(f.client.id)
	for n := 0; !stop.Load() && f.err == nil; n++ {
		now := uint16(acked.Load())
		port := [...]uint16{5000, 6000 + now, 5000, 6000 + now + 1, 5000, 6000 + now - 1}[n%6]
		if n%16 == 0 {
			runtime.Gosched() // one who sends all the time would keep Apply from running at all
		}
		stamp := binary.BigEndian.AppendUint16(nil, now)
		b := frame.AppendUDP(make([]byte, frame.VnetLen), MAC(src), MAC(9), netip.AddrPortFrom(IP(src), 1),
			netip.AddrPortFrom(IP(9), port), stamp)
		if f.err = f.client.TrySend(b); f.err != nil {
			return
		}
		f.sent++
		if port == 5000 {
			f.always++
		}
	}
}

// Plans are swapped under load: every frame is judged by the plan before or
// after the swap, none by one that was replaced before the frame was sent, and
// what all plans allow is never refused.
func testSwap(t *testing.T, open Open, kind datapath.Kind) {
	w := NewWorld(t, open, kind, rotation(0))
	var stop atomic.Bool
	var acked atomic.Int64
	var senders, reader sync.WaitGroup
	var flows []*flow
	for id := plan.PortID(1); id <= 4; id++ {
		for range 2 {
			f := &flow{client: w.Clients[id]}
			flows = append(flows, f)
			senders.Go(func() { f.run(&stop, &acked) })
		}
	}
	sink := &sink{client: w.Clients[9]}
	reader.Go(sink.run)
	// A busy machine may let no frame through between two swaps: go on until one has.
	for k := 1; k <= swaps(kind) || sink.met.Load() == 0 && k <= 50*swaps(kind); k++ {
		if err := w.Path.Apply(rotation(k)); err != nil {
			t.Error(err)
			break
		}
		acked.Store(int64(k))
		if k%2 == 1 {
			time.Sleep(10 * time.Microsecond) // so that some frames meet each plan
		}
	}
	stop.Store(true)
	senders.Wait()
	var sent, always uint64
	for _, f := range flows {
		if f.err != nil {
			t.Error(f.err)
		}
		sent, always = sent+f.sent, always+f.always
	}
	total := func() (from [verdict.Count]uint64) {
		for id := plan.PortID(1); id <= 4; id++ {
			for r, n := range w.Counters(id).From {
				from[r] += n
			}
		}
		return from
	}
	w.Await("all verdicts", func() bool { return Sum(total()) == sent })
	to := w.Counters(9).To
	w.Await("the delivered frames", func() bool { return sink.frames.Load() == to[verdict.Delivered] })
	from := total()
	sink.stop(w)
	reader.Wait()
	if sink.stale > 0 || sink.foreign > 0 {
		t.Errorf("%d frames were judged by a plan that was replaced, %d by none", sink.stale, sink.foreign)
	}
	if from[verdict.Delivered]+from[verdict.QueueFull]+from[verdict.SendFilter] != sent {
		t.Errorf("of %d frames, verdicts %v", sent, from)
	}
	if to[verdict.QueueFull] == 0 && sink.always != always || sink.always+to[verdict.QueueFull] < always {
		t.Errorf("%d of %d frames that every plan allows arrived, %d met a full queue", sink.always, always, to[verdict.QueueFull])
	}
	if sink.met.Load() == 0 {
		t.Error("no frame that one plan alone allows arrived")
	}
	t.Logf("%d swaps, %d frames, %d passed by one plan alone, %d queue full", swaps(kind), sent, sink.met.Load(), to[verdict.QueueFull])
}

// sink is the receiver of testSwap.
type sink struct {
	client  *Client
	frames  atomic.Uint64 // taken, the last one excluded
	always  uint64        // that every plan allows
	met     atomic.Uint64 // that one plan allows
	stale   uint64        // of those, judged by a plan that was replaced before they were sent
	foreign uint64        // none of the flows'
}

func (s *sink) run() {
	var p frame.Packet
	for {
		_, b, err := s.client.TryRecv(patience)
		if err != nil {
			s.foreign++
			return
		}
		p.Parse(b)
		_, port, _ := p.Ports()
		body := p.Payload()
		switch {
		case p.Type != frame.TypeIPv4: // the end
			return
		case port == 5000:
			s.always++
		case len(body) != 2:
			s.foreign++
		default:
			s.met.Add(1)
			if port-6000 < binary.BigEndian.Uint16(body) {
				s.stale++
			}
		}
		s.frames.Add(1)
	}
}

// stop ends the sink's reading by a frame that is none of the flows'.
func (s *sink) stop(w *World) {
	m := Lan(Interface(50, 50), Interface(9, 9))
	w.Apply(m)
	d := Dial(w.T, w.Path, Name, 50, datapath.Local)
	w.Clients[50] = d
	w.Judge("the last frame", 50, Plain(MAC(50), MAC(9)), verdict.Delivered)
}

// Judge sends a frame and holds it to its verdict only.
func (w *World) Judge(what string, from plan.PortID, b []byte, want verdict.Reason) {
	w.T.Helper()
	if r := w.Send(from, frame.Vnet{}, b); r != want {
		w.T.Errorf("%s: %v, want %v", what, r, want)
	}
}

// No frame passes a port before its policy is in force, in either direction,
// not even one that was waiting in the descriptor.
func testBeforePolicy(t *testing.T, open Open, kind datapath.Kind) {
	rounds := 100
	if kind == datapath.TAP || kind == datapath.Packet {
		rounds = 20 // an interface takes the kernel long to make
	}
	if os.Getenv("BRANE_TORTURE") == "1" {
		rounds = 1000
	}
	base := func() []plan.Port { return []plan.Port{Interface(1, 1), Interface(2, 2)} }
	w := NewWorld(t, open, kind, Lan(base()...))
	var stop atomic.Bool
	var noise sync.WaitGroup
	talker := w.Clients[1]
	noise.Go(func() { // somebody talks to the new station all the time
		b := append(make([]byte, frame.VnetLen), UDP(1, 3)...)
		for !stop.Load() {
			if talker.TrySend(b) != nil {
				return
			}
			time.Sleep(10 * time.Microsecond)
		}
	})
	defer noise.Wait()
	defer stop.Store(true)
	for n := range rounds {
		id := plan.PortID(1000 + n)
		early, e := Pair(t, kind)
		if err := w.Path.Attach(Name, id, e); fault.KindOf(err) != fault.NotFound {
			t.Fatalf("attach before the plan: %v", err)
		}
		_ = early
		p := Interface(id, 3)
		p.Send = []plan.Filter{{Owner: "house", Rule: "tcp port 1"}}
		p.Receive = p.Send
		c, e := Pair(t, kind)
		c.join(w.Path, Name, id)
		if c.conn != nil {
			for range 5 {
				c.Send(frame.Vnet{}, UDP(3, 2))
			}
		}
		w.Apply(Lan(append(base(), p)...))
		if err := w.Path.Attach(Name, id, e); err != nil {
			t.Fatal(err)
		}
		w.Clients[id] = c
		if c.conn != nil {
			w.Await("verdicts of what waited", func() bool { return w.Counters(id).From[verdict.SendFilter] == 5 })
		}
		if x := w.Counters(id); x.From[verdict.Delivered] != 0 || x.To[verdict.Delivered] != 0 {
			t.Fatalf("passed before policy: %v", x)
		}
		w.Apply(Lan(base()...))
		delete(w.Clients, id)
	}
	if n := w.Counters(2).To[verdict.Delivered]; n != 0 {
		t.Errorf("%d frames of new ports arrived", n)
	}
}
