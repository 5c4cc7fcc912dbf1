package pool

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"brane/frame"
	"brane/internal/fault"
)

// world is a pool and the leases it was told of, kept the obvious way.
type world struct {
	pool    *Pool
	subnets []Subnet
	leases  map[string]Lease
	now     time.Time
}

func newWorld(t *rapid.T) *world {
	w := &world{leases: map[string]Lease{}, now: noon}
	four := Subnet{Prefix: netip.MustParsePrefix("10.0.0.0/28"), Gateway: addrOf("10.0.0.1")}
	six := Subnet{Prefix: netip.MustParsePrefix("fd00::/124"), Gateway: addrOf("fd00::3")}
	octet := rapid.IntRange(0, 15)
	for i := range rapid.IntRange(0, 3).Draw(t, "ranges") {
		from := octet.Draw(t, "from")
		to := rapid.IntRange(from, 15).Draw(t, "to")
		four.Ranges = append(four.Ranges, rng(fmt.Sprintf("10.0.0.%d", from), fmt.Sprintf("10.0.0.%d", to)))
		if i == 0 {
			six.Ranges = append(six.Ranges, rng(fmt.Sprintf("fd00::%x", from), fmt.Sprintf("fd00::%x", to)))
		}
	}
	for range rapid.IntRange(0, 3).Draw(t, "hosts") {
		h := Host{Addr: addrOf(fmt.Sprintf("10.0.0.%d", rapid.IntRange(2, 14).Draw(t, "host")))}
		if rapid.Bool().Draw(t, "by MAC") {
			h.MAC = someMAC(t)
		} else {
			h.Name = someName(t)
		}
		four.Hosts = append(four.Hosts, h)
	}
	w.subnets = []Subnet{four, six}
	var err error
	if w.pool, err = New(w.subnets); err != nil {
		t.Fatal(err)
	}
	return w
}

func someName(t *rapid.T) string { return fmt.Sprintf("n%d", rapid.IntRange(0, 19).Draw(t, "name")) }

func someMAC(t *rapid.T) frame.MAC {
	return frame.MAC{5: byte(rapid.IntRange(0, 19).Draw(t, "mac"))}
}

// candidates are the addresses of a subnet that anybody may get, found by
// looking at all.
func (w *world) candidates(s *Subnet) (list []netip.Addr) {
	first, end := s.Prefix.Addr(), last(s.Prefix)
	for a := first; s.Prefix.Contains(a); a = a.Next() {
		if a == first || a == s.Gateway || a.Is4() && a == end || slices.ContainsFunc(s.Hosts, func(h Host) bool { return h.Addr == a }) {
			continue
		}
		if len(s.Ranges) == 0 || slices.ContainsFunc(s.Ranges, func(r Range) bool { return !a.Less(r.Start) && !r.End.Less(a) }) {
			list = append(list, a)
		}
	}
	return list
}

func (w *world) holder(a netip.Addr) (Lease, bool) {
	for _, l := range w.leases {
		if slices.Contains(l.Addrs, a) {
			return l, true
		}
	}
	return Lease{}, false
}

// check judges one answer.
func (w *world) check(t *rapid.T, r Request, c Choice, err error) {
	if err != nil {
		w.checkRefusal(t, r, err)
		return
	}
	for i := range w.subnets {
		s, a := &w.subnets[i], c.Addrs[i]
		l, leased := w.holder(a)
		if leased && l.Name != r.Name {
			sameDevice := !l.Held && l.MAC == r.MAC && r.MAC != frame.MAC{}
			if !sameDevice && !l.expired(w.now) || !slices.Contains(c.Evicted, l.Name) {
				t.Fatalf("%+v was given %s of %+v", r, a, l)
			}
		}
		if static, ok := hostOf(s, r); ok {
			if a != static {
				t.Fatalf("%+v was given %s, its static address is %s", r, a, static)
			}
			continue
		}
		candidates := w.candidates(s)
		if !slices.Contains(candidates, a) {
			t.Fatalf("%+v was given %s, which is for nobody or for somebody", r, a)
		}
		w.checkPreference(t, r, a, candidates)
	}
}

// checkPreference: it kept what it had; else what was never used goes before
// what expired, and what expired first before the rest.
func (w *world) checkPreference(t *rapid.T, r Request, a netip.Addr, candidates []netip.Addr) {
	if had, ok := w.leases[r.Name]; ok {
		for _, b := range had.Addrs {
			if slices.Contains(candidates, b) && a != b {
				t.Fatalf("%+v had %s and was given %s", r, b, a)
			}
		}
	}
	l, leased := w.holder(a)
	if !leased || a == r.Want || l.Name == r.Name || l.MAC == r.MAC {
		return
	}
	for _, b := range candidates {
		other, leased := w.holder(b)
		if !leased || !other.Held && other.Expires.Before(l.Expires) {
			t.Fatalf("%+v was given %s of %+v, while %s is free or longer expired", r, a, l, b)
		}
	}
}

func (w *world) checkRefusal(t *rapid.T, r Request, err error) {
	switch fault.KindOf(err) {
	case fault.Busy:
		for i := range w.subnets {
			if a, ok := hostOf(&w.subnets[i], r); ok {
				if l, leased := w.holder(a); leased && l.Name != r.Name && !l.expired(w.now) {
					return
				}
			}
		}
	case fault.Limit:
		for i := range w.subnets {
			free := slices.ContainsFunc(w.candidates(&w.subnets[i]), func(a netip.Addr) bool {
				l, leased := w.holder(a)
				return !leased || l.expired(w.now)
			})
			if !free {
				return
			}
		}
	}
	t.Fatalf("%+v: refused for no reason: %v", r, err)
}

