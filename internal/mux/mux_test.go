package mux

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"brane/frame"
	"brane/internal/plan"
	"brane/internal/verdict"
)

func mac(n int) frame.MAC {
	m := frame.MAC{0x02}
	binary.BigEndian.PutUint32(m[2:], uint32(n))
	return m
}

// three is a network of two interfaces with pinned addresses, one of them open
// twice, and an uplink.
func three(mod func(*plan.Mux)) *plan.Mux {
	m := &plan.Mux{Name: "lan", MTU: 1500, Ports: []plan.Port{
		{ID: 1, Device: "lan/a", Role: plan.Interface, MAC: mac(1), MTU: 1500},
		{ID: 2, Device: "lan/b", Role: plan.Interface, MAC: mac(2), MTU: 1500},
		{ID: 3, Device: "lan/b", Role: plan.Interface, MAC: mac(2), MTU: 1500},
		{ID: 4, Device: "eth0", Role: plan.Uplink, MTU: 1500},
	}}
	if mod != nil {
		mod(m)
	}
	return m
}

// to gives the ports that a frame would reach, as the datapath walks them.
func to(v *View, now time.Duration, in plan.PortID, dst frame.MAC) ([]plan.PortID, verdict.Reason) {
	from := v.slots[in]
	slots, r := v.Route(now, from, dst)
	var ids []plan.PortID
	for _, s := range slots {
		if v.Same(from, s) {
			continue
		}
		for id, x := range v.slots {
			if x == s {
				ids = append(ids, id)
			}
		}
	}
	return ids, r
}

func equal(a, b []plan.PortID) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestRoute(t *testing.T) {
	v := New(TableLimit).Compile(three(nil))
	for _, c := range []struct {
		what string
		in   plan.PortID
		dst  frame.MAC
		to   []plan.PortID
		r    verdict.Reason
	}{
		{"pinned, both ports of the device", 1, mac(2), []plan.PortID{2, 3}, verdict.Delivered},
		{"pinned, the other way", 3, mac(1), []plan.PortID{1}, verdict.Delivered},
		{"from the uplink", 4, mac(1), []plan.PortID{1}, verdict.Delivered},
		{"broadcast, own device left out", 2, frame.Broadcast(), []plan.PortID{1, 4}, verdict.Delivered},
		{"multicast", 1, frame.MAC{1, 0, 0x5e, 0, 0, 1}, []plan.PortID{2, 3, 4}, verdict.Delivered},
		{"to oneself", 1, mac(1), nil, verdict.Hairpin},
		{"to the other port of one's device", 2, mac(2), nil, verdict.Hairpin},
		{"unknown goes to the uplink alone", 1, mac(99), []plan.PortID{4}, verdict.Delivered},
		{"unknown from the uplink goes nowhere", 4, mac(99), nil, verdict.Delivered},
		{"first reserved address", 1, frame.MAC{1, 0x80, 0xc2, 0, 0, 0}, nil, verdict.LinkLocal},
		{"last reserved address", 1, frame.MAC{1, 0x80, 0xc2, 0, 0, 0xf}, nil, verdict.LinkLocal},
		{"the one after is not", 1, frame.MAC{1, 0x80, 0xc2, 0, 0, 0x10}, []plan.PortID{2, 3, 4}, verdict.Delivered},
	} {
		if ids, r := to(v, 0, c.in, c.dst); r != c.r || !equal(ids, c.to) {
			t.Errorf("%s: to %v, %v; want %v, %v", c.what, ids, r, c.to, c.r)
		}
	}
}

func TestInternalNetworkDropsUnknown(t *testing.T) {
	v := New(TableLimit).Compile(three(func(m *plan.Mux) { m.Ports = m.Ports[:3] }))
	if ids, r := to(v, 0, 1, mac(99)); r != verdict.NoReceiver || ids != nil {
		t.Fatalf("to %v, %v", ids, r)
	}
}

func TestPinnedNeverMoves(t *testing.T) {
	v := New(TableLimit).Compile(three(nil))
	for n := range 100_000 { // from a port that may not learn, and from one that may learn anything
		for _, in := range []plan.PortID{2, 4} {
			if r := v.Learn(time.Duration(n)*time.Millisecond, v.slots[in], mac(1)); r != verdict.MACMoved {
				t.Fatalf("port %d took the address: %v", in, r)
			}
		}
	}
	if ids, _ := to(v, 0, 4, mac(1)); !equal(ids, []plan.PortID{1}) {
		t.Fatalf("to %v", ids)
	}
	if r := v.Learn(0, v.slots[1], mac(1)); r != verdict.Delivered {
		t.Fatalf("its owner: %v", r)
	}
}

