package stack

import (
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"brane/frame"
	"brane/internal/fault"
)

// nicID is the one network card of the TCP stack.
const nicID tcpip.NICID = 1

// Gateway is the TCP/IP of one network's gateway. All methods may be called
// from any goroutine.
type Gateway struct {
	log       *slog.Logger
	out       func(buf []byte)
	policy    atomic.Pointer[policy]
	bufs      bufPool
	relayBufs relayPool
	ipID      atomic.Uint32
	count     counters

	link   *link
	stack  *stack.Stack
	egress *fairQueue[frame.MAC, []byte]

	fragMu sync.Mutex
	frags  reassembler

	flows    flowTable[*outFlow]
	sessions flowTable[*session]
	sweeper  *time.Timer
	sweeping atomic.Bool
	noPing   sync.Once

	dialing, conns, sendBuf, recvBuf quota

	config sync.Mutex // one Update or change of listeners at a time; before mu

	mu         sync.Mutex // held briefly, and never while a packet is sent
	closing    bool
	relays     map[*relay]struct{}
	handshakes map[*waiter.Queue]struct{} // with guests, under way
	dials      map[*os.File]struct{}      // to the outside, under way
	services   map[uint16]*udpService
	listeners  map[uint16]*tcpService
	forwards   map[uint64]forward
	served     atomic.Pointer[map[uint16]*udpService] // a copy of services for Deliver
	closed     atomic.Bool
	done       chan struct{}  // closed by Close
	work       sync.WaitGroup // every goroutine of the gateway
	tasks      chan func()    // for those that are idle
	idle       atomic.Int32
}

// New starts a gateway. out sends a frame, virtio-net header first, into the
// multiplexer; it may be called from several goroutines at once, and the buffer
// is the gateway's again when it returns. Errors are of kind Invalid or Internal.
func New(cfg Config, out func(buf []byte), log *slog.Logger) (*Gateway, error) {
	pol, err := newPolicy(cfg)
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{
		log: log, out: out, egress: newFairQueue[frame.MAC, []byte](egressMax, egressPerMAC),
		relays: make(map[*relay]struct{}), handshakes: make(map[*waiter.Queue]struct{}), dials: make(map[*os.File]struct{}), done: make(chan struct{}), tasks: make(chan func()),
		services:  make(map[uint16]*udpService),
		listeners: make(map[uint16]*tcpService), forwards: make(map[uint64]forward),
	}
	g.ipID.Store(rand.Uint32())
	g.policy.Store(pol)
	g.served.Store(&map[uint16]*udpService{})
	g.link = &link{
		mtu: func() int { return g.policy.Load().MTU }, mac: func() frame.MAC { return g.policy.Load().MAC },
		bufs: &g.bufs, now: g.now, later: g.later,
	}
	g.sweeper = time.AfterFunc(time.Hour, g.sweep)
	g.sweeper.Stop()
	if err := g.start(pol); err != nil {
		g.Close()
		return nil, err
	}
	g.begin(g.drain)
	return g, nil
}

func (g *Gateway) start(pol *policy) error {
	g.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			arp.NewProtocol, ipv4.NewProtocol,
			// No router is listened to, and addresses are those of the Config: no duplicate detection.
			ipv6.NewProtocolWithOptions(ipv6.Options{NDPConfigs: ipv6.NDPConfigurations{}}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocolCUBIC},
	})
	fail := func(what string, err tcpip.Error) error {
		return fault.New(fault.Internal, "start gateway", pol.Name, "%s: %v", what, err)
	}
	if err := g.stack.CreateNIC(nicID, g.link); err != nil {
		return fail("create interface", err)
	}
	// Every address outside is the gateway's to speak for.
	if err := g.stack.SetPromiscuousMode(nicID, true); err != nil {
		return fail("promiscuous mode", err)
	}
	if err := g.stack.SetSpoofing(nicID, true); err != nil {
		return fail("spoofing", err)
	}
	g.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	if err := g.tuneTCP(); err != nil {
		return fail("TCP options", err)
	}
	for _, a := range pol.own {
		if err := g.addAddress(a); err != nil {
			return fail("add address "+a.String(), err)
		}
	}
	g.handleTCP()
	return nil
}

func (g *Gateway) addAddress(a netip.Prefix) tcpip.Error {
	proto := ipv4.ProtocolNumber
	if a.Addr().Is6() {
		proto = ipv6.ProtocolNumber
	}
	return g.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
		Protocol:          proto,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: toAddress(a.Addr()), PrefixLen: a.Bits()},
	}, stack.AddressProperties{PEB: stack.CanBePrimaryEndpoint})
}

