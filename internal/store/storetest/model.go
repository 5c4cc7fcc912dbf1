package storetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"brane/internal/fault"
	"brane/internal/store"
)

// model is the obvious store: a map and a list of everything that happened.
type model struct {
	rev     store.Revision
	records map[string]store.Record
	history []store.Batch
}

func (m *model) apply(t store.Txn) bool {
	for _, c := range t.If {
		r, ok := m.records[c.Path]
		if c.Modified == store.Any && !ok || c.Modified != store.Any && r.Modified != c.Modified {
			return false
		}
	}
	if len(t.Do) == 0 {
		return true
	}
	m.rev++
	batch := store.Batch{Revision: m.rev}
	for _, o := range t.Do {
		if !o.Delete {
			r, ok := m.records[o.Path]
			if !ok {
				r = store.Record{Path: o.Path, Owner: t.By, Created: m.rev}
			}
			r.Value, r.Modified = o.Value, m.rev
			m.records[o.Path] = r
			batch.Events = append(batch.Events, store.Event{Revision: m.rev, Record: r})
			continue
		}
		for _, r := range m.list(o.Path) {
			if o.Tree || r.Path == o.Path {
				delete(m.records, r.Path)
				batch.Events = append(batch.Events, store.Event{Revision: m.rev, Deleted: true, Record: r})
			}
		}
	}
	m.history = append(m.history, batch)
	return true
}

func inside(prefix, path string) bool {
	return prefix == "/" || path == prefix || strings.HasPrefix(path, prefix+"/")
}

func (m *model) list(prefix string) []store.Record {
	var list []store.Record
	for _, r := range m.records {
		if inside(prefix, r.Path) {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b store.Record) int { return strings.Compare(a.Path, b.Path) })
	return list
}

// watched is what a watch of prefix from a revision has to say.
func (m *model) watched(prefix string, from store.Revision) []string {
	var lines []string
	for _, b := range m.history {
		var events []store.Event
		for _, e := range b.Events {
			if inside(prefix, e.Record.Path) {
				events = append(events, e)
			}
		}
		if b.Revision > from && events != nil {
			lines = append(lines, line(store.Batch{Revision: b.Revision, Events: events}))
		}
	}
	return lines
}

func line(b store.Batch) string { return fmt.Sprintf("%d %v %+v", b.Revision, b.Overflow, b.Events) }

var (
	somePaths    = rapid.SampledFrom([]string{"/a", "/a/b", "/a/b/c", "/a-b", "/a/c", "/ab", "/b", "/b/a", "/a0"})
	somePrefixes = rapid.OneOf(somePaths, rapid.Just("/"))
)

func someTxn(rt *rapid.T, m *model) store.Txn {
	txn := store.Txn{By: rapid.SampledFrom([]store.Principal{"uid:1", "uid:2", "system"}).Draw(rt, "by")}
	for range rapid.IntRange(0, 2).Draw(rt, "conditions") {
		c := store.Compare{Path: somePaths.Draw(rt, "if")}
		switch rapid.IntRange(0, 3).Draw(rt, "kind") {
		case 0:
			c.Modified = store.Any
		case 1:
			c.Modified = store.Revision(rapid.IntRange(0, int(m.rev)+1).Draw(rt, "revision"))
		default:
			c.Modified = m.records[c.Path].Modified // holds
		}
		txn.If = append(txn.If, c)
	}
	for range rapid.IntRange(0, 4).Draw(rt, "operations") {
		o := store.Op{Path: somePaths.Draw(rt, "path")}
		switch rapid.IntRange(0, 4).Draw(rt, "do") {
		case 0:
			o.Delete = true
		case 1:
			o.Delete, o.Tree = true, true
		default:
			o.Value = []byte(rapid.StringN(0, 3, 8).Draw(rt, "value"))
		}
		txn.Do = append(txn.Do, o)
	}
	return txn
}

// checkModel runs random transactions on the store and on the model side by
// side; all that can be read and watched must be the same.
func checkModel(t *testing.T, open Open) {
	s := open(t)
	t.Cleanup(func() { _ = s.Close() })
	m := &model{records: map[string]store.Record{}}
	rapid.Check(t, func(rt *rapid.T) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		start := m.rev
		prefix := somePrefixes.Draw(rt, "watched")
		live, err := s.Watch(ctx, prefix, start)
		if err != nil {
			rt.Fatal(err)
		}
		for range rapid.IntRange(1, 8).Draw(rt, "transactions") {
			txn := someTxn(rt, m)
			rev, err := s.Apply(txn)
			switch ok := m.apply(txn); {
			case ok && (err != nil || rev != m.rev):
				rt.Fatalf("%+v: %d, %v, want %d", txn, rev, err, m.rev)
			case !ok && fault.KindOf(err) != fault.Conflict:
				rt.Fatalf("%+v: %v, want a conflict", txn, err)
			}
		}
		compareReads(rt, s, m)
		sentinel := store.Txn{By: tester, Do: []store.Op{put("/end", fmt.Sprint(m.rev)), put(below(prefix), "")}}
		if _, err = s.Apply(sentinel); err != nil {
			rt.Fatal(err)
		}
		m.apply(sentinel)
		from := store.Revision(rapid.Int64Range(int64(max(0, m.rev-20)), int64(m.rev-1)).Draw(rt, "from"))
		again, err := s.Watch(ctx, prefix, from)
		if err != nil {
			rt.Fatal(err)
		}
		compareWatch(t, rt, live, m.watched(prefix, start))
		compareWatch(t, rt, again, m.watched(prefix, from))
	})
}

// below gives a path inside prefix that nothing else writes.
func below(prefix string) string {
	if prefix == "/" {
		return "/sentinel"
	}
	return prefix + "/sentinel"
}

func compareReads(rt *rapid.T, s store.Store, m *model) {
	prefix := somePrefixes.Draw(rt, "listed")
	got, rev, err := s.List(prefix)
	if err != nil || rev != m.rev || s.Revision() != m.rev {
		rt.Fatalf("List at %d, Revision %d, %v, want %d", rev, s.Revision(), err, m.rev)
	}
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", m.list(prefix)); g != w {
		rt.Fatalf("List(%q)\n %s, want\n %s", prefix, g, w)
	}
	path := somePaths.Draw(rt, "read")
	r, err := s.Get(path)
	want, ok := m.records[path]
	if ok != (err == nil) || ok && fmt.Sprintf("%+v", r) != fmt.Sprintf("%+v", want) {
		rt.Fatalf("Get(%q) = %+v, %v, want %+v", path, r, err, want)
	}
}

func compareWatch(t *testing.T, rt *rapid.T, ch <-chan store.Batch, want []string) {
	for _, w := range want {
		b, ok := next(t, ch)
		if got := line(b); !ok || got != w {
			rt.Fatalf("watch: %s (open %v), want %s", got, ok, w)
		}
	}
}
