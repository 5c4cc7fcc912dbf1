package datapathtest

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"brane/frame"
	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/plan"
	"brane/internal/verdict"
)

// testNested plugs a second mux into a port of the first.
func testNested(t *testing.T, open Open, kind datapath.Kind) {
	plug := Interface(2, 2)
	plug.Learn = 8
	upper := Lan(Interface(1, 1), plug, Uplink(3))
	w := NewWorld(t, open, kind, upper)
	delete(w.Clients, 2)
	upper = Lan(upper.Ports[0], upper.Ports[2]) // port 2 ends: another takes its place
	w.Apply(upper)
	plug.ID, plug.Reject = 12, true
	plug.Send = []plan.Filter{{Owner: "house", Rule: "not udp port 7777"}}
	upper = Lan(upper.Ports[0], plug, upper.Ports[1])
	w.Apply(upper)

	inner := Interface(21, 21)
	inner.Device = "in/a"
	up := plan.Port{
		ID: 22, Device: "in/up", Role: plan.Uplink, MTU: 1500, To: 12,
		Send: []plan.Filter{{Owner: "in", Rule: "not udp port 6000"}}, Receive: []plan.Filter{{Owner: "in", Rule: "not tcp port 25"}},
	}
	lower := &plan.Mux{Name: "in", MTU: 1500, Ports: []plan.Port{inner, up}}
	if err := w.Path.Apply(lower); err != nil {
		t.Fatal(err)
	}
	c := Dial(t, w.Path, "in", 21, kind)

	send := w.sendOn
	if r := send(c, "in", UDP(21, 1)); r != verdict.Delivered {
		t.Errorf("up: %v", r)
	}
	w.Clients[1].Recv()
	if r := send(w.Clients[1], Name, UDP(1, 21)); r != verdict.Delivered {
		t.Errorf("down: %v", r)
	}
	c.Recv()
	if n := CountersOf(t, w.Path, Name, 12).Learned; n != 1 {
		t.Errorf("%d addresses learned behind the plug", n)
	}
	if r := send(c, "in", tcp(21, 1, 25, frame.TCP{Flags: frame.SYN})); r != verdict.ReceiveFilter {
		t.Errorf("refused on the way up: %v", r)
	}
	if n := CountersOf(t, w.Path, "in", 22).To[verdict.ReceiveFilter]; n != 1 {
		t.Errorf("the uplink's filter refused %d", n)
	}
	refused := frame.AppendUDP(nil, MAC(21), MAC(1), netip.AddrPortFrom(IP(21), 1), netip.AddrPortFrom(IP(1), 7777), nil)
	if r := send(c, "in", refused); r != verdict.Delivered || CountersOf(t, w.Path, Name, 12).From[verdict.SendFilter] != 1 {
		t.Errorf("refused by the upper mux: %v", r)
	}
	if kind != datapath.Local {
		if _, b := c.Recv(); !bytes.Contains(b, refused[14:]) {
			t.Errorf("the answer of the upper mux: %x", b)
		}
	}
	checkLoop(t, w, upper, lower)
	_, e := Pair(t, kind)
	if err := w.Path.Attach(Name, 12, e); fault.KindOf(err) != fault.Busy {
		t.Errorf("a client on a port with a mux: %v", err)
	}
	if err := w.Path.Remove("in"); err != nil {
		t.Fatal(err)
	}
	if r := send(w.Clients[1], Name, UDP(1, 21)); r != verdict.Closed {
		t.Errorf("to a mux that is gone: %v", r)
	}
}

// sendOn is Send for a client on another mux.
func (w *World) sendOn(from *Client, mux string, b []byte) verdict.Reason {
	w.T.Helper()
	was := CountersOf(w.T, w.Path, mux, from.id).From
	from.Send(frame.Vnet{}, b)
	w.Await("a verdict", func() bool { return Sum(CountersOf(w.T, w.Path, mux, from.id).From) == Sum(was)+1 })
	for r, n := range CountersOf(w.T, w.Path, mux, from.id).From {
		if n != was[r] {
			return verdict.Reason(r)
		}
	}
	return verdict.Internal
}

