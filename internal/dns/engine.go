// Package dns is the name server of a network: it answers for the network's
// own names in both families and passes other questions to the host's
// resolvers.
//
// # Theory of operation
//
// Engine and Zone are pure. A question goes
//
//	Engine.Ask ──► reply                      own names, cache, refusals
//	          └──► Forward ─Key.Query─► resolver ─Probe.Judge─► Engine.Accept ─► Answer ─Forward.Reply─► reply
//
// and Server is the thin shell with the sockets: one fresh host socket for
// each query (so a random port), asked until something passes Judge. Equal
// questions share one query, so that asking often does not help to guess.
//
// What comes from a resolver is not believed further than needed:
//   - the id, the spelling of the name (0x20: random upper and lower case) and
//     the rest of the question must be those sent. A reply that lost the spelling
//     is asked for again over TCP, where guessing does not work;
//   - only records that the question leads to are kept, and at most MaxRecords;
//   - addresses of the host, of this network, loopback, link-local and metadata
//     addresses, in any form, are taken out, so that no foreign name can be made
//     to point here (rebinding);
//   - nothing is followed up: no referral, no alias is asked for. So there is no
//     work per query beyond its one question.
//
// Limits: questions in flight in all and for one source, size of messages,
// entries and bytes of the cache, TCP connections in all and for one source, questions of one
// connection. A question over a limit gets SERVFAIL.
package dns

import (
	"time"

	wire "github.com/miekg/dns"
)

// Sizes in bytes.
const (
	UDPSize    = 1232 // largest UDP message offered and sent: never fragmented (DNS flag day 2020)
	MaxQuery   = 4096 // largest message of a client
	MaxRecords = 256  // of one section of a resolver's answer
)

// Engine answers questions. It is for one goroutine at a time.
type Engine struct {
	zone  *Zone
	cache cache
}

// NewEngine makes an engine for a zone.
func NewEngine(z *Zone) *Engine { return &Engine{zone: z} }

// SetZone swaps the zone. What was learned from resolvers is forgotten when the
// new one would have screened it in another way.
func (e *Engine) SetZone(z *Zone) {
	if !e.zone.screensLike(z) {
		e.cache = cache{}
	}
	e.zone = z
}

// Resolvers are the host's resolvers, host:port, asked in order.
func (e *Engine) Resolvers() []string { return e.zone.resolvers }

// client is how the reply has to look.
type client struct {
	id       uint16
	question wire.Question // as spelled
	rd, cd   bool
	edns, do bool
	ad       bool
	size     int
}

// Forward is a question for the host's resolvers.
type Forward struct {
	Key    Key
	client client
}

// Ask takes a client's message and gives the reply, or the question to
// forward, or neither: what is no question gets no answer. stream means TCP.
func (e *Engine) Ask(now time.Time, query []byte, stream bool) (reply []byte, forward *Forward) {
	var m wire.Msg
	if len(query) < 12 || query[2]&0x80 != 0 { // no header; a response
		return nil, nil
	}
	if err := m.Unpack(query); err != nil || len(query) > MaxQuery || len(m.Question) != 1 {
		return refusal(query, wire.RcodeFormatError), nil
	}
	c, rcode := newClient(&m, stream)
	if rcode != wire.RcodeSuccess {
		return c.fail(rcode, nil), nil
	}
	if f, ok := e.zone.lookup(c.question); ok {
		return c.local(e.zone, f), nil
	}
	switch {
	case !c.rd:
		return c.fail(wire.RcodeRefused, nil), nil
	case c.question.Qtype == wire.TypeANY: // RFC 8482: nobody needs it, and it is large
		return c.fail(wire.RcodeNotImplemented, nil), nil
	}
	f := &Forward{Key: keyOf(&c), client: c}
	if a, ok := e.cache.get(now, f.Key); ok {
		return f.Reply(now, a), nil
	}
	if len(e.zone.resolvers) == 0 {
		return f.Fail(NoResolver), nil
	}
	return nil, f
}

// newClient reads what the reply depends on. The rcode is for questions that
// nobody here or elsewhere can answer.
func newClient(m *wire.Msg, stream bool) (client, int) {
	c := client{
		id: m.Id, question: m.Question[0], rd: m.RecursionDesired, cd: m.CheckingDisabled, ad: m.AuthenticatedData,
		size: wire.MinMsgSize,
	}
	opt := m.IsEdns0()
	if opt != nil {
		c.edns, c.do = true, opt.Do()
		c.size = min(max(int(opt.UDPSize()), wire.MinMsgSize), UDPSize)
	}
	if stream {
		c.size = wire.MaxMsgSize
	}
	switch t := c.question.Qtype; {
	case m.Opcode != wire.OpcodeQuery:
		return c, wire.RcodeNotImplemented
	case opt != nil && opt.Version() != 0:
		return c, wire.RcodeBadVers
	case c.question.Qclass != wire.ClassINET:
		return c, wire.RcodeRefused
	case t == wire.TypeANY:
	case t == wire.TypeOPT || t >= 128 && t <= 255: // pseudo-records and transfers (RFC 6895 section 3.1)
		return c, wire.RcodeRefused
	}
	return c, wire.RcodeSuccess
}

// message begins a reply.
func (c *client) message(rcode int) *wire.Msg {
	m := &wire.Msg{Question: []wire.Question{c.question}}
	m.Id, m.Response, m.RecursionDesired, m.RecursionAvailable, m.CheckingDisabled = c.id, true, c.rd, true, c.cd
	m.Rcode = rcode
	return m
}

// finish adds what EDNS needs and packs the reply in the client's size.
func (c *client) finish(m *wire.Msg, why *wire.EDNS0_EDE) []byte {
	if c.edns {
		opt := &wire.OPT{Hdr: wire.RR_Header{Name: ".", Rrtype: wire.TypeOPT}}
		opt.SetUDPSize(UDPSize)
		opt.SetDo(c.do)
		if why != nil {
			opt.Option = append(opt.Option, why)
		}
		m.Extra = append(m.Extra, opt)
	} else if m.Rcode > 15 {
		m.Rcode = wire.RcodeServerFailure // an extended code has no room without EDNS
	}
	m.Truncate(c.size)
	m.Compress = true
	b, err := m.Pack()
	if err != nil || len(b) > max(c.size, wire.MinMsgSize) {
		return refusal([]byte{byte(c.id >> 8), byte(c.id), 0}, wire.RcodeServerFailure)
	}
	return b
}

// fail is a reply without records.
func (c *client) fail(rcode int, why *wire.EDNS0_EDE) []byte {
	return c.finish(c.message(rcode), why)
}

// local is a reply of the zone's own.
func (c *client) local(z *Zone, f found) []byte {
	m := c.message(f.rcode)
	m.Authoritative = true
	m.Answer = f.rrs
	if len(f.rrs) == 0 {
		m.Ns = []wire.RR{z.soa(f.soa)}
	}
	return c.finish(m, nil)
}

// refusal answers a message that could not be read, by its header alone.
// It has an id and flags at least.
func refusal(query []byte, rcode int) []byte {
	b := make([]byte, 12)
	copy(b, query[:2])
	b[2] = 0x80 | query[2]&0x79 // QR; opcode and RD as sent
	b[3] = 0x80 | byte(rcode)   // RA
	return b
}
