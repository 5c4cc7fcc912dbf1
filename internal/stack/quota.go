package stack

import (
	"net/netip"
	"sync"
)

// quota counts something held, in all and for each source.
type quota struct {
	mu     sync.Mutex
	total  int
	source map[netip.Addr]int
}

// take charges n to source when both limits permit it. The caller gives it back exactly once.
func (q *quota) take(source netip.Addr, n, perSource, total int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.total+n > total || q.source[source]+n > perSource {
		return false
	}
	q.add(source, n)
	return true
}

// takePart charges a fair part of what is left: want, or 1/8 of the rest of
// source's or of all's share, whichever is least, but never less than floor.
// So one source's thousandth buffer is small, and another's first one is not.
func (q *quota) takePart(source netip.Addr, want, floor, perSource, total int) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := max(min(want, (perSource-q.source[source])/8, (total-q.total)/8), floor)
	q.add(source, n)
	return n
}

func (q *quota) give(source netip.Addr, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.add(source, -n)
}

func (q *quota) add(source netip.Addr, n int) {
	if q.source == nil {
		q.source = make(map[netip.Addr]int)
	}
	q.total += n
	if q.source[source] += n; q.source[source] == 0 {
		delete(q.source, source)
	}
}

func (q *quota) held() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.total
}
