package network

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"time"

	"brane/internal/fault"
	"brane/internal/plan"
	"brane/internal/store"
)

// Service changes networks, leases, ports and branes by transactions on the
// store, one at a time: each operation reads, decides and commits, and tries
// again when somebody else was quicker. What follows from a change is the
// controller's work.
type Service struct {
	Store store.Store
	// Now is the wall clock.
	Now func() time.Time
	// Host are the subnets that the machine itself is in.
	Host func() []netip.Prefix
	// Subnets are tried in order for the built-in network; DefaultSubnets when empty.
	Subnets []netip.Prefix

	cache cache
}

// attempts bounds the retries of one operation under contention.
const attempts = 64

// change lets f make a transaction of the present state and commits it, until
// nothing that f relied on has changed meanwhile. f keeps and changes nothing of the state.
func (v *Service) change(by store.Principal, f func(s *State, t *Txn) error) (store.Revision, error) {
	c := &v.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	var last error
	for range attempts {
		if err := c.refresh(v.Store); err != nil {
			return 0, err
		}
		t := &Txn{seen: c.seen}
		if err := f(c.state, t); err != nil {
			return 0, err
		}
		if len(t.txn.Do) == 0 {
			return c.state.Revision, nil
		}
		t.txn.By = by
		var rev store.Revision
		if rev, last = v.Store.Apply(t.txn); last == nil {
			c.commit(t.txn.Do, rev)
			return rev, nil
		}
		c.state = nil
		if fault.KindOf(last) != fault.Conflict {
			return 0, last
		}
	}
	return 0, fault.New(fault.Unavailable, "change store", "", "others were quicker %d times: %v", attempts, last).
		WithRemedy("try again")
}

// Txn gathers the operations of one change, with the comparisons that keep
// what it read from changing before it is committed.
type Txn struct {
	txn  store.Txn
	seen map[string]store.Revision
	id   uint64
}

// Rely makes the transaction fail when the path has changed since it was read.
func (t *Txn) Rely(path string) {
	for _, c := range t.txn.If {
		if c.Path == path {
			return
		}
	}
	t.txn.If = append(t.txn.If, store.Compare{Path: path, Modified: t.seen[path]})
}

// Put writes v at path, relying on what was read there.
func (t *Txn) Put(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fault.New(fault.Internal, "write", path, "%v", err)
	}
	t.Rely(path)
	t.txn.Do = append(t.txn.Do, store.Op{Path: path, Value: b})
	return nil
}

// Delete removes path (and what is below it, for a tree), relying on what was read there.
func (t *Txn) Delete(path string, tree bool) {
	t.Rely(path)
	t.txn.Do = append(t.txn.Do, store.Op{Path: path, Delete: true, Tree: tree})
}

// nextIDs reserves n numbers that were never used and never will be again.
func (t *Txn) nextIDs(s *State, v *Service, n uint64) (uint64, error) {
	if t.id == 0 {
		t.id = 1
		if r, err := v.Store.Get(counterPath); err == nil {
			if t.id, err = strconv.ParseUint(string(r.Value), 10, 64); err != nil {
				return 0, fault.New(fault.Internal, "read store", counterPath, "%v", err)
			}
		} else if fault.KindOf(err) != fault.NotFound {
			return 0, err
		}
	}
	first := t.id
	t.id += n
	for i := range t.txn.Do {
		if t.txn.Do[i].Path == counterPath {
			t.txn.Do[i].Value = strconv.AppendUint(nil, t.id, 10)
			return first, nil
		}
	}
	t.Rely(counterPath)
	t.txn.Do = append(t.txn.Do, store.Op{Path: counterPath, Value: strconv.AppendUint(nil, t.id, 10)})
	return first, nil
}

// State is everything at one revision. It is the caller's own; what its values
// refer to is shared and stays as it is.
func (v *Service) State() (*State, error) {
	v.cache.mu.Lock()
	defer v.cache.mu.Unlock()
	if err := v.cache.refresh(v.Store); err != nil {
		return nil, err
	}
	return v.cache.state.clone(), nil
}

// Define writes a definition down, new or in place of one that is stopped.
func (v *Service) Define(by store.Principal, def Definition, persistent, autostart bool) (store.Revision, error) {
	if err := def.Check(); err != nil {
		return 0, err
	}
	return v.change(by, func(s *State, t *Txn) error {
		old, exists := s.Networks[def.Name]
		if exists && old.Started {
			return fault.New(fault.Exists, "define network", def.Name, "it is running").
				WithRemedy("stop it first: brane down %s", def.Name)
		}
		if !exists && len(s.Networks) >= MaxNetworks {
			return fault.New(fault.Limit, "define network", def.Name, "there are already %d networks", MaxNetworks)
		}
		if err := v.fits(s, &def); err != nil {
			return err
		}
		return t.Put(networkPath(def.Name), Record{Definition: def, Persistent: persistent, Autostart: autostart, Owner: by})
	})
}