func TestSourceAddressNoStationHas(t *testing.T) {
	v := New(TableLimit).Compile(three(nil))
	for _, src := range []frame.MAC{{}, frame.Broadcast(), {1, 0, 0x5e, 0, 0, 1}} {
		if r := v.Learn(0, v.slots[4], src); r != verdict.Malformed {
			t.Errorf("%v: %v", src, r)
		}
	}
}

func TestLearnAgeMove(t *testing.T) {
	v := New(TableLimit).Compile(three(func(m *plan.Mux) {
		m.Aging = 10 * time.Second
		m.Ports[0].Learn = 2
	}))
	x := mac(50)
	at := func(sec float64, in plan.PortID, want verdict.Reason) {
		t.Helper()
		if r := v.Learn(time.Duration(sec*1e9), v.slots[in], x); r != want {
			t.Fatalf("at %v s from port %d: %v, want %v", sec, in, r, want)
		}
	}
	behind := func(sec float64, want ...plan.PortID) {
		t.Helper()
		if ids, _ := to(v, time.Duration(sec*1e9), 2, x); !equal(ids, want) {
			t.Fatalf("at %v s: to %v, want %v", sec, ids, want)
		}
	}
	behind(0, 1, 4) // unknown: to those who may learn
	at(0, 1, verdict.Delivered)
	behind(0, 1)
	at(0.5, 4, verdict.MACMoved) // too soon
	behind(0.5, 1)
	at(1.5, 4, verdict.Delivered)
	behind(1.5, 4)
	behind(11.4, 4)
	behind(11.6, 1, 4) // aged
	at(11.7, 1, verdict.Delivered)
	at(20, 1, verdict.Delivered) // heard again
	behind(29, 1)
	if n := v.Learned(29e9, v.slots[1]); n != 1 {
		t.Fatalf("%d learned", n)
	}
	if n := v.Learned(31e9, v.slots[1]); n != 0 {
		t.Fatalf("%d learned after aging", n)
	}
}

// A million addresses from one port evict that port's own, within its cap and
// within the table's; what another port said once stays known, so none of that
// one's unicast is flooded.
func TestFloodOfAddresses(t *testing.T) {
	for name, cap := range map[string]int{"own cap": 64, "table limit": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			v := New(1024).Compile(three(func(m *plan.Mux) {
				m.Aging = time.Hour
				m.Ports[0].Learn, m.Ports[1].Learn = cap, 4
			}))
			victim := mac(7)
			if r := v.Learn(0, v.slots[2], victim); r != verdict.Delivered {
				t.Fatal(r)
			}
			rng := rand.New(rand.NewPCG(1, 2))
			for n := range 1_000_000 {
				now := time.Duration(n) * time.Microsecond
				src := frame.MAC{0x06}
				binary.BigEndian.PutUint32(src[2:], rng.Uint32())
				if r := v.Learn(now, v.slots[1], src); r != verdict.Delivered {
					t.Fatal(r)
				}
				if n%1000 == 0 {
					if ids, r := to(v, now, 4, victim); r != verdict.Delivered || len(ids) != 2 {
						t.Fatalf("after %d the victim's frames go to %v, %v", n, ids, r)
					}
				}
			}
			if n := v.Learned(time.Second, v.slots[1]); n > cap || n > 1023 || len(v.core.table) > 1024 {
				t.Fatalf("port holds %d, table %d", n, len(v.core.table))
			}
		})
	}
}

func TestFloodRate(t *testing.T) {
	v := New(TableLimit).Compile(three(func(m *plan.Mux) { m.Ports[0].FloodRate = 100 }))
	pass := func(in plan.PortID, from, length time.Duration) (n int) {
		const tries = 1000000
		for i := range tries {
			if _, r := v.Route(from+length*time.Duration(i)/tries, v.slots[in], frame.Broadcast()); r == verdict.Delivered {
				n++
			} else if r != verdict.Rate {
				t.Fatal(r)
			}
		}
		return n
	}
	if n := pass(1, 0, time.Second); n < 199 || n > 201 {
		t.Errorf("%d in the first second: a bucket of 100 and 100 more were due", n)
	}
	if n := pass(1, time.Second, 10*time.Second); n < 999 || n > 1001 {
		t.Errorf("%d in the ten seconds after", n)
	}
	if n := pass(2, 0, time.Second); n < 1999 || n > 2001 {
		t.Errorf("%d by default", n)
	}
	if ids, r := to(v, 11e9, 1, mac(2)); r != verdict.Delivered || len(ids) != 2 {
		t.Errorf("unicast at the same time: %v, %v", ids, r)
	}
}