// checkLoop holds that the upper mux cannot be plugged into the lower one.
func checkLoop(t *testing.T, w *World, upper, lower *plan.Mux) {
	t.Helper()
	wider := *lower
	wider.Ports = append(slices.Clone(lower.Ports), plan.Port{ID: 23, Device: "in/x", Role: plan.Interface, MAC: MAC(90), MTU: 1500})
	if err := w.Path.Apply(&wider); err != nil {
		t.Fatal(err)
	}
	bad := *upper
	bad.Ports = append(slices.Clone(upper.Ports), plan.Port{ID: 31, Device: "back", Role: plan.Uplink, MTU: 1500, To: 23})
	if err := w.Path.Apply(&bad); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a loop of muxes: %v", err)
	}
}

// testSums sends at random and adds up: each frame has one verdict at its
// sender and one at each candidate, bytes are those of the delivered frames.
func testSums(t *testing.T, open Open, kind datapath.Kind) {
	m := Lan(Interface(1, 1), Interface(2, 2), Interface(3, 2), Interface(4, 4), Uplink(5))
	m.Ports[0].Send = []plan.Filter{{Owner: "x", Rule: "not udp port 5000"}}
	m.Ports[3].Receive = []plan.Filter{{Owner: "x", Rule: "ip"}}
	m.Ports[0].FloodRate = 50
	m.Ports[4].FloodRate = plan.MaxFlood
	w := NewWorld(t, open, kind, m)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	stations := []int{1, 2, 2, 4, 77}
	sent := map[plan.PortID]uint64{}
	var offers uint64
	for range 3000 {
		from := rng.IntN(5)
		dst := []frame.MAC{MAC(1), MAC(2), MAC(4), MAC(55), frame.Broadcast(), {1, 0x80, 0xc2}}[rng.IntN(6)]
		b := Plain(MAC(stations[from]), dst, make([]byte, rng.IntN(200))...)
		if rng.IntN(2) == 0 {
			b = append(dst[:0:0], UDP(stations[from], 4)...)
			copy(b, dst[:])
		}
		id := m.Ports[from].ID
		before := candidates(w)
		r := w.Send(id, frame.Vnet{}, b)
		sent[id]++
		got := candidates(w) - before
		offers += got
		if r == verdict.Delivered && got == 0 || got != 0 && !atReceiver(r) {
			t.Fatalf("verdict %v with %d candidates", r, got)
		}
	}
	var from, to, fromBytes uint64
	for id, c := range w.Clients {
		x := w.Counters(id)
		if Sum(x.From) != sent[id] {
			t.Errorf("port %d: sent %d, verdicts %d", id, sent[id], Sum(x.From))
		}
		var bytes uint64
		for range x.To[verdict.Delivered] {
			_, b := c.Recv()
			bytes += uint64(len(b))
		}
		if bytes != x.ToBytes {
			t.Errorf("port %d: received %d bytes, counted %d", id, bytes, x.ToBytes)
		}
		from, to, fromBytes = from+Sum(x.From), to+Sum(x.To), fromBytes+x.FromBytes
	}
	if from != 3000 || to != offers || fromBytes == 0 {
		t.Errorf("%d verdicts for 3000 frames, %d for %d candidates", from, to, offers)
	}
}

func candidates(w *World) (n uint64) {
	for _, c := range w.Path.Counters(Name) {
		n += Sum(c.To)
	}
	return n
}

// atReceiver says whether a verdict is a receiver's.
func atReceiver(r verdict.Reason) bool {
	return r == verdict.Delivered || r == verdict.ReceiveFilter || r == verdict.Undecidable || r == verdict.QueueFull
}
