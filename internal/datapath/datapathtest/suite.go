package datapathtest

import (
	"encoding/binary"
	"testing"
	"time"

	"brane/frame"
	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/plan"
	"brane/internal/verdict"
)

// Kinds are those that need no privilege.
func Kinds() []datapath.Kind {
	return []datapath.Kind{datapath.Local, datapath.SeqPacket, datapath.SeqVnet, datapath.Stream, datapath.Dgram}
}

// Run holds a datapath to its contract, by each of the kinds of endpoint.
func Run(t *testing.T, open Open, kinds ...datapath.Kind) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			for _, c := range []struct {
				name string
				test func(*testing.T, Open, datapath.Kind)
			}{
				{"Forward", testForward},
				{"SharedDevice", testSharedDevice},
				{"Learn", testLearn},
				{"AddressFlood", testAddressFlood},
				{"Pinned", testPinned},
				{"FloodRate", testFloodRate},
				{"Filters", testFilters},
				{"Reject", testReject},
				{"Drops", testDrops},
				{"Lengths", testLengths},
				{"MTU", testMTU},
				{"Superframes", testSuperframes},
				{"Checksums", testChecksums},
				{"Headers", testHeaders},
				{"SlowReader", testSlowReader},
				{"Life", testLife},
				{"Refusals", testRefusals},
				{"BeforePolicy", testBeforePolicy},
				{"Swap", testSwap},
				{"Nested", testNested},
				{"Sums", testSums},
			} {
				t.Run(c.name, func(t *testing.T) { c.test(t, open, kind) })
			}
		})
	}
}

func testForward(t *testing.T, open Open, kind datapath.Kind) {
	w := NewWorld(t, open, kind, Lan(Interface(1, 1), Interface(2, 2), Interface(3, 3), Uplink(4)))
	group := frame.MAC{1, 0, 0x5e, 1, 2, 3}
	w.Check("unicast", 1, Plain(MAC(1), MAC(2), 1), verdict.Delivered, 2)
	w.Check("unicast back", 2, Plain(MAC(2), MAC(1), 2), verdict.Delivered, 1)
	w.Check("broadcast", 1, Plain(MAC(1), frame.Broadcast(), 3), verdict.Delivered, 2, 3, 4)
	w.Check("multicast", 4, Plain(MAC(99), group, 4), verdict.Delivered, 1, 2, 3)
	w.Check("to oneself", 1, Plain(MAC(1), MAC(1), 5), verdict.Hairpin)
	w.Check("unknown to the uplink", 1, Plain(MAC(1), MAC(50), 6), verdict.Delivered, 4)
	w.Check("unknown from the uplink", 4, Plain(MAC(99), MAC(50), 7), verdict.NoReceiver)
	w.Check("from a group", 4, Plain(group, MAC(1), 8), verdict.Malformed)
	w.Check("from nobody", 4, Plain(frame.MAC{}, MAC(1), 9), verdict.Malformed)
	for n := range byte(0x20) {
		dst, want, to := frame.MAC{1, 0x80, 0xc2, 0, 0, n}, verdict.Delivered, []plan.PortID{2, 3, 4}
		if n < 0x10 {
			want, to = verdict.LinkLocal, nil
		}
		w.Check("reserved multicast", 1, Plain(MAC(1), dst, 10, n), want, to...)
	}
	w.Apply(Lan(Interface(1, 1), Interface(2, 2), Interface(3, 3)))
	delete(w.Clients, 4)
	w.Check("unknown in an internal network", 1, Plain(MAC(1), MAC(50)), verdict.NoReceiver)
	w.Check("the others go on", 1, Plain(MAC(1), MAC(3)), verdict.Delivered, 3)
}

func testSharedDevice(t *testing.T, open Open, kind datapath.Kind) {
	second := Interface(2, 1)
	second.Receive = []plan.Filter{{Owner: "uid:7", Rule: "udp port 5000"}}
	w := NewWorld(t, open, kind, Lan(Interface(1, 1), second, Interface(3, 3)))
	w.Check("both ports", 3, UDP(3, 1), verdict.Delivered, 1, 2)
	w.Check("only what its own filter takes", 3, Plain(MAC(3), MAC(1)), verdict.Delivered, 1)
	w.Check("broadcast not to one's own device", 1, Plain(MAC(1), frame.Broadcast()), verdict.Delivered, 3)
	w.Check("not to each other", 2, UDP(1, 1), verdict.Hairpin)
	if n := w.Counters(2).To[verdict.ReceiveFilter]; n != 1 {
		t.Errorf("%d refused by the second port's filter, want 1", n)
	}
}

