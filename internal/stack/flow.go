package stack

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// flowKey names a UDP or echo flow as the guest sees it. An echo flow has the
// identifier for a source port and 0 for a destination port.
type flowKey struct {
	src, dst netip.AddrPort
	proto    uint8
}

// flowTable holds what each source has going, in order of use. F is the flow.
// A full source loses its own least recently used flow; a full table takes it
// from the source that has most. Time is an argument.
type flowTable[F comparable] struct {
	mu      sync.Mutex
	flows   map[flowKey]*entry[F]
	sources map[netip.Addr]*list.List // of *entry[F], least recently used first
}

type entry[F comparable] struct {
	key  flowKey
	flow F
	used time.Time
	idle time.Duration
	at   *list.Element
}

// touchEvery is how exact the order of use is.
const touchEvery = time.Second

// get finds a flow and notes that it is in use.
func (t *flowTable[F]) get(now time.Time, key flowKey) (f F, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.flows[key]
	if e == nil {
		return f, false
	}
	if now.Sub(e.used) >= touchEvery {
		e.used = now
		t.sources[key.src.Addr()].MoveToBack(e.at)
	}
	return e.flow, true
}

// put adds a flow that was not there (added is false when it was) and gives
// the flows that had to leave for it.
func (t *flowTable[F]) put(now time.Time, key flowKey, f F, idle time.Duration, perSource, total int) (evicted []F, added bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flows == nil {
		t.flows, t.sources = make(map[flowKey]*entry[F]), make(map[netip.Addr]*list.List)
	}
	if t.flows[key] != nil {
		return nil, false
	}
	src := key.src.Addr()
	if l := t.sources[src]; l != nil && l.Len() >= perSource {
		evicted = append(evicted, t.evict(l))
	}
	if len(t.flows) >= total {
		var most *list.List
		for _, l := range t.sources {
			if most == nil || l.Len() > most.Len() {
				most = l
			}
		}
		evicted = append(evicted, t.evict(most))
	}
	if t.sources[src] == nil {
		t.sources[src] = list.New()
	}
	e := &entry[F]{key: key, flow: f, used: now, idle: idle}
	e.at = t.sources[src].PushBack(e)
	t.flows[key] = e
	return evicted, true
}

func (t *flowTable[F]) evict(l *list.List) F {
	e := l.Front().Value.(*entry[F])
	t.remove(e)
	return e.flow
}

func (t *flowTable[F]) remove(e *entry[F]) {
	src := e.key.src.Addr()
	l := t.sources[src]
	l.Remove(e.at)
	if l.Len() == 0 {
		delete(t.sources, src)
	}
	delete(t.flows, e.key)
}

// drop removes f, if it still is the flow of key.
func (t *flowTable[F]) drop(key flowKey, f F) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.flows[key]; e != nil && e.flow == f {
		t.remove(e)
	}
}

// expire removes and gives the flows that were idle for longer than they may
// be, and says how many are left.
func (t *flowTable[F]) expire(now time.Time) (gone []F, left int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.flows {
		if now.Sub(e.used) >= e.idle {
			t.remove(e)
			gone = append(gone, e.flow)
		}
	}
	return gone, len(t.flows)
}

// clear removes and gives all.
func (t *flowTable[F]) clear() (gone []F) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.flows {
		gone = append(gone, e.flow)
	}
	t.flows, t.sources = nil, nil
	return gone
}

func (t *flowTable[F]) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.flows)
}
