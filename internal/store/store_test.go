package store_test

import (
	"path/filepath"
	"testing"

	"brane/internal/store"
	"brane/internal/store/storetest"
)

const tester = store.Principal("uid:1000")

func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return store.NewMemory() })
}

func TestDisk(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, fresh(t)) })
}

// fresh names a store that is not there yet.
func fresh(t testing.TB) string { return filepath.Join(t.TempDir(), "store") }

// open opens the store at path or ends the test; the test closes it.
func open(t testing.TB, path string) store.Store {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(path, value string) store.Op { return store.Op{Path: path, Value: []byte(value)} }

func apply(t testing.TB, s store.Store, ops ...store.Op) store.Revision {
	t.Helper()
	rev, err := s.Apply(store.Txn{By: tester, Do: ops})
	if err != nil {
		t.Fatal(err)
	}
	return rev
}