func testLearn(t *testing.T, open Open, kind datapath.Kind) {
	learner := Interface(1, 1)
	learner.Learn = 4
	m := Lan(learner, Interface(2, 2), Uplink(3))
	w := NewWorld(t, open, kind, m)
	w.Check("unknown", 2, Plain(MAC(2), MAC(40)), verdict.Delivered, 1, 3)
	w.Check("from it", 1, Plain(MAC(40), MAC(2)), verdict.Delivered, 2)
	w.Check("known", 2, Plain(MAC(2), MAC(40)), verdict.Delivered, 1)
	w.Check("known to its own device", 1, Plain(MAC(1), MAC(40)), verdict.Hairpin)
	w.Check("may not move at once", 3, Plain(MAC(40), MAC(2)), verdict.MACMoved)
	w.Check("behind the uplink", 3, Plain(MAC(60), MAC(2)), verdict.Delivered, 2)
	w.Check("known behind the uplink", 2, Plain(MAC(2), MAC(60)), verdict.Delivered, 3)
	if n := w.Counters(1).Learned; n != 1 {
		t.Errorf("%d learned, want 1", n)
	}
	aging := *m
	aging.Aging = time.Millisecond
	w.Apply(&aging)
	w.Await("the end of what was learned", func() bool { return w.Counters(1).Learned == 0 })
	w.Check("forgotten", 2, Plain(MAC(2), MAC(40)), verdict.Delivered, 1, 3)
}

// A port that floods the table with addresses (macof) neither makes the switch
// forget where its neighbour is nor sees what is for the neighbour.
func testAddressFlood(t *testing.T, open Open, kind datapath.Kind) {
	attacker, victim := Interface(1, 1), Interface(2, 2)
	attacker.Learn, victim.Learn = 64, 1
	w := NewWorld(t, open, kind, Lan(attacker, victim, Interface(3, 3)))
	w.Check("the victim speaks", 2, Plain(MAC(40), MAC(3)), verdict.Delivered, 3)
	frames := uint64(20_000)
	if kind == datapath.Local {
		frames = 1_000_000
	}
	base := Sum(w.Counters(1).From)
	raw := append(make([]byte, frame.VnetLen), Plain(MAC(0), MAC(1))...) // to itself: a hairpin
	for n := range frames {
		binary.BigEndian.PutUint32(raw[frame.VnetLen+8:], uint32(1000+n))
		w.Clients[1].SendRaw(raw)
	}
	w.Await("all verdicts", func() bool { return Sum(w.Counters(1).From) == base+frames })
	if n := w.Counters(1).Learned; n > 64 {
		t.Errorf("%d addresses learned, the cap is 64", n)
	}
	w.Check("the victim's unicast", 3, Plain(MAC(3), MAC(40)), verdict.Delivered, 2)
}

func testPinned(t *testing.T, open Open, kind datapath.Kind) {
	thief := Interface(2, 2)
	thief.Learn = 10
	w := NewWorld(t, open, kind, Lan(Interface(1, 1), thief, Uplink(3)))
	for range 1000 {
		w.Clients[2].Send(frame.Vnet{}, Plain(MAC(1), MAC(2)))
		w.Clients[3].Send(frame.Vnet{}, Plain(MAC(1), MAC(2)))
	}
	for _, id := range []plan.PortID{2, 3} {
		w.Await("all verdicts", func() bool { return w.Counters(id).From[verdict.MACMoved] == 1000 })
	}
	w.Check("still where it was", 3, Plain(MAC(99), MAC(1)), verdict.Delivered, 1)
	w.Check("and may speak", 1, Plain(MAC(1), MAC(2)), verdict.Delivered, 2)
}

