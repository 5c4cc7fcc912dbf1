package storetest

import (
	"context"
	"fmt"
	"testing"

	"brane/internal/fault"
	"brane/internal/store"
)

func watchTests() []test {
	return []test{
		{"prefix", testWatchPrefix},
		{"replay", testReplay},
		{"replay is never an overflow", testLongReplay},
		{"compacted", testCompacted},
		{"bad requests", testWatchRefused},
		{"end with the context", testWatchEnd},
		{"overflow", testOverflow},
		{"one large batch is no overflow", testLargeBatch},
		{"a flood elsewhere", testFloodElsewhere},
	}
}

func testWatchPrefix(t *testing.T, s store.Store) {
	all, a, ab := watch(t, s, "/", 0), watch(t, s, "/a", 0), watch(t, s, "/a/b", 0)
	apply(t, s, put("/a", "1"), put("/a/b", "2"), put("/a-b", "3"), put("/c", "4"))
	apply(t, s, put("/c", "5"))
	apply(t, s, put("/a/bc", "6"))
	apply(t, s, remove("/a/b"), put("/a/b/c", "7"))
	wantBatch(t, ab, 1, "+/a/b=2")
	wantBatch(t, ab, 4, "-/a/b=2", "+/a/b/c=7")
	wantBatch(t, a, 1, "+/a=1", "+/a/b=2")
	wantBatch(t, a, 3, "+/a/bc=6")
	wantBatch(t, a, 4, "-/a/b=2", "+/a/b/c=7")
	wantBatch(t, all, 1, "+/a=1", "+/a/b=2", "+/a-b=3", "+/c=4")
	wantBatch(t, all, 2, "+/c=5")
	wantBatch(t, all, 3, "+/a/bc=6")
	wantBatch(t, all, 4, "-/a/b=2", "+/a/b/c=7")
}

func testReplay(t *testing.T, s store.Store) {
	for i := range 6 {
		apply(t, s, put(fmt.Sprintf("/%d", i%2), fmt.Sprint(i)))
	}
	ch := watch(t, s, "/1", 2)
	wantBatch(t, ch, 4, "+/1=3")
	apply(t, s, put("/1", "live"))
	wantBatch(t, ch, 6, "+/1=5")
	wantBatch(t, ch, 7, "+/1=live")
	now := watch(t, s, "/1", s.Revision())
	apply(t, s, put("/1", "next"))
	wantBatch(t, now, 8, "+/1=next")
	wantBatch(t, ch, 8, "+/1=next")
}

// testLongReplay: what is replayed may be more than may wait.
func testLongReplay(t *testing.T, s store.Store) {
	const turns = store.MaxPending/store.MaxOps + 4
	for i := range turns {
		apply(t, s, many(fmt.Sprint(i))...)
	}
	ch := watch(t, s, "/", 0)
	last := apply(t, s, put("/last", "x"))
	for i := range turns {
		b, ok := next(t, ch)
		if !ok || b.Overflow || b.Revision != store.Revision(i+1) || len(b.Events) != store.MaxOps {
			t.Fatalf("batch %d: revision %d, %d events, overflow %v, open %v", i, b.Revision, len(b.Events), b.Overflow, ok)
		}
	}
	wantBatch(t, ch, last, "+/last=x")
}

// many is a transaction of as many operations as may be.
func many(value string) []store.Op {
	ops := make([]store.Op, store.MaxOps)
	for i := range ops {
		ops[i] = put(fmt.Sprintf("/many/%d", i), value)
	}
	return ops
}

func testCompacted(t *testing.T, s store.Store) {
	value := make([]byte, store.MaxValue)
	old := apply(t, s, put("/a", ""))
	for range store.KeptBytes/store.MaxValue + 2 {
		apply(t, s, store.Op{Path: "/a", Value: value})
	}
	_, err := s.Watch(t.Context(), "/", old)
	wantKind(t, err, fault.Conflict)
	_, rev, err := s.List("/a")
	if err != nil {
		t.Fatal(err)
	}
	ch := watch(t, s, "/", rev)
	wantBatch(t, ch, apply(t, s, put("/a", "x")), "+/a=x")
}

