package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	wire "github.com/miekg/dns"
)

// Limits of a server.
const (
	maxCalls     = 256 // queries to resolvers in flight
	maxWaiting   = 1024
	maxPerSource = 64 // questions of one address that wait for a resolver
	maxConns     = 64
	maxPerConn   = 8   // TCP connections of one address
	maxQuestions = 128 // of one TCP connection
	maxResolvers = 3

	attemptTime = 1500 * time.Millisecond // for one resolver
	callTime    = 5 * time.Second         // for a question in all
	idleTime    = 10 * time.Second        // of a TCP connection
)

// Exchange sends one query to a resolver (host:port) over network ("udp" or
// "tcp") and returns the first message in reply that fits. Every call uses a
// fresh socket with a random port. It ends with ctx.
type Exchange func(ctx context.Context, network, server string, query []byte, fits func([]byte) bool) error

// Server serves the names of one network on sockets that it is given.
type Server struct {
	exchange Exchange

	mu      sync.Mutex
	engine  *Engine
	calls   map[Key]*call
	waiting map[netip.Addr]int
	total   int
	conns   map[netip.Addr]int
	open    int
}

// call is one question that resolvers are being asked. Its result is set
// before done is closed.
type call struct {
	done   chan struct{}
	answer *Answer
	why    Failure
}

// NewServer makes a server for a zone; nil for exchange is Dial.
func NewServer(z *Zone, exchange Exchange) *Server {
	if exchange == nil {
		exchange = Dial
	}
	return &Server{
		exchange: exchange, engine: NewEngine(z),
		calls: map[Key]*call{}, waiting: map[netip.Addr]int{}, conns: map[netip.Addr]int{},
	}
}

// SetZone swaps the zone.
func (s *Server) SetZone(z *Zone) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.engine.SetZone(z)
}

// Serve answers on packets and streams, either of which may be nil, until ctx
// ends or one of them fails. It closes both and returns when all that it began
// has ended.
func (s *Server) Serve(ctx context.Context, packets net.PacketConn, streams net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var work sync.WaitGroup
	if packets != nil {
		defer context.AfterFunc(ctx, func() { _ = packets.Close() })()
		work.Go(func() { cancel(s.servePackets(ctx, packets, &work)) })
	}
	if streams != nil {
		defer context.AfterFunc(ctx, func() { _ = streams.Close() })()
		work.Go(func() { cancel(s.serveStreams(ctx, streams, &work)) })
	}
	<-ctx.Done()
	work.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (s *Server) servePackets(ctx context.Context, conn net.PacketConn, work *sync.WaitGroup) error {
	buf := make([]byte, MaxQuery+1)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		reply, f := s.ask(buf[:n], false)
		if f == nil {
			if reply != nil {
				_, _ = conn.WriteTo(reply, from) // who does not hear it asks again
			}
			continue
		}
		src := source(from)
		c, why := s.join(ctx, f.Key, src, work)
		if c == nil {
			_, _ = conn.WriteTo(f.Fail(why), from)
			continue
		}
		work.Go(func() {
			defer s.leave(src)
			if reply := s.wait(ctx, c, f); reply != nil {
				_, _ = conn.WriteTo(reply, from)
			}
		})
	}
}

func (s *Server) serveStreams(ctx context.Context, l net.Listener, work *sync.WaitGroup) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		src := source(conn.RemoteAddr())
		if !s.admit(src) {
			_ = conn.Close()
			continue
		}
		work.Go(func() {
			defer s.dismiss(src)
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			defer func() { _ = conn.Close() }()
			s.serveStream(ctx, conn, src, work)
		})
	}
}

// serveStream answers the questions of one connection in order (RFC 7766).
func (s *Server) serveStream(ctx context.Context, conn net.Conn, src netip.Addr, work *sync.WaitGroup) {
	for range maxQuestions {
		if conn.SetDeadline(time.Now().Add(idleTime)) != nil {
			return
		}
		query, err := readMessage(conn, MaxQuery)
		if err != nil {
			return
		}
		reply, f := s.ask(query, true)
		if f != nil {
			if c, why := s.join(ctx, f.Key, src, work); c == nil {
				reply = f.Fail(why)
			} else {
				reply = s.wait(ctx, c, f)
				s.leave(src)
			}
		}
		if reply == nil {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(idleTime))
		if writeMessage(conn, reply) != nil {
			return
		}
	}
}