func testFloodRate(t *testing.T, open Open, kind datapath.Kind) {
	loud := Interface(1, 1)
	loud.FloodRate = 10
	w := NewWorld(t, open, kind, Lan(loud, Interface(2, 2)))
	const frames = 2000
	start := time.Now()
	for range frames {
		w.Clients[1].Send(frame.Vnet{}, Plain(MAC(1), frame.Broadcast()))
	}
	w.Await("all verdicts", func() bool { return Sum(w.Counters(1).From) == frames })
	due := uint64(10 + 1 + 10*time.Since(start).Seconds())
	c := w.Counters(1).From
	if c[verdict.Delivered] < 10 || c[verdict.Delivered] > due || c[verdict.Delivered]+c[verdict.Rate] != frames {
		t.Errorf("%d passed and %d were over the rate, at most %d were due", c[verdict.Delivered], c[verdict.Rate], due)
	}
	for range c[verdict.Delivered] {
		w.Clients[2].Recv()
	}
	w.Check("unicast is free", 1, Plain(MAC(1), MAC(2)), verdict.Delivered, 2)
	w.Check("others are free", 2, Plain(MAC(2), frame.Broadcast()), verdict.Delivered, 1)
}

func testFilters(t *testing.T, open Open, kind datapath.Kind) {
	a, b := Interface(1, 1), Interface(2, 2)
	a.Send = []plan.Filter{{Owner: "uid:1", Rule: "not tcp port 25"}, {Owner: "house", Rule: "udp or tcp"}}
	b.Receive = []plan.Filter{{Owner: "uid:2", Rule: "udp"}}
	w := NewWorld(t, open, kind, Lan(a, b))
	w.Check("all say yes", 1, UDP(1, 2), verdict.Delivered, 2)
	w.Check("the second says no", 1, Plain(MAC(1), MAC(2)), verdict.SendFilter)
	fragment := tcp(1, 2, 80, frame.TCP{})
	fragment[14+7] = 1 // a later one: who knows its ports
	w.Check("a fragment behind a port rule", 1, fragment, verdict.Undecidable)
	w.Check("only the receiver's is asked", 2, Plain(MAC(2), MAC(1)), verdict.Delivered, 1)
	w.Check("the receiver says no", 1, tcp(1, 2, 80, frame.TCP{Flags: frame.SYN}), verdict.ReceiveFilter)
	w.Check("the first says no", 1, tcp(1, 2, 25, frame.TCP{Flags: frame.SYN}), verdict.SendFilter)
	if n := w.Counters(2).To; n[verdict.ReceiveFilter] != 1 || Sum(n) != 2 {
		t.Errorf("receiver's counters %v", n)
	}
}

// What the contract says of errors.
func testRefusals(t *testing.T, open Open, kind datapath.Kind) {
	w := NewWorld(t, open, kind, Lan(Interface(1, 1), Interface(2, 2)))
	refused := func(what string, want fault.Kind, err error) {
		t.Helper()
		if fault.KindOf(err) != want {
			t.Errorf("%s: %v, want %s", what, err, want)
		}
	}
	attach := func(mux string, id plan.PortID, kind datapath.Kind) error {
		_, e := Pair(t, kind)
		return w.Path.Attach(mux, id, e)
	}
	refused("unknown mux", fault.NotFound, attach("other", 1, kind))
	refused("unknown port", fault.NotFound, attach(Name, 9, kind))
	refused("attached already", fault.Exists, attach(Name, 1, kind))
	refused("unknown mux to remove", fault.NotFound, w.Path.Remove("other"))
	bad := Lan(Interface(1, 1), Interface(1, 2))
	refused("a port twice", fault.Invalid, w.Path.Apply(bad))
	bad = Lan(Interface(1, 1), Interface(2, 2))
	bad.Ports[0].Send = []plan.Filter{{Rule: "udp and and"}}
	if err := w.Path.Apply(bad); err == nil {
		t.Error("a rule that does not parse was taken")
	}
	if r := w.Path.Send(Name, 9, make([]byte, 100)); r != verdict.Closed {
		t.Errorf("send on an unknown port: %v", r)
	}
	if w.Path.Counters("other") != nil {
		t.Error("counters of an unknown mux")
	}
	w.Check("the old plan is whole", 1, UDP(1, 2), verdict.Delivered, 2)
}
