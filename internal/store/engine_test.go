package store

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"brane/internal/fault"
)

// picky is a journal that counts, and refuses what holds the word "bad".
type picky struct {
	mu      sync.Mutex
	commits int
	gate    chan struct{} // each commit takes one token, when not nil
}

func (p *picky) commit(_ *state, changes []change) error {
	if p.gate != nil {
		<-p.gate
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.commits++
	for _, c := range changes {
		if strings.Contains(string(c.Value), "bad") {
			return fault.New(fault.Unavailable, "write store", "", "refused")
		}
	}
	return nil
}

func (p *picky) close() error { return nil }

// waiting blocks until n transactions are queued.
func (e *engine) waiting(n int) {
	for {
		e.mu.Lock()
		got := len(e.queue)
		e.mu.Unlock()
		runtime.Gosched()
		if got == n {
			return
		}
	}
}

// Transactions that come while one is written are written together, each with
// its own revision; one that cannot be written does not take the others along,
// and leaves no gap.
func TestGroup(t *testing.T) {
	p := &picky{gate: make(chan struct{}, 64)}
	e := newEngine(p, newForest(), &state{})
	defer e.Close()
	outcomes := make([]error, 16)
	revisions := make([]Revision, 16)
	var all sync.WaitGroup
	send := func(i int, value string, conditions ...Compare) {
		all.Go(func() {
			revisions[i], outcomes[i] = e.Apply(Txn{By: "uid:1", If: conditions, Do: []Op{{Path: "/" + strconv.Itoa(i), Value: []byte(value)}}})
		})
	}
	send(0, "first")
	for len(e.turn) == 0 { // until it has its turn
		runtime.Gosched()
	}
	e.waiting(0)
	for i := 1; i < 15; i++ {
		send(i, "good")
	}
	e.waiting(14)
	p.gate <- struct{}{} // the first
	p.gate <- struct{}{} // all others
	all.Wait()
	if p.commits != 2 || e.Revision() != 15 {
		t.Errorf("%d commits for 15 transactions, revision %d", p.commits, e.Revision())
	}
	seen := map[Revision]bool{}
	for i := range 15 {
		if outcomes[i] != nil || seen[revisions[i]] {
			t.Errorf("%d: revision %d, %v", i, revisions[i], outcomes[i])
		}
		seen[revisions[i]] = true
	}
	for range 20 {
		p.gate <- struct{}{}
	}
	testGroupFailure(t, e)
}

func testGroupFailure(t *testing.T, e *engine) {
	group := []*request{
		{txn: Txn{By: "uid:1", Do: []Op{{Path: "/x", Value: []byte("good")}}}},
		{txn: Txn{By: "uid:1", Do: []Op{{Path: "/y", Value: []byte("bad")}}}},
		// judged by what /y would have been, had it been written; judged again without it
		{txn: Txn{By: "uid:1", If: []Compare{{Path: "/y"}}, Do: []Op{{Path: "/z", Value: []byte("good")}}}},
	}
	e.turn <- struct{}{}
	e.commit(group)
	<-e.turn
	got := ""
	for _, r := range group {
		got += fmt.Sprint(r.rev, " ", fault.KindOf(r.err), "; ")
	}
	if want := "16 ; 0 unavailable; 17 ; "; got != want {
		t.Errorf("outcomes %q, want %q", got, want)
	}
	if e.Revision() != 17 {
		t.Errorf("revision %d", e.Revision())
	}
}

// A full store refuses what would make it larger and takes what makes it smaller.
func TestFull(t *testing.T) {
	f := newForest()
	s := &state{}
	put := func(path string, size int) *Txn {
		return &Txn{By: "uid:1", Do: []Op{{Path: path, Value: make([]byte, size)}}}
	}
	next, _, err := s.apply(f, put("/a", 1000))
	if err != nil {
		t.Fatal(err)
	}
	next.bytes = MaxBytes - 10 // as if much more were there
	if _, _, err = next.apply(f, put("/b", 1000)); fault.KindOf(err) != fault.Limit {
		t.Errorf("one more record: %v", err)
	}
	if _, _, err = next.apply(f, put("/a", 900)); err != nil {
		t.Errorf("a smaller record: %v", err)
	}
	next.bytes, next.count = 0, MaxRecords
	if _, _, err = next.apply(f, put("/b", 0)); fault.KindOf(err) != fault.Limit {
		t.Errorf("a record too many: %v", err)
	}
	next.count++ // over, as after a limit was lowered
	if _, _, err = next.apply(f, &Txn{By: "uid:1", Do: []Op{{Path: "/a", Delete: true}}}); err != nil {
		t.Errorf("a deletion: %v", err)
	}
}
