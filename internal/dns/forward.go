package dns

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"

	wire "github.com/miekg/dns"
)

// Key is a question as a resolver is asked it. Equal keys have one answer.
type Key struct {
	name   string // lower case
	kind   uint16
	do, cd bool
}

func keyOf(c *client) Key {
	return Key{name: strings.ToLower(c.question.Name), kind: c.question.Qtype, do: c.do, cd: c.cd}
}

// RandomLen is how many random bytes a query takes: an id and a spelling.
const RandomLen = 2 + 32

// Probe tells the answer to one query from everything else.
type Probe struct {
	id   uint16
	name string // as spelled in the query
	key  Key
}

// Query makes a resolver's query. The random bytes must not have been used
// before, and nobody else may know them.
func (k Key) Query(random [RandomLen]byte) ([]byte, Probe, error) {
	p := Probe{id: binary.BigEndian.Uint16(random[:2]), name: spell(k.name, random[2:]), key: k}
	m := &wire.Msg{Question: []wire.Question{{Name: p.name, Qtype: k.kind, Qclass: wire.ClassINET}}}
	m.Id, m.RecursionDesired, m.CheckingDisabled = p.id, true, k.cd
	m.AuthenticatedData = true // tell whether you have checked (RFC 6840 section 5.7)
	m.SetEdns0(UDPSize, k.do)
	b, err := m.Pack()
	return b, p, err
}

