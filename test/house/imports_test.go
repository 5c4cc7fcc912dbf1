package house

import (
	"path/filepath"
	"strings"
	"testing"
)

// floors is the house from the ground up. A package imports only floors below
// its own; a new package needs a place here. A trailing slash takes in
// everything below.
var floors = []struct {
	floor    int
	packages []string
}{
	{0, []string{"frame", "internal/fault", "internal/verdict"}}, // values
	{1, []string{ // engines: no goroutine, clock, socket or file
		"filter", "internal/mux", "internal/plan", "internal/dhcp", "internal/dns", "internal/ra", "internal/pool", "internal/store",
	}},
	{2, []string{"internal/linux/"}},                      // the machine
	{3, []string{"internal/datapath/", "internal/stack"}}, // what moves frames
	{4, []string{"internal/network", "internal/brane", "internal/broker", "internal/worker", "internal/publish", "internal/doctor"}}, // what lives
	{5, []string{"internal/server", "internal/config", "client"}},                                                                    // doors
	{6, []string{"cmd/"}},
	{7, []string{"test/", "internal/store/storetest", "internal/datapath/datapathtest", "internal/linux/linuxtest"}}, // for tests alone
}

// edges are the imports within a floor, each with its reason.
var edges = exceptions{
	"internal/mux -> internal/plan":                    "a switch is built from a plan",
	"internal/dhcp -> internal/plan":                   "the plan's value says what the service hands out",
	"internal/ra -> internal/plan":                     "the plan's value says what the service announces",
	"internal/dns -> internal/plan":                    "the plan's value says what the service answers",
	"internal/dns -> filter":                           "the addresses nobody may reach are listed once",
	"internal/linux/confine -> internal/linux/seccomp": "shutting in ends with the filter of system calls",
	"internal/datapath/userspace -> internal/datapath": "a datapath keeps the contract",
	"internal/linux/probe -> internal/linux/nsexec":    "whether namespaces may be made is found out by making one",
	"internal/publish -> internal/network":             "published ports are network state",
	"internal/server -> internal/config":               "a door takes definitions as text",
	"internal/server -> client":                        "both sides of the door share its words",
}

// floorOf gives the floor of a package; the longest entry wins.
func floorOf(dir string) (int, bool) {
	floor, length := 0, -1
	for _, f := range floors {
		for _, p := range f.packages {
			below := strings.HasSuffix(p, "/") && strings.HasPrefix(dir+"/", p)
			if (dir == p || below) && len(p) > length {
				floor, length = f.floor, len(p)
			}
		}
	}
	return floor, length >= 0
}

// TestFloors: a package imports only packages of lower floors, and those for
// tests are imported by tests alone.
func TestFloors(t *testing.T) {
	_, list := source(t)
	edges := edges.keep(t)
	for _, f := range list {
		from, ok := floorOf(f.dir)
		if !ok {
			t.Errorf("%s has no floor: give it one in test/house/imports_test.go", f.dir)
			continue
		}
		for _, path := range f.imported() {
			dir, ours := strings.CutPrefix(path, "brane/")
			if !ours || dir == f.dir || f.test {
				continue
			}
			to, _ := floorOf(dir)
			if to >= from && !edges.allows(f.dir+" -> "+dir) && from != 7 {
				t.Errorf("%s (floor %d) imports %s (floor %d)", f.path, from, dir, to)
			}
		}
	}
	edges.end()
}

