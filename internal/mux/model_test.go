package mux

import (
	"slices"
	"testing"
	"time"

	"brane/frame"
	"brane/internal/plan"
	"brane/internal/verdict"
	"pgregory.net/rapid"
)

// model is the obvious learning table: a list, oldest first.
type model struct {
	known []known
	aging time.Duration
	limit int
}

type known struct {
	src         frame.MAC
	port        plan.PortID
	seen, moved time.Duration
}

func (m *model) learn(now time.Duration, p *plan.Port, src frame.MAC) verdict.Reason {
	m.known = slices.DeleteFunc(m.known, func(k known) bool { return now-k.seen > m.aging })
	at := slices.IndexFunc(m.known, func(k known) bool { return k.src == src })
	switch {
	case p.Learn == 0 && p.Role != plan.Uplink:
		return verdict.Delivered
	case at >= 0 && m.known[at].port == p.ID:
		k := m.known[at]
		if now-k.seen < refresh {
			return verdict.Delivered
		}
		k.seen = now
		m.known = append(slices.Delete(m.known, at, at+1), k)
		return verdict.Delivered
	case at >= 0 && now-m.known[at].moved < MoveHold:
		return verdict.MACMoved
	case at >= 0:
		m.known = slices.Delete(m.known, at, at+1)
	}
	count := map[plan.PortID]int{}
	for _, k := range m.known {
		count[k.port]++
	}
	evict := func(id plan.PortID) {
		i := slices.IndexFunc(m.known, func(k known) bool { return k.port == id })
		m.known = slices.Delete(m.known, i, i+1)
	}
	if p.Role != plan.Uplink && count[p.ID] >= p.Learn {
		evict(p.ID)
	} else if len(m.known) >= m.limit {
		most := plan.PortID(0)
		for id, n := range count {
			if n > count[most] || n == count[most] && id < most {
				most = id
			}
		}
		evict(most)
	}
	m.known = append(m.known, known{src, p.ID, now, now})
	return verdict.Delivered
}

// The table agrees with the obvious one on every answer.
func TestTableAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &plan.Mux{Name: "lan", MTU: 1500, Aging: 10 * time.Second}
		for id := range plan.PortID(4) {
			p.Ports = append(p.Ports, plan.Port{
				ID: id + 1, Device: string(rune('a' + id)), Role: plan.Interface,
				Learn: rapid.IntRange(0, 4).Draw(t, "learn"),
			})
		}
		p.Ports[3].Role = plan.Uplink
		m := &model{aging: p.Aging, limit: rapid.IntRange(1, 8).Draw(t, "limit")}
		v := New(m.limit).Compile(p)
		now := time.Duration(0)
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			now += time.Duration(rapid.IntRange(0, 3).Draw(t, "seconds")) * time.Second
			port := &p.Ports[rapid.IntRange(0, 3).Draw(t, "port")]
			src := mac(rapid.IntRange(1, 10).Draw(t, "address"))
			got, want := v.Learn(now, v.slots[port.ID], src), m.learn(now, port, src)
			if got != want {
				t.Fatalf("%v from port %d at %v: %v, want %v", src, port.ID, now, got, want)
			}
			for n := 1; n <= 10; n++ {
				var want []plan.PortID
				if i := slices.IndexFunc(m.known, func(k known) bool { return k.src == mac(n) && now-k.seen <= m.aging }); i >= 0 {
					want = []plan.PortID{m.known[i].port}
				}
				d, ok := v.behind(now, key(mac(n)))
				if ok != (want != nil) || ok && v.devices[d][0] != v.slots[want[0]] {
					t.Fatalf("%v at %v: known %v, want %v", mac(n), now, ok, want)
				}
			}
		}
	})
}