// spell gives each letter a case by one random bit. Escapes (\DDD) have no letters.
func spell(name string, random []byte) string {
	b := []byte(name)
	for i, c := range b {
		if c >= 'a' && c <= 'z' && random[i/8%len(random)]>>(i%8)&1 == 1 {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

// Judgement is what a message is to a query.
type Judgement uint8

// The judgements. Stranger: not an answer to it, wait on. Again: an answer, cut off or
// without the spelling: ask once more over TCP. Fit: the answer. Unfit: an
// answer that helps nobody (SERVFAIL, REFUSED and the like): ask the next resolver.
const (
	Stranger Judgement = iota
	Again
	Fit
	Unfit
)

// Judge looks at a message that came in reply to p's query. Over TCP the
// spelling does not matter.
func (p *Probe) Judge(b []byte, stream bool) (*wire.Msg, Judgement) {
	if len(b) < 12 || binary.BigEndian.Uint16(b) != p.id || b[2]&0x80 == 0 {
		return nil, Stranger
	}
	var m wire.Msg
	err := m.Unpack(b)
	if len(m.Question) != 1 || m.Question[0].Qtype != p.key.kind || m.Question[0].Qclass != wire.ClassINET ||
		!strings.EqualFold(m.Question[0].Name, p.name) {
		return nil, Stranger
	}
	switch {
	case !stream && m.Question[0].Name != p.name:
		return nil, Again
	case err != nil && !(m.Truncated && !stream):
		return nil, Unfit
	case m.Truncated && !stream:
		return nil, Again
	case m.Truncated || m.Rcode != wire.RcodeSuccess && m.Rcode != wire.RcodeNameError:
		return nil, Unfit
	}
	return &m, Fit
}

// Answer is a resolver's answer as far as it is passed on. It is immutable and shared.
type Answer struct {
	rcode    int
	ad       bool
	answer   []wire.RR
	ns       []wire.RR
	filtered int // addresses taken out
	at       time.Time
	life     time.Duration // how long it may be remembered
	size     int
}

// Times that an answer is remembered.
const (
	maxLife     = time.Hour
	maxNegative = 5 * time.Minute
)

// Accept makes an Answer of what Judge found fit, and remembers it.
func (e *Engine) Accept(now time.Time, k Key, m *wire.Msg) *Answer {
	a := &Answer{rcode: m.Rcode, ad: m.AuthenticatedData, at: now, size: m.Len()}
	a.answer, a.filtered = e.zone.screen(k.name, m.Answer)
	for _, rr := range m.Ns[:min(len(m.Ns), MaxRecords)] {
		if isEmpty(rr) {
			continue
		}
		switch rr.(type) {
		case *wire.SOA, *wire.NSEC, *wire.NSEC3, *wire.RRSIG:
			a.ns = append(a.ns, rr)
		}
	}
	if a.filtered > 0 {
		a.ad = false
	}
	a.life = lifetime(a)
	e.cache.put(k, a)
	return a
}

// lifetime is the smallest time to live of the records; for a negative answer
// the SOA record's say (RFC 2308 section 5), without one nothing is remembered.
func lifetime(a *Answer) time.Duration {
	life := maxLife
	for _, rr := range a.answer {
		life = min(life, time.Duration(rr.Header().Ttl)*time.Second)
	}
	if a.filtered == 0 && a.rcode == wire.RcodeSuccess && len(a.answer) > 0 {
		return life
	}
	for _, rr := range a.ns {
		if soa, ok := rr.(*wire.SOA); ok {
			return min(life, maxNegative, time.Duration(min(soa.Minttl, soa.Hdr.Ttl))*time.Second)
		}
	}
	return 0
}

// maxChain is how many aliases of an answer are followed.
const maxChain = 16

// screen keeps the records that the question for name leads to, in order, and
// takes out those that name an address which no foreign name may have.
func (z *Zone) screen(name string, rrs []wire.RR) (out []wire.RR, filtered int) {
	leads := []string{name}
	for _, rr := range rrs[:min(len(rrs), MaxRecords)] {
		h := rr.Header()
		owner := strings.ToLower(h.Name)
		fits := slices.Contains(leads, owner)
		if isDNAME(rr) {
			fits = slices.ContainsFunc(leads, func(n string) bool { return wire.IsSubDomain(owner, n) })
		}
		if !fits || h.Class != wire.ClassINET || isEmpty(rr) {
			continue
		}
		if c, ok := rr.(*wire.CNAME); ok && len(leads) <= maxChain {
			leads = append(leads, strings.ToLower(c.Target))
		}
		if z.denied(rr) {
			filtered++
			continue
		}
		out = append(out, rr)
	}
	return out, filtered
}

// isEmpty: records without data belong to updates (RFC 2136 section 2.4); the
// library reads one of any type, and writes it back with fields missing.
func isEmpty(rr wire.RR) bool { return rr.Header().Rdlength == 0 }

// isDNAME says whether rr renames a whole subtree, or is the signature of such
// a record: they stand above the name that is asked for.
func isDNAME(rr wire.RR) bool {
	sig, ok := rr.(*wire.RRSIG)
	return ok && sig.TypeCovered == wire.TypeDNAME || rr.Header().Rrtype == wire.TypeDNAME
}

// Reply is the answer in the form for one client: its spelling, its size, the
// time to live that is left.
func (f *Forward) Reply(now time.Time, a *Answer) []byte {
	c := &f.client
	m := c.message(a.rcode)
	m.AuthenticatedData = a.ad && (c.ad || c.do) // RFC 6840 section 5.8
	age := uint32(max(0, now.Sub(a.at)) / time.Second)
	m.Answer, m.Ns = c.copies(a.answer, age), c.copies(a.ns, age)
	var why *wire.EDNS0_EDE
	if a.filtered > 0 {
		why = &wire.EDNS0_EDE{InfoCode: wire.ExtendedErrorCodeBlocked, ExtraText: "it names an address of the host or of this network"}
	}
	return c.finish(m, why)
}

// copies are records for one reply: Answer's own are shared.
func (c *client) copies(rrs []wire.RR, age uint32) []wire.RR {
	out := make([]wire.RR, 0, len(rrs))
	for _, rr := range rrs {
		if !c.do && isSecurity(rr.Header().Rrtype) && rr.Header().Rrtype != c.question.Qtype {
			continue
		}
		rr = wire.Copy(rr)
		h := rr.Header()
		h.Ttl -= min(h.Ttl, age)
		if strings.EqualFold(h.Name, c.question.Name) {
			h.Name = c.question.Name
		}
		out = append(out, rr)
	}
	return out
}

// isSecurity says whether records of the type are only for who asks for DNSSEC
// (RFC 4035 section 3.2.1).
func isSecurity(kind uint16) bool {
	return kind == wire.TypeRRSIG || kind == wire.TypeNSEC || kind == wire.TypeNSEC3
}

// Failure is why there is no answer.
type Failure uint8

// The failures, as the client is told them (RFC 8914).
const (
	NoResolver  Failure = iota // the host has none
	Unreachable                // none answered in time
	Useless                    // none had an answer
	Overload                   // too many questions in flight
)

// Fail is the reply SERVFAIL with the reason.
func (f *Forward) Fail(why Failure) []byte {
	e := &wire.EDNS0_EDE{}
	switch why {
	case NoResolver:
		e.InfoCode, e.ExtraText = wire.ExtendedErrorCodeNotReady, "the host has no resolver"
	case Unreachable:
		e.InfoCode, e.ExtraText = wire.ExtendedErrorCodeNoReachableAuthority, "the host's resolvers do not answer"
	case Useless:
		e.InfoCode, e.ExtraText = wire.ExtendedErrorCodeNetworkError, "the host's resolvers have no answer"
	case Overload:
		e.InfoCode, e.ExtraText = wire.ExtendedErrorCodeOther, "too many questions at once"
	}
	return f.client.fail(wire.RcodeServerFailure, e)
}
