package network

import (
	"context"
	"log/slog"
	"reflect"
	"sync"

	"brane/internal/fault"
	"brane/internal/plan"
	"brane/internal/store"
)

// Worker is where plans run.
type Worker interface {
	// Apply puts a plan in force; when it returns no frame is judged by the old one.
	Apply(ctx context.Context, m *plan.Mux) error
	Remove(ctx context.Context, mux string) error
}

// Controller watches the store, builds a plan of what it says, and hands the
// plan to the worker. It acts on nothing but the watch, so that the same road
// leads from any revision, and from a restart, to the same plans.
type Controller struct {
	store  store.Store
	worker Worker
	host   func() Host
	log    *slog.Logger
	kick   chan struct{}

	mu      sync.Mutex
	changed *sync.Cond
	state   *State
	applied store.Revision // everything up to here is in force
	err     error          // why it is not, while the worker is away
	ended   bool
	sent    map[string]*plan.Mux // in force; not to be changed
}

// NewController makes a controller; Run does its work.
func NewController(s store.Store, w Worker, host func() Host, log *slog.Logger) *Controller {
	c := &Controller{store: s, worker: w, host: host, log: log, kick: make(chan struct{}, 1), sent: map[string]*plan.Mux{}}
	c.changed = sync.NewCond(&c.mu)
	return c
}

// Run works until ctx ends or the store closes.
func (c *Controller) Run(ctx context.Context) error {
	defer func() {
		c.mu.Lock()
		c.ended = true
		c.changed.Broadcast()
		c.mu.Unlock()
	}()
	for {
		err := c.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && fault.KindOf(err) != fault.Conflict {
			return err
		}
	}
}

// follow lists once and follows the watch until it overflows or ends.
func (c *Controller) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	records, rev, err := c.store.List("/")
	if err != nil {
		return err
	}
	state, err := Load(records, rev)
	if err != nil {
		return err
	}
	watch, err := c.store.Watch(ctx, "/", rev)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.state = state
	c.mu.Unlock()
	c.reconcile(ctx)
	for {
		select {
		case <-c.kick:
			c.mu.Lock()
			clear(c.sent)
			c.mu.Unlock()
			c.reconcile(ctx)
		case b, ok := <-watch:
			if !ok {
				return fault.New(fault.Unavailable, "watch store", "/", "the store has closed")
			}
			if err := c.take(b); err != nil {
				return err
			}
			for more := true; more; { // what is there already goes into the same plan
				select {
				case b, ok := <-watch:
					if ok {
						if err := c.take(b); err != nil {
							return err
						}
						continue
					}
					more = false
				default:
					more = false
				}
			}
			c.reconcile(ctx)
		}
	}
}

func (c *Controller) take(b store.Batch) error {
	if b.Overflow {
		return fault.New(fault.Conflict, "watch store", "/", "the watch overflowed")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.state.Apply(b)
	return err
}

// reconcile brings the worker to what the state says: plans that differ are
// handed over, muxes that are gone are removed.
func (c *Controller) reconcile(ctx context.Context) {
	c.mu.Lock()
	host := c.host()
	rev := c.state.Revision
	var plans []*plan.Mux
	want := map[string]bool{}
	for name := range c.state.Networks {
		if m := Build(c.state, name, host); m != nil {
			want[name] = true
			if !same(c.sent[name], m) {
				plans = append(plans, m)
			}
		}
	}
	var gone []string
	for name := range c.sent {
		if !want[name] {
			gone = append(gone, name)
		}
	}
	c.mu.Unlock()

	var failed error
	for _, m := range plans {
		if err := c.worker.Apply(ctx, m); err != nil {
			c.log.Error("plan not in force", "network", m.Name, "err", err)
			failed = err
			continue
		}
		c.mu.Lock()
		c.sent[m.Name] = m
		c.mu.Unlock()
	}
	for _, name := range gone {
		if err := c.worker.Remove(ctx, name); err != nil {
			failed = err
			continue
		}
		c.mu.Lock()
		delete(c.sent, name)
		c.mu.Unlock()
	}
	c.mu.Lock()
	c.err = failed
	if failed == nil {
		c.applied = rev
	}
	c.changed.Broadcast()
	c.mu.Unlock()
}

// same says whether two plans differ in nothing but their revision.
func same(a, b *plan.Mux) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.Revision, y.Revision = 0, 0
	return reflect.DeepEqual(&x, &y)
}

// Kick hands every plan over again: the worker is new, or the host has changed.
func (c *Controller) Kick() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// Wait returns when everything up to rev is in force, or with the reason why
// it cannot be for now.
func (c *Controller) Wait(ctx context.Context, rev store.Revision) error {
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		c.changed.Broadcast()
		c.mu.Unlock()
	})
	defer stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.applied < rev {
		if c.ended {
			return fault.New(fault.Unavailable, "wait for plan", "", "the daemon is stopping")
		}
		if ctx.Err() != nil {
			if c.err != nil {
				return c.err
			}
			return fault.New(fault.Unavailable, "wait for plan", "", "the worker did not take the plan in time")
		}
		c.changed.Wait()
	}
	return nil
}

// Snapshot calls f with the state as of the last batch; f must not keep it.
func (c *Controller) Snapshot(f func(*State)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != nil {
		f(c.state)
	}
}
