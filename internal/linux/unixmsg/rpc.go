package unixmsg

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"

	"brane/internal/fault"
)

// MaxInFlight is how many calls may wait for their reply in each direction of
// a Conn. A further Call waits for a place; a peer that sends more than it may
// gets a fault of kind Limit for each.
const MaxInFlight = 64

// accepted is how many calls of the other side are held. It is more than
// MaxInFlight because a caller may use a place again as soon as it has the
// reply, which is before the handler here has ended.
const accepted = 2 * MaxInFlight

// cancelPatience is how long the notice that a call was given up may take; it
// is a courtesy, not worth waiting for.
const cancelPatience = 100 * time.Millisecond

// refusalPatience is how long the other side may take to read a refusal.
const refusalPatience = time.Second

// Handler answers the other side. For a call, out becomes the reply's JSON body
// and the descriptors go with it and are closed afterwards: ownership moves to
// the Conn. An error goes across as a fault. For a notice all three are ignored.
//
// Each call has its own goroutine, up to MaxInFlight. Notices are handled in
// their order by the goroutine that reads the connection, so that a flood of
// them slows its sender and nobody else; handling one must not wait for a Call
// on the same Conn. The context ends when the caller gives up or the connection ends.
type Handler func(ctx context.Context, r *Request) (out any, fds []int, err error)

// Request is a call or a notice from the other side.
type Request struct {
	Verb   string
	Body   json.RawMessage
	Notice bool
	fds    []int
}

// Decode reads the body into v as JSON; the error is of kind Invalid.
func (r *Request) Decode(v any) error { return decodeBody(r.Body, v) }

// FDs are the descriptors of the request, valid while it is handled.
func (r *Request) FDs() []int { return r.fds }

// Claim makes the descriptors the caller's. Those not claimed are closed when
// the handler returns.
func (r *Request) Claim() []int {
	fds := r.fds
	r.fds = nil
	return fds
}

// Conn is a symmetrical remote call over a Stream: both sides may call, and both
// must Serve for replies to arrive.
type Conn struct {
	s     *Stream
	slots chan struct{} // one for each call of ours without a reply

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]*waiter
	running map[uint64]context.CancelFunc // calls of theirs
	load    int                           // bytes of their bodies
	cause   *fault.Error                  // why the connection ended
	serving bool
	done    chan struct{} // closed with cause
	gone    chan struct{} // closed when Serve has returned
}

type waiter struct {
	answer  chan answer // room for one
	givenUp bool
}

type answer struct {
	body []byte
	fds  []int
	err  error
}

// NewConn makes a Conn of a Stream, which it then owns.
func NewConn(s *Stream) *Conn {
	return &Conn{
		s:       s,
		slots:   make(chan struct{}, MaxInFlight),
		waiting: make(map[uint64]*waiter),
		running: make(map[uint64]context.CancelFunc),
		done:    make(chan struct{}),
		gone:    make(chan struct{}),
	}
}

// Stream is the connection below, to ask who is at the other end.
func (c *Conn) Stream() *Stream { return c.s }

// Done is closed when the connection has ended; no reply comes after that.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Close ends the connection and, when Serve runs, waits until it and all
// handlers have returned. It must not be called from a handler.
func (c *Conn) Close() error {
	c.end(fault.New(fault.Unavailable, "call", "", "the connection is closed"))
	c.mu.Lock()
	serving := c.serving
	c.mu.Unlock()
	if serving {
		<-c.gone
	}
	return nil
}

// end closes the connection, once, and fails all that wait.
func (c *Conn) end(cause *fault.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return
	}
	c.cause = cause
	close(c.done) // before the reader sees the connection closed
	_ = c.s.Close()
	for _, cancel := range c.running {
		cancel()
	}
}

