package server

import (
	"context"
	"net/http"
	"net/netip"
	"sort"

	"brane/client"
	"brane/filter"
	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/network"
	"brane/internal/plan"
	"brane/internal/verdict"
)

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// rules checks what a client asks for its port: expressions must parse.
func rules(send, receive []string, allow []uint16) (network.Rules, error) {
	for _, list := range [][]string{send, receive} {
		if len(list) > 16 {
			return network.Rules{}, fault.New(fault.Limit, "set filter", "", "a port has at most 16 filters for each direction")
		}
		for _, e := range list {
			if _, err := filter.Parse(e); err != nil {
				return network.Rules{}, fault.New(fault.Invalid, "set filter", e, "%v", err)
			}
		}
	}
	if len(allow) > 64 {
		return network.Rules{}, fault.New(fault.Limit, "allow host", "", "at most 64 ports of the host")
	}
	return network.Rules{Send: send, Receive: receive, AllowHost: allow}, nil
}

func (s *Server) createBrane(r *http.Request) (any, error) {
	var in client.BraneRequest
	if err := decode(r.Body, &in); err != nil {
		return nil, fault.New(fault.Invalid, "create brane", "", "the request cannot be read: %v", err)
	}
	if in.Network == "" {
		in.Network = network.DefaultName
	}
	rs, err := rules(in.Send, in.Receive, in.AllowHost)
	if err != nil {
		return nil, err
	}
	if err := s.ensure(r.Context(), in.Network); err != nil {
		return nil, err
	}
	c := network.Create{
		Name: in.Name, Network: in.Network, Command: in.Command, PID: in.PID, Rules: rs,
		NoAddress: in.NoAddress, Adopt: in.Adopt,
	}
	for _, p := range in.Publish {
		pub := network.Publish{Proto: p.Proto, Host: p.Host, Port: p.Port}
		if p.Proto != "tcp" && p.Proto != "udp" {
			return nil, fault.New(fault.Invalid, "publish", pub.String(), "the protocol is tcp or udp")
		}
		c.Publish = append(c.Publish, pub)
	}
	for _, p := range c.Publish {
		if err := s.Listeners.Open(p); err != nil {
			s.Listeners.Settle(r.Context())
			return nil, err
		}
	}
	made, err := s.Service.CreateBrane(who(r), c)
	if err != nil {
		s.Listeners.Settle(r.Context())
		return nil, err
	}
	s.expect(made.Brane.Name)
	if err := s.settle(r.Context(), made.Revision); err != nil {
		return nil, err
	}
	out := showBrane(made.Brane)
	out.MTU, out.Gateways, out.Domain = made.MTU, made.Gateways, made.Domain
	out.Addresses = prefixes(made.Brane.Addrs, made.Subnets)
	return out, nil
}

// ensure starts the built-in network on its first use.
func (s *Server) ensure(ctx context.Context, name string) error {
	if name != network.DefaultName {
		return nil
	}
	rev, err := s.Service.EnsureDefault()
	if err != nil {
		return err
	}
	return s.settle(ctx, rev)
}

func prefixes(addrs []netip.Addr, subnets []network.Subnet) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(addrs))
	for _, a := range addrs {
		bits := a.BitLen()
		for _, n := range subnets {
			if n.Gateway.Contains(a) {
				bits = n.Gateway.Bits()
			}
		}
		out = append(out, netip.PrefixFrom(a, bits))
	}
	return out
}

func showBrane(b network.Brane) client.Brane {
	out := client.Brane{
		Name: b.Name, Network: b.Network, State: "created", MAC: b.MAC.String(), Owner: string(b.Owner),
		Command: b.Command, PID: b.PID, Created: b.Created, Send: b.Rules.Send, Receive: b.Rules.Receive,
		AllowHost: b.Rules.AllowHost, NoAddress: b.NoAddress, Addresses: []netip.Prefix{}, Gateways: []netip.Addr{},
	}
	for _, p := range b.Publish {
		out.Publish = append(out.Publish, client.Publish{Host: p.Host, Port: p.Port, Proto: p.Proto})
	}
	return out
}

