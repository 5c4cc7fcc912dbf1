// Package network holds virtual networks: a multiplexer with addresses, names,
// a gateway and forwards. A network has four facts: its definition, its live
// state, whether it is persistent, and whether it starts by itself.
package network

import (
	"net/netip"
	"time"

	"brane/frame"
)

// Definition is what a network file says, typed and checked. It is the JSON of
// the store and of the API; internal/config makes it from libvirt XML.
type Definition struct {
	Name    string    `json:"name"`
	UUID    string    `json:"uuid,omitempty"`
	MAC     frame.MAC `json:"mac,omitzero"` // of the gateway; derived from the name when zero
	Forward Forward   `json:"forward"`
	Device  string    `json:"device,omitempty"` // the one host interface that traffic for the outside may leave by; any when empty
	Domain  string    `json:"domain,omitempty"` // names are NAME.DOMAIN; the network's name when empty
	MTU     int       `json:"mtu,omitempty"`    // 1500 when 0
	Subnets []Subnet  `json:"subnets,omitempty"`
	Hosts   []DNSHost `json:"hosts,omitempty"` // fixed names
	// Uplink is the device above a mux made without a network file: "office"
	// plugs this mux into that network. Addresses then come from there.
	Uplink string `json:"uplink,omitempty"`
}

// Forward is what happens to traffic for the outside.
type Forward string

// The modes. None is an isolated network: its gateway serves DHCP and names and forwards nothing.
const (
	NAT  Forward = "nat"
	None Forward = "none"
)

// Subnet is one ip element: the gateway's address and the pool of one family.
type Subnet struct {
	Gateway netip.Prefix `json:"gateway"` // the gateway's address with the length of the subnet
	DHCP    bool         `json:"dhcp"`    // an element dhcp is there
	Ranges  []Range      `json:"ranges,omitempty"`
	Hosts   []DHCPHost   `json:"hosts,omitempty"` // static leases, part of the same pool
}

// Range is inclusive at both ends.
type Range struct {
	Start netip.Addr    `json:"start"`
	End   netip.Addr    `json:"end"`
	Lease time.Duration `json:"lease,omitempty"` // 1 h when 0; negative: for ever
}

// DHCPHost is a static lease, by MAC or by name (or both).
type DHCPHost struct {
	MAC   frame.MAC     `json:"mac,omitzero"`
	Name  string        `json:"name,omitempty"` // may have dots: then it is a full name
	Addr  netip.Addr    `json:"addr"`
	Lease time.Duration `json:"lease,omitempty"` // as in Range; what the client is told, the address stays its own
}

// DNSHost gives names to an address.
type DNSHost struct {
	Addr  netip.Addr `json:"addr"`
	Names []string   `json:"names"`
}

// Lease binds an address of each family to a name and a MAC; the kept form of
// /networks/NET/leases/NAME.
type Lease struct {
	Name     string       `json:"name"`
	MAC      frame.MAC    `json:"mac"`
	Addrs    []netip.Addr `json:"addrs"`
	Static   bool         `json:"static,omitempty"`   // from the definition
	Held     bool         `json:"held,omitempty"`     // by a brane or port that lives: never expires
	Expires  time.Time    `json:"expires,omitzero"`   // by the wall clock, to be shown; unused while Held
	Deadline Deadline     `json:"deadline,omitzero"`  // what decides; unused while Held
	Client   string       `json:"client,omitempty"`   // DHCP client identifier, hex
	Host     string       `json:"hostname,omitempty"` // as the DHCP client called itself, checked
}
