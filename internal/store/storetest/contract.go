package storetest

import (
	"fmt"
	"slices"
	"testing"

	"brane/internal/fault"
	"brane/internal/store"
)

func contractTests() []test {
	return []test{
		{"empty", testEmpty},
		{"write and read", testWriteRead},
		{"owner and revisions", testOwner},
		{"list", testList},
		{"order of operations", testOrder},
		{"comparisons", testComparisons},
		{"whole or not at all", testWhole},
		{"no operations", testCompareOnly},
		{"deletion", testDeletion},
		{"values are copied", testCopies},
		{"large record", testLarge},
		{"closed", testClosed},
	}
}

func testEmpty(t *testing.T, s store.Store) {
	if rev := s.Revision(); rev != 0 {
		t.Errorf("revision %d of an empty store", rev)
	}
	records, rev, err := s.List("/")
	if err != nil || len(records) != 0 || rev != 0 {
		t.Errorf("List = %v, %d, %v", records, rev, err)
	}
	_, err = s.Get("/a")
	if f := wantKind(t, err, fault.NotFound); f.Subject != "/a" {
		t.Errorf("subject %q", f.Subject)
	}
}

func testWriteRead(t *testing.T, s store.Store) {
	if rev := apply(t, s, put("/a", "1")); rev != 1 {
		t.Errorf("the first revision is %d", rev)
	}
	if rev := apply(t, s, put("/a", "2"), put("/b", "")); rev != 2 || s.Revision() != 2 {
		t.Errorf("the second revision is %d, %d", rev, s.Revision())
	}
	r, err := s.Get("/a")
	if err != nil || string(r.Value) != "2" || r.Path != "/a" {
		t.Errorf("Get = %+v, %v", r, err)
	}
	if r, err = s.Get("/b"); err != nil || r.Value == nil || len(r.Value) != 0 {
		t.Errorf("an empty value comes back as %#v, %v", r.Value, err)
	}
}

func testOwner(t *testing.T, s store.Store) {
	for _, by := range []store.Principal{"uid:1", "uid:2", "uid:3"} {
		if _, err := s.Apply(store.Txn{By: by, Do: []store.Op{put("/a", string(by))}}); err != nil {
			t.Fatal(err)
		}
	}
	r, _ := s.Get("/a")
	if r.Owner != "uid:1" || r.Created != 1 || r.Modified != 3 {
		t.Errorf("what exists keeps its owner: %+v", r)
	}
	_, err := s.Apply(store.Txn{By: "uid:4", Do: []store.Op{remove("/a"), put("/a", "")}})
	if err != nil {
		t.Fatal(err)
	}
	if r, _ = s.Get("/a"); r.Owner != "uid:4" || r.Created != 4 {
		t.Errorf("what is made anew has a new owner: %+v", r)
	}
	for _, by := range []store.Principal{"", "uid 1", "uid:\x00", "ü"} {
		_, err = s.Apply(store.Txn{By: by, Do: []store.Op{put("/a", "")}})
		wantKind(t, err, fault.Invalid)
	}
}

func testList(t *testing.T, s store.Store) {
	for _, p := range []string{"/b/2", "/b", "/a", "/b-c", "/b/1", "/b0", "/b/1/x", "/c"} {
		apply(t, s, put(p, ""))
	}
	for prefix, want := range map[string]string{
		"/":    "[/a /b /b-c /b/1 /b/1/x /b/2 /b0 /c]",
		"/b":   "[/b /b/1 /b/1/x /b/2]",
		"/b/1": "[/b/1 /b/1/x]",
		"/a":   "[/a]",
		"/d":   "[]",
		"/b/":  "invalid",
	} {
		records, rev, err := s.List(prefix)
		got := fmt.Sprint(paths(records))
		if err != nil {
			got = string(fault.KindOf(err))
		} else if rev != 8 {
			t.Errorf("List(%q) at revision %d", prefix, rev)
		}
		if got != want {
			t.Errorf("List(%q) = %s, want %s", prefix, got, want)
		}
	}
}

func paths(records []store.Record) []string {
	list := make([]string, len(records))
	for i, r := range records {
		list[i] = r.Path
	}
	return list
}

func testOrder(t *testing.T, s store.Store) {
	ch := watch(t, s, "/", 0)
	apply(t, s, put("/a", "1"), put("/a", "2"), put("/a/b", "3"), removeTree("/a"), put("/a/c", "4"))
	wantBatch(t, ch, 1, "+/a=1", "+/a=2", "+/a/b=3", "-/a=2", "-/a/b=3", "+/a/c=4")
	records, _, _ := s.List("/")
	if got := paths(records); !slices.Equal(got, []string{"/a/c"}) {
		t.Errorf("left: %v", got)
	}
}