func hostOf(s *Subnet, r Request) (netip.Addr, bool) {
	for _, byMAC := range []bool{true, false} {
		for _, h := range s.Hosts {
			if byMAC && r.MAC != (frame.MAC{}) && h.MAC == r.MAC || !byMAC && h.Name != "" && h.Name == r.Name {
				return h.Addr, true
			}
		}
	}
	return netip.Addr{}, false
}

// TestModel lets random clients come, stay, go and come back: no address has
// two owners, none of a host goes to another, and each answer is the preferred.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			w.now = w.now.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "minutes")) * time.Minute)
			if rapid.IntRange(0, 5).Draw(t, "leave") == 0 {
				name := someName(t)
				w.pool.Drop(name)
				delete(w.leases, name)
				continue
			}
			r := Request{Name: someName(t), MAC: someMAC(t), Now: w.now}
			if rapid.IntRange(0, 2).Draw(t, "wants") == 0 {
				r.Want = addrOf(fmt.Sprintf("10.0.0.%d", rapid.IntRange(0, 20).Draw(t, "want")))
			}
			c, err := w.pool.Choose(r)
			w.check(t, r, c, err)
			if err == nil {
				w.take(t, r, c)
			}
		}
		w.rebuilt(t)
	})
}

func (w *world) take(t *rapid.T, r Request, c Choice) {
	for _, name := range c.Evicted {
		w.pool.Drop(name)
		delete(w.leases, name)
	}
	l := Lease{
		Name: r.Name, MAC: r.MAC, Addrs: c.Addrs, Held: rapid.IntRange(0, 3).Draw(t, "held") == 0,
		Expires: w.now.Add(time.Duration(rapid.IntRange(1, 20).Draw(t, "lease")) * time.Minute),
	}
	if err := w.pool.Put(l); err != nil {
		t.Fatal(err)
	}
	w.leases[r.Name] = l
}

// rebuilt: a pool made anew of the same leases, as after a restart, gives the
// same answers, and so does one that was asked twice.
func (w *world) rebuilt(t *rapid.T) {
	var leases []Lease
	for _, l := range w.leases {
		leases = append(leases, l)
	}
	for i := range 20 {
		r := Request{Name: fmt.Sprintf("n%d", i), Now: w.now}
		a, errA := w.pool.Choose(r)
		b, errB := Choose(w.subnets, leases, r)
		if fmt.Sprint(a, errA) != fmt.Sprint(b, errB) {
			t.Fatalf("%+v: %+v, %v; after a restart %+v, %v", r, a, errA, b, errB)
		}
	}
}

// TestSixteen fills a /16 to the last address.
func TestSixteen(t *testing.T) {
	p := sixteen(t)
	seen := make(map[netip.Addr]bool)
	for i := range 1<<16 - 3 {
		name := fmt.Sprintf("host-%d", i)
		c, err := p.Choose(Request{Name: name, Now: noon})
		if err != nil || seen[c.Addrs[0]] || c.Evicted != nil {
			t.Fatalf("number %d: %+v, %v", i, c, err)
		}
		seen[c.Addrs[0]] = true
		if err = p.Put(Lease{Name: name, Addrs: c.Addrs, Expires: noon.Add(time.Duration(1+i) * time.Second)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Choose(Request{Name: "late", Now: noon}); fault.KindOf(err) != fault.Limit {
		t.Errorf("one too many: %v", err)
	}
	c, err := p.Choose(Request{Name: "late", Now: noon.Add(time.Hour)})
	if err != nil || fmt.Sprint(c.Evicted) != "[host-0]" {
		t.Errorf("the longest expired is host-0: %+v, %v", c, err)
	}
}

func sixteen(t testing.TB) *Pool {
	p, err := New([]Subnet{{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Gateway: addrOf("10.1.0.1")}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// BenchmarkChoose is a choice, put and dropped again, in a /16 with so many leases.
func BenchmarkChoose(b *testing.B) {
	for _, leases := range []int{0, 1000, 60_000, 65_532} {
		b.Run(fmt.Sprintf("leases=%d", leases), func(b *testing.B) {
			p := sixteen(b)
			for i := range leases {
				r := Request{Name: fmt.Sprintf("host-%d", i), Now: noon}
				c, err := p.Choose(r)
				if err != nil {
					b.Fatal(err)
				}
				_ = p.Put(Lease{Name: r.Name, Addrs: c.Addrs, Expires: noon.Add(time.Hour)})
			}
			for i := 0; b.Loop(); i++ {
				r := Request{Name: fmt.Sprintf("new-%d", i), Now: noon}
				c, err := p.Choose(r)
				if err != nil {
					b.Fatal(err)
				}
				_ = p.Put(Lease{Name: r.Name, Addrs: c.Addrs, Expires: noon.Add(time.Hour)})
				p.Drop(r.Name)
			}
		})
	}
}

// BenchmarkRestart is the pool of so many leases made anew for one choice.
func BenchmarkRestart(b *testing.B) {
	for _, n := range []int{100, 65_000} {
		b.Run(fmt.Sprintf("leases=%d", n), func(b *testing.B) {
			leases := make([]Lease, n)
			for i := range leases {
				leases[i] = Lease{Name: fmt.Sprint(i), Addrs: []netip.Addr{add(addrOf("10.1.0.2"), uint64(i))}, Expires: noon.Add(time.Hour)}
			}
			subnets := []Subnet{{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Gateway: addrOf("10.1.0.1")}}
			for b.Loop() {
				if _, err := Choose(subnets, leases, Request{Name: "x", Now: noon}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
