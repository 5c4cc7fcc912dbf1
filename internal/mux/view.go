package mux

import (
	"time"

	"brane/frame"
	"brane/internal/plan"
	"brane/internal/verdict"
)

// View is one plan's picture of a mux. It does not change.
type View struct {
	core    *Core
	slots   map[plan.PortID]Slot
	members []member // by slot; port is nil in a slot that the plan does not use
	devices [][]Slot // the ports of each device
	pins    map[uint64]int32
	all     []Slot
	open    []Slot // hear unicast for unknown addresses
	aging   time.Duration
}

// member is what a plan says of a port.
type member struct {
	port     *port
	device   int32
	learn    int
	interval time.Duration // between two floods at the port's rate
	burst    int           // a second's worth
}

func (v *View) add(p *plan.Port, live *port, devices map[string]int32) {
	d, ok := devices[p.Device]
	if !ok {
		d = int32(len(v.devices))
		devices[p.Device] = d
		v.devices = append(v.devices, nil)
	}
	for int(live.slot) >= len(v.members) {
		v.members = append(v.members, member{})
	}
	m := &v.members[live.slot]
	*m = member{port: live, device: d, learn: p.Learn}
	if p.Role == plan.Uplink {
		m.learn = v.core.limit
	}
	rate := p.FloodRate
	if rate <= 0 {
		rate = DefaultFlood
	}
	m.interval = max(time.Second/time.Duration(rate), 1)
	m.burst = rate
	v.slots[p.ID] = live.slot
	v.devices[d] = append(v.devices[d], live.slot)
	v.all = append(v.all, live.slot)
	if m.learn > 0 {
		v.open = append(v.open, live.slot)
	}
	if !p.MAC.IsZero() {
		v.pins[key(p.MAC)] = d
	}
}

// Slot gives the place of a port.
func (v *View) Slot(id plan.PortID) (Slot, bool) {
	s, ok := v.slots[id]
	return s, ok
}

// Slots is one more than the highest slot in use.
func (v *View) Slots() int { return len(v.members) }

// Same says whether two ports are of one device, and so do not hear each other.
func (v *View) Same(a, b Slot) bool { return v.members[a].device == v.members[b].device }

// Learn notes that src was heard from a port. The answer is Delivered when the
// frame may go on; MACMoved when the address is another's, or came from
// elsewhere less than MoveHold ago; Malformed for an address no station has.
func (v *View) Learn(now time.Duration, in Slot, src frame.MAC) verdict.Reason {
	m, k := &v.members[in], key(src)
	if d, ok := v.pins[k]; ok {
		if d != m.device {
			return verdict.MACMoved
		}
		return verdict.Delivered
	}
	if src.IsMulticast() || src.IsZero() {
		return verdict.Malformed
	}
	if m.learn == 0 {
		return verdict.Delivered
	}
	c := v.core
	c.mu.RLock()
	e := c.table[k]
	fresh := e != nil && e.port == m.port && now-e.seen < refresh
	c.mu.RUnlock()
	if fresh {
		return verdict.Delivered
	}
	return v.learn(now, m, k)
}

// learn is the slow part of Learn: the address is new, has moved, or was not heard for a while.
func (v *View) learn(now time.Duration, m *member, k uint64) verdict.Reason {
	c := v.core
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.table[k]
	if e != nil && e.port == m.port {
		if now-e.seen > v.aging { // as good as new
			e.moved = now
		}
		e.seen = now
		e.unlink()
		e.link(m.port)
		return verdict.Delivered
	}
	if e != nil && now-e.moved < MoveHold && now-e.seen <= v.aging {
		return verdict.MACMoved
	}
	c.expire(m.port, now, v.aging)
	switch {
	case e != nil && c.table[k] == e: // it was not among those that expired just now
		c.forget(e)
	default:
		e = nil
	}
	if m.port.n >= m.learn {
		e = c.forget(m.port.head)
	} else if len(c.table) >= c.limit {
		if p := c.heaviest(now, v.aging); len(c.table) >= c.limit {
			e = c.forget(p.head)
		}
	}
	if e == nil {
		e = new(entry)
	}
	e.key, e.seen, e.moved = k, now, now
	e.link(m.port)
	c.table[k] = e
	return verdict.Delivered
}

// Route tells which ports a frame for dst is for. The caller skips those of
// the sender's own device (Same), and must not change the slice. The answer is
// Delivered with the ports, or the reason why there are none: LinkLocal for
// addresses that no bridge forwards, Rate when the port floods too much,
// Hairpin when dst is behind the sender's own device, NoReceiver.
func (v *View) Route(now time.Duration, in Slot, dst frame.MAC) ([]Slot, verdict.Reason) {
	m, k := &v.members[in], key(dst)
	if dst.IsMulticast() {
		if dst.IsLinkLocal() {
			return nil, verdict.LinkLocal
		}
		if !m.port.floods.Take(now, m.interval, m.burst) {
			return nil, verdict.Rate
		}
		return v.all, verdict.Delivered
	}
	if d, ok := v.pins[k]; ok {
		if d == m.device {
			return nil, verdict.Hairpin
		}
		return v.devices[d], verdict.Delivered
	}
	if len(v.open) == 0 {
		return nil, verdict.NoReceiver
	}
	if d, ok := v.behind(now, k); ok {
		if d == m.device {
			return nil, verdict.Hairpin
		}
		return v.devices[d], verdict.Delivered
	}
	return v.open, verdict.Delivered
}

// behind gives the device that a learned address is behind.
func (v *View) behind(now time.Duration, k uint64) (int32, bool) {
	v.core.mu.RLock()
	defer v.core.mu.RUnlock()
	e := v.core.table[k]
	if e == nil || now-e.seen > v.aging || int(e.port.slot) >= len(v.members) {
		return 0, false
	}
	m := &v.members[e.port.slot]
	return m.device, m.port == e.port
}