func testComparisons(t *testing.T, s store.Store) {
	apply(t, s, put("/a", ""))
	apply(t, s, put("/b", ""))
	for _, c := range []struct {
		conditions []store.Compare
		conflict   string // path, "" for none
	}{
		{[]store.Compare{{Path: "/a", Modified: 1}}, ""},
		{[]store.Compare{{Path: "/a", Modified: 2}}, "/a"},
		{[]store.Compare{{Path: "/a", Modified: store.Any}}, ""},
		{[]store.Compare{{Path: "/a"}}, "/a"},
		{[]store.Compare{{Path: "/x"}}, ""},
		{[]store.Compare{{Path: "/x", Modified: store.Any}}, "/x"},
		{[]store.Compare{{Path: "/x", Modified: 1}}, "/x"},
		{[]store.Compare{{Path: "/a", Modified: 1}, {Path: "/b", Modified: 2}, {Path: "/x"}}, ""},
		{[]store.Compare{{Path: "/a", Modified: 1}, {Path: "/b", Modified: 1}}, "/b"},
	} {
		before := s.Revision()
		for _, ops := range [][]store.Op{nil, {put("/log", "")}} {
			_, err := s.Apply(store.Txn{By: tester, If: c.conditions, Do: ops})
			if c.conflict == "" && err != nil {
				t.Errorf("%v: %v", c.conditions, err)
			}
			if c.conflict != "" && wantKind(t, err, fault.Conflict).Subject != c.conflict {
				t.Errorf("%v: %v, want subject %s", c.conditions, err, c.conflict)
			}
		}
		if changed := s.Revision() != before; changed != (c.conflict == "") {
			t.Errorf("%v: changed %v", c.conditions, changed)
		}
	}
	_, err := s.Apply(store.Txn{By: tester, If: []store.Compare{{Path: "/a", Modified: -2}}})
	wantKind(t, err, fault.Invalid)
}

func testWhole(t *testing.T, s store.Store) {
	apply(t, s, put("/a", "old"))
	for _, txn := range []store.Txn{
		{By: tester, If: []store.Compare{{Path: "/a"}}, Do: []store.Op{put("/a", "new"), put("/b", "")}},
		{By: tester, Do: []store.Op{put("/a", "new"), put("/b/", "")}},
		{By: tester, Do: []store.Op{removeTree("/a"), {Path: "/b", Delete: true, Value: []byte("x")}}},
		{By: tester, Do: []store.Op{put("/a", "new"), {Path: "/b", Value: make([]byte, store.MaxValue+1)}}},
	} {
		if _, err := s.Apply(txn); err == nil {
			t.Errorf("%v was applied", txn)
		}
	}
	records, rev, _ := s.List("/")
	if len(records) != 1 || string(records[0].Value) != "old" || rev != 1 {
		t.Errorf("after refused transactions: %v at %d", records, rev)
	}
}

func testCompareOnly(t *testing.T, s store.Store) {
	apply(t, s, put("/a", ""))
	rev, err := s.Apply(store.Txn{If: []store.Compare{{Path: "/a", Modified: store.Any}}})
	if rev != 1 || err != nil || s.Revision() != 1 {
		t.Errorf("Apply = %d, %v", rev, err)
	}
	if rev, err = s.Apply(store.Txn{}); rev != 1 || err != nil {
		t.Errorf("Apply of nothing = %d, %v", rev, err)
	}
}

func testDeletion(t *testing.T, s store.Store) {
	ch := watch(t, s, "/", 0)
	apply(t, s, put("/a", "1"), put("/a/b", "2"), put("/a/b/c", "3"), put("/a-b", "4"))
	wantBatch(t, ch, 1, "+/a=1", "+/a/b=2", "+/a/b/c=3", "+/a-b=4")
	apply(t, s, remove("/a/b"))
	wantBatch(t, ch, 2, "-/a/b=2")
	apply(t, s, remove("/a/b"), removeTree("/nothing")) // a revision of its own, and no event
	apply(t, s, removeTree("/a"))
	wantBatch(t, ch, 4, "-/a=1", "-/a/b/c=3")
	apply(t, s, store.Op{Path: "/a-b", Tree: true})
	wantBatch(t, ch, 5, "-/a-b=4")
	for _, op := range []store.Op{removeTree("/"), remove("/"), put("/", "x")} {
		_, err := s.Apply(store.Txn{By: tester, Do: []store.Op{op}})
		wantKind(t, err, fault.Invalid)
	}
}

func testCopies(t *testing.T, s store.Store) {
	ch := watch(t, s, "/", 0)
	value := []byte("abc")
	apply(t, s, store.Op{Path: "/a", Value: value})
	spoil := func(b []byte) {
		for i := range b {
			b[i] = '!'
		}
	}
	spoil(value)
	r, _ := s.Get("/a")
	spoil(r.Value)
	records, _, _ := s.List("/")
	spoil(records[0].Value)
	b, _ := next(t, ch)
	spoil(b.Events[0].Record.Value)
	if r, _ = s.Get("/a"); string(r.Value) != "abc" {
		t.Errorf("somebody else's change came through: %q", r.Value)
	}
	wantBatch(t, watch(t, s, "/", 0), 1, "+/a=abc")
}

// A record far larger than a message of other stores is kept whole.
func testLarge(t *testing.T, s store.Store) {
	value := make([]byte, store.MaxValue)
	for i := range value {
		value[i] = byte(i * 7)
	}
	apply(t, s, store.Op{Path: "/large", Value: value})
	r, err := s.Get("/large")
	if err != nil || !slices.Equal(r.Value, value) {
		t.Errorf("%d bytes come back, %v", len(r.Value), err)
	}
}

func testClosed(t *testing.T, s store.Store) {
	apply(t, s, put("/a", ""))
	ch := watch(t, s, "/", 1)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	wantEnd(t, ch)
	_, err := s.Get("/a")
	wantKind(t, err, fault.Unavailable)
	_, _, err = s.List("/")
	wantKind(t, err, fault.Unavailable)
	_, err = s.Apply(store.Txn{By: tester, Do: []store.Op{put("/b", "")}})
	wantKind(t, err, fault.Unavailable)
	_, err = s.Apply(store.Txn{})
	wantKind(t, err, fault.Unavailable)
	_, err = s.Watch(t.Context(), "/", 1)
	wantKind(t, err, fault.Unavailable)
}
