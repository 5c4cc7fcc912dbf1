package unixmsg

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"brane/internal/fault"
)

// conns is two Conns that serve each other; they close with the test, which
// fails when either was broken by the other.
func conns(t testing.TB, ha, hb Handler) (a, b *Conn) {
	t.Helper()
	ca, cb := pair(t, unix.SOCK_STREAM)
	a, b = NewConn(NewStream(ca, 1<<20)), NewConn(NewStream(cb, 1<<20))
	var wg sync.WaitGroup
	for c, h := range map[*Conn]Handler{a: ha, b: hb} {
		wg.Go(func() {
			if err := c.Serve(h); err != nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		a.Close()
		b.Close()
		wg.Wait()
	})
	return a, b
}

type note struct {
	Text string `json:"text"`
	N    int    `json:"n"`
}

func echo(_ context.Context, r *Request) (any, []int, error) {
	switch r.Verb {
	case "echo":
		var n note
		if err := r.Decode(&n); err != nil {
			return nil, nil, err
		}
		return n, nil, nil
	case "give-back":
		return nil, r.Claim(), nil
	case "keep-none":
		return len(r.FDs()), nil, nil
	case "refuse":
		return nil, nil, fault.New(fault.Denied, "open device", "lan/web", "not yours").WithRemedy("ask its owner")
	case "plain-error":
		return nil, nil, errors.New("something")
	case "large":
		return strings.Repeat("x", 2<<20), nil, nil
	}
	return nil, nil, fault.New(fault.Unsupported, "call", r.Verb, "unknown verb")
}

func TestCallBothWays(t *testing.T) {
	a, b := conns(t, echo, echo)
	for _, c := range []*Conn{a, b} {
		for i := range 100 {
			var out note
			if _, err := c.Call(t.Context(), "echo", note{"hello", i}, nil, &out); err != nil || out.N != i {
				t.Fatalf("%+v, %v", out, err)
			}
		}
	}
}

func TestCallFaultsCrossWhole(t *testing.T) {
	a, _ := conns(t, nil, echo)
	_, err := a.Call(t.Context(), "refuse", nil, nil, nil)
	want := &fault.Error{Op: "open device", Kind: fault.Denied, Subject: "lan/web", Detail: "not yours", Remedy: "ask its owner"}
	if !reflect.DeepEqual(err, error(want)) {
		t.Errorf("got %#v", err)
	}
	for verb, kind := range map[string]fault.Kind{
		"plain-error": fault.Internal, "no-such": fault.Unsupported, "large": fault.Invalid, "Bad Verb": fault.Invalid, "": fault.Invalid,
	} {
		if _, err := a.Call(t.Context(), verb, nil, nil, nil); fault.KindOf(err) != kind {
			t.Errorf("%q: %v, want %s", verb, err, kind)
		}
	}
	if _, err := a.Call(t.Context(), "echo", strings.Repeat("x", 2<<20), nil, nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("request over the limit: %v", err)
	}
	if _, err := a.Call(t.Context(), "echo", 7, nil, nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("request of the wrong form: %v", err)
	}
	var out note
	if _, err := a.Call(t.Context(), "echo", note{N: 3}, nil, &out); err != nil || out.N != 3 {
		t.Errorf("afterwards: %+v, %v", out, err)
	}
}

func TestCallNobodyServes(t *testing.T) {
	_, b := conns(t, nil, nil)
	if _, err := b.Call(t.Context(), "echo", nil, nil, nil); fault.KindOf(err) != fault.Unsupported {
		t.Error(err)
	}
}

func TestCallDescriptorsComeAndGo(t *testing.T) {
	null := devNull(t)
	defer unix.Close(null)
	a, _ := conns(t, nil, echo)
	before := openFDs(t)
	for n := range MaxFDs + 1 {
		got, err := a.Call(t.Context(), "give-back", nil, repeat(null, n), nil)
		if err != nil || len(got) != n {
			t.Fatalf("%d descriptors: %v, %v", n, got, err)
		}
		CloseFDs(got)
		var count int
		if _, err := a.Call(t.Context(), "keep-none", nil, repeat(null, n), &count); err != nil || count != n {
			t.Fatalf("%d descriptors: %d, %v", n, count, err)
		}
		var wrong int // a reply that cannot be read must not leak what came with it
		if n > 0 {
			if _, err := a.Call(t.Context(), "give-back", nil, repeat(null, n), &wrong); err == nil {
				t.Fatal("an empty body was read as a number")
			}
		}
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestCallGivenUp(t *testing.T) {
	started, stopped := make(chan struct{}), make(chan struct{})
	a, _ := conns(t, nil, func(ctx context.Context, r *Request) (any, []int, error) {
		if r.Verb == "echo" {
			return r.Body, nil, nil
		}
		close(started)
		<-ctx.Done()
		close(stopped)
		return nil, nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-started
		cancel()
	}()
	if _, err := a.Call(ctx, "wait", nil, nil, nil); !errors.Is(err, context.Canceled) || fault.KindOf(err) != fault.Unavailable {
		t.Errorf("got %v", err)
	}
	<-stopped // the handler heard of it
	if _, err := a.Call(t.Context(), "echo", 1, nil, nil); err != nil {
		t.Error(err)
	}
}

func TestCallsInFlightAreBounded(t *testing.T) {
	var mu sync.Mutex
	now, most := 0, 0
	full, open := make(chan struct{}), make(chan struct{})
	a, _ := conns(t, nil, func(context.Context, *Request) (any, []int, error) {
		mu.Lock()
		now++
		most = max(most, now)
		if now == MaxInFlight {
			close(full)
		}
		mu.Unlock()
		<-open
		return nil, nil, nil
	})
	var wg sync.WaitGroup
	for range 2 * MaxInFlight {
		wg.Go(func() {
			if _, err := a.Call(t.Context(), "wait", nil, nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	<-full
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := a.Call(ctx, "wait", nil, nil, nil); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a call over the bound: %v", err)
	}
	mu.Lock()
	if most != MaxInFlight {
		t.Errorf("%d calls at once, the bound is %d", most, MaxInFlight)
	}
	mu.Unlock()
	close(open)
	wg.Wait()
}

// A peer that ignores the bound and never reads gets no memory of ours for it.
func TestFloodOfCallsIsRefused(t *testing.T) {
	ca, cb := pair(t, unix.SOCK_STREAM)
	c := NewConn(NewStream(cb, 1<<20))
	served := make(chan error, 1)
	var mu sync.Mutex
	running := 0
	go func() {
		served <- c.Serve(func(ctx context.Context, _ *Request) (any, []int, error) {
			mu.Lock()
			running++
			mu.Unlock()
			<-ctx.Done()
			return nil, nil, ctx.Err()
		})
	}()
	from := NewStream(ca, 1<<20)
	for id := uint64(1); ; id++ {
		e := envelope{kind: callKind, verb: "x", id: id}
		if from.Send(t.Context(), e.append(nil), nil) != nil {
			break // cut off
		}
	}
	if err := <-served; fault.KindOf(err) != fault.Unavailable {
		t.Errorf("serve: %v", err)
	}
	if running != accepted {
		t.Errorf("%d calls ran, the bound is %d", running, accepted)
	}
	c.Close()
}

func TestNoticesKeepTheirOrder(t *testing.T) {
	null := devNull(t)
	defer unix.Close(null)
	const count = 1000
	var got []int
	all := make(chan struct{})
	a, _ := conns(t, nil, func(_ context.Context, r *Request) (any, []int, error) {
		var n int
		if err := r.Decode(&n); err != nil || !r.Notice || len(r.FDs()) != 1 {
			t.Errorf("%v, notice %v, descriptors %v", err, r.Notice, r.FDs())
		}
		if got = append(got, n); len(got) == count {
			close(all)
		}
		return nil, nil, nil
	})
	for i := range count {
		if err := a.Notify(t.Context(), "tick", i, []int{null}); err != nil {
			t.Fatal(err)
		}
	}
	<-all
	for i, n := range got {
		if i != n {
			t.Fatalf("notice %d came as number %d", n, i)
		}
	}
}

func TestCloseFailsWhatWaits(t *testing.T) {
	for name, end := range map[string]func(a, b *Conn){
		"our side":   func(a, _ *Conn) { a.Close() },
		"other side": func(_, b *Conn) { b.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			started := make(chan struct{}, 1)
			a, b := conns(t, nil, func(ctx context.Context, _ *Request) (any, []int, error) {
				started <- struct{}{}
				<-ctx.Done()
				return nil, nil, ctx.Err()
			})
			failed := make(chan error, 1)
			go func() {
				_, err := a.Call(t.Context(), "wait", nil, nil, nil)
				failed <- err
			}()
			<-started
			end(a, b)
			if err := <-failed; fault.KindOf(err) != fault.Unavailable {
				t.Errorf("got %v", err)
			}
			<-a.Done()
			if _, err := a.Call(t.Context(), "again", nil, nil, nil); fault.KindOf(err) != fault.Unavailable {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func TestPeerThatBreaksTheRules(t *testing.T) {
	for name, e := range map[string]envelope{
		"reply nobody asked for": {kind: replyKind, id: 9},
		"fault nobody asked for": {kind: faultKind, id: 9, body: []byte(`{}`)},
		"unknown kind":           {kind: 77, id: 1},
		"call without a verb":    {kind: callKind, id: 1},
		"verb of odd bytes":      {kind: callKind, id: 1, verb: "A B"},
		"notice with identifier": {kind: noticeKind, id: 1, verb: "x"},
		"call without one":       {kind: callKind, verb: "x"},
		"cancel with a body":     {kind: cancelKind, id: 1, body: []byte("x")},
	} {
		t.Run(name, func(t *testing.T) {
			ca, cb := pair(t, unix.SOCK_STREAM)
			if err := NewStream(ca, 0).Send(t.Context(), e.append(nil), nil); err != nil {
				t.Fatal(err)
			}
			if err := NewConn(NewStream(cb, 0)).Serve(echo); fault.KindOf(err) != fault.Invalid {
				t.Errorf("serve: %v", err)
			}
		})
	}
}

func TestEnvelopeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := envelope{
			kind: kind(rapid.IntRange(int(callKind), int(cancelKind)).Draw(t, "kind")),
			fds:  rapid.IntRange(0, MaxFDs).Draw(t, "fds"),
			body: []byte{},
		}
		if e.kind != noticeKind {
			e.id = rapid.Uint64Min(1).Draw(t, "id")
		}
		if e.kind == callKind || e.kind == noticeKind {
			e.verb = rapid.StringMatching(`[a-z0-9.-]{1,64}`).Draw(t, "verb")
		}
		if e.kind != cancelKind {
			e.body = rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		}
		got, err := parseEnvelope(e.append(nil))
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Fatalf("%+v became %+v, %v", e, got, err)
		}
	})
}

func FuzzEnvelope(f *testing.F) {
	f.Add([]byte{})
	f.Add((&envelope{kind: callKind, verb: "open", id: 1, body: []byte("{}")}).append(nil))
	f.Add((&envelope{kind: noticeKind, verb: "x", fds: 8}).append(nil))
	f.Add((&envelope{kind: faultKind, id: 5, body: []byte(`{"kind":"denied","detail":"x"}`)}).append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := parseEnvelope(data)
		if err != nil {
			return
		}
		if again := e.append(nil); !bytes.Equal(again, data) {
			t.Fatalf("%x became %x", data, again)
		}
		if e.kind == faultKind {
			if f := decodeFault(e.body); f.Kind == "" {
				t.Fatal("fault without a kind")
			}
		}
	})
}

func BenchmarkCall(b *testing.B) {
	a, _ := conns(b, nil, echo)
	b.ReportAllocs()
	for b.Loop() {
		var out note
		if _, err := a.Call(b.Context(), "echo", note{"hello", 1}, nil, &out); err != nil {
			b.Fatal(err)
		}
	}
}
