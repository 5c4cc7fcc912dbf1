package stack

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"brane/frame"
)

// fragmentsOf cuts a UDP datagram with the gateway's own fragmenter.
func fragmentsOf(t interface{ Fatal(...any) }, src, dst netip.Addr, mtu int, id uint32, body []byte) (pieces [][]byte, whole []byte) {
	g := &Gateway{}
	g.ipID.Store(id - 1)
	d := datagram{mac: gwMAC, src: src, dst: dst, proto: frame.ProtoUDP, ttl: 64, csumAt: udpCsumAt}
	b := new([bufSize]byte)
	n := udpLen + copy(b[headroom+udpLen:], body)
	putUDP(b[headroom:], 1, 2, n)
	keep := func(_ frame.MAC, f []byte) { pieces = append(pieces, bytes.Clone(f[frame.VnetLen:])) }
	p := &policy{}
	p.MTU, p.MAC = mtu, gMAC
	g.policy.Store(p)
	g.build(b, n, &d, keep)
	if len(pieces) < 2 {
		t.Fatal("not cut")
	}
	return pieces, bytes.Clone(b[headroom : headroom+n])
}

func feed(r *reassembler, now time.Time, f []byte) []byte {
	var p frame.Packet
	p.Parse(f)
	if p.Fault != frame.OK {
		return nil
	}
	return r.add(now, &p)
}

// TestReassembly: fragments in any order, some of them twice, give the datagram
// once, byte for byte.
func TestReassembly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src, dst := guest4, out4
		if rapid.Bool().Draw(t, "IPv6") {
			src, dst = guest6, out6
		}
		mtu := rapid.IntRange(1280, 9000).Draw(t, "mtu")
		body := rapid.SliceOfN(rapid.Byte(), mtu, mtu+10).Draw(t, "body")
		body = bytes.Repeat(body, rapid.IntRange(1, 65000/len(body)).Draw(t, "times"))
		pieces, want := fragmentsOf(t, src, dst, mtu, 7, body)
		if len(pieces) > fragPieces {
			t.Skip("more pieces than are taken")
		}
		order := rapid.Permutation(append(pieces, pieces[:len(pieces)/2]...)).Draw(t, "order")
		var r reassembler
		now := time.Unix(1, 0)
		found := 0
		for _, f := range order {
			whole := feed(&r, now, f)
			if whole == nil {
				continue
			}
			found++
			var p frame.Packet
			p.Parse(whole)
			if p.Fault != frame.OK || p.Fragment != frame.Whole || !headerSum(&p) || !bytes.Equal(p.Frame[p.L4:p.End], want) {
				t.Fatalf("fault %d, fragment %d: the datagram differs", p.Fault, p.Fragment)
			}
		}
		if found < 1 || found > 2 {
			t.Fatalf("found %d times", found)
		}
	})
}

// TestReassemblyIsBounded: fragments without end, of random shape, from many
// sources, never hold more than the bounds, and the books balance.
func TestReassemblyIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r reassembler
		now := time.Unix(1, 0)
		for range rapid.IntRange(1, 400).Draw(t, "n") {
			src := netip.AddrFrom4([4]byte{10, 5, 0, byte(rapid.IntRange(2, 14).Draw(t, "src"))})
			d := datagram{src: src, dst: out4, proto: frame.ProtoUDP, ttl: 1}
			b := new([bufSize]byte)
			n := rapid.IntRange(1, 8000).Draw(t, "size") * 8
			f := uint16(rapid.IntRange(0, 0x1fff).Draw(t, "offset"))
			if rapid.Bool().Draw(t, "more") {
				f |= moreFragments
			}
			at := d.putIP(b[:], headroom, n, uint16(rapid.IntRange(0, 60).Draw(t, "id")), f)
			at = putLink(b[:], at, gwMAC, gMAC, true, frame.Vnet{})
			feed(&r, now, b[at+frame.VnetLen:headroom+n])
			now = now.Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "ms")) * time.Millisecond)
			checkReassembler(t, &r)
		}
	})
}