// Call sends a verb with a body and descriptors and waits for the reply, whose
// body is read into out (nil ignores it) and whose descriptors are the
// caller's. The descriptors sent stay the caller's. When the context ends, the
// other side is told; whether it acted is then unknown.
//
// The error is the other side's fault, or of kind Unavailable when the
// connection or the context ended, or Invalid when the request cannot be sent.
func (c *Conn) Call(ctx context.Context, verb string, in any, fds []int, out any) ([]int, error) {
	body, err := encodeBody(in)
	if err != nil {
		return nil, err
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fault.New(fault.Unavailable, "call", verb, "%v", context.Cause(ctx))
	case <-c.done:
		return nil, c.ended(verb)
	}
	c.mu.Lock()
	c.next++
	id := c.next
	w := &waiter{answer: make(chan answer, 1)}
	c.waiting[id] = w
	c.mu.Unlock()

	if err := c.post(ctx, &envelope{kind: callKind, verb: verb, id: id, body: body}, fds); err != nil {
		c.forget(id, w)
		return nil, err
	}
	select {
	case a := <-w.answer:
		return a.deliver(out)
	case <-c.done:
	case <-ctx.Done():
	}
	c.mu.Lock()
	w.givenUp = true
	c.mu.Unlock()
	select {
	case a := <-w.answer: // it came at the same moment
		return a.deliver(out)
	default:
	}
	if ctx.Err() == nil {
		return nil, c.ended(verb)
	}
	brief, cancel := context.WithTimeout(context.Background(), cancelPatience)
	defer cancel()
	_ = c.post(brief, &envelope{kind: cancelKind, id: id}, nil)
	return nil, fault.New(fault.Unavailable, "call", verb, "%v", context.Cause(ctx))
}

// Notify sends a verb that wants no reply. The descriptors stay the caller's.
func (c *Conn) Notify(ctx context.Context, verb string, in any, fds []int) error {
	body, err := encodeBody(in)
	if err != nil {
		return err
	}
	return c.post(ctx, &envelope{kind: noticeKind, verb: verb, body: body}, fds)
}

func (a answer) deliver(out any) ([]int, error) {
	if a.err == nil {
		a.err = decodeBody(a.body, out)
	}
	if a.err != nil {
		CloseFDs(a.fds)
		return nil, a.err
	}
	return a.fds, nil
}

func (c *Conn) ended(verb string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := *c.cause
	e.Subject = verb
	return &e
}

// forget takes a call that was never sent out of the table, and with it an
// answer that the other side made up.
func (c *Conn) forget(id uint64, w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting[id] == w {
		delete(c.waiting, id)
		<-c.slots
		return
	}
	select {
	case a := <-w.answer:
		CloseFDs(a.fds)
	default:
	}
}

// post sends an envelope, with the stream's header in the same buffer.
func (c *Conn) post(ctx context.Context, e *envelope, fds []int) error {
	if (e.kind == callKind || e.kind == noticeKind) && !validVerb(e.verb) {
		return fault.New(fault.Invalid, "call", e.verb, "a verb is 1 to %d of a-z, 0-9, - and .", maxVerb)
	}
	e.fds = len(fds)
	size := envelopeLen + len(e.verb) + len(e.body)
	if size > c.s.limit {
		return tooLarge("call "+e.verb, size, c.s.limit)
	}
	b := make([]byte, headerLen, headerLen+size)
	binary.BigEndian.PutUint32(b, uint32(size))
	err := c.s.send(ctx, e.append(b), nil, fds)
	if err != nil && fault.KindOf(err) == fault.Unavailable && ctx.Err() == nil {
		c.end(fault.New(fault.Unavailable, "call", "", "the connection is lost: %v", err))
	}
	return err
}

// Serve reads the connection until it ends and answers calls with h; nil
// refuses all. It returns after the last handler, with nil when either side
// closed the connection, else with what the other side did wrong. It may be
// called once.
func (c *Conn) Serve(h Handler) error {
	c.mu.Lock()
	if c.serving {
		c.mu.Unlock()
		return fault.New(fault.Internal, "serve", "", "the connection is already served")
	}
	c.serving = true
	c.mu.Unlock()
	defer close(c.gone)

	var handlers sync.WaitGroup
	err := c.read(h, &handlers)
	lost := fault.New(fault.Unavailable, "call", "", "the other side closed the connection")
	if !errors.Is(err, io.EOF) {
		lost = fault.New(fault.Unavailable, "call", "", "the connection is lost: %v", err)
	}
	select {
	case <-c.done: // ours was the end: what followed is no fault of theirs
		err = nil
	default:
	}
	c.end(lost)
	handlers.Wait()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (c *Conn) read(h Handler, handlers *sync.WaitGroup) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		m, err := c.s.Recv(context.Background())
		if err != nil {
			return err
		}
		e, err := parseEnvelope(m.Payload)
		if err != nil {
			m.CloseFDs()
			return err
		}
		lost := m.Dropped || e.fds != len(m.FDs)
		switch e.kind {
		case callKind:
			err = c.accept(ctx, h, handlers, e, m, lost)
		case noticeKind:
			if h == nil || lost {
				m.CloseFDs()
				continue
			}
			r := &Request{Verb: e.verb, Body: e.body, Notice: true, fds: m.FDs}
			_, fds, _ := h(ctx, r)
			CloseFDs(fds)
			CloseFDs(r.fds)
		case cancelKind:
			m.CloseFDs()
			c.mu.Lock()
			if stop := c.running[e.id]; stop != nil {
				stop()
			}
			c.mu.Unlock()
		default:
			err = c.answered(&e, m, lost)
		}
		if err != nil {
			return err
		}
	}
}

