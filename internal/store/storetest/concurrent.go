package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"

	"brane/internal/fault"
	"brane/internal/store"
)

func concurrentTests() []test {
	return []test{
		{"linearizable", testLinearizable},
		{"serializable", testSerializable},
		{"watches lose nothing", testWatchesWhole},
		{"watches that join", testJoin},
		{"readers that stand still", testStandstill},
		{"close under load", testCloseUnderLoad},
	}
}

// count gives the sample or, when the full counts are wanted, the full number.
func count(sample, full int) int {
	if Full() {
		return full
	}
	return sample
}

// testSerializable moves units between accounts, each move one transaction of
// two compared writes; everyone who lists sees all units.
func testSerializable(t *testing.T, s store.Store) {
	const accounts, clients, each = 8, 8, 100
	var ops []store.Op
	for i := range accounts {
		ops = append(ops, put(fmt.Sprintf("/account/%d", i), strconv.Itoa(each)))
	}
	apply(t, s, ops...)
	seed, moves := Seed(t), count(25, 2000)
	var all sync.WaitGroup
	for c := range clients {
		all.Go(func() {
			rng := Rand(seed, c)
			for done := 0; done < moves; {
				records, rev, err := s.List("/account")
				if err != nil || units(records) != accounts*each {
					t.Errorf("at revision %d: %d units, %v", rev, units(records), err)
					return
				}
				ok, err := move(s, rng, records)
				if err != nil {
					t.Error(err)
					return
				}
				if ok {
					done++
				}
			}
		})
	}
	all.Wait()
	if want := store.Revision(1 + clients*moves); s.Revision() != want {
		t.Errorf("revision %d, want %d", s.Revision(), want)
	}
}

func units(records []store.Record) (sum int) {
	for _, r := range records {
		n, _ := strconv.Atoi(string(r.Value))
		sum += n
	}
	return sum
}

// move takes a unit from one record to another, false when somebody was faster.
func move(s store.Store, rng *rand.Rand, records []store.Record) (bool, error) {
	i := rng.IntN(len(records))
	j := (i + 1 + rng.IntN(len(records)-1)) % len(records)
	a, b := records[i], records[j]
	na, _ := strconv.Atoi(string(a.Value))
	nb, _ := strconv.Atoi(string(b.Value))
	_, err := s.Apply(store.Txn{
		By: tester,
		If: []store.Compare{{Path: a.Path, Modified: a.Modified}, {Path: b.Path, Modified: b.Modified}},
		Do: []store.Op{put(a.Path, strconv.Itoa(na-1)), put(b.Path, strconv.Itoa(nb+1))},
	})
	if fault.KindOf(err) == fault.Conflict {
		return false, nil
	}
	return err == nil, err
}

// ledger is what the writers were told: the batch of each revision.
type ledger struct {
	mu      sync.Mutex
	batches map[store.Revision][]string
}

func (l *ledger) write(rev store.Revision, ops []store.Op) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.batches[rev] != nil {
		return fmt.Errorf("revision %d was given twice", rev)
	}
	for _, o := range ops {
		l.batches[rev] = append(l.batches[rev], o.Path+"="+string(o.Value))
	}
	return nil
}

// under gives what a watch of prefix has to say between two revisions.
func (l *ledger) under(prefix string, from, to store.Revision) []string {
	var lines []string
	for rev := from + 1; rev <= to; rev++ {
		for _, l := range l.batches[rev] {
			if len(prefix) == 1 || l[:len(prefix)+1] == prefix+"/" {
				lines = append(lines, fmt.Sprint(rev, l))
			}
		}
	}
	return lines
}

