package mux

import (
	"sync/atomic"
	"time"
)

// Bucket is a token bucket of one atomic word: the time at which it is full
// again (the generic cell rate algorithm). The zero Bucket is full.
type Bucket struct{ full atomic.Int64 }

// Take takes one token, if there is one: a bucket that holds burst tokens and
// gets a new one each interval. now never goes back.
func (b *Bucket) Take(now, interval time.Duration, burst int) bool {
	ahead := interval * time.Duration(burst-1)
	for {
		was := b.full.Load()
		at := max(was, int64(now))
		if at-int64(now) > int64(ahead) {
			return false
		}
		if b.full.CompareAndSwap(was, at+int64(interval)) {
			return true
		}
	}
}