func testWatchRefused(t *testing.T, s store.Store) {
	apply(t, s, put("/a", ""))
	for _, c := range []struct {
		prefix string
		from   store.Revision
		kind   fault.Kind
	}{
		{"/", 1, ""},
		{"/a", 0, ""},
		{"/", 2, fault.Conflict}, // not yet made
		{"/", -1, fault.Invalid},
		{"", 1, fault.Invalid},
		{"/a/", 1, fault.Invalid},
		{"/a/../b", 1, fault.Invalid},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := s.Watch(ctx, c.prefix, c.from)
		if fault.KindOf(err) != c.kind {
			t.Errorf("Watch(%q, %d) = %v, want kind %q", c.prefix, c.from, err, c.kind)
		}
		cancel()
	}
}

func testWatchEnd(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	ch, err := s.Watch(ctx, "/", 0)
	if err != nil {
		t.Fatal(err)
	}
	other := watch(t, s, "/", 0)
	apply(t, s, put("/a", "1"))
	wantBatch(t, ch, 1, "+/a=1")
	cancel()
	wantEnd(t, ch)
	apply(t, s, put("/a", "2"))
	wantBatch(t, other, 1, "+/a=1")
	wantBatch(t, other, 2, "+/a=2")
}

// floods are transactions that nobody can sleep through: more than may wait,
// and more than is kept.
func floods() [][]store.Op {
	var list [][]store.Op
	for i := range store.MaxPending/store.MaxOps + 2 {
		list = append(list, many(fmt.Sprint(i)))
	}
	value := make([]byte, store.MaxValue)
	const each = 7
	for range store.KeptBytes/(each*store.MaxValue) + 1 {
		var ops []store.Op
		for range each {
			ops = append(ops, store.Op{Path: "/many/0", Value: value})
		}
		list = append(list, ops)
	}
	return list
}

// testOverflow: a reader that stands still is told so, nobody waits for it and
// nobody else is touched; it lists again and goes on.
func testOverflow(t *testing.T, s store.Store) {
	slow, fast := watch(t, s, "/", 0), watch(t, s, "/", 0)
	turns := 0
	for _, ops := range floods() {
		turns++
		apply(t, s, ops...)
		if b, ok := next(t, fast); !ok || b.Overflow || b.Revision != store.Revision(turns) {
			t.Fatalf("the fast reader got %d (overflow %v), want %d", b.Revision, b.Overflow, turns)
		}
	}
	last := store.Revision(0)
	for {
		b, ok := next(t, slow)
		if !ok {
			t.Fatal("closed without an overflow mark")
		}
		if b.Overflow {
			if len(b.Events) != 0 || b.Revision <= last {
				t.Errorf("the mark has revision %d after %d and %d events", b.Revision, last, len(b.Events))
			}
			break
		}
		if b.Revision != last+1 {
			t.Fatalf("revision %d after %d without a mark", b.Revision, last)
		}
		last = b.Revision
	}
	wantEnd(t, slow)
	if last == store.Revision(turns) {
		t.Error("an overflow, but nothing was lost")
	}
	records, rev, err := s.List("/")
	if err != nil || len(records) != store.MaxOps || rev != store.Revision(turns) {
		t.Errorf("List = %d records at %d, %v", len(records), rev, err)
	}
	again := watch(t, s, "/", rev)
	wantBatch(t, again, apply(t, s, put("/z", "z")), "+/z=z")
}

func testLargeBatch(t *testing.T, s store.Store) {
	const turns = store.MaxPending/store.MaxOps + 1
	for i := range turns {
		ops := many("")
		for j := range ops {
			ops[j].Path = fmt.Sprintf("/tree/%d/%d", i, j)
		}
		apply(t, s, ops...)
	}
	ch := watch(t, s, "/", s.Revision())
	rev := apply(t, s, removeTree("/tree"))
	b, ok := next(t, ch)
	if !ok || b.Overflow || b.Revision != rev || len(b.Events) != turns*store.MaxOps {
		t.Errorf("revision %d, %d events, overflow %v, open %v", b.Revision, len(b.Events), b.Overflow, ok)
	}
}

// testFloodElsewhere: what happens outside of a prefix costs its reader nothing.
func testFloodElsewhere(t *testing.T, s store.Store) {
	quiet := watch(t, s, "/quiet", 0)
	apply(t, s, put("/quiet", "1"))
	for i := range 2 * store.MaxPending / store.MaxOps {
		apply(t, s, many(fmt.Sprint(i))...)
	}
	rev := apply(t, s, put("/quiet", "2"))
	wantBatch(t, quiet, 1, "+/quiet=1")
	wantBatch(t, quiet, rev, "+/quiet=2")
}
