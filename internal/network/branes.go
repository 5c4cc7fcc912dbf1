package network

import (
	"net/netip"
	"strconv"

	"brane/internal/fault"
	"brane/internal/plan"
	"brane/internal/store"
)

// Create is what a new brane asks for.
type Create struct {
	Name      string // empty: the first free one of NETWORK's numbered names
	Network   string
	Command   []string
	PID       int
	Rules     Rules
	Publish   []Publish
	NoAddress bool
	// Adopt takes over the brane of this name that the same owner left behind
	// when the daemon died, instead of refusing it as existing.
	Adopt bool
}

// Created is a brane with what its stack needs to be set up.
type Created struct {
	Brane    Brane
	MTU      int
	Subnets  []Subnet // of the network that gives the addresses
	Gateways []netip.Addr
	Domain   string
	Revision store.Revision
}

// CreateBrane writes a brane down, with its lease and its published ports.
func (v *Service) CreateBrane(by store.Principal, c Create) (Created, error) {
	var out Created
	for _, p := range c.Publish {
		if p.Port == 0 || p.Host.Port() == 0 {
			return out, fault.New(fault.Invalid, "publish", p.String(), "a port is 1 to 65535")
		}
	}
	if len(c.Publish) > MaxForwards {
		return out, fault.New(fault.Limit, "publish", c.Name, "a brane has at most %d published ports", MaxForwards)
	}
	if c.Name != "" {
		if err := CheckName("create brane", "brane", c.Name); err != nil {
			return out, err
		}
	}
	rev, err := v.change(by, func(s *State, t *Txn) error {
		rec, root, err := v.usable(s, t, "create brane", c.Network)
		if err != nil {
			return err
		}
		name, err := braneName(s, by, c)
		if err != nil {
			return err
		}
		if len(s.Branes) >= MaxBranes {
			return fault.New(fault.Limit, "create brane", name, "there are %d branes already", MaxBranes)
		}
		old := s.Branes[name]
		l, err := v.lease(s, t, root, Ask{
			Name: leaseName(c.Network, root.Definition.Name, name), Network: c.Network, Interface: name, Hold: true,
		})
		if err != nil {
			return err
		}
		b := Brane{
			Name: name, Network: c.Network, MAC: l.MAC, Addrs: l.Addrs, Owner: by, Command: c.Command, PID: c.PID,
			Created: v.Now().UTC(), Rules: c.Rules, NoAddress: c.NoAddress,
		}
		if err := v.publish(s, t, &b, c.Publish, old); err != nil {
			return err
		}
		out = Created{
			Brane: b, MTU: rec.Definition.LinkMTU(), Subnets: root.Definition.Subnets,
			Gateways: root.Definition.GatewayAddrs(), Domain: root.Definition.DomainName(),
		}
		return t.Put(branePath(name), b)
	})
	out.Revision = rev
	return out, err
}

// publish gives the forwards their numbers; those that an adopted brane had
// already keep theirs, and with them the listener.
func (v *Service) publish(s *State, t *Txn, b *Brane, want []Publish, old Brane) error {
	for _, p := range want {
		for _, o := range old.Publish {
			if o.Proto == p.Proto && o.Host == p.Host && o.Port == p.Port {
				p.ID = o.ID
			}
		}
		for _, other := range s.Branes {
			for _, q := range other.Publish {
				if other.Name != b.Name && q.Proto == p.Proto && q.Host.Port() == p.Host.Port() && q.Host.Addr() == p.Host.Addr() {
					return fault.New(fault.Busy, "publish", p.String(), "brane %q has this port of the host", other.Name).
						WithRemedy("choose another port, or stop that brane: brane stop %s", other.Name)
				}
			}
		}
		if p.ID == 0 {
			id, err := t.nextIDs(s, v, 1)
			if err != nil {
				return err
			}
			p.ID = id
		}
		b.Publish = append(b.Publish, p)
	}
	return nil
}

// braneName checks the wanted name or finds a free one.
func braneName(s *State, by store.Principal, c Create) (string, error) {
	if c.Name == "" {
		for i := 1; ; i++ {
			name := "b" + strconv.Itoa(i)
			if _, taken := s.Branes[name]; taken {
				continue
			}
			if l, held := s.LeaseOf(c.Network, name); held && l.Held {
				continue
			}
			return name, nil
		}
	}
	old, taken := s.Branes[c.Name]
	if !taken || (c.Adopt && old.Owner == by && old.Network == c.Network) {
		return c.Name, nil
	}
	return "", fault.New(fault.Exists, "create brane", c.Name, "there is a brane of this name in network %q", old.Network).
		WithRemedy("choose another name, or stop it: brane stop %s", c.Name)
}

// DeleteBrane forgets a brane, its ports and forwards; its lease expires after
// a while. Never refused but for a name that is not there.
func (v *Service) DeleteBrane(by store.Principal, name string) (store.Revision, error) {
	return v.change(by, func(s *State, t *Txn) error {
		b, ok := s.Branes[name]
		if !ok {
			return fault.New(fault.NotFound, "delete brane", name, "there is no brane of this name").
				WithRemedy("brane list shows those there are")
		}
		return v.forget(s, t, b)
	})
}

// Abandon forgets a port whose client is gone for good, with the brane that it
// was for. A port that is not there takes no brane with it: the name may be
// another's by now. Never refused.
func (v *Service) Abandon(id plan.PortID) (store.Revision, error) {
	return v.change("system", func(s *State, t *Txn) error {
		p, ok := s.Ports[id]
		if !ok {
			return nil
		}
		if b, ok := s.Branes[p.Brane]; ok {
			return v.forget(s, t, b)
		}
		t.Delete(portPath(id), false)
		return v.letGo(s, t, p.Network, p.Interface)
	})
}

func (v *Service) forget(s *State, t *Txn, b Brane) error {
	for _, p := range s.Ports {
		if p.Brane == b.Name {
			t.Delete(portPath(p.ID), false)
		}
	}
	t.Delete(branePath(b.Name), false)
	return v.letGo(s, t, b.Network, b.Name)
}

// sweepStep is how many ports and how many branes go in one transaction: each
// costs two operations, and a lease's, of the 128 that one may have.
const sweepStep = 25

// Sweep forgets every port, and the branes that nobody has come back for: the
// daemon's first act, and what it does some time after a restart.
func (v *Service) Sweep(stale func(*State) (ports []Port, branes []string)) error {
	for {
		done := true
		_, err := v.change("system", func(s *State, t *Txn) error {
			ports, branes := stale(s)
			for i, p := range ports {
				if i == sweepStep {
					done = false
					return nil
				}
				t.Delete(portPath(p.ID), false)
				if p.Brane == "" {
					if err := v.letGo(s, t, p.Network, p.Interface); err != nil {
						return err
					}
				}
			}
			for i, name := range branes {
				if i == sweepStep {
					done = false
					return nil
				}
				t.Delete(branePath(name), false)
				if err := v.letGo(s, t, s.Branes[name].Network, name); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || done {
			return err
		}
	}
}
