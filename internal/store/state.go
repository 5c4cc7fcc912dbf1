package store

import (
	"bytes"
	"strings"

	"brane/internal/fault"
)

// state is all of the store at one revision. It is a value: apply makes the
// next one and leaves this one as it was.
type state struct {
	rev   Revision
	root  *node
	count int64  // records
	bytes int64  // of their paths, owners and values
	sum   uint64 // of their checksums, modulo 2^64: a fingerprint of the content
}

// change is one effect of an operation: e was written, or deleted at rev.
type change struct {
	*entry
	rev     Revision
	deleted bool
}

// check refuses what no state could accept, before anything is copied.
func (t *Txn) check() error {
	const op = "apply transaction"
	if len(t.If) > MaxOps || len(t.Do) > MaxOps {
		return fault.New(fault.Limit, op, "", "%d comparisons and %d operations, at most %d of each are allowed", len(t.If), len(t.Do), MaxOps)
	}
	for _, c := range t.If {
		if err := CheckPath(c.Path); err != nil {
			return err
		}
		if c.Modified < Any {
			return fault.New(fault.Invalid, op, c.Path, "compared with revision %d", c.Modified)
		}
	}
	size := 0
	for _, o := range t.Do {
		if err := CheckPath(o.Path); err != nil {
			return err
		}
		switch remove := o.Delete || o.Tree; {
		case remove && len(o.Value) > 0:
			return fault.New(fault.Invalid, op, o.Path, "a deletion with a value")
		case len(o.Value) > MaxValue:
			return fault.New(fault.Limit, op, o.Path, "a value of %d bytes, at most %d are allowed", len(o.Value), MaxValue)
		}
		size += len(o.Path) + len(o.Value)
	}
	if size > MaxTxn {
		return fault.New(fault.Limit, op, "", "%d bytes, at most %d are allowed", size, MaxTxn).
			WithRemedy("divide it into smaller transactions")
	}
	if len(t.Do) > 0 {
		return t.By.check()
	}
	return nil
}

// check accepts 1 to MaxOwner printable ASCII characters without a space.
func (p Principal) check() error {
	if p == "" || len(p) > MaxOwner {
		return fault.New(fault.Invalid, "apply transaction", "", "a principal of %d bytes, 1 to %d are allowed", len(p), MaxOwner)
	}
	for i := range len(p) {
		if p[i] <= ' ' || p[i] > '~' {
			return fault.New(fault.Invalid, "apply transaction", quoted(string(p)), "a principal is of printable characters")
		}
	}
	return nil
}

// compare reports the first comparison of t that does not hold in s.
func (s *state) compare(t *Txn) error {
	for _, c := range t.If {
		e := s.root.get(c.Path)
		switch {
		case e == nil && c.Modified == 0, e != nil && c.Modified == Any, e != nil && c.Modified == e.Modified:
			continue
		case e == nil:
			return fault.New(fault.Conflict, "apply transaction", c.Path, "it does not exist").WithRemedy("read it again and decide anew")
		case c.Modified == 0:
			return fault.New(fault.Conflict, "apply transaction", c.Path, "it exists, since revision %d", e.Created).WithRemedy("read it again and decide anew")
		default:
			return fault.New(fault.Conflict, "apply transaction", c.Path, "it changed at revision %d, %d was expected", e.Modified, c.Modified).
				WithRemedy("read it again and decide anew")
		}
	}
	return nil
}

// apply evaluates a checked transaction with at least one operation: the next
// state and what changed, in order, or an error and nothing at all.
func (s *state) apply(f forest, t *Txn) (*state, []change, error) {
	if err := s.compare(t); err != nil {
		return nil, nil, err
	}
	next := *s
	next.rev++
	changes := make([]change, 0, len(t.Do))
	for _, o := range t.Do {
		if !o.Delete && !o.Tree {
			e := next.write(f, t.By, o)
			changes = append(changes, change{entry: e, rev: next.rev})
			continue
		}
		for _, e := range next.victims(o) {
			next.take(e, -1)
			next.root = next.root.remove(e.Path)
			changes = append(changes, change{entry: e, rev: next.rev, deleted: true})
		}
	}
	if next.full() && (next.count > s.count || next.bytes > s.bytes) { // what shrinks it may pass
		return nil, nil, fault.New(fault.Limit, "apply transaction", "",
			"the store is full: %d records and %d bytes, at most %d and %d are allowed", next.count, next.bytes, MaxRecords, MaxBytes).
			WithRemedy("delete what is no longer used")
	}
	return &next, changes, nil
}

func (s *state) full() bool { return s.count > MaxRecords || s.bytes > MaxBytes }

func (s *state) write(f forest, by Principal, o Op) *entry {
	e := &entry{Record: Record{Path: strings.Clone(o.Path), Value: own(o.Value), Owner: by, Created: s.rev, Modified: s.rev}}
	if old := s.root.get(o.Path); old != nil {
		e.Path, e.Owner, e.Created = old.Path, old.Owner, old.Created
		s.take(old, -1)
	}
	e.sum = sum(&e.Record)
	s.take(e, 1)
	s.root = f.put(s.root, e)
	return e
}

// victims are the records that a deletion takes, collected before the first goes.
func (s *state) victims(o Op) []*entry {
	var all []*entry
	if o.Tree {
		s.root.under(o.Path, func(e *entry) bool { all = append(all, e); return true })
	} else if e := s.root.get(o.Path); e != nil {
		all = append(all, e)
	}
	return all
}

// take adds e to the totals (sign 1) or removes it from them (sign -1).
func (s *state) take(e *entry, sign int64) {
	s.count += sign
	s.bytes += sign * int64(len(e.Path)+len(e.Owner)+len(e.Value))
	s.sum += uint64(sign) * e.sum
}

// own returns a copy that is never nil, so that an empty value looks the same
// however it was stored.
func own(value []byte) []byte { return append(make([]byte, 0, len(value)), value...) }

// copied returns the record with a value that the caller may change.
func (e *entry) copied() Record {
	r := e.Record
	r.Value = bytes.Clone(r.Value)
	return r
}