// owners are the packages that alone may import a module, so that it can be
// replaced, and its surprises found, in one place. A trailing slash takes in
// everything below.
var owners = []struct{ module, owner, reason string }{
	{"golang.org/x/sys/unix", "internal/linux/", "one place that speaks to the kernel"},
	{"github.com/vishvananda/netlink", "internal/linux/netlink", "one place that speaks rtnetlink"},
	{"gvisor.dev/gvisor", "internal/stack", "a large module with an unstable API"},
	{"go.etcd.io/bbolt", "internal/store", "the contract of the store hides its file"},
	{"github.com/spf13/cobra", "cmd/", "only commands parse command lines"},
	{"libvirt.org/go/libvirtxml", "internal/config", "foreign formats end at the door"},
	{"github.com/miekg/dns", "internal/dns", "messages of others are parsed in one place"},
	{"github.com/insomniacslk/dhcp", "internal/dhcp", "messages of others are parsed in one place"},
}

// foreign lists imports outside the owner.
var foreign = exceptions{
	"internal/brane imports golang.org/x/sys/unix":  "the first stage inside a brane sets up its own process between clone and exec",
	"internal/broker imports golang.org/x/sys/unix": "names the flags and errors of the calls that internal/linux makes for it",
}

// TestOwners: the large and the low-level modules have one importer each. Tests
// may use them as oracles and instruments.
func TestOwners(t *testing.T) {
	_, list := source(t)
	keep := foreign.keep(t)
	for _, f := range list {
		if f.test {
			continue
		}
		for _, path := range f.imported() {
			for _, o := range owners {
				if path != o.module && !strings.HasPrefix(path, o.module+"/") {
					continue
				}
				if f.dir == o.owner || strings.HasSuffix(o.owner, "/") && strings.HasPrefix(f.dir+"/", o.owner) {
					continue
				}
				if floor, _ := floorOf(f.dir); floor == 7 || keep.allows(f.dir+" imports "+o.module) {
					continue
				}
				t.Errorf("%s imports %s, which only %s may: %s", f.path, o.module, o.owner, o.reason)
			}
		}
	}
	keep.end()
}

// impure are the imports that an engine does without.
var impure = map[string]string{
	"os": "files are arguments", "os/exec": "an engine starts nothing", "net": "addresses are net/netip's; sockets are the shell's",
	"syscall": "the machine is floor 2", "log/slog": "an engine returns events", "net/http": "doors are floor 5",
}

// shells lists what is beside an engine in its package and not pure.
var shells = exceptions{
	"internal/dns/server.go net":     "the shell around the engine of names",
	"internal/dns/screen.go net":     "the shell around the engine of names",
	"internal/dns/dial.go net":       "the shell around the engine of names",
	"internal/dhcp/reply.go net":     "net.IP is the form of the DHCP module",
	"internal/dhcp/request.go net":   "net.IP is the form of the DHCP module",
	"internal/store/bolt.go os":      "the shell around the tree: its file",
	"internal/store/bolt.go syscall": "the shell around the tree: its file",
	"internal/store/lock.go os":      "the shell around the tree: its file",
	"internal/store/lock.go syscall": "the shell around the tree: its file",
}

// TestEnginesArePure: what the packages of floor 0 and 1 import leaves them
// nothing to wait for.
func TestEnginesArePure(t *testing.T) {
	_, list := source(t)
	keep := shells.keep(t)
	for _, f := range list {
		if floor, _ := floorOf(f.dir); floor > 1 || f.test {
			continue
		}
		for _, path := range f.imported() {
			if why, bad := impure[path]; bad && !keep.allows(f.path+" "+path) {
				t.Errorf("%s imports %s: %s", f.path, path, why)
			}
		}
	}
	keep.end()
}

// TestFloorOf: the table is read as it is meant.
func TestFloorOf(t *testing.T) {
	for dir, want := range map[string]int{
		"frame": 0, "internal/linux/tap": 2, "internal/linux/linuxtest": 7, "cmd/brane": 6, "internal/datapath": 3, "test/house": 7, "client": 5,
	} {
		if got, ok := floorOf(dir); !ok || got != want {
			t.Errorf("%s is on floor %d, want %d", dir, got, want)
		}
	}
	if _, ok := floorOf(filepath.Join("internal", "util")); ok {
		t.Error("a package without a place has a floor")
	}
}