func checkReassembler(t *rapid.T, r *reassembler) {
	bytes, partials := 0, 0
	for a, s := range r.sources {
		held := 0
		for e := s.partials.Front(); e != nil; e = e.Next() {
			d := e.Value.(*partial)
			sum := len(d.header)
			for _, p := range d.pieces {
				sum += len(p.data)
			}
			if sum != d.bytes {
				t.Fatalf("a datagram holds %d bytes and counts %d", sum, d.bytes)
			}
			held += sum
			partials++
		}
		if held != s.bytes || held > fragSourceBytes || s.partials.Len() > fragPerSource || s.partials.Len() == 0 {
			t.Fatalf("%v holds %d bytes, counts %d, in %d datagrams", a, held, s.bytes, s.partials.Len())
		}
		bytes += held
	}
	if bytes != r.bytes || bytes > fragTotalBytes || partials != len(r.byKey) {
		t.Fatalf("%d bytes, counted %d; %d datagrams, known %d", bytes, r.bytes, partials, len(r.byKey))
	}
}

// TestReassemblyRefusesOverlap as RFC 5722 asks: the whole datagram goes.
func TestReassemblyRefusesOverlap(t *testing.T) {
	body := bytes.Repeat([]byte{1}, 4000)
	pieces, _ := fragmentsOf(t, guest4, out4, 1504, 7, body)
	shifted, _ := fragmentsOf(t, guest4, out4, 1400, 7, body)
	var r reassembler
	now := time.Unix(1, 0)
	for _, f := range [][]byte{pieces[0], shifted[1], pieces[1], pieces[2], shifted[2]} {
		if feed(&r, now, f) != nil {
			t.Fatal("a datagram of overlapping fragments was let through")
		}
	}
	if r.bytes != 0 {
		t.Errorf("%d bytes held for it", r.bytes)
	}
	// After the timeout the same identification is good again.
	var whole []byte
	for _, f := range pieces {
		whole = feed(&r, now.Add(fragTimeout+time.Second), f)
	}
	if whole == nil {
		t.Error("the positive twin was not joined")
	}
}

// flowModel is a table beside a list that is searched from end to end.
type flowModel struct {
	table flowTable[int]
	list  []slowFlow // least recently used first
	now   time.Time
	id    int
}

type slowFlow struct {
	key  flowKey
	id   int
	used time.Time
}

const (
	modelPerSource, modelTotal = 3, 5
	modelIdle                  = 10 * time.Second
)

func TestFlowTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &flowModel{now: time.Unix(1, 0)}
		t.Repeat(map[string]func(*rapid.T){"get": m.get, "put": m.put, "drop": m.drop, "wait": m.wait, "": m.check})
	})
}

func (m *flowModel) key(t *rapid.T) flowKey {
	src := netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(1, 3).Draw(t, "source"))})
	return flowKey{src: netip.AddrPortFrom(src, uint16(rapid.IntRange(1, 5).Draw(t, "port")))}
}

func (m *flowModel) find(is func(slowFlow) bool) int { return slices.IndexFunc(m.list, is) }

func (m *flowModel) findKey(k flowKey) int {
	return m.find(func(s slowFlow) bool { return s.key == k })
}

func (m *flowModel) count(a netip.Addr) (n int) {
	for _, s := range m.list {
		if s.key.src.Addr() == a {
			n++
		}
	}
	return n
}

func (m *flowModel) get(t *rapid.T) {
	k := m.key(t)
	got, ok := m.table.get(m.now, k)
	i := m.findKey(k)
	if ok != (i >= 0) || ok && got != m.list[i].id {
		t.Fatalf("got %d, %v", got, ok)
	}
	if ok && m.now.Sub(m.list[i].used) >= touchEvery {
		s := m.list[i]
		s.used = m.now
		m.list = append(slices.Delete(m.list, i, i+1), s)
	}
}

func (m *flowModel) put(t *rapid.T) {
	k := m.key(t)
	m.id++
	evicted, added := m.table.put(m.now, k, m.id, modelIdle, modelPerSource, modelTotal)
	if added != (m.findKey(k) < 0) {
		t.Fatal("added twice, or not")
	}
	if !added {
		return
	}
	for _, e := range evicted {
		i := m.find(func(s slowFlow) bool { return s.id == e })
		a := m.list[i].key.src.Addr()
		if m.find(func(s slowFlow) bool { return s.key.src.Addr() == a }) != i {
			t.Fatal("not the source's least recently used")
		}
		for _, s := range m.list {
			if m.count(s.key.src.Addr()) > m.count(a) && m.count(k.src.Addr()) < modelPerSource {
				t.Fatal("not of the heaviest source")
			}
		}
		m.list = slices.Delete(m.list, i, i+1)
	}
	m.list = append(m.list, slowFlow{k, m.id, m.now})
}