func (s *Server) ask(query []byte, stream bool) ([]byte, *Forward) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.engine.Ask(time.Now(), query, stream)
}

// join waits for a question together with all who asked the same, or begins
// to ask it. Without a call the failure says why.
func (s *Server) join(ctx context.Context, k Key, src netip.Addr, work *sync.WaitGroup) (*call, Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[src] >= maxPerSource || s.total >= maxWaiting {
		return nil, Overload
	}
	c := s.calls[k]
	if c == nil {
		if len(s.calls) >= maxCalls {
			return nil, Overload
		}
		c = &call{done: make(chan struct{})}
		s.calls[k] = c
		resolvers := s.engine.Resolvers()
		work.Go(func() { s.run(ctx, c, k, resolvers) })
	}
	s.waiting[src]++
	s.total++
	return c, 0
}

func (s *Server) leave(src netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.waiting[src]--; s.waiting[src] == 0 {
		delete(s.waiting, src)
	}
}

func (s *Server) admit(src netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= maxConns || s.conns[src] >= maxPerConn {
		return false
	}
	s.open++
	s.conns[src]++
	return true
}

func (s *Server) dismiss(src netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	if s.conns[src]--; s.conns[src] == 0 {
		delete(s.conns, src)
	}
}

// wait is the reply to f once its call is done; nil when the server ends.
func (s *Server) wait(ctx context.Context, c *call, f *Forward) []byte {
	select {
	case <-ctx.Done():
		return nil
	case <-c.done:
	}
	if c.answer == nil {
		return f.Fail(c.why)
	}
	return f.Reply(time.Now(), c.answer)
}

// run asks the resolvers and settles the call.
func (s *Server) run(ctx context.Context, c *call, k Key, resolvers []string) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	m, why := s.resolve(ctx, k, resolvers)
	s.mu.Lock()
	defer s.mu.Unlock()
	if m != nil {
		c.answer = s.engine.Accept(time.Now(), k, m)
	}
	c.why = why
	delete(s.calls, k)
	close(c.done)
}

// resolve asks each resolver in order, and all once more when some were silent.
func (s *Server) resolve(ctx context.Context, k Key, resolvers []string) (*wire.Msg, Failure) {
	if len(resolvers) == 0 {
		return nil, NoResolver
	}
	for range 2 {
		why := Useless
		for _, r := range resolvers[:min(len(resolvers), maxResolvers)] {
			m, verdict := s.attempt(ctx, k, r, "udp")
			if verdict == Again {
				m, verdict = s.attempt(ctx, k, r, "tcp")
			}
			switch verdict {
			case Fit:
				return m, 0
			case Stranger:
				why = Unreachable
			}
		}
		if why == Useless {
			return nil, Useless
		}
	}
	return nil, Unreachable
}

// attempt is one query to one resolver; Stranger means that nothing came.
func (s *Server) attempt(ctx context.Context, k Key, resolver, network string) (m *wire.Msg, verdict Judgement) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	var random [RandomLen]byte
	_, _ = rand.Read(random[:]) // never fails
	query, probe, err := k.Query(random)
	if err != nil {
		return nil, Unfit
	}
	err = s.exchange(ctx, network, resolver, query, func(b []byte) bool {
		m, verdict = probe.Judge(b, network == "tcp")
		return verdict != Stranger
	})
	if err != nil {
		return nil, Stranger
	}
	return m, verdict
}

// source is the address that limits count by.
func source(a net.Addr) netip.Addr {
	if p, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		return p.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// readMessage reads a message with its length before it (RFC 1035 section 4.2.2).
func readMessage(r io.Reader, most int) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > most {
		return nil, errors.New("message too long")
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeMessage(w io.Writer, b []byte) error {
	out := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b)))
	_, err := w.Write(append(out, b...))
	return err
}
