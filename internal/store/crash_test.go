package store_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"brane/internal/fault"
	"brane/internal/store"
	"brane/internal/store/storetest"
)

const (
	crashClients = 4
	crashKept    = 8 // log records of each client
)

// child opens the store and lets its clients apply numbered transactions
// until it is killed, or up to the number and with as many clients as its
// arguments say. Each acknowledged one is a line: client, number, revision. One
// that fails is tried again a few times.
func child(path string) int {
	s, err := store.Open(path)
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	limit, clients := 1<<30, crashClients
	if len(os.Args) > 2 {
		limit, _ = strconv.Atoi(os.Args[1])
		clients, _ = strconv.Atoi(os.Args[2])
	}
	var all sync.WaitGroup
	for c := range clients {
		all.Go(func() {
			n, _ := number(s, fmt.Sprintf("/client/%d/a", c))
			for failures := 0; n < limit && failures < 4; {
				rev, err := s.Apply(store.Txn{By: tester, Do: crashOps(c, n+1)})
				if err != nil {
					failures++
					fmt.Println("error", fault.KindOf(err), err)
					continue
				}
				n++
				_, _ = fmt.Fprintf(os.Stdout, "%d %d %d\n", c, n, rev)
			}
		})
	}
	all.Wait()
	if err = s.Close(); err != nil {
		fmt.Println("close", err)
	}
	return 0
}

// crashOps is transaction n of client c: two records that are always equal, a
// log of the last few of random sizes, and now and then a tree deleted.
func crashOps(c, n int) []store.Op {
	rng := rand.New(rand.NewPCG(uint64(c), uint64(n)))
	ops := []store.Op{
		put(fmt.Sprintf("/client/%d/a", c), strconv.Itoa(n)),
		put(fmt.Sprintf("/log/%d/%d", c, n), strings.Repeat("x", rng.IntN(1<<rng.IntN(14)))),
		{Path: fmt.Sprintf("/log/%d/%d", c, n-crashKept), Delete: true},
		put(fmt.Sprintf("/client/%d/b", c), strconv.Itoa(n)),
	}
	if n%16 == 0 {
		ops = append(ops, store.Op{Path: fmt.Sprintf("/tree/%d", c), Tree: true})
	}
	return append(ops, put(fmt.Sprintf("/tree/%d/%d", c, n%16), "leaf"))
}

func number(s store.Store, path string) (int, error) {
	r, err := s.Get(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(r.Value))
}

// running is a child and what it says.
type running struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	out   io.Closer
}

func startChild(t testing.TB, path string) *running {
	t.Helper()
	cmd := self(t, path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &running{cmd: cmd, lines: bufio.NewScanner(out), out: out}
}

func (r *running) wantLine(t testing.TB) {
	t.Helper()
	if !r.lines.Scan() {
		t.Fatal("the child says nothing")
	}
}

func (r *running) kill(t testing.TB) {
	t.Helper()
	if err := r.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	for r.lines.Scan() {
	}
	_ = r.cmd.Wait()
}

// acks are the last acknowledged number of each client, and the last revision.
type acks struct {
	numbers  [crashClients]int
	revision store.Revision
}

// hear reads acknowledgements until the child is dead.
func (a *acks) hear(t testing.TB, r *running) {
	t.Helper()
	for r.lines.Scan() {
		var c, n int
		var rev store.Revision
		if _, err := fmt.Sscan(r.lines.Text(), &c, &n, &rev); err != nil || c < 0 || c >= crashClients {
			t.Fatalf("the child says %q", r.lines.Text())
		}
		a.numbers[c] = n
		a.revision = max(a.revision, rev)
	}
	_ = r.cmd.Wait()
}

// check: nothing acknowledged is lost, and of what was not, all or nothing is there.
func (a *acks) check(t testing.TB, s store.Store) {
	t.Helper()
	for c := range crashClients {
		got, _ := number(s, fmt.Sprintf("/client/%d/a", c))
		twin, _ := number(s, fmt.Sprintf("/client/%d/b", c))
		if got < a.numbers[c] || got > a.numbers[c]+1 || twin != got {
			t.Fatalf("client %d: %d and %d, %d was acknowledged", c, got, twin, a.numbers[c])
		}
		a.numbers[c] = got
		for n := max(1, got-crashKept+1); n <= got; n++ {
			want := string(crashOps(c, n)[1].Value)
			if r, err := s.Get(fmt.Sprintf("/log/%d/%d", c, n)); err != nil || string(r.Value) != want {
				t.Fatalf("client %d at %d: log %d: %d bytes, %v", c, got, n, len(r.Value), err)
			}
		}
		logs, _, _ := s.List(fmt.Sprintf("/log/%d", c))
		leaves, _, _ := s.List(fmt.Sprintf("/tree/%d", c))
		if len(logs) != min(got, crashKept) || len(leaves) != min(got, got%16+1) && got < 16 || got >= 16 && len(leaves) != got%16+1 {
			t.Fatalf("client %d at %d: %d log records, %d leaves", c, got, len(logs), len(leaves))
		}
	}
	if s.Revision() < a.revision {
		t.Fatalf("revision %d, %d was acknowledged", s.Revision(), a.revision)
	}
	a.revision = s.Revision()
}

// TestKill kills the writer at random times, also while it makes or opens the
// file, and opens the store after it: never an acknowledged change lost, never
// half of one visible, never a start that fails. 10,000 kills in full.
func TestKill(t *testing.T) {
	kills := 30
	if storetest.Full() {
		kills = 10_000
	}
	rng := storetest.Rand(storetest.Seed(t), 0)
	path := fresh(t)
	var a acks
	for i := range kills {
		if i%50 == 49 { // the beginning of a store is a time like any other
			path, a = fresh(t), acks{}
		}
		r := startChild(t, path)
		after := time.Duration(rng.IntN(60_000)) * time.Microsecond
		timer := time.AfterFunc(after, func() { _ = r.cmd.Process.Kill() })
		a.hear(t, r)
		timer.Stop()
		s := open(t, path)
		a.check(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills, revision %d", kills, a.revision)
}
