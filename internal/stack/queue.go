package stack

import "sync"

// fairQueue is a bounded queue in which no key holds more than its part, so
// that a flood from one guest leaves room for the others. Push never blocks.
type fairQueue[K comparable, T any] struct {
	mu       sync.Mutex
	ready    chan struct{} // capacity 1: something may be there
	items    []keyed[K, T] // a ring
	head, n  int
	held     map[K]int
	perKey   int
	isClosed bool
}

type keyed[K comparable, T any] struct {
	key  K
	item T
}

func newFairQueue[K comparable, T any](total, perKey int) *fairQueue[K, T] {
	return &fairQueue[K, T]{ready: make(chan struct{}, 1), items: make([]keyed[K, T], total), held: make(map[K]int), perKey: perKey}
}

// push says whether the item was taken.
func (q *fairQueue[K, T]) push(key K, item T) bool {
	q.mu.Lock()
	ok := !q.isClosed && q.n < len(q.items) && q.held[key] < q.perKey
	if ok {
		q.items[(q.head+q.n)%len(q.items)] = keyed[K, T]{key, item}
		q.n++
		q.held[key]++
	}
	q.mu.Unlock()
	if ok {
		q.wake()
	}
	return ok
}

func (q *fairQueue[K, T]) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// pop takes the oldest item if there is one; closed queues are drained first.
func (q *fairQueue[K, T]) pop() (item T, ok, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == 0 {
		return item, false, q.isClosed
	}
	k := q.items[q.head]
	q.items[q.head] = keyed[K, T]{}
	q.head = (q.head + 1) % len(q.items)
	q.n--
	if q.held[k.key]--; q.held[k.key] == 0 {
		delete(q.held, k.key)
	}
	if q.n > 0 {
		q.wake()
	}
	return k.item, true, false
}

// close lets no more in and wakes a reader.
func (q *fairQueue[K, T]) close() {
	q.mu.Lock()
	q.isClosed = true
	q.mu.Unlock()
	q.wake()
}
