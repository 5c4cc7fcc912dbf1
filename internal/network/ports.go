package network

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"brane/frame"
	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/plan"
	"brane/internal/pool"
	"brane/internal/store"
)

// CheckName refuses what is no DNS label: letters, digits and inner hyphens.
func CheckName(op, what, name string) error {
	if IsLabel(name) {
		return nil
	}
	return fault.New(fault.Invalid, op, name, "this is no name for a %s", what).
		WithRemedy("a name has 1 to %d letters, digits and inner hyphens", MaxName)
}

// SplitDevice takes a device path apart: NETWORK/INTERFACE.
func SplitDevice(path string) (network, iface string, err error) {
	network, iface, ok := strings.Cut(path, "/")
	if !ok || strings.Contains(iface, "/") || network == ".." || iface == ".." {
		return "", "", fault.New(fault.Invalid, "open device", path, "a device path is NETWORK/INTERFACE")
	}
	if err := CheckName("open device", "network", network); err != nil {
		return "", "", err
	}
	return network, iface, CheckName("open device", "interface", iface)
}

// Open says what a client wants of a device.
type Open struct {
	Network, Interface string
	Kind               datapath.Kind
	MAC                frame.MAC // zero: derived from network and interface
	Filter             string
	Rules              Rules
	Brane              string // name of the brane that the port is for
}

// Attach writes an open port down, with a lease for its interface. The reply
// is the port and its addresses.
func (v *Service) Attach(by store.Principal, o Open) (Port, Lease, store.Revision, error) {
	var p Port
	var l Lease
	rev, err := v.change(by, func(s *State, t *Txn) error {
		rec, root, err := v.usable(s, t, "open device", o.Network)
		if err != nil {
			return err
		}
		if len(s.PortsOf(o.Network)) >= MaxPorts {
			return fault.New(fault.Limit, "open device", o.Network, "it has %d open ports already", MaxPorts)
		}
		p = Port{
			Network: o.Network, Interface: o.Interface, Kind: o.Kind, MAC: o.MAC, MTU: rec.Definition.LinkMTU(),
			Owner: by, Brane: o.Brane, Filter: o.Filter, Rules: o.Rules, Opened: v.Now().UTC(),
		}
		if b, ok := s.Branes[o.Brane]; ok && o.Brane != "" {
			p.Rules = b.Rules
		}
		if l, err = v.lease(s, t, root, Ask{Name: leaseName(o.Network, root.Definition.Name, o.Interface), MAC: o.MAC, Interface: o.Interface, Network: o.Network, Hold: true}); err != nil {
			return err
		}
		p.MAC = l.MAC
		id, err := t.nextIDs(s, v, 1)
		if err != nil {
			return err
		}
		p.ID = plan.PortID(id)
		return t.Put(portPath(p.ID), p)
	})
	return p, l, rev, err
}

// Detach forgets a port. Its lease expires after a while, so that a name that
// comes back finds its address again. Never refused.
func (v *Service) Detach(id plan.PortID) (store.Revision, error) {
	return v.change("system", func(s *State, t *Txn) error {
		p, ok := s.Ports[id]
		if !ok {
			return nil
		}
		t.Delete(portPath(id), false)
		if p.Brane != "" {
			return nil // the brane holds the lease
		}
		for _, other := range s.PortsOf(p.Network) {
			if other.ID != id && other.Interface == p.Interface {
				return nil
			}
		}
		return v.letGo(s, t, p.Network, p.Interface)
	})
}

// letGo makes a lease expire.
func (v *Service) letGo(s *State, t *Txn, network, iface string) error {
	root, ok := s.Root(network)
	if !ok {
		return nil
	}
	name := leaseName(network, root.Definition.Name, iface)
	l, ok := s.Leases[root.Definition.Name][name]
	if !ok {
		return nil
	}
	l.Held, l.Expires = false, v.Now().Add(defaultLease).UTC()
	return t.Put(leasePath(root.Definition.Name, name), l)
}

// usable finds a running network and its root, and refuses one in trouble.
func (v *Service) usable(s *State, t *Txn, op, name string) (rec, root Record, err error) {
	rec, ok := s.Networks[name]
	if !ok {
		return rec, root, noNetwork(op, name)
	}
	if !rec.Started {
		return rec, root, fault.New(fault.Unavailable, op, name, "the network is not running").
			WithRemedy("start it: brane net start %s", name)
	}
	root, ok = s.Root(name)
	if !ok || !root.Started {
		return rec, root, fault.New(fault.Unavailable, op, name, "the network above it is gone")
	}
	if root.Trouble != "" {
		return rec, root, fault.New(fault.Conflict, op, name, "%s", root.Trouble).
			WithRemedy("change the network's subnet, or leave the other network")
	}
	t.Rely(networkPath(name))
	t.Rely(networkPath(root.Definition.Name))
	return rec, root, nil
}

