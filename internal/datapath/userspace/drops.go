package userspace

import (
	"sync"
	"time"

	"brane/internal/datapath"
	"brane/internal/plan"
	"brane/internal/verdict"
)

// The ring of refused frames. A port has its share of it, so that a flood of
// one does not wash away what happened to the others; all are counted.
const (
	ringLen      = 1024
	recordBurst  = 64
	recordEvery  = 5 * time.Millisecond
	maxFrameText = 256 // bytes
)

type ring struct {
	mu    sync.Mutex // last in order
	next  uint64     // sequence number of the next record
	slots [ringLen]dropped
}

// dropped is a datapath.Drop that can be written again without allocation.
type dropped struct {
	datapath.Drop
	text [maxFrameText]byte
	n    int
}

// record writes down the frame in hand.
func (l *lane) record(c *compiled, j *judge, to bool, r verdict.Reason, by *plan.Filter) {
	if !j.records.Take(l.now, recordEvery, recordBurst) {
		return
	}
	var text [maxFrameText]byte
	line, _ := l.pkt.AppendText(text[:0])
	d := datapath.Drop{
		Time: l.s.start.Add(l.now), Mux: c.network.name, Port: j.id, To: to, Reason: r,
	}
	if by != nil {
		d.Rule, d.Owner = by.Rule, by.Owner
	}
	g := &l.s.drops
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next++
	d.Seq = g.next
	slot := &g.slots[g.next%ringLen]
	slot.Drop = d
	slot.n = copy(slot.text[:], line)
}

// Drops is datapath.Datapath's. Of a port's refused frames at most 200 a second
// are written down, after the first 64; its counters have them all.
func (s *Switch) Drops(since uint64) []datapath.Drop {
	g := &s.drops
	g.mu.Lock()
	defer g.mu.Unlock()
	first := since + 1
	if g.next >= ringLen {
		first = max(first, g.next-ringLen+1)
	}
	var out []datapath.Drop
	for seq := first; seq <= g.next && seq != 0; seq++ {
		slot := &g.slots[seq%ringLen]
		d := slot.Drop
		d.Frame = string(slot.text[:slot.n])
		out = append(out, d)
	}
	return out
}
