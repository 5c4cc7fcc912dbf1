package network

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"brane/frame"
	"brane/internal/datapath"
	"brane/internal/plan"
	"brane/internal/store"
)

// Limits per owner. One more is refused with fault.Limit.
const (
	MaxNetworks = 64
	MaxPorts    = 4096 // open ports of one network
	MaxForwards = 64   // published ports of one brane
	MaxBranes   = 4096
)

// Record is the kept form of a network: /networks/NAME.
type Record struct {
	Definition Definition `json:"definition"`
	Persistent bool       `json:"persistent"` // the definition outlives a stop
	Autostart  bool       `json:"autostart"`  // started with the daemon
	Started    bool       `json:"started"`
	// Gateway is the identity of the gateway's port while the network is started.
	Gateway plan.PortID `json:"gateway,omitempty"`
	// Uplink is the identity of the port in the upper mux, for a mux that has one.
	Uplink plan.PortID `json:"uplink,omitempty"`
	// Trouble says why a started network takes no new ports, such as an overlap
	// with a network that the host joined later. Empty when there is none.
	Trouble string          `json:"trouble,omitempty"`
	Owner   store.Principal `json:"owner"`
}

// Port is the kept form of one client's open of a device: /ports/ID.
type Port struct {
	ID        plan.PortID     `json:"id"`
	Network   string          `json:"network"`
	Interface string          `json:"interface"` // the device is NETWORK/INTERFACE
	Kind      datapath.Kind   `json:"kind"`
	MAC       frame.MAC       `json:"mac"`
	MTU       int             `json:"mtu"`
	Owner     store.Principal `json:"owner"`
	Brane     string          `json:"brane,omitempty"`
	Filter    string          `json:"filter,omitempty"` // the client's own receive filter
	Rules     Rules           `json:"rules,omitzero"`
	Opened    time.Time       `json:"opened"`
}

// Device is the port's path.
func (p Port) Device() string { return p.Network + "/" + p.Interface }

// Rules are what a client asked of its port beyond the rule clean.
type Rules struct {
	Send      []string `json:"send,omitempty"`
	Receive   []string `json:"receive,omitempty"`
	AllowHost []uint16 `json:"allowHost,omitempty"`
}

// Brane is the kept form of a network stack instance: /branes/NAME.
type Brane struct {
	Name      string          `json:"name"`
	Network   string          `json:"network"`
	MAC       frame.MAC       `json:"mac"`
	Addrs     []netip.Addr    `json:"addresses"`
	Owner     store.Principal `json:"owner"`
	Command   []string        `json:"command,omitempty"`
	PID       int             `json:"pid,omitempty"` // of the runner
	Created   time.Time       `json:"created"`
	Rules     Rules           `json:"rules,omitzero"`
	Publish   []Publish       `json:"publish,omitempty"`
	NoAddress bool            `json:"noAddress,omitempty"` // it asks for its address itself
}

// Publish is a forward from an address of the host to a port of the brane.
type Publish struct {
	ID    uint64         `json:"id"`
	Proto string         `json:"proto"` // tcp or udp
	Host  netip.AddrPort `json:"host"`
	Port  uint16         `json:"port"`
}

// String is the form of the option: 127.0.0.1:8080:80/tcp.
func (p Publish) String() string {
	return p.Host.String() + ":" + strconv.Itoa(int(p.Port)) + "/" + p.Proto
}

// Where things are kept.
const (
	networksDir = "/networks"
	portsDir    = "/ports"
	branesDir   = "/branes"
	counterPath = "/counters/id"
)

func networkPath(name string) string { return networksDir + "/" + name + "/record" }
func leaseDir(network string) string { return networksDir + "/" + network + "/leases" }
func leasePath(network, name string) string {
	return leaseDir(network) + "/" + name
}
func branePath(name string) string { return branesDir + "/" + name }
func portPath(id plan.PortID) string {
	return portsDir + "/" + strconv.FormatUint(uint64(id), 10)
}

// kind of thing that a path names, with its network and last element.
func splitPath(path string) (kind, network, name string) {
	e := strings.Split(strings.TrimPrefix(path, "/"), "/")
	switch {
	case len(e) == 3 && e[0] == "networks" && e[2] == "record":
		return "network", e[1], e[1]
	case len(e) == 4 && e[0] == "networks" && e[2] == "leases":
		return "lease", e[1], e[3]
	case len(e) == 2 && e[0] == "ports":
		return "port", "", e[1]
	case len(e) == 2 && e[0] == "branes":
		return "brane", "", e[1]
	}
	return "", "", ""
}

// Describe says what a path of the store is: its kind and its name for people;
// an empty kind for what is nobody's business.
func Describe(path string) (kind, subject string) {
	kind, network, name := splitPath(path)
	if kind == "lease" {
		return kind, network + "/" + name
	}
	return kind, name
}