// accept starts a handler for a call of the other side, and owns the message.
func (c *Conn) accept(ctx context.Context, h Handler, handlers *sync.WaitGroup, e envelope, m *Message, lost bool) error {
	if h == nil {
		return c.refuse(ctx, e.id, m, fault.New(fault.Unsupported, "call", e.verb, "nothing is served here"))
	}
	if lost {
		return c.refuse(ctx, e.id, m, fault.New(fault.Limit, "call", e.verb, "descriptors were lost on the way").
			WithRemedy("send at most %d, and check the limit of open files", MaxFDs))
	}
	call, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	_, twice := c.running[e.id]
	full := len(c.running) >= accepted || c.load+len(e.body) > 2*c.s.limit
	if !twice && !full {
		c.running[e.id] = cancel
		c.load += len(e.body)
	}
	if c.cause != nil {
		cancel() // end has passed and did not see this one
	}
	c.mu.Unlock()
	if twice || full {
		cancel()
		if full {
			return c.refuse(ctx, e.id, m, fault.New(fault.Limit, "call", e.verb,
				"%d calls or %d bytes are under way", accepted, 2*c.s.limit))
		}
		m.CloseFDs()
		return badEnvelope("identifier %d is in use", e.id)
	}
	r := &Request{Verb: e.verb, Body: e.body, fds: m.FDs}
	handlers.Go(func() {
		out, fds, err := h(call, r)
		CloseFDs(r.fds)
		c.reply(e, out, fds, err)
		CloseFDs(fds)
		c.mu.Lock()
		delete(c.running, e.id) // after the reply: whoever does not read holds the place
		c.load -= len(e.body)
		c.mu.Unlock()
		cancel()
	})
	return nil
}

// refuse answers a call from the reading goroutine, which must not wait for a
// peer that does not read: one that ignores its refusals is cut off.
func (c *Conn) refuse(ctx context.Context, id uint64, m *Message, f *fault.Error) error {
	m.CloseFDs()
	body, _ := json.Marshal(f)
	brief, cancel := context.WithTimeout(ctx, refusalPatience)
	defer cancel()
	return c.post(brief, &envelope{kind: faultKind, id: id, body: body}, nil)
}

func (c *Conn) reply(e envelope, out any, fds []int, err error) {
	body := []byte(nil)
	if err == nil {
		body, err = encodeBody(out)
	}
	if err == nil {
		err = c.post(context.Background(), &envelope{kind: replyKind, id: e.id, body: body}, fds)
		if err == nil || fault.KindOf(err) == fault.Unavailable {
			return
		}
	}
	body, _ = json.Marshal(fault.From(err, "call", e.verb))
	_ = c.post(context.Background(), &envelope{kind: faultKind, id: e.id, body: body}, nil)
}

// answered gives a reply to the call that waits for it.
func (c *Conn) answered(e *envelope, m *Message, lost bool) error {
	a := answer{body: e.body, fds: m.FDs}
	switch {
	case e.kind == faultKind:
		a = answer{err: decodeFault(e.body)}
	case lost:
		a = answer{err: fault.New(fault.Limit, "call", "", "descriptors of the reply were lost").
			WithRemedy("check the limit of open files")}
	}
	if a.err == nil {
		m.FDs = nil
	}
	m.CloseFDs()
	c.mu.Lock()
	w := c.waiting[e.id]
	if w != nil {
		delete(c.waiting, e.id)
		<-c.slots
		if !w.givenUp {
			w.answer <- a
			a.fds = nil
		}
	}
	c.mu.Unlock()
	CloseFDs(a.fds)
	if w == nil {
		return badEnvelope("reply to identifier %d, which nobody called", e.id)
	}
	return nil
}
