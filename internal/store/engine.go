package store

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"brane/internal/fault"
)

// engine is the store, in memory and on disk alike. How it works:
//
// The present state is an immutable value behind a pointer. A reader loads the
// pointer and needs no lock. A writer queues its transaction and waits for its
// answer or for its turn, whichever comes first; who gets the turn evaluates
// all that is queued, one after the other, each on the state that the one
// before left, gives the changes to the journal in one piece, and when they are
// on disk publishes the last state and the events. So many writers share one
// sync, nobody ever reads what could still be lost, and a failed write is
// undone by keeping the pointer as it was.
//
// Lock order: turn, then mu or hub.mu, then watch.mu.
type engine struct {
	forest  forest
	journal journal
	now     atomic.Pointer[state]
	hub     hub
	turn    chan struct{} // holds a token while somebody commits

	mu     sync.Mutex
	queue  []*request
	closed bool
}

// journal keeps states. The engine calls it from one goroutine at a time.
type journal interface {
	// commit makes next durable; changes lead to it from the state of the commit
	// before. After an error the journal still holds that state.
	commit(next *state, changes []change) error
	close() error
}

// request is a transaction that waits for its turn. The outcome may be read
// when done is closed.
type request struct {
	txn  Txn
	done chan struct{}
	rev  Revision
	err  error
}

// A group is at most this large, so that a crowd does not make one unbounded commit.
const (
	groupRequests = 256
	groupBytes    = 4 * MaxTxn
)

func newEngine(j journal, f forest, s *state) *engine {
	e := &engine{forest: f, journal: j, turn: make(chan struct{}, 1)}
	e.now.Store(s)
	e.hub.start(s.rev)
	return e
}

// NewMemory returns an empty store that lives as long as the process.
func NewMemory() Store { return newEngine(nowhere{}, newForest(), &state{}) }

func newForest() forest { return forest{seed: maphash.MakeSeed()} }

// nowhere is the journal of the memory store.
type nowhere struct{}

func (nowhere) commit(*state, []change) error { return nil }
func (nowhere) close() error                  { return nil }

func errClosed(op, subject string) error {
	return fault.New(fault.Unavailable, op, subject, "the store is closed")
}

func (e *engine) isClosed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed
}

func (e *engine) Get(path string) (Record, error) {
	if err := CheckPath(path); err != nil {
		return Record{}, err
	}
	if e.isClosed() {
		return Record{}, errClosed("read record", path)
	}
	entry := e.now.Load().root.get(path)
	if entry == nil {
		return Record{}, fault.New(fault.NotFound, "read record", path, "there is no such record")
	}
	return entry.copied(), nil
}

func (e *engine) List(prefix string) ([]Record, Revision, error) {
	if err := checkPrefix(prefix); err != nil {
		return nil, 0, err
	}
	if e.isClosed() {
		return nil, 0, errClosed("list records", prefix)
	}
	s := e.now.Load()
	var records []Record
	s.root.under(prefix, func(entry *entry) bool {
		records = append(records, entry.copied())
		return true
	})
	return records, s.rev, nil
}

func (e *engine) Revision() Revision { return e.now.Load().rev }

func (e *engine) Watch(ctx context.Context, prefix string, from Revision) (<-chan Batch, error) {
	return e.hub.watch(ctx, prefix, from)
}

func (e *engine) Apply(t Txn) (Revision, error) {
	if err := t.check(); err != nil {
		return 0, err
	}
	if len(t.Do) == 0 {
		return e.compare(&t)
	}
	r := &request{txn: t, done: make(chan struct{})}
	if !e.enqueue(r) {
		return 0, errClosed("apply transaction", "")
	}
	select {
	case <-r.done:
	case e.turn <- struct{}{}:
		e.commitUntil(r)
		<-e.turn
	}
	return r.rev, r.err
}

func (e *engine) compare(t *Txn) (Revision, error) {
	if e.isClosed() {
		return 0, errClosed("apply transaction", "")
	}
	s := e.now.Load()
	if err := s.compare(t); err != nil {
		return 0, err
	}
	return s.rev, nil
}

func (e *engine) enqueue(r *request) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.queue = append(e.queue, r)
	}
	return !e.closed
}

// commitUntil commits groups from the queue until r is settled or, with nil,
// none is left. The caller has the turn.
func (e *engine) commitUntil(r *request) {
	for r == nil || !r.settled() {
		group := e.nextGroup()
		if len(group) == 0 {
			return
		}
		e.commit(group)
		for _, g := range group {
			close(g.done)
		}
	}
}

func (r *request) settled() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

func (e *engine) nextGroup() []*request {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, size := 0, 0
	for n < len(e.queue) && n < groupRequests && (n == 0 || size+e.queue[n].size() <= groupBytes) {
		size += e.queue[n].size()
		n++
	}
	group := e.queue[:n:n]
	e.queue = e.queue[n:]
	if len(e.queue) == 0 {
		e.queue = nil
	}
	return group
}

func (r *request) size() int {
	n := 0
	for _, o := range r.txn.Do {
		n += len(o.Value)
	}
	return n
}

// commit gives every request of the group its outcome. When the whole cannot be
// written each is tried alone, so that one that is too large for the disk does
// not take the others with it.
func (e *engine) commit(group []*request) {
	s := e.now.Load()
	var changes []change
	var commits []*commit
	for _, r := range group {
		next, some, err := s.apply(e.forest, &r.txn)
		if err != nil {
			r.err = err
			continue
		}
		s, r.rev, r.err = next, next.rev, nil
		changes = append(changes, some...)
		commits = append(commits, newCommit(next.rev, some))
	}
	if len(commits) == 0 {
		return
	}
	err := e.journal.commit(s, changes)
	switch {
	case err == nil:
		e.hub.publish(commits, func() { e.now.Store(s) })
	case len(group) == 1:
		group[0].rev, group[0].err = 0, err
	default:
		for i := range group {
			e.commit(group[i : i+1])
		}
	}
}

func newCommit(rev Revision, changes []change) *commit {
	c := &commit{rev: rev, changes: changes, size: 64}
	for _, ch := range changes {
		c.size += 192 + len(ch.Path) + len(ch.Value)
	}
	return c
}

func (e *engine) Close() error {
	e.mu.Lock()
	again := e.closed
	e.closed = true
	e.mu.Unlock()
	e.turn <- struct{}{}
	defer func() { <-e.turn }()
	if again {
		return nil
	}
	e.commitUntil(nil)
	e.hub.close()
	return e.journal.close()
}