// Ask is a request for a lease.
type Ask struct {
	Network   string     // the mux that the asker is in
	Interface string     // and its interface
	Name      string     // of the lease
	MAC       frame.MAC  // zero: derived
	Want      netip.Addr // of the DHCP client, if any
	Client    string     // its identifier
	Host      string     // what it calls itself
	Hold      bool       // until let go
}

// lease finds or makes the lease of a name in the root network's pool.
func (v *Service) lease(s *State, t *Txn, root Record, a Ask) (Lease, error) {
	net := root.Definition.Name
	known := s.Leases[net]
	old, had := known[a.Name]
	mac := a.MAC
	if mac == (frame.MAC{}) {
		mac = frame.DeriveMAC(a.Network, a.Interface)
		for _, n := range root.Definition.Subnets {
			for _, h := range n.Hosts {
				if h.Name == a.Name && h.MAC != (frame.MAC{}) {
					mac = h.MAC
				}
			}
		}
		if had {
			mac = old.MAC
		}
	}
	if had && old.Held && old.MAC != mac {
		return Lease{}, fault.New(fault.Exists, "open device", a.Network+"/"+a.Interface, "the interface has the MAC %s, not %s", old.MAC, mac)
	}
	for name, l := range known {
		if name != a.Name && l.MAC == mac && l.Held {
			return Lease{}, fault.New(fault.Exists, "open device", a.Network+"/"+a.Interface, "the MAC %s belongs to %q", mac, name).
				WithRemedy("give each interface a MAC of its own")
		}
	}
	if mac == root.Definition.GatewayMAC() {
		return Lease{}, fault.New(fault.Exists, "open device", a.Network+"/"+a.Interface, "the MAC %s is the gateway's", mac)
	}
	l := Lease{Name: a.Name, MAC: mac, Held: a.Hold || old.Held, Client: a.Client, Host: a.Host}
	var existing []pool.Lease
	for _, k := range known {
		existing = append(existing, pool.Lease{Name: k.Name, MAC: k.MAC, Addrs: k.Addrs, Held: k.Held, Expires: k.Expires})
	}
	choice, err := pool.Choose(pools(&root.Definition), existing, pool.Request{Name: a.Name, MAC: mac, Want: a.Want, Now: v.Now()})
	if err != nil {
		return Lease{}, err
	}
	l.Addrs, l.Static = choice.Addrs, choice.Static
	for _, gone := range choice.Evicted {
		t.Delete(leasePath(net, gone), false)
	}
	if !l.Held {
		l.Expires = v.Now().Add(root.Definition.leaseTime()).UTC()
	}
	if had && sameLease(old, l) {
		t.Rely(leasePath(net, a.Name))
		return old, nil
	}
	// Two who ask at once must not be given one address: every allocation in a
	// network passes this record.
	if err := t.Put(networksDir+"/"+net+"/pool", v.Now().UTC()); err != nil {
		return Lease{}, err
	}
	return l, t.Put(leasePath(net, a.Name), l)
}

func sameLease(a, b Lease) bool {
	return a.Name == b.Name && a.MAC == b.MAC && slices.Equal(a.Addrs, b.Addrs) && a.Held && b.Held && a.Static == b.Static &&
		a.Client == b.Client && a.Host == b.Host
}

// pools are the address pools of a definition.
func pools(d *Definition) []pool.Subnet {
	var out []pool.Subnet
	for _, n := range d.Subnets {
		p := pool.Subnet{Prefix: n.Gateway.Masked(), Gateway: n.Gateway.Addr()}
		for _, r := range n.Ranges {
			p.Ranges = append(p.Ranges, pool.Range{Start: r.Start, End: r.End})
		}
		for _, h := range n.Hosts {
			p.Hosts = append(p.Hosts, pool.Host{MAC: h.MAC, Name: h.Name, Addr: h.Addr})
		}
		out = append(out, p)
	}
	return out
}

func (d *Definition) leaseTime() time.Duration {
	for i := range d.Subnets {
		if d.Subnets[i].Gateway.Addr().Is4() {
			return d.Subnets[i].leaseTime()
		}
	}
	return defaultLease
}

// DHCP gives the lease of the interface with this MAC to a DHCP client.
func (v *Service) DHCP(network string, a Ask) (Lease, store.Revision, error) {
	var l Lease
	rev, err := v.change("system", func(s *State, t *Txn) error {
		root, ok := s.Root(network)
		if !ok || !root.Started {
			return noNetwork("lease", network)
		}
		for name, k := range s.Leases[root.Definition.Name] {
			if k.MAC == a.MAC {
				a.Name = name
			}
		}
		if a.Name == "" {
			return fault.New(fault.NotFound, "lease", a.MAC.String(), "no interface of %q has this MAC", network)
		}
		a.Network, a.Interface = network, a.Name
		var err error
		l, err = v.lease(s, t, root, a)
		return err
	})
	return l, rev, err
}
