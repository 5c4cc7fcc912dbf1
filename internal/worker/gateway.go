package worker

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"brane/filter"
	"brane/frame"
	"brane/internal/dhcp"
	"brane/internal/dns"
	"brane/internal/fault"
	"brane/internal/plan"
	"brane/internal/ra"
	"brane/internal/stack"
)

// gateway is one network's router and server: a client of the mux like any
// other. Frames for DHCP and router solicitations are answered here, all else
// is the TCP/IP stack's. deliver is called by the switch and never waits: what
// takes time goes over a bounded queue to a goroutine of the gateway.
type gateway struct {
	p     *process
	mux   string
	port  plan.PortID
	stack *stack.Gateway
	names *dns.Server

	policy atomic.Pointer[policy]
	asks   chan []byte // frames for DHCP and ND, copies

	end  context.CancelFunc
	ctx  context.Context
	work sync.WaitGroup
	buf  []byte // of the one goroutine that answers asks
	dhcp *dhcp.Server
}

// policy is what of the plan is read on the way of a frame.
type policy struct {
	allowed  []plan.HostPort
	forwards []plan.Forward
	denied   *filter.DenySet
	ra       ra.Config
	adverts  bool
	dhcp     dhcp.Config
	leases   bool
	lease    time.Duration
}

// maxAsks bounds the questions that wait for DHCP or an advertisement.
const maxAsks = 256

func newGateway(p *process, m *plan.Mux) (*gateway, error) {
	g := &gateway{p: p, mux: m.Name, port: m.Gateway.Port, asks: make(chan []byte, maxAsks), buf: make([]byte, 0, frame.VnetLen+2048)}
	g.ctx, g.end = context.WithCancel(context.Background())
	g.setPolicy(m)
	var err error
	if g.stack, err = stack.New(g.config(m), g.send, p.log.With("network", m.Name)); err != nil {
		g.end()
		return nil, err
	}
	g.names = dns.NewServer(dns.NewZone(m.Gateway), nil)
	if err := g.serveNames(); err != nil {
		g.end()
		g.stack.Close()
		return nil, err
	}
	return g, nil
}

// serveNames answers on the gateway's own addresses.
func (g *gateway) serveNames() error {
	const domain = 53
	packets, err := g.stack.ListenUDP(domain)
	if err != nil {
		return err
	}
	streams, err := g.stack.ListenTCP(domain)
	if err != nil {
		_ = packets.Close()
		return err
	}
	g.work.Add(1)
	go func() {
		defer g.work.Done()
		if err := g.names.Serve(g.ctx, packets, streams); err != nil {
			g.p.log.Error("name server ended", "network", g.mux, "err", err)
		}
	}()
	return nil
}

// send puts a frame into the mux as the gateway's port.
func (g *gateway) send(buf []byte) { g.p.path.Send(g.mux, g.port, buf) }

func (g *gateway) setPolicy(m *plan.Mux) {
	var own []netip.Addr
	for _, p := range m.Gateway.Addrs {
		own = append(own, p.Addr())
	}
	pol := &policy{allowed: m.Gateway.Allowed, forwards: m.Gateway.Forward, denied: filter.NewDenySet(m.Gateway.Denied, own)}
	pol.ra, pol.adverts = ra.FromPlan(m.Gateway, m.MTU)
	if pol.dhcp, pol.leases = dhcp.FromPlan(m.Gateway, m.MTU); pol.leases {
		pol.lease = m.Gateway.DHCP4.Lease
	}
	g.policy.Store(pol)
}

// config is the stack's part of a plan.
func (g *gateway) config(m *plan.Mux) stack.Config {
	return stack.Config{
		Name: m.Name, MAC: m.Gateway.MAC, MTU: m.MTU, Addrs: m.Gateway.Addrs, NAT: m.Gateway.NAT,
		Denied: func(a netip.Addr) bool { return g.policy.Load().denied.Denies(a) },
		HostPort: func(src netip.Addr, port uint16) bool {
			for _, h := range g.policy.Load().allowed {
				if h.Port == port && slices.Contains(h.From, src) {
					return true
				}
			}
			return false
		},
	}
}

// update brings a running gateway to a new plan; its flows live on.
func (g *gateway) update(m *plan.Mux) error {
	old := g.policy.Load().forwards
	g.setPolicy(m)
	g.names.SetZone(dns.NewZone(m.Gateway))
	g.drop(old, m.Gateway.Forward)
	return g.stack.Update(g.config(m))
}

// start begins to answer, once the port is in the mux.
func (g *gateway) start() {
	g.work.Add(2)
	go func() { defer g.work.Done(); g.answer() }()
	go func() { defer g.work.Done(); g.advertise() }()
}

func (g *gateway) close() {
	g.end()
	g.stack.Close()
	g.work.Wait()
}

// deliver takes a frame from the switch.
func (g *gateway) deliver(buf []byte) {
	if forUs(buf[frame.VnetLen:]) {
		select {
		case g.asks <- slices.Clone(buf[frame.VnetLen:]):
		default: // the asker asks again
		}
		return
	}
	g.stack.Deliver(buf)
}

