package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"brane/internal/fault"
)

// A watch can start at the oldest kept revision, and not one before.
func TestHistoryBounds(t *testing.T) {
	e := newEngine(nowhere{}, newForest(), &state{})
	defer e.Close()
	for range KeptRevisions + 10 {
		if _, err := e.Apply(Txn{By: "uid:1", Do: []Op{{Path: "/a"}}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.Watch(t.Context(), "/", 9); fault.KindOf(err) != fault.Conflict {
		t.Errorf("from before the history: %v", err)
	}
	ch, err := e.Watch(t.Context(), "/", 10)
	if err != nil {
		t.Fatal(err)
	}
	for rev := Revision(11); rev <= e.Revision(); rev++ {
		if b := <-ch; b.Revision != rev || b.Overflow {
			t.Fatalf("revision %d (overflow %v), want %d", b.Revision, b.Overflow, rev)
		}
	}
}

// After which errors a journal writes on.
func TestDistrust(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err = s.Apply(Txn{By: "uid:1", Do: []Op{{Path: "/a"}}}); err != nil {
		t.Fatal(err)
	}
	j := s.(*engine).journal.(*boltJournal)
	for _, c := range []struct {
		err   error
		trust bool
	}{
		{syscall.ENOSPC, true},
		{fmt.Errorf("write: %w", syscall.EDQUOT), true},
		{syscall.EIO, false},
		{fmt.Errorf("sync: %w", syscall.EIO), false},
		{errors.New("file sync error: input/output error"), false}, // as bbolt words it
		{panicked{"page 7 freed twice"}, false},
	} {
		if got := j.distrust(c.err) == nil; got != c.trust {
			t.Errorf("after %v: trusted %v", c.err, got)
		}
	}
	j.rev-- // as if the change that failed could be seen in the file
	if j.distrust(syscall.ENOSPC) == nil {
		t.Error("a failed change that is in the file was trusted")
	}
	j.rev++
}
