package storetest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"brane/internal/fault"
	"brane/internal/store"
)

func limitTests() []test {
	return []test{
		{"paths", testPaths},
		{"operations", testOpsLimit},
		{"sizes", testSizes},
		{"watches", testWatchLimit},
	}
}

func testPaths(t *testing.T, s store.Store) {
	long := strings.Repeat("a", store.MaxElement)
	deep := strings.Repeat("/"+strings.Repeat("b", 127), 8)
	for _, c := range []struct {
		path string
		kind fault.Kind // "" for accepted
	}{
		{"/a", ""},
		{"/A-z_0.9:@+%", ""},
		{"/fd00::1/x", ""},
		{"/...", ""},
		{"/.a", ""},
		{"/" + long, ""},
		{deep, ""}, // exactly MaxPath
		{deep + "b", fault.Limit},
		{"/" + long + "a", fault.Invalid},
		{"", fault.Invalid},
		{"/", fault.Invalid},
		{"a", fault.Invalid},
		{"a/b", fault.Invalid},
		{"//", fault.Invalid},
		{"/a/", fault.Invalid},
		{"/a//b", fault.Invalid},
		{"/.", fault.Invalid},
		{"/a/..", fault.Invalid},
		{"/a/../b", fault.Invalid},
		{"/a b", fault.Invalid},
		{"/a\x00", fault.Invalid},
		{"/a\n", fault.Invalid},
		{"/a\\b", fault.Invalid},
		{"/ü", fault.Invalid},
		{"/a\xff", fault.Invalid},
		{"/a\u2215b", fault.Invalid}, // a slash of another alphabet
		{"/*", fault.Invalid},
	} {
		if got := fault.KindOf(store.CheckPath(c.path)); got != c.kind {
			t.Errorf("CheckPath(%.40q) = %q, want %q", c.path, got, c.kind)
		}
		_, err := s.Apply(store.Txn{By: tester, Do: []store.Op{put(c.path, "v")}})
		if fault.KindOf(err) != c.kind {
			t.Errorf("Apply(%.40q) = %v, want kind %q", c.path, err, c.kind)
		}
		_, err = s.Apply(store.Txn{By: tester, If: []store.Compare{{Path: c.path, Modified: store.Any}}})
		if fault.KindOf(err) != c.kind {
			t.Errorf("comparing %.40q: %v, want kind %q", c.path, err, c.kind)
		}
		r, err := s.Get(c.path)
		if fault.KindOf(err) != c.kind || err == nil && r.Path != c.path {
			t.Errorf("Get(%.40q) = %v, %v, want kind %q", c.path, r, err, c.kind)
		}
	}
}

func testOpsLimit(t *testing.T, s store.Store) {
	var txn store.Txn
	for i := range store.MaxOps {
		txn.Do = append(txn.Do, put(fmt.Sprintf("/a/%d", i), ""))
		txn.If = append(txn.If, store.Compare{Path: "/none"})
	}
	txn.By = tester
	if _, err := s.Apply(txn); err != nil {
		t.Error(err)
	}
	more := txn
	more.Do = append(more.Do, put("/b", ""))
	_, err := s.Apply(more)
	wantKind(t, err, fault.Limit)
	more = txn
	more.If = append(more.If, store.Compare{Path: "/none"})
	_, err = s.Apply(more)
	wantKind(t, err, fault.Limit)
	if s.Revision() != 1 {
		t.Errorf("revision %d", s.Revision())
	}
}

func testSizes(t *testing.T, s store.Store) {
	value := make([]byte, store.MaxValue)
	_, err := s.Apply(store.Txn{By: tester, Do: []store.Op{{Path: "/a", Value: append(value, 0)}}})
	wantKind(t, err, fault.Limit)
	var ops []store.Op
	for len(ops)*store.MaxValue <= store.MaxTxn {
		ops = append(ops, store.Op{Path: "/a", Value: value})
	}
	_, err = s.Apply(store.Txn{By: tester, Do: ops})
	wantKind(t, err, fault.Limit)
	apply(t, s, ops[:2]...)
	long := store.Principal(strings.Repeat("p", store.MaxOwner))
	if _, err = s.Apply(store.Txn{By: long, Do: []store.Op{put("/b", "")}}); err != nil {
		t.Error(err)
	}
	_, err = s.Apply(store.Txn{By: long + "p", Do: []store.Op{put("/b", "")}})
	wantKind(t, err, fault.Invalid)
}

// Every watch is given back: after all ended the next tenant has all of them.
func testWatchLimit(t *testing.T, s store.Store) {
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		var open []<-chan store.Batch
		for range store.MaxWatches {
			ch, err := s.Watch(ctx, "/", s.Revision())
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, ch)
		}
		_, err := s.Watch(ctx, "/", s.Revision())
		wantKind(t, err, fault.Limit)
		cancel()
		for _, ch := range open {
			wantEnd(t, ch)
		}
	}
}
