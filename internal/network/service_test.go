package network

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/plan"
	"brane/internal/store"
)

func newService(t *testing.T) *Service {
	t.Helper()
	s := store.NewMemory()
	t.Cleanup(func() { _ = s.Close() })
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return &Service{Store: s, Now: func() time.Time { return at }}
}

func office(t *testing.T) Definition {
	t.Helper()
	return Definition{
		Name: "office", Forward: NAT, Domain: "office", Subnets: []Subnet{
			{
				Gateway: netip.MustParsePrefix("10.20.0.1/24"), DHCP: true,
				Ranges: []Range{{Start: netip.MustParseAddr("10.20.0.10"), End: netip.MustParseAddr("10.20.0.19")}},
				Hosts:  []DHCPHost{{Name: "printer", Addr: netip.MustParseAddr("10.20.0.5")}},
			},
			{Gateway: netip.MustParsePrefix("fd00:20::1/64")},
		},
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestUpIsIdempotentAndOverlapsAreRefused(t *testing.T) {
	v := newService(t)
	rev := must(v.Up("uid:1", office(t), false, false))(t)
	if again := must(v.Up("uid:1", office(t), false, false))(t); again != rev {
		t.Errorf("bringing up what is up made revision %d of %d", again, rev)
	}
	other := office(t)
	other.Name = "lab"
	if _, err := v.Up("uid:1", other, false, false); fault.KindOf(err) != fault.Conflict {
		t.Errorf("an overlapping network: %v", err)
	}
	changed := office(t)
	changed.MTU = 1400
	if _, err := v.Up("uid:1", changed, false, false); fault.KindOf(err) != fault.Exists {
		t.Errorf("another definition while it runs: %v", err)
	}
	if got := must(v.State())(t); len(got.Networks) != 1 || got.Networks["office"].Definition.MTU != 0 {
		t.Errorf("refusals left a trace: %+v", got.Networks)
	}
	v.Host = func() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("10.30.0.7/16")} }
	host := Definition{Name: "h", Forward: NAT, Subnets: []Subnet{{Gateway: netip.MustParsePrefix("10.30.9.1/24")}}}
	if _, err := v.Up("uid:1", host, false, false); fault.KindOf(err) != fault.Conflict {
		t.Errorf("the host's own subnet: %v", err)
	}
}

func TestFourFactsOfANetwork(t *testing.T) {
	v := newService(t)
	must(v.Up("uid:1", office(t), false, false))(t)
	must(v.Stop("uid:1", "office"))(t)
	if s := must(v.State())(t); len(s.Networks)+len(s.Leases["office"]) != 0 {
		t.Errorf("a network that is not persistent is still there: %+v", s.Networks)
	}
	must(v.Define("uid:1", office(t), true, true))(t)
	if r := must(v.State())(t).Networks["office"]; r.Started || !r.Persistent || !r.Autostart {
		t.Errorf("defined: %+v", r)
	}
	must(v.Start("uid:1", "office"))(t)
	if _, err := v.Delete("uid:1", "office"); fault.KindOf(err) != fault.Busy {
		t.Errorf("deleted while running: %v", err)
	}
	must(v.Stop("uid:1", "office"))(t)
	if r := must(v.State())(t).Networks["office"]; r.Started || !r.Persistent {
		t.Errorf("stopped: %+v", r)
	}
	must(v.Delete("uid:1", "office"))(t)
	if _, err := v.Start("uid:1", "office"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("started after its deletion: %v", err)
	}
}

func TestBraneHasItsAddressAgain(t *testing.T) {
	v := newService(t)
	must(v.Up("uid:1", office(t), false, false))(t)
	first := must(v.CreateBrane("uid:1", Create{Name: "web", Network: "office"}))(t)
	if len(first.Brane.Addrs) != 2 || !netip.MustParsePrefix("10.20.0.0/24").Contains(first.Brane.Addrs[0]) {
		t.Fatalf("addresses %v", first.Brane.Addrs)
	}
	if _, err := v.CreateBrane("uid:1", Create{Name: "web", Network: "office"}); fault.KindOf(err) != fault.Exists {
		t.Errorf("a second brane of the name: %v", err)
	}
	if _, err := v.CreateBrane("uid:2", Create{Name: "web", Network: "office", Adopt: true}); fault.KindOf(err) != fault.Exists {
		t.Errorf("another user adopts it: %v", err)
	}
	adopted := must(v.CreateBrane("uid:1", Create{Name: "web", Network: "office", Adopt: true}))(t)
	if !slices.Equal(adopted.Brane.Addrs, first.Brane.Addrs) || adopted.Brane.MAC != first.Brane.MAC {
		t.Errorf("adopted with %v, was %v", adopted.Brane, first.Brane)
	}
	must(v.DeleteBrane("uid:1", "web"))(t)
	if l := must(v.State())(t).Leases["office"]["web"]; l.Held || l.Expires.IsZero() {
		t.Errorf("the lease of a gone brane: %+v", l)
	}
	again := must(v.CreateBrane("uid:1", Create{Name: "web", Network: "office"}))(t)
	if !slices.Equal(again.Brane.Addrs, first.Brane.Addrs) {
		t.Errorf("it came back with %v, not %v", again.Brane.Addrs, first.Brane.Addrs)
	}
	printer := must(v.CreateBrane("uid:1", Create{Name: "printer", Network: "office"}))(t)
	if printer.Brane.Addrs[0] != netip.MustParseAddr("10.20.0.5") {
		t.Errorf("the static lease of printer: %v", printer.Brane.Addrs)
	}
}

