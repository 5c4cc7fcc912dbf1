package worker

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"brane/internal/fault"
	"brane/internal/plan"
)

func drawMux(t *rapid.T, revision int64) *plan.Mux {
	m := &plan.Mux{Name: "lan", Revision: revision, MTU: 1500}
	ids := rapid.SliceOfNDistinct(rapid.Uint64Range(1, 12), 0, 8, rapid.ID[uint64]).Draw(t, "ports")
	for _, id := range ids {
		p := plan.Port{ID: plan.PortID(id), Device: "lan/p", MTU: rapid.IntRange(1280, 1282).Draw(t, "mtu")}
		if rapid.Bool().Draw(t, "rule") {
			p.Send = []plan.Filter{{Owner: "uid:1", Rule: rapid.SampledFrom([]string{"ip", "arp"}).Draw(t, "text")}}
		}
		m.Ports = append(m.Ports, p)
	}
	return m
}

func sorted(m *plan.Mux) *plan.Mux {
	n := *m
	n.Ports = slices.Clone(m.Ports)
	slices.SortFunc(n.Ports, func(a, b plan.Port) int { return int(a.ID) - int(b.ID) })
	if len(n.Ports) == 0 {
		n.Ports = nil
	}
	return &n
}

// What is sent and what the worker has make the new plan, over the wire, and
// leave the old one as it was.
func TestDifference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := drawMux(t, 1), drawMux(t, 2)
		before := sorted(from)
		b, err := json.Marshal(difference(from, to))
		if err != nil {
			t.Fatal(err)
		}
		var c change
		if err := json.Unmarshal(b, &c); err != nil {
			t.Fatal(err)
		}
		got, err := c.on(from)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(sorted(got), sorted(to)) {
			t.Fatalf("%+v\n is not\n%+v", got, to)
		}
		if !reflect.DeepEqual(sorted(from), before) {
			t.Fatal("the plan before has changed")
		}
	})
}

func TestDifferenceOnAnotherPlan(t *testing.T) {
	a, b := &plan.Mux{Name: "lan", Revision: 4}, &plan.Mux{Name: "lan", Revision: 5}
	c := difference(a, b)
	if _, err := c.on(a); err != nil {
		t.Error(err)
	}
	for _, base := range []*plan.Mux{nil, b} {
		if _, err := c.on(base); fault.KindOf(err) != fault.Conflict {
			t.Errorf("on %+v: %v", base, err)
		}
	}
}