// Up defines a network and starts it, in one step. A network that runs with
// the same definition stays as it is.
func (v *Service) Up(by store.Principal, def Definition, persistent, autostart bool) (store.Revision, error) {
	if err := def.Check(); err != nil {
		return 0, err
	}
	return v.change(by, func(s *State, t *Txn) error {
		rec, exists := s.Networks[def.Name]
		if exists && rec.Started {
			if sameDefinition(rec.Definition, def) {
				return nil
			}
			return fault.New(fault.Exists, "start network", def.Name, "it is running with another definition").
				WithRemedy("stop it first: brane down %s", def.Name)
		}
		if !exists && len(s.Networks) >= MaxNetworks {
			return fault.New(fault.Limit, "define network", def.Name, "there are already %d networks", MaxNetworks)
		}
		if err := v.fits(s, &def); err != nil {
			return err
		}
		rec.Definition, rec.Owner = def, by
		rec.Persistent, rec.Autostart = rec.Persistent || persistent, rec.Autostart || autostart
		return v.start(s, t, rec)
	})
}

// Start starts a network that is defined. One that runs stays as it is.
func (v *Service) Start(by store.Principal, name string) (store.Revision, error) {
	return v.change(by, func(s *State, t *Txn) error {
		rec, ok := s.Networks[name]
		if !ok {
			return noNetwork("start network", name)
		}
		if rec.Started {
			return nil
		}
		if err := v.fits(s, &rec.Definition); err != nil {
			return err
		}
		return v.start(s, t, rec)
	})
}

func (v *Service) start(s *State, t *Txn, rec Record) error {
	if up := rec.Definition.Uplink; up != "" {
		if r, ok := s.Networks[up]; !ok || !r.Started {
			return fault.New(fault.NotFound, "start mux", rec.Definition.Name, "its uplink %q is no running network", up).
				WithRemedy("start it first: brane net start %s", up)
		}
		t.Rely(networkPath(up))
	}
	id, err := t.nextIDs(s, v, 3)
	if err != nil {
		return err
	}
	rec.Gateway, rec.Uplink = plan.PortID(id), plan.PortID(id+1)
	rec.Started, rec.Trouble = true, ""
	return t.Put(networkPath(rec.Definition.Name), rec)
}

// Stop stops a network: its ports close, its branes lose their interface. A
// network that is not persistent is gone afterwards. Never refused but for a
// name that is not there.
func (v *Service) Stop(by store.Principal, name string) (store.Revision, error) {
	// A network of any size stops: its ports and branes go in steps first.
	err := v.Sweep(func(s *State) (ports []Port, branes []string) {
		for _, b := range s.Branes {
			if b.Network == name {
				branes = append(branes, b.Name)
			}
		}
		return s.PortsOf(name), branes
	})
	if err != nil {
		return 0, err
	}
	return v.change(by, func(s *State, t *Txn) error {
		rec, ok := s.Networks[name]
		if !ok {
			return noNetwork("stop network", name)
		}
		for _, p := range s.PortsOf(name) {
			t.Delete(portPath(p.ID), false)
		}
		for _, b := range s.Branes {
			if b.Network == name {
				t.Delete(branePath(b.Name), false)
			}
		}
		if !rec.Persistent {
			t.Rely(networkPath(name))
			t.txn.Do = append(t.txn.Do, store.Op{Path: networksDir + "/" + name, Delete: true, Tree: true})
			return nil
		}
		rec.Started, rec.Trouble = false, ""
		return t.Put(networkPath(name), rec)
	})
}

// Delete stops a network and forgets its definition and leases.
func (v *Service) Delete(by store.Principal, name string) (store.Revision, error) {
	return v.change(by, func(s *State, t *Txn) error {
		rec, ok := s.Networks[name]
		if !ok {
			return noNetwork("delete network", name)
		}
		if rec.Started {
			return fault.New(fault.Busy, "delete network", name, "it is running").WithRemedy("stop it first: brane down %s", name)
		}
		t.Rely(networkPath(name))
		t.txn.Do = append(t.txn.Do, store.Op{Path: networksDir + "/" + name, Delete: true, Tree: true})
		return nil
	})
}

// SetTrouble notes why a network takes no new ports, or that it does again.
func (v *Service) SetTrouble(name, trouble string) (store.Revision, error) {
	return v.change("system", func(s *State, t *Txn) error {
		rec, ok := s.Networks[name]
		if !ok || rec.Trouble == trouble {
			return nil
		}
		rec.Trouble = trouble
		return t.Put(networkPath(name), rec)
	})
}

// fits refuses a definition that overlaps another network or the host's own subnets.
func (v *Service) fits(s *State, def *Definition) error {
	for _, other := range s.Networks {
		if other.Definition.Name == def.Name || !other.Started {
			continue
		}
		for _, n := range def.Subnets {
			for _, o := range other.Definition.Subnets {
				if n.Gateway.Masked().Overlaps(o.Gateway.Masked()) {
					return fault.New(fault.Conflict, "define network", def.Name, "its subnet %s overlaps %s of network %q",
						n.Gateway.Masked(), o.Gateway.Masked(), other.Definition.Name).WithRemedy("choose another subnet")
				}
			}
		}
	}
	if v.Host == nil {
		return nil
	}
	return def.Overlaps(v.Host())
}

func noNetwork(op, name string) error {
	return fault.New(fault.NotFound, op, name, "there is no network of this name").
		WithRemedy("brane net list shows those there are")
}

func sameDefinition(a, b Definition) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}
