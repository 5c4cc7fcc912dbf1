package network

import (
	"encoding/json"
	"sort"
	"strconv"

	"brane/internal/fault"
	"brane/internal/plan"
	"brane/internal/store"
)

// State is what the store says of networks, leases, ports and branes at one
// revision. It is made from a listing and moved on by batches, and by nothing else.
type State struct {
	Revision store.Revision
	Networks map[string]Record
	Leases   map[string]map[string]Lease // by network, then by name
	Ports    map[plan.PortID]Port
	Branes   map[string]Brane
}

// Load makes the State of a listing of the whole store.
func Load(records []store.Record, rev store.Revision) (*State, error) {
	s := &State{
		Revision: rev,
		Networks: map[string]Record{},
		Leases:   map[string]map[string]Lease{},
		Ports:    map[plan.PortID]Port{},
		Branes:   map[string]Brane{},
	}
	for _, r := range records {
		if _, err := s.put(r, false); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Apply moves the state on by one batch and returns the names of the networks
// that it touched.
func (s *State) Apply(b store.Batch) (touched map[string]bool, err error) {
	touched = map[string]bool{}
	for _, e := range b.Events {
		n, err := s.put(e.Record, e.Deleted)
		if err != nil {
			return nil, err
		}
		if n != "" {
			touched[n] = true
		}
	}
	s.Revision = b.Revision
	return touched, nil
}

// put takes one record in or out and returns the network that it belongs to.
func (s *State) put(r store.Record, deleted bool) (string, error) {
	kind, network, name := splitPath(r.Path)
	switch kind {
	case "network":
		return network, keep(s.Networks, network, r, deleted)
	case "lease":
		m := s.Leases[network]
		if m == nil {
			m = map[string]Lease{}
			s.Leases[network] = m
		}
		return network, keep(m, name, r, deleted)
	case "port":
		id, err := strconv.ParseUint(name, 10, 64)
		if err != nil {
			return "", fault.New(fault.Internal, "read store", r.Path, "a port's name is its number")
		}
		old := s.Ports[plan.PortID(id)]
		if err := keep(s.Ports, plan.PortID(id), r, deleted); err != nil {
			return "", err
		}
		if deleted {
			return old.Network, nil
		}
		return s.Ports[plan.PortID(id)].Network, nil
	case "brane":
		old := s.Branes[name]
		if err := keep(s.Branes, name, r, deleted); err != nil {
			return "", err
		}
		if deleted {
			return old.Network, nil
		}
		return s.Branes[name].Network, nil
	}
	return "", nil
}

func keep[K comparable, V any](m map[K]V, key K, r store.Record, deleted bool) error {
	if deleted {
		delete(m, key)
		return nil
	}
	var v V
	if err := json.Unmarshal(r.Value, &v); err != nil {
		return fault.New(fault.Internal, "read store", r.Path, "the record cannot be read: %v", err).
			WithRemedy("the state was written by another version, or damaged")
	}
	m[key] = v
	return nil
}

// Root is the network that gives addresses to the mux: itself, or the top of
// its uplinks. The second result is false when the chain is broken or a ring.
func (s *State) Root(name string) (Record, bool) {
	for range maxDepth {
		r, ok := s.Networks[name]
		if !ok {
			return Record{}, false
		}
		if r.Definition.Uplink == "" {
			return r, true
		}
		name = r.Definition.Uplink
	}
	return Record{}, false
}

// maxDepth bounds how deep muxes may be nested.
const maxDepth = 8

// PortsOf are the open ports of a network in the order of their numbers.
func (s *State) PortsOf(network string) []Port {
	var out []Port
	for _, p := range s.Ports {
		if p.Network == network {
			out = append(out, p)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}

// LeaseOf is the lease of an interface; ok is false when it has none.
func (s *State) LeaseOf(network, iface string) (Lease, bool) {
	root, ok := s.Root(network)
	if !ok {
		return Lease{}, false
	}
	l, ok := s.Leases[root.Definition.Name][leaseName(network, root.Definition.Name, iface)]
	return l, ok
}

// leaseName keeps the names of a nested mux apart from those of its root.
func leaseName(network, root, iface string) string {
	if network == root {
		return iface
	}
	return iface + "." + network
}
