// Package storetest is the conformance suite of the store: what
// internal/store.Store promises, as tests. Every implementation passes it.
package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"brane/internal/fault"
	"brane/internal/store"
)

// Open returns an empty store; the suite closes it.
type Open func(t *testing.T) store.Store

// Run runs the whole suite. What is random is drawn from Seed.
func Run(t *testing.T, open Open) {
	for _, group := range []struct {
		name  string
		tests []test
	}{
		{"contract", contractTests()},
		{"limits", limitTests()},
		{"watch", watchTests()},
		{"concurrent", concurrentTests()},
	} {
		for _, test := range group.tests {
			t.Run(group.name+"/"+test.name, func(t *testing.T) {
				s := open(t)
				t.Cleanup(func() { _ = s.Close() })
				test.run(t, s)
			})
		}
	}
	t.Run("model", func(t *testing.T) { checkModel(t, open) })
}

type test struct {
	name string
	run  func(t *testing.T, s store.Store)
}

// Seed returns the seed of a random test and logs it; BRANE_SEED fixes it.
func Seed(t testing.TB) uint64 {
	seed := uint64(time.Now().UnixNano())
	if fixed := os.Getenv("BRANE_SEED"); fixed != "" {
		var err error
		if seed, err = strconv.ParseUint(fixed, 10, 64); err != nil {
			t.Fatalf("BRANE_SEED: %v", err)
		}
	}
	t.Logf("to repeat: BRANE_SEED=%d", seed)
	return seed
}

// Rand returns a generator for the n-th stream of a seed.
func Rand(seed uint64, n int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(n))) }

// Full reports whether the full counts are wanted instead of samples.
func Full() bool { return os.Getenv("BRANE_TORTURE") == "1" }

const tester = store.Principal("uid:1000")

// patience bounds the wait for what must come.
const patience = 20 * time.Second

func put(path, value string) store.Op { return store.Op{Path: path, Value: []byte(value)} }

func remove(path string) store.Op { return store.Op{Path: path, Delete: true} }

func removeTree(path string) store.Op { return store.Op{Path: path, Delete: true, Tree: true} }

// apply commits ops or ends the test.
func apply(t testing.TB, s store.Store, ops ...store.Op) store.Revision {
	t.Helper()
	rev, err := s.Apply(store.Txn{By: tester, Do: ops})
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// wantKind ends the test when err is not a fault of the kind.
func wantKind(t testing.TB, err error, kind fault.Kind) *fault.Error {
	t.Helper()
	f := fault.As(err)
	if f == nil || f.Kind != kind {
		t.Fatalf("error %v, want kind %s", err, kind)
	}
	if f.Op == "" || f.Detail == "" {
		t.Fatalf("error without what was done or why: %#v", f)
	}
	return f
}

// watch opens a watch that ends with the test.
func watch(t testing.TB, s store.Store, prefix string, from store.Revision) <-chan store.Batch {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	ch, err := s.Watch(ctx, prefix, from)
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// next returns the next batch, or false when the channel is closed.
func next(t testing.TB, ch <-chan store.Batch) (store.Batch, bool) {
	t.Helper()
	select {
	case b, ok := <-ch:
		return b, ok
	case <-time.After(patience):
		t.Fatal("the watch says nothing")
		return store.Batch{}, false
	}
}

// wantBatch ends the test when the next batch is not that of rev with what
// show prints of its events.
func wantBatch(t testing.TB, ch <-chan store.Batch, rev store.Revision, events ...string) {
	t.Helper()
	b, ok := next(t, ch)
	if !ok {
		t.Fatalf("closed, want revision %d", rev)
	}
	if got, want := fmt.Sprint(b.Revision, b.Overflow, show(b)), fmt.Sprint(rev, false, events); got != want {
		t.Fatalf("batch %s, want %s", got, want)
	}
}

// show prints events as "+/path=value" and "-/path=value".
func show(b store.Batch) []string {
	lines := make([]string, 0, len(b.Events))
	for _, e := range b.Events {
		sign := "+"
		if e.Deleted {
			sign = "-"
		}
		lines = append(lines, sign+e.Record.Path+"="+string(e.Record.Value))
	}
	return lines
}

// wantEnd ends the test when the channel does not close now.
func wantEnd(t testing.TB, ch <-chan store.Batch) {
	t.Helper()
	if b, ok := next(t, ch); ok {
		t.Fatalf("revision %d with %d events (overflow %v), want the end", b.Revision, len(b.Events), b.Overflow)
	}
}
