// Package mux is the switch core of a multiplexer: which ports a frame is for.
// It bounds what a port may cost the others (addresses learned, broadcasts a
// second) and decides nothing about permission.
//
// Theory of operation. A Core lives as long as its multiplexer and holds what
// is learned. A View is one plan's picture of it: immutable, shared by all who
// forward frames, swapped whole. An interface's own address is pinned by the
// plan: it is looked up without a lock and no other device can take it.
// Addresses behind a port that may learn, or behind an uplink, are kept in one
// table under a lock that readers share.
//
// The table cannot be flooded. A port at its cap replaces its own address
// unheard of the longest. When the table as a whole is full, the port with the
// most addresses gives one up, so a port that sends a million addresses evicts
// its own. What nobody knows goes to the uplinks and the learning ports only:
// an interface that learns nothing hears no stranger's unicast.
//
// The package has no clock: now is the time since any fixed moment, and never
// goes back.
package mux

import (
	"sync"
	"time"

	"brane/frame"
	"brane/internal/plan"
)

// Limits and defaults.
const (
	TableLimit   = 16384           // learned addresses of one mux, over all ports
	DefaultAging = 5 * time.Minute // as in IEEE 802.1Q section 8.8.3
	DefaultFlood = 1000            // broadcast and multicast frames a second sent by one port
	MoveHold     = time.Second     // a learned address stays that long before it may move to another port
	refresh      = time.Second     // how exactly the age of an address is known
)

// Slot is a port's place in its mux: small, stable while the port is in the
// plan, used again after that.
type Slot int32

// Core is the living part of a mux. Its methods, and those of its Views, may
// be called from any goroutine.
type Core struct {
	mu    sync.RWMutex // guards all below, and the lists of the ports; never held while calling out
	ports map[plan.PortID]*port
	used  []bool // by slot
	table map[uint64]*entry
	limit int
}

// port is what lives across plans.
type port struct {
	slot   Slot
	floods Bucket
	head   *entry // unheard of the longest
	tail   *entry
	n      int
}

// entry is one learned address, in the list of the port that it is behind.
type entry struct {
	key        uint64
	port       *port
	seen       time.Duration
	moved      time.Duration // when it came to this port
	prev, next *entry
}

// New makes a Core without ports that learns at most limit addresses.
func New(limit int) *Core {
	return &Core{ports: map[plan.PortID]*port{}, table: map[uint64]*entry{}, limit: max(limit, 1)}
}

// key packs an address, so that maps hash it as an integer.
func key(m frame.MAC) uint64 {
	return uint64(m[0])<<40 | uint64(m[1])<<32 | uint64(m[2])<<24 | uint64(m[3])<<16 | uint64(m[4])<<8 | uint64(m[5])
}

// Compile makes the View of a plan that passed plan.Check. New ports get their
// slots; those that the plan lacks keep theirs until Settle.
func (c *Core) Compile(m *plan.Mux) *View {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := &View{core: c, slots: make(map[plan.PortID]Slot, len(m.Ports)), pins: map[uint64]int32{}, aging: m.Aging}
	if v.aging <= 0 {
		v.aging = DefaultAging
	}
	devices := map[string]int32{}
	for i := range m.Ports {
		v.add(&m.Ports[i], c.port(m.Ports[i].ID), devices)
	}
	return v
}

func (c *Core) port(id plan.PortID) *port {
	if p := c.ports[id]; p != nil {
		return p
	}
	slot := 0
	for slot < len(c.used) && c.used[slot] {
		slot++
	}
	if slot == len(c.used) {
		c.used = append(c.used, false)
	}
	c.used[slot] = true
	p := &port{slot: Slot(slot)}
	c.ports[id] = p
	return p
}

// Settle forgets what v has no room for: ports that it lacks, with their slots
// and addresses, addresses that it pins, and those over a cap that shrank. It
// is called when no older View is in use.
func (c *Core) Settle(v *View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, p := range c.ports {
		_, ok := v.slots[id]
		keep := 0
		if ok {
			keep = v.members[p.slot].learn
		}
		for p.n > keep {
			c.forget(p.head)
		}
		if !ok {
			c.used[p.slot] = false
			delete(c.ports, id)
		}
	}
	for k := range v.pins {
		if e := c.table[k]; e != nil {
			c.forget(e)
		}
	}
}

// Learned gives how many addresses are known behind a port of v.
func (v *View) Learned(now time.Duration, s Slot) int {
	v.core.mu.Lock()
	defer v.core.mu.Unlock()
	p := v.members[s].port
	v.core.expire(p, now, v.aging)
	return p.n
}

func (c *Core) expire(p *port, now, aging time.Duration) {
	for p.head != nil && now-p.head.seen > aging {
		c.forget(p.head)
	}
}

// forget takes e out of the table and returns it for reuse.
func (c *Core) forget(e *entry) *entry {
	delete(c.table, e.key)
	e.unlink()
	return e
}

func (e *entry) unlink() {
	p := e.port
	if e.prev == nil {
		p.head = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		p.tail = e.prev
	} else {
		e.next.prev = e.prev
	}
	p.n--
}

// link puts e at the young end of p's list.
func (e *entry) link(p *port) {
	e.port, e.prev, e.next = p, p.tail, nil
	if p.tail == nil {
		p.head = e
	} else {
		p.tail.next = e
	}
	p.tail = e
	p.n++
}

// heaviest gives the port with the most addresses, when those that aged are gone.
func (c *Core) heaviest(now, aging time.Duration) *port {
	var most *port
	for _, p := range c.ports {
		c.expire(p, now, aging)
		if most == nil || p.n > most.n || p.n == most.n && p.slot < most.slot {
			most = p
		}
	}
	return most
}
