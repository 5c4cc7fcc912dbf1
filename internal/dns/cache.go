package dns

import (
	"container/list"
	"time"
)

// Limits of the cache.
const (
	maxEntries = 1024
	maxBytes   = 1 << 20 // of messages
	maxEntry   = 8 << 10 // larger answers are not remembered
)

// cache remembers answers, the least used leaves first.
type cache struct {
	byKey map[Key]*list.Element // of *entry
	used  list.List             // most lately used first
	bytes int
}

type entry struct {
	key    Key
	answer *Answer
}

// get returns an answer that has not outlived itself.
func (c *cache) get(now time.Time, k Key) (*Answer, bool) {
	el, ok := c.byKey[k]
	if !ok {
		return nil, false
	}
	a := el.Value.(*entry).answer
	if age := now.Sub(a.at); age < 0 || age >= a.life {
		c.drop(el)
		return nil, false
	}
	c.used.MoveToFront(el)
	return a, true
}

func (c *cache) put(k Key, a *Answer) {
	if el, ok := c.byKey[k]; ok {
		c.drop(el)
	}
	if a.life <= 0 || a.size > maxEntry {
		return
	}
	for c.used.Len() >= maxEntries || c.bytes+a.size > maxBytes {
		c.drop(c.used.Back())
	}
	if c.byKey == nil {
		c.byKey = map[Key]*list.Element{}
	}
	c.byKey[k] = c.used.PushFront(&entry{key: k, answer: a})
	c.bytes += a.size
}

func (c *cache) drop(el *list.Element) {
	e := c.used.Remove(el).(*entry)
	c.bytes -= e.answer.size
	delete(c.byKey, e.key)
}
