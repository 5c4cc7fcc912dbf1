package store

import (
	"hash/maphash"
	"strings"
)

// node is a treap of records by path. It is immutable: a change copies the
// nodes on its way and shares the rest, so a reader keeps a whole revision by
// keeping its root, without a lock, and a change that fails is undone by
// forgetting it. A nil node is the empty tree.
type node struct {
	*entry
	priority    uint64 // no child has a greater one
	left, right *node
}

// entry is a record with its checksum, see sum. It is never changed.
type entry struct {
	Record
	sum uint64
}

// forest makes trees. Its seed is secret, so that nobody chooses paths that
// make a tree deep.
type forest struct{ seed maphash.Seed }

// get returns the entry at path, nil when there is none.
func (n *node) get(path string) *entry {
	for n != nil {
		switch c := strings.Compare(path, n.Path); {
		case c == 0:
			return n.entry
		case c < 0:
			n = n.left
		default:
			n = n.right
		}
	}
	return nil
}

// put returns n with e in the place of whatever was at its path.
func (f forest) put(n *node, e *entry) *node {
	if n == nil {
		return &node{entry: e, priority: maphash.String(f.seed, e.Path)}
	}
	m := *n
	switch c := strings.Compare(e.Path, n.Path); {
	case c == 0:
		m.entry = e
	case c < 0:
		m.left = f.put(n.left, e)
		if l := m.left; l.priority > m.priority { // l is new: it may be changed
			m.left, l.right = l.right, &m
			return l
		}
	default:
		m.right = f.put(n.right, e)
		if r := m.right; r.priority > m.priority {
			m.right, r.left = r.left, &m
			return r
		}
	}
	return &m
}

// remove returns n without the entry at path, which is there.
func (n *node) remove(path string) *node {
	m := *n
	switch c := strings.Compare(path, n.Path); {
	case c == 0:
		return merge(n.left, n.right)
	case c < 0:
		m.left = n.left.remove(path)
	default:
		m.right = n.right.remove(path)
	}
	return &m
}

// merge joins two trees; every path of l is before every path of r.
func merge(l, r *node) *node {
	switch {
	case l == nil:
		return r
	case r == nil:
		return l
	case l.priority > r.priority:
		m := *l
		m.right = merge(l.right, r)
		return &m
	default:
		m := *r
		m.left = merge(l, r.left)
		return &m
	}
}

// under calls yield for prefix and what is below it, in order of path, until
// it returns false. "/a" and "/a/b" need not be neighbours: "/a-b" is between.
func (n *node) under(prefix string, yield func(*entry) bool) {
	if prefix == "/" {
		n.span("", "\xff", yield)
		return
	}
	if e := n.get(prefix); e != nil && !yield(e) {
		return
	}
	n.span(prefix+"/", prefix+"0", yield) // '0' is the byte after '/'
}

// span yields the entries with from <= path < to.
func (n *node) span(from, to string, yield func(*entry) bool) bool {
	if n == nil {
		return true
	}
	after, before := n.Path >= from, n.Path < to
	return (!after || n.left.span(from, to, yield)) &&
		(!after || !before || yield(n.entry)) &&
		(!before || n.right.span(from, to, yield))
}