func TestManyAtOnceGetAddressesOfTheirOwn(t *testing.T) {
	v := newService(t)
	must(v.Up("uid:1", office(t), false, false))(t)
	var wg sync.WaitGroup
	errs := make(chan error, 10)
	for range 10 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, err := v.CreateBrane("uid:1", Create{Network: "office"})
			errs <- err
		}()
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	seen := map[netip.Addr]string{}
	for _, b := range must(v.State())(t).Branes {
		if other, taken := seen[b.Addrs[0]]; taken {
			t.Errorf("%s and %s both have %s", b.Name, other, b.Addrs[0])
		}
		seen[b.Addrs[0]] = b.Name
	}
	if _, err := v.CreateBrane("uid:1", Create{Network: "office"}); fault.KindOf(err) != fault.Limit {
		t.Errorf("the eleventh of ten addresses: %v", err)
	}
}

func TestTwoPortsOfOneInterfaceShareItsLease(t *testing.T) {
	v := newService(t)
	must(v.Up("uid:1", office(t), false, false))(t)
	o := Open{Network: "office", Interface: "vm1", Kind: datapath.SeqPacket}
	a, la, _, err := v.Attach("uid:1", o)
	if err != nil {
		t.Fatal(err)
	}
	b, lb, _, err := v.Attach("uid:1", o)
	if err != nil {
		t.Fatal(err)
	}
	if a.ID == b.ID || a.MAC != b.MAC || !slices.Equal(la.Addrs, lb.Addrs) {
		t.Errorf("%+v %+v, leases %v %v", a, b, la.Addrs, lb.Addrs)
	}
	o.Interface, o.MAC = "vm2", a.MAC
	if _, _, _, err := v.Attach("uid:1", o); fault.KindOf(err) != fault.Exists {
		t.Errorf("the MAC of another interface: %v", err)
	}
	must(v.Detach(a.ID))(t)
	if l := must(v.State())(t).Leases["office"]["vm1"]; !l.Held {
		t.Error("the lease went with the first of two ports")
	}
	must(v.Detach(b.ID))(t)
	if l := must(v.State())(t).Leases["office"]["vm1"]; l.Held {
		t.Error("the lease outlived its ports")
	}
}

// TestPlanBindsWhatTheLeaseSays: clean is at the root of both stacks with the
// port's own addresses, guard only where a gateway is, the client's filter at the leaf.
func TestPlanBindsWhatTheLeaseSays(t *testing.T) {
	v := newService(t)
	must(v.Up("uid:1", office(t), false, false))(t)
	p, l, _, err := v.Attach("uid:1", Open{
		Network: "office", Interface: "vm1", Kind: datapath.SeqPacket, Filter: "tcp",
		Rules: Rules{Send: []string{"not udp"}, AllowHost: []uint16{5432}},
	})
	if err != nil {
		t.Fatal(err)
	}
	host := Host{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.7")}, Resolvers: []string{"192.0.2.53:53"}}
	m := Build(must(v.State())(t), "office", host)
	if m == nil || len(m.Ports) != 2 || m.Gateway == nil {
		t.Fatalf("plan %+v", m)
	}
	var got plan.Port
	for _, q := range m.Ports {
		if q.ID == p.ID {
			got = q
		}
	}
	if got.Send[0].Rule != "not udp" || got.Send[1].Rule != "clean" || got.Send[2].Rule != "guard" || got.Receive[0].Rule != "tcp" {
		t.Errorf("stacks: %+v / %+v", got.Send, got.Receive)
	}
	for _, a := range l.Addrs {
		if !slices.Contains(got.Send[1].Bound, netip.PrefixFrom(a, a.BitLen())) {
			t.Errorf("%s is leased and not bound: %v", a, got.Send[1].Bound)
		}
	}
	if !slices.Contains(got.Send[2].Bound, netip.MustParsePrefix("192.0.2.7/32")) {
		t.Errorf("guard does not know the host's address: %v", got.Send[2].Bound)
	}
	if len(m.Gateway.Allowed) != 1 || m.Gateway.Allowed[0].Port != 5432 {
		t.Errorf("allowed %v", m.Gateway.Allowed)
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var back plan.Mux
	if err := json.Unmarshal(b, &back); err != nil || !same(&back, m) {
		t.Errorf("the plan does not survive its wire form: %v", err)
	}
}

type fakeWorker struct {
	mu   sync.Mutex
	have map[string]*plan.Mux
	fail error
}

func (w *fakeWorker) Apply(_ context.Context, m *plan.Mux) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail == nil {
		w.have[m.Name] = m
	}
	return w.fail
}

func (w *fakeWorker) Remove(_ context.Context, mux string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.have, mux)
	return w.fail
}

