package dhcp

import (
	"time"

	"brane/frame"
)

// Rate of one client: a handshake is two messages, a client that hears nothing
// repeats itself every few seconds.
const (
	burst      = 10
	refill     = 500 * time.Millisecond // one more message
	generation = 1024                   // clients remembered, at least; at most twice as many
)

// limiter is a token bucket for each MAC. Its table is two generations: when
// the young one is full it becomes the old one, and what was not heard of
// meanwhile is forgotten. A forgotten client starts with a full bucket.
type limiter struct {
	young, old map[frame.MAC]bucket
}

// bucket says when it will be full; how far that lies ahead is how empty it is.
type bucket struct{ full time.Time }

// allow takes one token of mac's bucket, or reports that there is none.
func (l *limiter) allow(now time.Time, mac frame.MAC) bool {
	b, known := l.young[mac]
	if !known {
		b = l.old[mac]
	}
	if b.full.Before(now) {
		b.full = now
	}
	// A clock that was set back must not lock the client out.
	if b.full.Sub(now) > burst*refill {
		b.full = now.Add(burst * refill)
	}
	ok := b.full.Sub(now) <= (burst-1)*refill
	if ok {
		b.full = b.full.Add(refill)
	}
	if !known && len(l.young) >= generation {
		l.young, l.old = nil, l.young
	}
	if l.young == nil {
		l.young = map[frame.MAC]bucket{}
	}
	l.young[mac] = b
	return ok
}
