package store_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"brane/internal/store"
)

var kinds = map[string]func(b *testing.B) store.Store{
	"memory": func(*testing.B) store.Store { return store.NewMemory() },
	"disk":   func(b *testing.B) store.Store { return open(b, fresh(b)) },
}

// lease is a value of the usual size.
var lease = strings.Repeat("x", 180)

func BenchmarkApply(b *testing.B) {
	for kind, open := range kinds {
		for _, clients := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/clients=%d", kind, clients), func(b *testing.B) {
				s := open(b)
				var next atomic.Int64
				var all sync.WaitGroup
				b.ResetTimer()
				for range clients {
					all.Go(func() {
						for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
							if _, err := s.Apply(store.Txn{By: tester, Do: []store.Op{put(fmt.Sprintf("/networks/lan/leases/%d", n%1000), lease)}}); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				all.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "apply/s")
			})
		}
	}
}

// thousands fills s with n records.
func thousands(b *testing.B, s store.Store, n int) {
	for i := 0; i < n; i += 100 {
		var ops []store.Op
		for j := range 100 {
			ops = append(ops, put(fmt.Sprintf("/networks/lan/leases/%d", i+j), lease))
		}
		apply(b, s, ops...)
	}
}

func BenchmarkGet(b *testing.B) {
	s := store.NewMemory()
	thousands(b, s, 10_000)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Get("/networks/lan/leases/5000"); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkList1000(b *testing.B) {
	s := store.NewMemory()
	thousands(b, s, 1000)
	for b.Loop() {
		if _, _, err := s.List("/networks/lan/leases"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen10000(b *testing.B) {
	path := fresh(b)
	s := open(b, path)
	thousands(b, s, 10_000)
	_ = s.Close()
	for b.Loop() {
		s, err := store.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		_ = s.Close()
	}
}

// BenchmarkApplyWatched is a change that 100 watches elsewhere do not hear and one hears.
func BenchmarkApplyWatched(b *testing.B) {
	s := store.NewMemory()
	for i := range 100 {
		if _, err := s.Watch(b.Context(), fmt.Sprintf("/other/%d", i), 0); err != nil {
			b.Fatal(err)
		}
	}
	heard, err := s.Watch(b.Context(), "/a", 0)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		apply(b, s, put("/a", lease))
		<-heard
	}
}