// TestControllerFollows: after Wait the worker has the plan of that revision; a
// worker that was away gets everything again.
func TestControllerFollows(t *testing.T) {
	v := newService(t)
	w := &fakeWorker{have: map[string]*plan.Mux{}}
	c := NewController(v.Store, w, func() Host { return Host{} }, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	rev := must(v.Up("uid:1", office(t), false, false))(t)
	if err := c.Wait(ctx, rev); err != nil {
		t.Fatal(err)
	}
	made := must(v.CreateBrane("uid:1", Create{Name: "web", Network: "office"}))(t)
	if err := c.Wait(ctx, made.Revision); err != nil {
		t.Fatal(err)
	}
	names := func() string {
		w.mu.Lock()
		defer w.mu.Unlock()
		var out []string
		if m := w.have["office"]; m != nil && m.Gateway != nil {
			for _, n := range m.Gateway.DNS.Names {
				out = append(out, n.Name)
			}
		}
		return strings.Join(out, " ")
	}
	if got := names(); got != "gateway web" {
		t.Errorf("names %q", got)
	}
	w.mu.Lock()
	w.have, w.fail = map[string]*plan.Mux{}, fault.New(fault.Unavailable, "ask worker", "", "gone")
	w.mu.Unlock()
	rev = must(v.DeleteBrane("uid:1", "web"))(t)
	short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	if err := c.Wait(short, rev); err == nil {
		// a plan that did not change needs no worker; this one did not lose its name yet
		t.Log("nothing to hand over")
	}
	stop()
	w.mu.Lock()
	w.fail = nil
	w.mu.Unlock()
	c.Kick()
	rev = must(v.CreateBrane("uid:1", Create{Name: "db", Network: "office"}))(t).Revision
	if err := c.Wait(ctx, rev); err != nil {
		t.Fatal(err)
	}
	if got := names(); got != "db gateway" {
		t.Errorf("names after the worker's return: %q", got)
	}
	rev = must(v.Stop("uid:1", "office"))(t)
	if err := c.Wait(ctx, rev); err != nil {
		t.Fatal(err)
	}
	if got := names(); got != "" {
		t.Errorf("the plan of a stopped network is still there: %q", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNestedMuxTakesAddressesFromAbove(t *testing.T) {
	v := newService(t)
	must(v.Up("uid:1", office(t), false, false))(t)
	must(v.Up("uid:1", Definition{Name: "lab", Forward: None, Uplink: "office"}, false, false))(t)
	p, l, _, err := v.Attach("uid:1", Open{Network: "lab", Interface: "vm", Kind: datapath.SeqPacket})
	if err != nil {
		t.Fatal(err)
	}
	if !netip.MustParsePrefix("10.20.0.0/24").Contains(l.Addrs[0]) {
		t.Errorf("leases %v", l.Addrs)
	}
	s := must(v.State())(t)
	up, low := Build(s, "office", Host{}), Build(s, "lab", Host{})
	var down, uplink plan.Port
	for _, q := range up.Ports {
		if q.Device == "office/lab" {
			down = q
		}
	}
	for _, q := range low.Ports {
		if q.Role == plan.Uplink {
			uplink = q
		}
	}
	if uplink.To != down.ID || down.ID == 0 {
		t.Errorf("the two ends do not meet: %+v %+v", down, uplink)
	}
	if low.Gateway != nil || p.Network != "lab" {
		t.Errorf("a mux below another has a gateway of its own")
	}
}

func TestNamesThatAreNone(t *testing.T) {
	for _, bad := range []string{"", "a/../b", "..", strings.Repeat("x", 64) + "/a", "lan/" + strings.Repeat("x", 64), "lan/a b", "lan", "lan/a/b", "lan/-a"} {
		if _, _, err := SplitDevice(bad); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if n, i, err := SplitDevice("lan/web-1"); err != nil || n != "lan" || i != "web-1" {
		t.Errorf("lan/web-1: %q %q %v", n, i, err)
	}
}

// TestStopOfAnySize: a network with more ports and branes than one transaction
// has room for stops all the same.
func TestStopOfAnySize(t *testing.T) {
	v := newService(t)
	def := office(t)
	def.Subnets[0].Ranges = nil
	must(v.Up("uid:1", def, true, false))(t)
	for i := range 160 {
		o := Open{Network: "office", Interface: "p" + strconv.Itoa(i), Kind: datapath.SeqPacket}
		if _, _, _, err := v.Attach("uid:1", o); err != nil {
			t.Fatal(err)
		}
	}
	for range 60 {
		must(v.CreateBrane("uid:1", Create{Network: "office"}))(t)
	}
	must(v.Stop("uid:1", "office"))(t)
	if s := must(v.State())(t); len(s.Ports)+len(s.Branes) != 0 || s.Networks["office"].Started {
		t.Errorf("%d ports and %d branes are left", len(s.Ports), len(s.Branes))
	}
}
