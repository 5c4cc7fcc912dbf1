package plan

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"brane/frame"
	"brane/internal/fault"
)

func address(n byte) frame.MAC { return frame.MAC{0x02, 0, 0, 0, 0, n} }

// good is a plan with one of everything.
func good() *Mux {
	prefix := netip.MustParsePrefix("10.0.0.1/24")
	return &Mux{Name: "lan", Revision: 1, MTU: 9000, Aging: time.Minute, Ports: []Port{
		{
			ID: 1, Device: "lan/web", Role: Interface, MAC: address(1), MTU: 1500,
			Send: []Filter{{Owner: "uid:1", Rule: "clean", Bound: []netip.Prefix{prefix}, Routers: []netip.Addr{prefix.Addr()}}},
		},
		{ID: 2, Device: "lan/web", Role: Interface, MAC: address(1), MTU: 9000, Receive: []Filter{{Rule: "tcp port 80"}}},
		{ID: 3, Device: "lan/gateway", Role: Service, MAC: address(2), MTU: 1500},
		{ID: 4, Device: "eth0", Role: Uplink, MTU: 1500, To: 70},
	}, Gateway: &Gateway{
		Port: 3, MAC: address(2), Addrs: []netip.Prefix{prefix},
		Forward: []Forward{{ID: 1, Proto: "tcp", To: netip.MustParseAddrPort("10.0.0.2:80")}},
	}}
}

func TestCheckGood(t *testing.T) {
	if err := Check(good()); err != nil {
		t.Fatal(err)
	}
	if err := Check(&Mux{Name: "empty", MTU: 1500}); err != nil {
		t.Fatal(err)
	}
}

func TestCheckBad(t *testing.T) {
	for _, c := range []struct {
		what string
		mod  func(m *Mux)
		kind fault.Kind
		say  string
	}{
		{"no name", func(m *Mux) { m.Name = "" }, fault.Invalid, "no name"},
		{"a folder's name", func(m *Mux) { m.Name = ".." }, fault.Invalid, "no name"},
		{"a long name", func(m *Mux) { m.Name = strings.Repeat("x", 64) }, fault.Invalid, "no name"},
		{"a slash", func(m *Mux) { m.Name = "a/b" }, fault.Invalid, "no name"},
		{"small MTU", func(m *Mux) { m.MTU = 575 }, fault.Invalid, "MTU"},
		{"large MTU", func(m *Mux) { m.MTU = 65536 }, fault.Invalid, "MTU"},
		{"negative aging", func(m *Mux) { m.Aging = -1 }, fault.Invalid, "age"},
		{"too many ports", func(m *Mux) { m.Ports = make([]Port, MaxPorts+1) }, fault.Limit, "4097 ports"},
		{"no ID", func(m *Mux) { m.Ports[0].ID = 0 }, fault.Invalid, "without an identifier"},
		{"an ID twice", func(m *Mux) { m.Ports[1].ID = 1 }, fault.Invalid, "port 1 is there twice"},
		{"role", func(m *Mux) { m.Ports[0].Role = "king" }, fault.Invalid, "king"},
		{"nested without uplink", func(m *Mux) { m.Ports[0].To = 9 }, fault.Invalid, "no uplink"},
		{"plugged into itself", func(m *Mux) { m.Ports[3].To = 1 }, fault.Invalid, "its own mux"},
		{"port MTU over the mux's", func(m *Mux) { m.Ports[1].MTU = 9001 }, fault.Invalid, "9001"},
		{"no port MTU", func(m *Mux) { m.Ports[1].MTU = 0 }, fault.Invalid, "MTU of 0"},
		{"negative cap", func(m *Mux) { m.Ports[1].Learn = -1 }, fault.Invalid, "negative"},
		{"large cap", func(m *Mux) { m.Ports[1].Learn = MaxLearn + 1 }, fault.Limit, "learned"},
		{"large rate", func(m *Mux) { m.Ports[1].FloodRate = MaxFlood + 1 }, fault.Limit, "floods"},
		{"no device", func(m *Mux) { m.Ports[3].Device = "" }, fault.Invalid, "device path"},
		{"climbing device", func(m *Mux) { m.Ports[3].Device = "lan/../x" }, fault.Invalid, "device path"},
		{"a newline", func(m *Mux) { m.Ports[3].Device = "lan/x\n" }, fault.Invalid, "device path"},
		{"one device, two addresses", func(m *Mux) { m.Ports[1].MAC = address(9) }, fault.Invalid, "differ"},
		{"one device, two roles", func(m *Mux) { m.Ports[1].Role = Service }, fault.Invalid, "differ"},
		{"one address, two devices", func(m *Mux) { m.Ports[3].MAC = address(1) }, fault.Invalid, "same MAC"},
		{"no address", func(m *Mux) { m.Ports[2].MAC = frame.MAC{} }, fault.Invalid, "no MAC"},
		{"a group's address", func(m *Mux) { m.Ports[2].MAC = frame.MAC{1} }, fault.Invalid, "group"},
		{"a stack too high", func(m *Mux) { m.Ports[0].Send = make([]Filter, MaxFilters+1) }, fault.Limit, "filters"},
		{"empty rule", func(m *Mux) { m.Ports[0].Send[0].Rule = "" }, fault.Invalid, "without a rule"},
		{"long rule", func(m *Mux) { m.Ports[0].Send[0].Rule = strings.Repeat("x", MaxRule+1) }, fault.Limit, "rule"},
		{"too many bounds", func(m *Mux) { m.Ports[0].Send[0].Bound = make([]netip.Prefix, MaxBound+1) }, fault.Limit, "filter"},
		{"empty bound", func(m *Mux) { m.Ports[0].Send[0].Bound = make([]netip.Prefix, 1) }, fault.Invalid, "prefix"},
		{"mapped bound", func(m *Mux) {
			m.Ports[0].Send[0].Bound = []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.1/120")}
		}, fault.Invalid, "prefix"},
		{"empty router", func(m *Mux) { m.Ports[0].Send[0].Routers = make([]netip.Addr, 1) }, fault.Invalid, "router"},
		{"gateway without port", func(m *Mux) { m.Gateway.Port = 99 }, fault.Invalid, "gateway"},
		{"gateway with a client's port", func(m *Mux) { m.Gateway.Port = 1 }, fault.Invalid, "gateway"},
		{"gateway with another address", func(m *Mux) { m.Gateway.MAC = address(1) }, fault.Invalid, "gateway"},
		{"too many names", func(m *Mux) { m.Gateway.DNS.Names = make([]Name, MaxNames+1) }, fault.Limit, "names"},
		{"a forward twice", func(m *Mux) { m.Gateway.Forward = append(m.Gateway.Forward, m.Gateway.Forward[0]) }, fault.Invalid, "forward 1"},
		{"a forward of icmp", func(m *Mux) { m.Gateway.Forward[0].Proto = "icmp" }, fault.Invalid, "icmp"},
		{"a forward nowhere", func(m *Mux) { m.Gateway.Forward[0].To = netip.AddrPort{} }, fault.Invalid, "forward 1"},
	} {
		m := good()
		c.mod(m)
		err := Check(m)
		if fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v; want %s, %q", c.what, err, c.kind, c.say)
		}
	}
}

