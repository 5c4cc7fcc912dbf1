package userspace

import (
	"reflect"
	"sync/atomic"

	"brane/filter"
	"brane/internal/fault"
	"brane/internal/mux"
	"brane/internal/plan"
	"brane/internal/verdict"
)

// compiled is a plan as frames meet it. It does not change.
type compiled struct {
	network *network
	source  *plan.Mux
	view    *mux.View
	judges  []*judge // by slot; nil in a slot without port
}

// judge is a port under one plan.
type judge struct {
	*port
	*rules
	plan *plan.Port
	mtu  int
}

// port is what lives of a port across plans.
type port struct {
	id      plan.PortID
	network *network
	slot    mux.Slot
	end     atomic.Pointer[endpoint] // nil until attached, and when its client is gone
	peer    atomic.Pointer[port]     // the other end of an uplink between two muxes
	replies mux.Bucket               // refusals answered
	records mux.Bucket               // drops written down
	from    counters
	_       [64]byte // what the port's own lane counts is apart from what others count
	to      counters
}

type counters struct {
	frames [verdict.Count]atomic.Uint64
	bytes  atomic.Uint64
}

func (c *counters) add(r verdict.Reason, bytes int) {
	c.frames[r].Add(1)
	if r == verdict.Delivered {
		c.bytes.Add(uint64(bytes))
	}
}

// rules are the filters of a port, ready to run.
type rules struct{ send, receive []filter.Rule }

// buildRules makes what can fail of a compiled plan: by port, in the plan's
// order. A port that is as it was in old keeps its rules.
func buildRules(m *plan.Mux, old *compiled) ([]*rules, error) {
	out := make([]*rules, len(m.Ports))
	for i := range m.Ports {
		p, r := &m.Ports[i], &rules{}
		if j := old.find(p.ID); j != nil && reflect.DeepEqual(j.plan, p) {
			out[i] = j.rules
			continue
		}
		for _, way := range []struct {
			way  filter.Way
			from []plan.Filter
			to   *[]filter.Rule
		}{{filter.Send, p.Send, &r.send}, {filter.Receive, p.Receive, &r.receive}} {
			for k := range way.from {
				rule, err := buildRule(way.way, p, &way.from[k])
				if err != nil {
					return nil, fault.New(fault.KindOf(err), "apply plan", m.Name, "port %d, rule %q of %s: %v",
						p.ID, clip(way.from[k].Rule), way.from[k].Owner, err)
				}
				*way.to = append(*way.to, rule)
			}
		}
		out[i] = r
	}
	return out, nil
}

func buildRule(way filter.Way, p *plan.Port, f *plan.Filter) (filter.Rule, error) {
	return filter.Build(way, filter.Params{
		Rule: f.Rule, MAC: p.MAC, Bound: f.Bound, Ports: f.Ports, Replies: f.Replies, Router: f.Router, Routers: f.Routers,
	})
}

// clip keeps a rule readable in an error.
func clip(rule string) string {
	if len(rule) > 80 {
		return rule[:77] + "..."
	}
	return rule
}

// compile makes the form of m that frames meet. Ports that were in the plan
// before are the same objects, with their endpoints and counters.
func (n *network) compile(m *plan.Mux, rules []*rules) *compiled {
	old := n.plan.Load()
	c := &compiled{network: n, source: m, view: n.core.Compile(m)}
	c.judges = make([]*judge, c.view.Slots())
	for i := range m.Ports {
		p := &m.Ports[i]
		slot, _ := c.view.Slot(p.ID)
		j := &judge{rules: rules[i], plan: p, mtu: p.MTU}
		if o := old.find(p.ID); o != nil {
			j.port = o.port
		} else {
			j.port = &port{id: p.ID, network: n, slot: slot}
		}
		c.judges[slot] = j
	}
	return c
}

// find gives the port id, or nil. A nil compiled has no ports.
func (c *compiled) find(id plan.PortID) *judge {
	if c == nil || c.view == nil {
		return nil
	}
	if slot, ok := c.view.Slot(id); ok {
		return c.judges[slot]
	}
	return nil
}

// of gives p under this plan, or nil when it is not in it.
func (c *compiled) of(p *port) *judge {
	if int(p.slot) >= len(c.judges) {
		return nil
	}
	if j := c.judges[p.slot]; j != nil && j.port == p {
		return j
	}
	return nil
}

// without gives the ports of c that next lacks.
func (c *compiled) without(next *compiled) (gone []*port) {
	if c == nil {
		return nil
	}
	for _, j := range c.judges {
		if j != nil && next.of(j.port) == nil {
			gone = append(gone, j.port)
		}
	}
	return gone
}

// connect joins the uplinks of all muxes with the ports they are plugged into.
func connect(muxes map[string]*network) {
	ports := map[plan.PortID]*port{}
	for _, n := range muxes {
		for _, j := range n.plan.Load().judges {
			if j != nil {
				ports[j.id] = j.port
			}
		}
	}
	peers := make(map[*port]*port, len(ports))
	for _, n := range muxes {
		for _, j := range n.plan.Load().judges {
			if j != nil && ports[j.plan.To] != nil {
				up := ports[j.plan.To]
				peers[j.port], peers[up] = up, j.port
			}
		}
	}
	for _, p := range ports {
		p.peer.Store(peers[p])
	}
}
