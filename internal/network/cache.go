package network

import (
	"maps"
	"strings"
	"sync"

	"brane/internal/store"
)

// cache is the state of the store as the service knows it, so that an operation
// costs what it changes and not what there is. It is believed only while its
// revision is the store's, and what is decided on it is committed with
// comparisons in every case.
type cache struct {
	mu    sync.Mutex
	state *State                    // nil: to be read
	seen  map[string]store.Revision // when each record was last written
}

// refresh reads the store unless the cache is of its present revision.
func (c *cache) refresh(s store.Store) error {
	if c.state != nil && c.state.Revision == s.Revision() {
		return nil
	}
	c.state = nil
	records, rev, err := s.List("/")
	if err != nil {
		return err
	}
	state, err := Load(records, rev)
	if err != nil {
		return err
	}
	c.seen = make(map[string]store.Revision, len(records))
	for _, r := range records {
		c.seen[r.Path] = r.Modified
	}
	c.state = state
	return nil
}

// commit takes over a transaction that was committed at rev. When there was
// another one before it that the cache does not know, it is given up.
func (c *cache) commit(do []store.Op, rev store.Revision) {
	state := c.state
	c.state = nil
	if rev != state.Revision+1 {
		return
	}
	for _, o := range do {
		switch {
		case o.Tree:
			for path := range c.seen {
				if path != o.Path && !strings.HasPrefix(path, o.Path+"/") {
					continue
				}
				delete(c.seen, path)
				if _, err := state.put(store.Record{Path: path}, true); err != nil {
					return
				}
			}
		case o.Delete:
			delete(c.seen, o.Path)
			if _, err := state.put(store.Record{Path: o.Path}, true); err != nil {
				return
			}
		default:
			c.seen[o.Path] = rev
			if _, err := state.put(store.Record{Path: o.Path, Value: o.Value}, false); err != nil {
				return
			}
		}
	}
	state.Revision = rev
	c.state = state
}

// clone is a state that changes of s do not reach.
func (s *State) clone() *State {
	n := &State{
		Revision: s.Revision, Networks: maps.Clone(s.Networks), Ports: maps.Clone(s.Ports), Branes: maps.Clone(s.Branes),
		Leases: make(map[string]map[string]Lease, len(s.Leases)),
	}
	for name, m := range s.Leases {
		n.Leases[name] = maps.Clone(m)
	}
	return n
}