func (m *flowModel) drop(t *rapid.T) {
	k := m.key(t)
	m.table.drop(k, -1) // another's flow: nothing happens
	if i := m.findKey(k); i >= 0 {
		m.table.drop(k, m.list[i].id)
		m.list = slices.Delete(m.list, i, i+1)
	}
}

func (m *flowModel) wait(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(1, 4000).Draw(t, "ms")) * time.Millisecond)
	gone, left := m.table.expire(m.now)
	before := len(m.list)
	m.list = slices.DeleteFunc(m.list, func(s slowFlow) bool { return m.now.Sub(s.used) >= modelIdle })
	if len(gone) != before-len(m.list) || left != len(m.list) {
		t.Fatalf("%d gone, %d left of %d", len(gone), left, before)
	}
}

func (m *flowModel) check(t *rapid.T) {
	if m.table.len() != len(m.list) || len(m.list) > modelTotal {
		t.Fatalf("%d flows, want %d", m.table.len(), len(m.list))
	}
	for _, s := range m.list {
		if m.count(s.key.src.Addr()) > modelPerSource {
			t.Fatal("a source over its quota")
		}
	}
}

// TestQuota: what is taken never exceeds the limits and comes back whole.
func TestQuota(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q quota
		var held []struct {
			a netip.Addr
			n int
		}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(1, 3).Draw(t, "source"))})
			n := rapid.IntRange(1, 5).Draw(t, "n")
			if q.take(a, n, 8, 20) {
				held = append(held, struct {
					a netip.Addr
					n int
				}{a, n})
			} else if q.total+n <= 20 && q.source[a]+n <= 8 {
				t.Fatal("refused inside the limits")
			}
			if q.total > 20 || q.source[a] > 8 {
				t.Fatal("over the limit")
			}
		}
		for _, h := range held {
			q.give(h.a, h.n)
		}
		if q.held() != 0 || len(q.source) != 0 {
			t.Fatalf("%d left, %d sources", q.total, len(q.source))
		}
	})
}

// TestQuotaParts: a source that takes thousands leaves another its full part.
func TestQuotaParts(t *testing.T) {
	var q quota
	const want, floor, perSource, total = 1 << 20, 32 << 10, 128 << 20, 256 << 20
	for range 4096 {
		q.takePart(guest4, want, floor, perSource, total)
	}
	if got := q.source[guest4]; got > perSource+4096*floor {
		t.Errorf("one source holds %d", got)
	}
	if got := q.takePart(guest6, want, floor, perSource, total); got < want/2 {
		t.Errorf("the other gets %d", got)
	}
}

// TestFairQueue: a flood under one key leaves room for the others; order is kept.
func TestFairQueue(t *testing.T) {
	q := newFairQueue[string, int](8, 3)
	for i := range 10 {
		if ok := q.push("flood", i); ok != (i < 3) {
			t.Errorf("push %d: %v", i, ok)
		}
	}
	if !q.push("calm", 100) {
		t.Error("no room for the other")
	}
	for _, want := range []int{0, 1, 2, 100} {
		if got, ok, _ := q.pop(); !ok || got != want {
			t.Errorf("got %d, %v; want %d", got, ok, want)
		}
	}
	if _, ok, closed := q.pop(); ok || closed {
		t.Error("not empty, or closed")
	}
	q.push("flood", 1)
	q.close()
	if q.push("flood", 2) {
		t.Error("pushed after close")
	}
	if _, ok, _ := q.pop(); !ok {
		t.Error("a closed queue lost what was in it")
	}
	if _, _, closed := q.pop(); !closed {
		t.Error("not closed")
	}
	if len(q.held) != 0 {
		t.Errorf("held: %v", q.held)
	}
}