// forUs is a quick look for DHCP to a server and router solicitations; what it
// lets through is parsed properly afterwards.
func forUs(b []byte) bool {
	if len(b) < frame.EthernetLen+20 {
		return false
	}
	ip := b[frame.EthernetLen:]
	switch binary.BigEndian.Uint16(b[12:]) {
	case frame.TypeIPv4:
		n := int(ip[0]&15) * 4
		return ip[9] == 17 && len(ip) >= n+4 && binary.BigEndian.Uint16(ip[n+2:]) == dhcp.ServerPort
	case frame.TypeIPv6:
		return len(ip) > 40 && ip[6] == 58 && ip[40] == 133
	}
	return false
}

// answer serves the questions one after the other; leases are asked for in
// goroutines of their own, as many as calls may be in flight.
func (g *gateway) answer() {
	slots := make(chan struct{}, 16)
	var calls sync.WaitGroup
	defer calls.Wait()
	var p frame.Packet
	for {
		var b []byte
		select {
		case <-g.ctx.Done():
			return
		case b = <-g.asks:
		}
		p.Parse(b)
		if p.Fault != frame.OK || p.L4 == 0 {
			continue
		}
		pol := g.policy.Load()
		if p.Type == frame.TypeIPv6 {
			if out, ok := pol.ra.AppendAnswer(g.head(), &p); ok && pol.adverts {
				g.send(out)
			}
			continue
		}
		if !pol.leases {
			continue
		}
		if g.dhcp == nil {
			g.dhcp = dhcp.New(pol.dhcp)
		}
		g.dhcp.Configure(pol.dhcp)
		ask, reason := g.dhcp.Receive(time.Now(), p.Src, p.Payload())
		if reason != dhcp.Answered {
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			continue
		}
		calls.Add(1)
		go func() {
			defer calls.Done()
			if r, reason := ask.Handle(g.ctx, leaser{g}); reason == dhcp.Answered {
				g.send(r.AppendFrame(make([]byte, frame.VnetLen, frame.VnetLen+1500)))
			}
			<-slots
		}()
	}
}

// head is the buffer of answers with an empty virtio-net header in it.
func (g *gateway) head() []byte {
	b := g.buf[:frame.VnetLen]
	clear(b)
	return b
}

// advertise sends the unsolicited advertisements.
func (g *gateway) advertise() {
	mac, all := ra.AllNodes()
	for sent := 0; ; sent++ {
		select {
		case <-g.ctx.Done():
			return
		case <-time.After(ra.Next(sent, rand.Uint64())):
		}
		if pol := g.policy.Load(); pol.adverts {
			g.send(pol.ra.AppendAdvert(make([]byte, frame.VnetLen, 512), mac, all))
		}
	}
}

// leaser asks the daemon.
type leaser struct{ g *gateway }

func (l leaser) Lease(ctx context.Context, a dhcp.Ask) (dhcp.Lease, error) {
	var out Lease
	in := LeaseAsk{Mux: l.g.mux, MAC: a.MAC, Want: a.Addr, Client: a.Client, Host: a.Hostname}
	if _, err := l.g.p.conn.Call(ctx, verbLease, in, nil, &out); err != nil {
		return dhcp.Lease{}, err
	}
	if a.Exact && out.Addr != a.Addr {
		return dhcp.Lease{}, fault.New(fault.Denied, "lease", a.MAC.String(), "%s is not this client's", a.Addr)
	}
	return dhcp.Lease{Addr: out.Addr, Length: l.g.policy.Load().lease, Hostname: out.Name}, nil
}

func (l leaser) Release(ctx context.Context, a dhcp.Ask) error {
	_, err := l.g.p.conn.Call(ctx, verbRelease, LeaseAsk{Mux: l.g.mux, MAC: a.MAC, Want: a.Addr, Client: a.Client}, nil, nil)
	return err
}

// forward takes a listening socket of the host, which is its own from here on.
func (g *gateway) forward(f forward, fd int) error {
	file := os.NewFile(uintptr(fd), "published port")
	if file == nil {
		return fault.New(fault.Invalid, "forward", g.mux, "no descriptor")
	}
	defer func() { _ = file.Close() }() // what is made of it below has a copy
	to, ok := g.target(f.ID)
	if !ok {
		return fault.New(fault.NotFound, "forward", g.mux, "the plan has no forward %d", f.ID)
	}
	if f.Proto == "udp" {
		c, err := net.FilePacketConn(file)
		if err != nil {
			return fault.From(err, "forward", g.mux)
		}
		return g.stack.ForwardUDP(f.ID, c, to)
	}
	l, err := net.FileListener(file)
	if err != nil {
		return fault.From(err, "forward", g.mux)
	}
	return g.stack.ForwardTCP(f.ID, l, to)
}

// target finds where a forward of the plan leads to.
func (g *gateway) target(id uint64) (netip.AddrPort, bool) {
	for _, f := range g.policy.Load().forwards {
		if f.ID == id {
			return f.To, true
		}
	}
	return netip.AddrPort{}, false
}

// drop ends the forwards that a new plan does not have any more.
func (g *gateway) drop(old, now []plan.Forward) {
	for _, f := range old {
		if !slices.Contains(now, f) {
			g.stack.Unforward(f.ID)
		}
	}
}