// Two ports with a cable between them: what comes out of one goes into the
// other. The flood rates of the two bound what circulates.
func TestRingIsBounded(t *testing.T) {
	v := New(TableLimit).Compile(three(nil))
	queue, sent := []plan.PortID{1}, 0
	for now := time.Duration(0); now < 10*time.Second; now += 100 * time.Microsecond {
		var next []plan.PortID
		for _, in := range queue {
			ids, _ := to(v, now, in, frame.Broadcast())
			for _, id := range ids {
				sent++
				if peer := map[plan.PortID]plan.PortID{1: 2, 2: 1, 3: 1}[id]; peer != 0 {
					next = append(next, peer)
				}
			}
		}
		if len(next) > 1000 {
			next = next[:1000] // the wire's capacity
		}
		queue = append(next, 1)
	}
	// Two devices' buckets at 1,000 a second, a bucketful at the start, at most three receivers each.
	if sent > 2*11*DefaultFlood*3 {
		t.Fatalf("%d frames in 10 s", sent)
	}
}

func TestSwapOfPlans(t *testing.T) {
	c := New(TableLimit)
	old := c.Compile(three(func(m *plan.Mux) { m.Ports[0].Learn = 3 }))
	c.Settle(old)
	for n := range 3 {
		old.Learn(0, old.slots[1], mac(100+n))
	}
	old.Learn(0, old.slots[4], mac(200))
	v := c.Compile(three(func(m *plan.Mux) {
		m.Ports[0].Learn = 1
		m.Ports = append(m.Ports[:3], plan.Port{ID: 9, Device: "lan/c", Role: plan.Interface, MAC: mac(102), MTU: 1500})
	}))
	for _, id := range []plan.PortID{1, 2, 3} {
		if old.slots[id] != v.slots[id] {
			t.Fatalf("port %d moved from slot %d to %d", id, old.slots[id], v.slots[id])
		}
	}
	if v.slots[9] == old.slots[4] {
		t.Fatal("the slot of a port that an older view may still name was given away")
	}
	c.Settle(v)
	if n := v.Learned(0, v.slots[1]); n > 1 {
		t.Fatalf("%d learned over the new cap of 1", n)
	}
	if len(c.table) != v.Learned(0, v.slots[1]) || len(c.ports) != 4 {
		t.Fatalf("left behind: %d addresses, %d ports", len(c.table), len(c.ports))
	}
	if ids, _ := to(v, 0, 2, mac(102)); !equal(ids, []plan.PortID{9}) {
		t.Fatalf("a pin did not win over what was learned: %v", ids)
	}
	w := c.Compile(three(nil))
	if w.slots[4] != old.slots[4] {
		t.Fatal("a free slot was not used again")
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	v := New(TableLimit).Compile(three(nil))
	v.Learn(0, v.slots[4], mac(9))
	if n := testing.AllocsPerRun(100, func() {
		v.Learn(0, v.slots[4], mac(9))
		v.Route(0, v.slots[1], mac(9))
		v.Learn(0, v.slots[1], mac(1))
		v.Route(0, v.slots[1], mac(2))
		v.Route(0, v.slots[1], frame.Broadcast())
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkPinned(b *testing.B) {
	v := New(TableLimit).Compile(three(nil))
	for b.Loop() {
		v.Learn(0, 0, mac(1))
		v.Route(0, 0, mac(2))
	}
}

func BenchmarkLearned(b *testing.B) {
	v := New(TableLimit).Compile(three(nil))
	v.Learn(0, v.slots[4], mac(9))
	for b.Loop() {
		v.Learn(0, v.slots[4], mac(9))
		v.Route(0, 0, mac(9))
	}
}

func BenchmarkAddressFlood(b *testing.B) {
	v := New(TableLimit).Compile(three(nil))
	for n := 0; b.Loop(); n++ {
		v.Learn(0, v.slots[4], mac(100+n))
	}
}