func toAddress(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func fromAddress(a tcpip.Address) netip.Addr {
	n, _ := netip.AddrFromSlice(a.AsSlice())
	return n
}

// Update puts a new Config in force; flows and connections stay. On error, of
// kind Invalid or Internal, the old one stays.
func (g *Gateway) Update(cfg Config) error {
	pol, err := newPolicy(cfg)
	if err != nil {
		return err
	}
	g.config.Lock()
	defer g.config.Unlock()
	if g.closed.Load() {
		return fault.New(fault.Unavailable, "update gateway", cfg.Name, "the gateway is closed")
	}
	old := g.policy.Load()
	for _, a := range pol.own {
		if !old.isOwn(a.Addr()) {
			if err := g.addAddress(a); err != nil {
				return fault.New(fault.Internal, "update gateway", cfg.Name, "add address %v: %v", a, err)
			}
		}
	}
	g.policy.Store(pol)
	for _, a := range old.own {
		if !pol.isOwn(a.Addr()) {
			g.stack.RemoveAddress(nicID, toAddress(a.Addr()))
		}
	}
	g.mu.Lock()
	listeners := slices.Collect(maps.Values(g.listeners))
	g.mu.Unlock()
	for _, l := range listeners {
		if err := l.rebind(pol); err != nil {
			return err
		}
	}
	return nil
}

// maxIdle is how many goroutines wait for the next task: their stacks have
// grown to what a connection needs, which saves its copying.
const maxIdle = 64

// begin runs f in a goroutine of the gateway; false when it is closing.
func (g *Gateway) begin(f func()) bool {
	select {
	case g.tasks <- f: // nobody waits for tasks when done is closed, or not for long
		return true
	default:
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		return false
	}
	g.work.Add(1)
	go g.worker(f)
	return true
}

// worker runs f, and then tasks until there are enough others or the gateway closes.
func (g *Gateway) worker(f func()) {
	defer g.work.Done()
	for {
		f()
		f = nil
		if g.idle.Add(1) > maxIdle {
			g.idle.Add(-1)
			return
		}
		select {
		case f = <-g.tasks:
		case <-g.done:
		}
		g.idle.Add(-1)
		if f == nil {
			return
		}
	}
}

// Close ends everything the gateway holds, host sockets and listeners handed to
// it included, and waits for its goroutines. Guests' connections are reset.
func (g *Gateway) Close() {
	g.mu.Lock()
	first := !g.closing
	g.closing = true
	g.mu.Unlock()
	if !first {
		g.work.Wait()
		return
	}
	// The maps do not grow any more.
	g.closed.Store(true)
	close(g.done)
	g.closeSockets()
	g.sweeper.Stop()
	for _, f := range g.flows.clear() {
		f.file.Close()
	}
	for _, s := range g.sessions.clear() {
		s.end()
	}
	if g.stack != nil {
		g.stack.Close()
	}
	g.endHandshakes()
	g.egress.close()
	g.work.Wait()
	if g.stack != nil {
		g.stack.Wait()
	}
}

// closeSockets ends what waits for the host or for a guest. None of it happens
// under g.mu: a reset may go out through a multiplexer that is delivering.
func (g *Gateway) closeSockets() {
	g.mu.Lock()
	relays, forwards := slices.Collect(maps.Keys(g.relays)), slices.Collect(maps.Values(g.forwards))
	services, listeners := slices.Collect(maps.Values(g.services)), slices.Collect(maps.Values(g.listeners))
	for f := range g.dials {
		f.SetDeadline(time.Unix(1, 0))
	}
	g.mu.Unlock()
	for _, r := range relays {
		r.abort()
	}
	for _, f := range forwards {
		f.close()
	}
	for _, s := range services {
		s.queue.close()
	}
	g.config.Lock()
	defer g.config.Unlock()
	for _, l := range listeners {
		l.shut()
	}
}

// endHandshakes ends those that still wait for a guest. Their endpoints are
// aborted, but one that is just about to wait misses the notice: so again.
func (g *Gateway) endHandshakes() {
	for left := 1; left > 0; {
		g.mu.Lock()
		left = len(g.handshakes)
		for wq := range g.handshakes {
			wq.Notify(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
		}
		g.mu.Unlock()
		if left > 0 {
			time.Sleep(time.Millisecond)
		}
	}
}
