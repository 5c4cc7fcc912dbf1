package userspace

import (
	"runtime"
	"sync/atomic"
	"time"

	"brane/frame"
	"brane/internal/datapath"
	"brane/internal/plan"
	"brane/internal/verdict"
)

// batch is how many frames, counted at each receiver, a lane takes between two
// quiescent points.
const batch = 64

// spins is how often settle looks, without pause, for the end of a batch: some 20 µs.
const spins = 20_000

// lane carries frames through the switch: one for each attached port, and some
// for the callers of Send. Only one goroutine is in a lane at a time.
type lane struct {
	state atomic.Uint64 // odd while a batch is in hand
	s     *Switch
	now   time.Duration // of this batch
	work  int           // frames taken and written in this batch
	depth int           // muxes that the frame in hand has climbed to
	full  []*stream     // streams that hold bytes of this batch

	pkt   frame.Packet // the frame in hand
	vnet  frame.Vnet   // its header, derived anew
	buf   []byte       // header and frame
	reply bool         // an answer to the sender was sent for this frame
	quiet bool         // nothing is answered in this lane
}

func (l *lane) init(s *Switch) { l.s = s }

// enter begins a batch. The lane is the caller's own.
func (l *lane) enter() {
	l.state.Add(1)
	l.begin()
}

func (l *lane) begin() { l.now, l.work, l.depth = l.s.now(), 0, 0 }

// leave ends the batch: what it left in streams goes out, and the plan in hand is given up.
func (l *lane) leave() {
	for i, st := range l.full {
		st.flush()
		l.full[i] = nil
	}
	l.full = l.full[:0]
	l.state.Add(1)
}

// borrow enters one of the lanes for callers of Send.
func (s *Switch) borrow() *lane {
	for {
		if l := s.tryBorrow(); l != nil {
			return l
		}
		runtime.Gosched()
	}
}

// tryBorrow is borrow for those who must not wait.
func (s *Switch) tryBorrow() *lane {
	for i := range s.senders {
		l := &s.senders[i]
		if was := l.state.Load(); was&1 == 0 && l.state.CompareAndSwap(was, was+1) {
			l.begin()
			return l
		}
	}
	return nil
}

func (s *Switch) enlist(l *lane) {
	s.lanesMu.Lock()
	defer s.lanesMu.Unlock()
	s.lanes[l] = struct{}{}
}

func (s *Switch) dismiss(l *lane) {
	s.lanesMu.Lock()
	defer s.lanesMu.Unlock()
	delete(s.lanes, l)
}

// settle returns when every batch that was in hand has ended. The caller is in no lane.
func (s *Switch) settle() {
	type busy struct {
		lane *lane
		was  uint64
	}
	var wait []busy
	look := func(l *lane) {
		if was := l.state.Load(); was&1 == 1 {
			wait = append(wait, busy{l, was})
		}
	}
	for i := range s.senders {
		look(&s.senders[i])
	}
	s.lanesMu.Lock()
	for l := range s.lanes {
		look(l)
	}
	s.lanesMu.Unlock()
	for _, b := range wait {
		// Most batches end sooner than this goroutine would get its turn again.
		for tries := 0; b.lane.state.Load() == b.was; tries++ {
			if tries >= spins {
				time.Sleep(20 * time.Microsecond)
			}
		}
	}
}

// receive takes one frame from the client of p, header first, and sees to all
// that becomes of it. It may write to the header.
func (l *lane) receive(p *port, buf []byte) verdict.Reason {
	c := p.network.plan.Load()
	j := c.of(p)
	if j == nil {
		return verdict.Closed
	}
	l.work++
	l.buf, l.reply = buf, false
	r := l.accept(j)
	if r == verdict.Delivered {
		return l.forward(c, j)
	}
	l.refuse(c, j, r, nil)
	return r
}

// accept parses the frame in hand and judges its form.
func (l *lane) accept(j *judge) verdict.Reason {
	if len(l.buf) < frame.VnetLen+frame.EthernetLen {
		l.pkt.Parse(l.buf[min(len(l.buf), frame.VnetLen):])
		return verdict.Runt
	}
	l.pkt.Parse(l.buf[frame.VnetLen:])
	raw, _ := frame.ParseVnet(l.buf)
	v, ok := raw.Check(&l.pkt)
	if !ok {
		return verdict.VnetHeader
	}
	if raw != v {
		v.Put(l.buf[:frame.VnetLen])
	}
	l.vnet = v
	// Padding does not count for the packet, but may not be without end either.
	const slack = frame.EthernetLen + 8 // and two tags
	if v.PacketLen(&l.pkt) > j.mtu || !v.IsSuper() && len(l.pkt.Frame) > j.mtu+slack || len(l.pkt.Frame) > frame.MaxFrame {
		return verdict.Oversize
	}
	return verdict.Delivered
}

