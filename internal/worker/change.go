package worker

import (
	"context"
	"reflect"

	"brane/internal/fault"
	"brane/internal/plan"
)

// change is a plan as its difference from the one before, so that one port more
// among thousands is one port on the wire.
type change struct {
	Base int64         `json:"base"` // revision of the plan before
	Plan plan.Mux      `json:"plan"` // the new plan, with only those ports that are new or other
	Gone []plan.PortID `json:"gone,omitempty"`
}

// difference is what leads from one plan to another.
func difference(from, to *plan.Mux) change {
	old := make(map[plan.PortID]*plan.Port, len(from.Ports))
	for i := range from.Ports {
		old[from.Ports[i].ID] = &from.Ports[i]
	}
	c := change{Base: from.Revision, Plan: *to}
	c.Plan.Ports = nil
	for i := range to.Ports {
		p := &to.Ports[i]
		if o := old[p.ID]; o == nil || !reflect.DeepEqual(o, p) {
			c.Plan.Ports = append(c.Plan.Ports, *p)
		}
		delete(old, p.ID)
	}
	for id := range old {
		c.Gone = append(c.Gone, id)
	}
	return c
}

// on is the plan that c makes of base, which stays as it is. The order of the
// ports of a plan means nothing.
func (c *change) on(base *plan.Mux) (*plan.Mux, error) {
	if base == nil || base.Revision != c.Base {
		return nil, fault.New(fault.Conflict, "change plan", c.Plan.Name, "revision %d is not the plan in force", c.Base)
	}
	other := make(map[plan.PortID]bool, len(c.Gone)+len(c.Plan.Ports))
	for _, id := range c.Gone {
		other[id] = true
	}
	for i := range c.Plan.Ports {
		other[c.Plan.Ports[i].ID] = true
	}
	m := c.Plan
	m.Ports = make([]plan.Port, 0, len(base.Ports)+len(c.Plan.Ports))
	for i := range base.Ports {
		if !other[base.Ports[i].ID] {
			m.Ports = append(m.Ports, base.Ports[i])
		}
	}
	m.Ports = append(m.Ports, c.Plan.Ports...)
	return &m, nil
}

// Apply puts a plan in force; see datapath.Datapath. m is not changed afterwards.
func (h *Handle) Apply(ctx context.Context, m *plan.Mux) error {
	h.mu.Lock()
	last, conn := h.plans[m.Name], h.conn
	delete(h.plans, m.Name)
	h.mu.Unlock()
	err := error(fault.New(fault.Conflict, "change plan", m.Name, "there is none"))
	if last != nil {
		err = h.call(ctx, verbChange, difference(last, m), nil, nil)
	}
	if fault.KindOf(err) == fault.Conflict {
		err = h.call(ctx, verbPlan, m, nil, nil)
	}
	if err == nil {
		h.mu.Lock()
		if h.conn == conn {
			h.plans[m.Name] = m
		}
		h.mu.Unlock()
	}
	return err
}
