package broker

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"brane/internal/fault"
	"brane/internal/linux/nsexec"
)

// Supervisor keeps one broker running. A broker that died is started again:
// branes made before live on in the namespaces of the old one, which their
// runners hold; new ones are made in those of the new.
type Supervisor struct {
	options Options
	log     *slog.Logger

	mu     sync.Mutex
	client *Client
	ready  chan struct{} // closed when client is set, replaced when it goes
	failed error         // why the last start failed
}

// NewSupervisor makes a supervisor; Run does its work.
func NewSupervisor(o Options, log *slog.Logger) *Supervisor {
	return &Supervisor{options: o, log: log, ready: make(chan struct{})}
}

// Run keeps a broker running until ctx ends.
func (s *Supervisor) Run(ctx context.Context) error {
	for wait := 10 * time.Millisecond; ctx.Err() == nil; {
		c, err := Start(ctx, s.options)
		if err != nil {
			s.log.Error("broker not started", "err", err)
			s.mu.Lock()
			s.failed = err
			s.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
			wait = min(2*wait, 2*time.Second)
			continue
		}
		wait = 10 * time.Millisecond
		s.mu.Lock()
		s.client, s.failed = c, nil
		close(s.ready)
		s.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-c.Done():
			s.log.Error("broker ended")
		}
		s.mu.Lock()
		s.client, s.ready = nil, make(chan struct{})
		s.mu.Unlock()
		_ = c.Close()
	}
	return nil
}

// get waits for a running broker, or says why there is none.
func (s *Supervisor) get(ctx context.Context) (*Client, error) {
	for {
		s.mu.Lock()
		c, ready, failed := s.client, s.ready, s.failed
		s.mu.Unlock()
		if c != nil {
			return c, nil
		}
		if failed != nil {
			return nil, failed
		}
		select {
		case <-ctx.Done():
			return nil, fault.New(fault.Unavailable, "ask broker", "", "the broker is starting").WithRemedy("try again")
		case <-ready:
		}
	}
}

// PID is the broker's process, 0 while there is none.
func (s *Supervisor) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		return 0
	}
	return s.client.pid
}

// Namespaces is Client.Namespaces of the running broker.
func (s *Supervisor) Namespaces(ctx context.Context) (nsexec.Outer, error) {
	c, err := s.get(ctx)
	if err != nil {
		return nsexec.Outer{}, err
	}
	return c.Namespaces(ctx)
}

// Veth is Client.Veth of the running broker.
func (s *Supervisor) Veth(ctx context.Context, netns *os.File, v Veth) (*os.File, error) {
	c, err := s.get(ctx)
	if err != nil {
		return nil, err
	}
	return c.Veth(ctx, netns, v)
}
