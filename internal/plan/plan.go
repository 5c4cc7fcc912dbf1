// Package plan is the compiled form of a multiplexer with its ports and
// filters, as the daemon hands it to a datapath: a value, immutable, swapped
// whole. It says everything a datapath needs and nothing of who asked for it.
package plan

import (
	"net/netip"
	"time"

	"brane/frame"
)

// PortID names a port for as long as it lives, across plans and restarts of
// the worker. It is never used again.
type PortID uint64

// Mux is the plan of one multiplexer.
type Mux struct {
	Name     string `json:"name"`     // "office"
	Revision int64  `json:"revision"` // of the store that it was built from
	MTU      int    `json:"mtu"`      // largest IP packet on any of its ports, bytes
	// Aging is how long a learned address lives unheard of.
	Aging time.Duration `json:"aging,omitempty"`
	Ports []Port        `json:"ports"`
	// Gateway is nil for a network without services.
	Gateway *Gateway `json:"gateway,omitempty"`
}

// Role says what a port is to its mux.
type Role string

// The roles. An Uplink receives what is for no known interface, and its
// addresses are learned without the cap of an interface.
const (
	Interface Role = "interface"
	Service   Role = "service" // the gateway, in the worker's own process
	Uplink    Role = "uplink"
)

// Port is one client's open of a device.
type Port struct {
	ID     PortID    `json:"id"`
	Device string    `json:"device"` // path: "office/web". Ports of one device do not hear each other
	Role   Role      `json:"role"`
	MAC    frame.MAC `json:"mac"` // of the interface, pinned: learned by no other port
	MTU    int       `json:"mtu"` // largest IP packet it takes or sends, bytes
	// Filters, from the leaf (the client's own) to the root (the owner of the
	// mux). A frame passes when all say yes; the first no is the verdict.
	Send    []Filter `json:"send,omitempty"`
	Receive []Filter `json:"receive,omitempty"`
	// Learn caps the addresses learned behind the port besides MAC; 0 means none.
	Learn int `json:"learn,omitempty"`
	// FloodRate bounds broadcast and multicast frames a second sent by the port; 0 means the default of 1000.
	FloodRate int `json:"floodRate,omitempty"`
	// Reject answers a frame refused by a send filter or the guard at once, with a
	// TCP reset or an ICMP error, instead of dropping it silently.
	Reject bool `json:"reject,omitempty"`
	// To names the peer for Role Uplink of a nested mux: the port of the upper
	// mux that is plugged in here, in the same worker.
	To PortID `json:"to,omitempty"`
}

// Filter is one rule of a stack.
type Filter struct {
	Owner string `json:"owner"` // principal who set it, shown by why: "uid:1000", "network office"
	// Rule is a pcap-filter expression, or a named rule: "clean", "guard".
	Rule string `json:"rule"`
	// Bound holds the addresses of named rules: for clean, those the port may
	// use; for guard, those it may not reach.
	Bound []netip.Prefix `json:"bound,omitempty"`
	// Ports are the TCP and UDP ports that guard leaves open (--allow-host).
	Ports []uint16 `json:"ports,omitempty"`
	// Replies are UDP ports from which guard lets the port answer the gateway:
	// those that a forward leads to, whose clients appear as the gateway.
	Replies []uint16 `json:"replies,omitempty"`
	// Router is the MAC of the port that routes; guard judges only frames that reach it.
	Router frame.MAC `json:"router,omitzero"`
	// Routers are addresses of the gateway itself, open in guard for its own services.
	Routers []netip.Addr `json:"routers,omitempty"`
}

// Gateway is the network's router and server, a client of the mux like any other.
type Gateway struct {
	Port    PortID         `json:"port"` // its port, Role Service
	MAC     frame.MAC      `json:"mac"`
	Addrs   []netip.Prefix `json:"addrs"` // own addresses with the length of their subnets
	NAT     bool           `json:"nat"`   // forward to the outside through the host's sockets
	Domain  string         `json:"domain,omitempty"`
	DNS     DNS            `json:"dns"`
	DHCP4   *DHCP4         `json:"dhcp4,omitempty"`
	RA      bool           `json:"ra"`      // advertise the IPv6 prefixes of Addrs
	Denied  []netip.Prefix `json:"denied"`  // never dialled on a brane's behalf, in any form of the address
	Allowed []HostPort     `json:"allowed"` // exceptions: gateway address:port reaches the host's loopback
	Forward []Forward      `json:"forward,omitempty"`
}

// DNS is what the gateway's name server knows.
type DNS struct {
	Names     []Name   `json:"names,omitempty"`
	Resolvers []string `json:"resolvers,omitempty"` // host:port of the host's resolvers, asked in order
}

// Name is one name of the network, without the domain, with its addresses.
type Name struct {
	Name  string       `json:"name"`
	Addrs []netip.Addr `json:"addrs"`
}

// DHCP4 is what the gateway's DHCP server says besides the address, which it
// asks the daemon for.
type DHCP4 struct {
	// Gateway is the own address, with the length of the subnet served; the
	// first IPv4 one of Gateway.Addrs when zero.
	Gateway netip.Prefix  `json:"gateway,omitzero"`
	Lease   time.Duration `json:"lease"`
}

// HostPort opens one port of the host to one brane.
type HostPort struct {
	From []netip.Addr `json:"from"` // the brane's addresses
	Port uint16       `json:"port"`
}

// Forward brings connections on an address of the host to a brane. The
// listener itself is opened by the daemon and handed over by ID.
type Forward struct {
	ID    uint64         `json:"id"`
	Proto string         `json:"proto"` // tcp or udp
	To    netip.AddrPort `json:"to"`
}