// testWatchesWhole: many writers, many readers that come at any time and watch
// any part; each sees exactly what was written, in order, or is told.
func testWatchesWhole(t *testing.T, s store.Store) {
	seed := Seed(t)
	const writers, readers = 8, 12
	truth := &ledger{batches: map[store.Revision][]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var ready, writing, reading sync.WaitGroup
	segments := make([][]segment, readers)
	for r := range readers {
		listening := func() {}
		if r < readers/2 { // the others come when they come
			ready.Add(1)
			listening = sync.OnceFunc(ready.Done)
		}
		reading.Go(func() {
			defer listening()
			var err error
			if segments[r], err = follow(ctx, s, Rand(seed, writers+r), listening); err != nil {
				t.Error(err)
			}
		})
	}
	ready.Wait()
	for w := range writers {
		writing.Go(func() {
			rng := Rand(seed, w)
			for i := range count(40, 12500) {
				var ops []store.Op
				for range 1 + rng.IntN(4) {
					ops = append(ops, put(fmt.Sprintf("/%d/%d", rng.IntN(4), rng.IntN(9)), fmt.Sprint(w, i)))
				}
				rev, err := s.Apply(store.Txn{By: tester, Do: ops})
				if err = errors.Join(err, truth.write(rev, ops)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writing.Wait()
	last := s.Revision()
	apply(t, s, put("/0/end", "end"), put("/1/end", "end"), put("/2/end", "end"), put("/3/end", "end"))
	reading.Wait()
	for r, list := range segments {
		for _, g := range list {
			if want := truth.under(g.prefix, g.from, min(g.to, last)); !slices.Equal(g.lines, want) {
				t.Errorf("reader %d of %s from %d to %d: %d events, want %d", r, g.prefix, g.from, g.to, len(g.lines), len(want))
			}
		}
	}
}

// segment is what one watch said from one revision to another, both known.
type segment struct {
	prefix   string
	from, to store.Revision
	lines    []string
}

// follow watches until the record "end" comes, and begins anew when told to.
func follow(ctx context.Context, s store.Store, rng *rand.Rand, listening func()) (list []segment, err error) {
	prefix := []string{"/", "/0", "/1", "/2", "/3"}[rng.IntN(5)]
	for {
		records, from, err := s.List(prefix)
		if err != nil || slices.ContainsFunc(records, ends) {
			return list, err
		}
		ch, err := s.Watch(ctx, prefix, from)
		if fault.KindOf(err) == fault.Conflict {
			continue // compacted in between
		}
		if err != nil {
			return list, err
		}
		listening()
		g := segment{prefix: prefix, from: from, to: from}
		ended := false
		for b := range ch {
			if b.Overflow {
				break
			}
			if b.Revision <= g.to {
				return list, fmt.Errorf("revision %d after %d", b.Revision, g.to)
			}
			if ended = ends(b.Events[0].Record); ended {
				break
			}
			g.to = b.Revision
			for _, e := range b.Events {
				g.lines = append(g.lines, fmt.Sprint(b.Revision, e.Record.Path+"="+string(e.Record.Value)))
			}
		}
		list = append(list, g)
		if ended || ctx.Err() != nil {
			return list, ctx.Err()
		}
	}
}

func ends(r store.Record) bool { return string(r.Value) == "end" }

// testJoin opens watches while a writer runs: each gets every revision from its
// own on, and what an event says can be read.
func testJoin(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	var writer, readers sync.WaitGroup
	writer.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			apply(t, s, put("/n", strconv.Itoa(i)))
		}
	})
	for range 4 {
		readers.Go(func() {
			for range count(200, 20_000) {
				if err := join(ctx, s); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	readers.Wait()
	cancel()
	writer.Wait()
}

// join watches from now on for a few revisions. It may be told that the writer
// was too fast for it.
func join(ctx context.Context, s store.Store) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	last := s.Revision()
	ch, err := s.Watch(ctx, "/n", last)
	if fault.KindOf(err) == fault.Conflict {
		return nil
	}
	if err != nil {
		return err
	}
	for range 5 {
		b, ok := <-ch
		if b.Overflow {
			return nil
		}
		r, err := s.Get("/n")
		if last++; !ok || b.Revision != last || err != nil || r.Modified < last {
			return fmt.Errorf("revision %d (overflow %v, open %v), want %d; the record is of %d, %v", b.Revision, b.Overflow, ok, last, r.Modified, err)
		}
	}
	return nil
}

// testStandstill: a hundred watches whose readers never read, while another
// client makes and deletes a thousand records again and again. It is not held
// up, and afterwards all watches are to be had.
func testStandstill(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	var idle []<-chan store.Batch
	for range 100 {
		ch, err := s.Watch(ctx, "/", 0)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, ch)
	}
	for range count(6, 100) {
		for i := range 8 {
			ops := many("x")[:125]
			for j := range ops {
				ops[j].Path = fmt.Sprintf("/many/%d-%d", i, j)
			}
			apply(t, s, ops...)
		}
		apply(t, s, removeTree("/many"))
	}
	for _, ops := range floods() {
		apply(t, s, ops...)
	}
	for _, ch := range idle {
		b, _ := next(t, ch)
		for !b.Overflow {
			var ok bool
			if b, ok = next(t, ch); !ok {
				t.Fatal("closed without an overflow mark")
			}
		}
		wantEnd(t, ch)
	}
	cancel()
	testWatchLimit(t, s)
}

// testCloseUnderLoad: who gets an answer gets a true one, nobody hangs.
func testCloseUnderLoad(t *testing.T, s store.Store) {
	var all sync.WaitGroup
	var mu sync.Mutex
	var acked store.Revision
	started := make(chan struct{}, 1)
	for c := range 8 {
		all.Go(func() {
			for i := 0; ; i++ {
				rev, err := s.Apply(store.Txn{By: tester, Do: []store.Op{put(fmt.Sprintf("/%d/%d", c, i), "")}})
				if err != nil {
					if fault.KindOf(err) != fault.Unavailable {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				acked = max(acked, rev)
				mu.Unlock()
				select {
				case started <- struct{}{}:
				default:
				}
			}
		})
		all.Go(func() {
			if ch, err := s.Watch(t.Context(), "/", 0); err == nil {
				for b := range ch {
					_ = b
				}
			}
		})
	}
	<-started
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	all.Wait()
	if acked != s.Revision() {
		t.Errorf("acknowledged up to %d, the store is at %d", acked, s.Revision())
	}
}