// complete adds what is known of the brane's network and ports.
func complete(st *network.State, out *client.Brane, b network.Brane) {
	if root, ok := st.Root(b.Network); ok {
		d := root.Definition
		out.Addresses, out.Gateways, out.Domain = prefixes(b.Addrs, d.Subnets), d.GatewayAddrs(), d.DomainName()
	}
	if own, ok := st.Networks[b.Network]; ok {
		out.MTU = own.Definition.LinkMTU()
	}
	for _, p := range st.Ports {
		if p.Brane == b.Name {
			out.State = "started"
			out.Ports = append(out.Ports, showPort(p))
		}
	}
	sort.Slice(out.Ports, func(i, j int) bool { return out.Ports[i].ID < out.Ports[j].ID })
}

func showPort(p network.Port) client.Port {
	return client.Port{
		ID: uint64(p.ID), Device: p.Device(), Kind: string(p.Kind), MAC: p.MAC.String(), MTU: p.MTU,
		Owner: string(p.Owner), Brane: p.Brane, Filter: p.Filter, Send: p.Rules.Send, Receive: p.Rules.Receive,
	}
}

func (s *Server) listBranes(*http.Request) (any, error) {
	st, err := s.Service.State()
	if err != nil {
		return nil, err
	}
	out := []client.Brane{}
	for _, name := range sortedKeys(st.Branes) {
		b := showBrane(st.Branes[name])
		complete(st, &b, st.Branes[name])
		out = append(out, b)
	}
	return out, nil
}

func (s *Server) getBrane(r *http.Request) (any, error) {
	st, err := s.Service.State()
	if err != nil {
		return nil, err
	}
	b, ok := st.Branes[r.PathValue("name")]
	if !ok {
		return nil, fault.New(fault.NotFound, "show brane", r.PathValue("name"), "there is no brane of this name").
			WithRemedy("brane list shows those there are")
	}
	out := showBrane(b)
	complete(st, &out, b)
	return out, s.count(r.Context(), b.Network, out.Ports)
}

func (s *Server) listPorts(r *http.Request) (any, error) {
	st, err := s.Service.State()
	if err != nil {
		return nil, err
	}
	want := r.URL.Query().Get("network")
	if _, ok := st.Networks[want]; want != "" && !ok {
		return nil, fault.New(fault.NotFound, "list ports", want, "there is no network of this name").
			WithRemedy("brane net list shows those there are")
	}
	out := []client.Port{}
	for _, name := range sortedKeys(st.Networks) {
		if want != "" && want != name {
			continue
		}
		var ports []client.Port
		rec := st.Networks[name]
		if rec.Started {
			ports = append(ports, client.Port{
				ID: uint64(rec.Gateway), Device: name + "/gateway", Kind: string(datapath.Local),
				MAC: rec.Definition.GatewayMAC().String(), Owner: "network " + name,
			})
		}
		for _, p := range st.PortsOf(name) {
			ports = append(ports, showPort(p))
		}
		if err := s.count(r.Context(), name, ports); err != nil {
			return nil, err
		}
		out = append(out, ports...)
	}
	return out, nil
}

// count fills the counters in, by the words of their verdicts.
func (s *Server) count(ctx context.Context, mux string, ports []client.Port) error {
	if len(ports) == 0 {
		return nil
	}
	all, err := s.Worker.Counters(ctx, mux)
	if err != nil {
		return err
	}
	by := map[plan.PortID]datapath.Counters{}
	for _, c := range all {
		by[c.Port] = c
	}
	for i := range ports {
		c, ok := by[plan.PortID(ports[i].ID)]
		if !ok {
			continue
		}
		ports[i].From, ports[i].To = words(&c.From), words(&c.To)
		ports[i].Bytes, ports[i].Learned = [2]uint64{c.FromBytes, c.ToBytes}, c.Learned
	}
	return nil
}

func words(a *[verdict.Count]uint64) map[string]uint64 {
	out := map[string]uint64{}
	for i, n := range a {
		if n > 0 {
			out[verdict.Reason(i).String()] = n
		}
	}
	return out
}
