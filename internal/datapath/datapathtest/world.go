// Package datapathtest is the conformance suite of datapaths, and the clients
// that it is made of: Run holds an implementation to the contract of package
// datapath, by each kind of endpoint.
//
// A test that a frame does not arrive does not wait for it. The counters say
// when a frame has met its end, and at which ports it was a candidate: a frame
// that was sent is waited for until it is counted, and then every port's
// counters are compared with what its client received.
package datapathtest

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"brane/frame"
	"brane/internal/datapath"
	"brane/internal/plan"
	"brane/internal/verdict"
)

// Open makes a datapath for one test, which closes it.
type Open func(ev datapath.Events) datapath.Datapath

// World is one mux with clients on its ports.
type World struct {
	T       testing.TB
	Path    datapath.Datapath
	Plan    *plan.Mux
	Kind    datapath.Kind
	Clients map[plan.PortID]*Client
	Closed  chan plan.PortID // ports whose client went away
}

// Name is the mux of a World.
const Name = "lan"

// NewWorld makes a datapath with a plan in force and a client of the given kind
// on each port that is not nested.
func NewWorld(t testing.TB, open Open, kind datapath.Kind, m *plan.Mux) *World {
	t.Helper()
	w := &World{T: t, Kind: kind, Clients: map[plan.PortID]*Client{}, Closed: make(chan plan.PortID, 100)}
	w.Path = open(datapath.Events{Closed: func(_ string, id plan.PortID, _ error) { w.Closed <- id }})
	t.Cleanup(func() {
		if err := w.Path.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	w.Apply(m)
	for i := range m.Ports {
		if m.Ports[i].To == 0 {
			w.Attach(m.Ports[i].ID, kind)
		}
	}
	return w
}

// Apply puts a plan in force.
func (w *World) Apply(m *plan.Mux) {
	w.T.Helper()
	if err := w.Path.Apply(m); err != nil {
		w.T.Fatal(err)
	}
	w.Plan = m
}

// Attach gives a port a client.
func (w *World) Attach(id plan.PortID, kind datapath.Kind) *Client {
	w.T.Helper()
	c := Dial(w.T, w.Path, w.Plan.Name, id, kind)
	w.Clients[id] = c
	return c
}

// Join attaches a client made by Pair.
func (w *World) Join(c *Client, id plan.PortID, e datapath.Endpoint) {
	w.T.Helper()
	c.join(w.Path, w.Plan.Name, id)
	if err := w.Path.Attach(w.Plan.Name, id, e); err != nil {
		w.T.Fatal(err)
	}
	w.Clients[id] = c
}

// Counters gives those of one port.
func (w *World) Counters(id plan.PortID) datapath.Counters {
	w.T.Helper()
	return CountersOf(w.T, w.Path, w.Plan.Name, id)
}

// CountersOf gives the counters of one port of one mux.
func CountersOf(t testing.TB, d datapath.Datapath, mux string, id plan.PortID) datapath.Counters {
	t.Helper()
	for _, c := range d.Counters(mux) {
		if c.Port == id {
			return c
		}
	}
	t.Fatalf("no counters of port %d", id)
	return datapath.Counters{}
}

// Sum adds up frames over all reasons.
func Sum(frames [verdict.Count]uint64) (n uint64) {
	for _, x := range frames {
		n += x
	}
	return n
}

// Send puts a frame in at a port and gives its verdict: the one reason whose
// counter moved. Nobody else may send from the port meanwhile.
func (w *World) Send(id plan.PortID, v frame.Vnet, b []byte) verdict.Reason {
	w.T.Helper()
	before := w.Counters(id).From
	w.Clients[id].Send(v, b)
	return w.verdict(id, before)
}

func (w *World) verdict(id plan.PortID, before [verdict.Count]uint64) verdict.Reason {
	w.T.Helper()
	want := Sum(before) + 1
	w.Await("a verdict", func() bool { return Sum(w.Counters(id).From) >= want })
	after := w.Counters(id).From
	if n := Sum(after); n != want {
		w.T.Fatalf("port %d: one frame moved the counters by %d", id, n-want+1)
	}
	for r := range after {
		if after[r] != before[r] {
			return verdict.Reason(r)
		}
	}
	panic("unreachable")
}

// Await waits for a condition that must come true.
func (w *World) Await(what string, ok func() bool) {
	w.T.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(50 * time.Microsecond) {
		if time.Now().After(end) {
			w.T.Fatalf("%s did not come", what)
		}
	}
}

// Check sends a frame and holds it to a verdict and to the ports that it
// reaches: those and no others, unchanged.
func (w *World) Check(what string, from plan.PortID, b []byte, want verdict.Reason, to ...plan.PortID) {
	w.T.Helper()
	before := map[plan.PortID]uint64{}
	for id := range w.Clients {
		before[id] = w.Counters(id).To[verdict.Delivered]
	}
	if r := w.Send(from, frame.Vnet{}, b); r != want {
		w.T.Errorf("%s: %v, want %v", what, r, want)
	}
	expect := map[plan.PortID]uint64{}
	for _, id := range to {
		expect[id] = 1
	}
	for id, c := range w.Clients {
		if n := w.Counters(id).To[verdict.Delivered] - before[id]; n != expect[id] {
			w.T.Errorf("%s: port %d got %d, want %d", what, id, n, expect[id])
			for range n {
				c.Recv()
			}
			continue
		}
		if expect[id] == 1 {
			if _, got := c.Recv(); !bytes.Equal(got, b) {
				w.T.Errorf("%s: port %d got %x, want %x", what, id, got, b)
			}
		}
	}
}

// MAC gives a station's address.
func MAC(n int) frame.MAC {
	m := frame.MAC{0x02}
	binary.BigEndian.PutUint32(m[2:], uint32(n))
	return m
}

// IP gives the address of a station in the network's subnet.
func IP(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }

// Interface is a port with the address of station n, for its own device.
func Interface(id plan.PortID, n int) plan.Port {
	return plan.Port{ID: id, Device: Name + "/i" + string(rune('a'+n)), Role: plan.Interface, MAC: MAC(n), MTU: 1500}
}

// Uplink is an uplink port.
func Uplink(id plan.PortID) plan.Port {
	return plan.Port{ID: id, Device: "up" + string(rune('a'+id%26)), Role: plan.Uplink, MTU: 1500}
}

// Lan is a plan with the given ports.
func Lan(ports ...plan.Port) *plan.Mux {
	m := &plan.Mux{Name: Name, MTU: 1500, Ports: ports}
	for i := range ports {
		m.MTU = max(m.MTU, ports[i].MTU)
	}
	return m
}

// UDP is a frame between two stations.
func UDP(src, dst int, payload ...byte) []byte {
	return frame.AppendUDP(nil, MAC(src), MAC(dst),
		netip.AddrPortFrom(IP(src), 4000), netip.AddrPortFrom(IP(dst), 5000), payload)
}

// Plain is a frame of a local experimental EtherType (IEEE 802) that no rule but clean knows.
func Plain(src, dst frame.MAC, payload ...byte) []byte {
	b := append(append(append([]byte(nil), dst[:]...), src[:]...), 0x88, 0xb5)
	return append(b, payload...)
}
