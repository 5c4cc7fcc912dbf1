package stack

import "sync/atomic"

type counters struct {
	connsOut, connsIn, flows           atomic.Uint64
	refused, denied, limited, evicted  atomic.Uint64
	malformed, badSums                 atomic.Uint64
	queueDrops, outDrops, serviceDrops atomic.Uint64
}

// Stats are a gateway's live tables and its counters since the start.
type Stats struct {
	Conns      int `json:"conns"`      // TCP connections now carried
	Dialing    int `json:"dialing"`    // TCP connections not yet established
	Flows      int `json:"flows"`      // UDP and echo flows to the outside
	Sessions   int `json:"sessions"`   // UDP clients of forwarded ports
	Reassembly int `json:"reassembly"` // bytes of fragments held
	Buffers    int `json:"buffers"`    // bytes of TCP buffer space granted, both ways

	ConnsOut   uint64 `json:"connsOut"`   // connections established to the outside
	ConnsIn    uint64 `json:"connsIn"`    // and through forwarded ports
	FlowsOut   uint64 `json:"flowsOut"`   // flows started
	Refused    uint64 `json:"refused"`    // ICMP errors sent for packets of guests
	Denied     uint64 `json:"denied"`     // connections and flows to what may not be reached
	Limited    uint64 `json:"limited"`    // connections over a limit
	Evicted    uint64 `json:"evicted"`    // flows that left early for newer ones
	Malformed  uint64 `json:"malformed"`  // frames that could not be read
	BadSums    uint64 `json:"badSums"`    // datagrams with a wrong checksum
	QueueDrops uint64 `json:"queueDrops"` // answers over the egress bound
	OutDrops   uint64 `json:"outDrops"`   // datagrams that a host socket did not take
}

// Stats reads them; the counters are each exact, and not of one instant.
func (g *Gateway) Stats() Stats {
	g.fragMu.Lock()
	held := g.frags.bytes
	g.fragMu.Unlock()
	c := &g.count
	return Stats{
		Conns: g.conns.held(), Dialing: g.dialing.held(), Flows: g.flows.len(), Sessions: g.sessions.len(),
		Reassembly: held, Buffers: g.sendBuf.held() + g.recvBuf.held(),
		ConnsOut: c.connsOut.Load(), ConnsIn: c.connsIn.Load(), FlowsOut: c.flows.Load(),
		Refused: c.refused.Load(), Denied: c.denied.Load(), Limited: c.limited.Load(), Evicted: c.evicted.Load(),
		Malformed: c.malformed.Load(), BadSums: c.badSums.Load(),
		QueueDrops: c.queueDrops.Load(), OutDrops: c.outDrops.Load() + c.serviceDrops.Load(),
	}
}