// chain makes n muxes, each plugged into the next.
func chain(n int) []*Mux {
	var ms []*Mux
	for i := range n {
		id := PortID(10 * (i + 1))
		ms = append(ms, &Mux{Name: fmt.Sprint("m", i), MTU: 1500, Ports: []Port{
			{ID: id, Device: "x", Role: Interface, MAC: address(1), MTU: 1500},
			{ID: id + 1, Device: "up", Role: Uplink, MTU: 1500, To: id + 10},
		}})
	}
	return ms
}

func TestCheckNesting(t *testing.T) {
	if err := CheckNesting(chain(MaxDepth)); err != nil {
		t.Errorf("the deepest stack: %v", err)
	}
	if err := CheckNesting(chain(MaxDepth + 1)); fault.KindOf(err) != fault.Invalid {
		t.Errorf("one deeper: %v", err)
	}
	for n := 2; n <= MaxDepth; n++ {
		ring := chain(n)
		ring[n-1].Ports[1].To = 10
		if err := CheckNesting(ring); fault.KindOf(err) != fault.Invalid {
			t.Errorf("a ring of %d: %v", n, err)
		}
	}
	twice := chain(3)
	twice[0].Ports[1].To = 30
	if err := CheckNesting(twice); fault.KindOf(err) != fault.Invalid {
		t.Errorf("two plugs in one port: %v", err)
	}
	same := chain(2)
	same[1].Ports[0].ID = 10
	if err := CheckNesting(same); fault.KindOf(err) != fault.Invalid {
		t.Errorf("one identifier in two muxes: %v", err)
	}
}

// A plan of layers with many cables between them is judged in time that grows with the cables.
func TestCheckNestingIsCheap(t *testing.T) {
	var ms []*Mux
	const layers, cables = MaxDepth, 500
	for l := range layers {
		m := &Mux{Name: fmt.Sprint("m", l), MTU: 1500}
		for i := range cables {
			id := PortID(l*10000 + i + 1)
			m.Ports = append(m.Ports, Port{ID: id, Role: Interface}, Port{ID: id + 5000, Role: Uplink, To: id + 10000})
		}
		ms = append(ms, m)
	}
	if err := CheckNesting(ms); err != nil {
		t.Fatal(err)
	}
}
