package store

import (
	"context"
	"sync"

	"brane/internal/fault"
)

// hub keeps the latest transactions and passes each to the watches it
// concerns. A watch that begins in the past first reads the history at its own
// pace; once it has caught up it has a queue of its own, so nobody waits for a
// slow reader and nobody's flood fills the queue of another's prefix. History
// and queues hold the same commits: a reader's own events are made when it
// takes them.
type hub struct {
	mu    sync.Mutex
	kept  []*commit // the history, oldest first, without a gap
	size  int       // bytes of kept
	rev   Revision  // of the last publication
	floor Revision  // a watch from here or later misses nothing
	live  map[*watch]struct{}
	open  int           // watches whose goroutine runs
	stop  chan struct{} // closed by close
	pumps sync.WaitGroup
}

// commit is one published transaction. It is never changed.
type commit struct {
	rev     Revision
	changes []change
	size    int // bytes, about
}

func (h *hub) start(rev Revision) {
	h.rev, h.floor = rev, rev
	h.live = make(map[*watch]struct{})
	h.stop = make(chan struct{})
}

// publish makes the commits visible: show publishes the state, then every
// watch gets what concerns it. Both happen under one lock, so that whoever has
// seen an event can read what it says, and whoever has read a revision can
// watch from it.
func (h *hub) publish(commits []*commit, show func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	show()
	for _, c := range commits {
		h.rev = c.rev
		h.keep(c)
		for w := range h.live {
			if !w.offer(c) {
				delete(h.live, w)
			}
		}
	}
}

func (h *hub) keep(c *commit) {
	h.kept = append(h.kept, c)
	h.size += c.size
	for len(h.kept) > KeptRevisions || h.size > KeptBytes {
		h.size -= h.kept[0].size
		h.floor = h.kept[0].rev
		h.kept[0] = nil
		h.kept = h.kept[1:]
	}
}

// weigh counts the events of c at and below prefix and the bytes of their values.
func (c *commit) weigh(prefix string) (events, size int) {
	for _, ch := range c.changes {
		if Under(prefix, ch.Path) {
			events++
			size += len(ch.Value)
		}
	}
	return events, size
}

// batch is what c says to a watch of prefix. It shares nothing with c.
func (c *commit) batch(prefix string) Batch {
	b := Batch{Revision: c.rev}
	for _, ch := range c.changes {
		if Under(prefix, ch.Path) {
			b.Events = append(b.Events, Event{Revision: ch.rev, Deleted: ch.deleted, Record: ch.copied()})
		}
	}
	return b
}

func (h *hub) watch(ctx context.Context, prefix string, from Revision) (<-chan Batch, error) {
	if err := checkPrefix(prefix); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.stop:
		return nil, errClosed("watch", prefix)
	default:
	}
	switch {
	case from < 0:
		return nil, fault.New(fault.Invalid, "watch", prefix, "from revision %d", from)
	case from < h.floor:
		return nil, fault.New(fault.Conflict, "watch", prefix, "revision %d is compacted, the oldest kept is %d", from, h.floor).
			WithRemedy("list again and watch from the revision of the list")
	case from > h.rev:
		return nil, fault.New(fault.Conflict, "watch", prefix, "revision %d is not yet made, the last is %d", from, h.rev).
			WithRemedy("list again and watch from the revision of the list")
	case h.open >= MaxWatches:
		return nil, fault.New(fault.Limit, "watch", prefix, "%d watches are open, the most allowed", h.open)
	}
	w := &watch{prefix: prefix, seen: from, out: make(chan Batch), wake: make(chan struct{}, 1), over: make(chan struct{})}
	h.open++
	h.pumps.Go(func() { h.pump(ctx, w) })
	return w.out, nil
}

// pump delivers to one reader until ctx ends, the hub closes or an overflow
// has been told.
func (h *hub) pump(ctx context.Context, w *watch) {
	defer close(w.out)
	defer h.leave(w)
	for {
		c, lost := h.next(w)
		var batch Batch
		over := w.over
		switch {
		case lost != 0:
			batch, over = Batch{Revision: lost, Overflow: true}, nil
		case c != nil:
			batch = c.batch(w.prefix)
		default:
			select {
			case <-w.wake:
				continue
			case <-ctx.Done():
				return
			case <-h.stop:
				return
			}
		}
		select {
		case w.out <- batch:
			if batch.Overflow {
				return
			}
		case <-over: // next tells what was lost
		case <-ctx.Done():
			return
		case <-h.stop:
			return
		}
	}
}

func (h *hub) leave(w *watch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.live, w)
	h.open--
}

// next is the commit to deliver to w now, nil for none, or the first revision
// that w has lost. The commit before is delivered.
func (h *hub) next(w *watch) (c *commit, lost Revision) {
	if w.live {
		return w.next()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for w.seen < h.rev {
		if w.seen < h.floor {
			return nil, w.seen + 1
		}
		c = h.kept[len(h.kept)-int(h.rev-w.seen)]
		w.seen++
		if events, _ := c.weigh(w.prefix); events > 0 {
			return c, 0
		}
	}
	w.live = true
	h.live[w] = struct{}{}
	return nil, 0
}

// close ends every watch and returns when their goroutines have.
func (h *hub) close() {
	h.mu.Lock()
	select {
	case <-h.stop:
	default:
		close(h.stop)
	}
	h.mu.Unlock()
	h.pumps.Wait()
}

// watch is one reader. Its goroutine alone uses seen and live, and closes out.
type watch struct {
	prefix string
	seen   Revision // up to here the history has been read
	live   bool     // it has been read to its end: the queue counts
	out    chan Batch
	wake   chan struct{} // holds one token when there may be something to deliver
	over   chan struct{} // closed at overflow

	mu      sync.Mutex
	queue   []*commit // the first is being delivered
	pending int       // their events
	bytes   int       // of their values
	taken   bool      // the first has been given to the goroutine
	lost    Revision  // the first that was lost; 0: none
}

// offer queues c if it concerns w and reports whether w can take more. When w
// is full the queue is emptied: the reader must list again in any case, and
// what it did not read is not kept for it. A commit that finds no other waiting
// is always taken.
func (w *watch) offer(c *commit) bool {
	events, size := c.weigh(w.prefix)
	if events == 0 {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) > 0 && (w.pending+events > MaxPending || w.bytes+size > MaxTxn) {
		w.lost, w.queue = c.rev, nil
		close(w.over)
		return false
	}
	w.queue = append(w.queue, c)
	w.pending += events
	w.bytes += size
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return true
}

// next drops the commit that was taken before and takes the one after it.
func (w *watch) next() (c *commit, lost Revision) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost != 0 {
		return nil, w.lost
	}
	if w.taken {
		events, size := w.queue[0].weigh(w.prefix)
		w.pending -= events
		w.bytes -= size
		w.queue[0] = nil
		w.queue = w.queue[1:]
	}
	if w.taken = len(w.queue) > 0; w.taken {
		return w.queue[0], 0
	}
	w.queue = nil
	return nil, 0
}