// forward sends the frame in hand, which came from j, through j's filters to
// those it is for.
func (l *lane) forward(c *compiled, j *judge) verdict.Reason {
	for i, rule := range j.send {
		if r := rule.Judge(&l.pkt); r != verdict.Delivered {
			l.refuse(c, j, r, &j.plan.Send[i])
			return r
		}
	}
	if r := c.view.Learn(l.now, j.slot, l.pkt.Src); r != verdict.Delivered {
		l.refuse(c, j, r, nil)
		return r
	}
	slots, r := c.view.Route(l.now, j.slot, l.pkt.Dst)
	if r != verdict.Delivered {
		l.refuse(c, j, r, nil)
		return r
	}
	size := len(l.pkt.Frame)
	r = verdict.NoReceiver
	for _, slot := range slots {
		if c.view.Same(slot, j.slot) {
			continue
		}
		if got := l.deliver(c, c.judges[slot], j); r != verdict.Delivered {
			r = got
		}
	}
	if r == verdict.NoReceiver {
		l.refuse(c, j, r, nil)
		return r
	}
	j.from.add(r, size)
	return r
}

// deliver brings the frame in hand to the client of j, or tells why not.
func (l *lane) deliver(c *compiled, j, sender *judge) verdict.Reason {
	l.work++
	var by *plan.Filter
	r, size := verdict.Delivered, len(l.pkt.Frame)
	for i, rule := range j.receive {
		if r = rule.Judge(&l.pkt); r != verdict.Delivered {
			by = &j.plan.Receive[i]
			break
		}
	}
	if r == verdict.Delivered && l.vnet.PacketLen(&l.pkt) > j.mtu {
		r = verdict.TooBig
		l.tooBig(sender, j.mtu)
	}
	if r == verdict.Delivered {
		r = l.hand(j)
	}
	j.to.add(r, size)
	if r != verdict.Delivered {
		l.record(c, j, true, r, by)
	}
	return r
}

// hand gives the frame to j's endpoint, or to the mux at the other end.
func (l *lane) hand(j *judge) verdict.Reason {
	if e := j.end.Load(); e != nil {
		return e.write(l, l.buf, &l.vnet)
	}
	peer := j.peer.Load()
	if peer == nil || l.depth >= plan.MaxDepth {
		return verdict.Closed
	}
	c := peer.network.plan.Load()
	other := c.of(peer)
	if other == nil {
		return verdict.Closed
	}
	l.depth++
	if l.vnet.PacketLen(&l.pkt) > other.mtu {
		l.refuse(c, other, verdict.Oversize, nil)
	} else {
		l.forward(c, other)
	}
	l.depth--
	return verdict.Delivered // what became of it there was counted there
}

// refuse ends a frame that goes no further than its sender: it is written down,
// answered where the plan says so, and counted last, when all is done.
func (l *lane) refuse(c *compiled, j *judge, r verdict.Reason, by *plan.Filter) {
	l.record(c, j, false, r, by)
	if by != nil && j.plan.Reject && (r == verdict.SendFilter || r == verdict.Host) {
		l.reject(j)
	}
	j.from.add(r, 0)
}

// isolated notes a panic in the handling of a frame from p.
func (s *Switch) isolated(p *port, cause any) verdict.Reason {
	stack := make([]byte, 4096)
	stack = stack[:runtime.Stack(stack, false)]
	s.log.Error("a fault was isolated to its port", "mux", p.network.name, "port", p.id, "cause", cause, "stack", string(stack))
	p.from.add(verdict.Internal, 0)
	return verdict.Internal
}

// Counters is datapath.Datapath's.
func (s *Switch) Counters(name string) []datapath.Counters {
	n := (*s.muxes.Load())[name]
	if n == nil {
		return nil
	}
	c, now := n.plan.Load(), s.now()
	out := make([]datapath.Counters, 0, len(c.source.Ports))
	for i := range c.source.Ports {
		j := c.find(c.source.Ports[i].ID)
		x := datapath.Counters{
			Port: j.id, FromBytes: j.from.bytes.Load(), ToBytes: j.to.bytes.Load(),
			Learned: c.view.Learned(now, j.slot),
		}
		for r := range verdict.Count {
			x.From[r], x.To[r] = j.from.frames[r].Load(), j.to.frames[r].Load()
		}
		out = append(out, x)
	}
	return out
}
