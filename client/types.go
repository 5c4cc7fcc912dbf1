// Package client speaks to a Brane daemon: networks, branes and drops over its
// HTTP API, frames and descriptors over its device socket. The types are the
// JSON of docs/openapi.yaml.
package client

import (
	"encoding/json"
	"net/netip"
	"time"

	"brane/internal/fault"
)

// Version is the version of the API; client and daemon of different versions do not talk.
const Version = 1

// Daemon is what the daemon says of itself.
type Daemon struct {
	Version int    `json:"version"`
	Release string `json:"release"`
	PID     int    `json:"pid"`
	Worker  int    `json:"worker"` // its process, 0 while it restarts
	Broker  int    `json:"broker"`
}

// Identity is the answer to "who am I".
type Identity struct {
	UID     uint32 `json:"uid"`
	Inside  bool   `json:"inside"` // the asker is in a network namespace that is not the daemon's
	Brane   string `json:"brane,omitempty"`
	Network string `json:"network,omitempty"`
}

// Network is a network as shown.
type Network struct {
	Name       string          `json:"name"`
	Definition json.RawMessage `json:"definition"`
	XML        string          `json:"xml"`
	Running    bool            `json:"running"`
	Persistent bool            `json:"persistent"`
	Autostart  bool            `json:"autostart"`
	Trouble    string          `json:"trouble,omitempty"`
	Subnets    []netip.Prefix  `json:"subnets"`
	Forward    string          `json:"forward"`
	Uplink     string          `json:"uplink,omitempty"`
	Branes     int             `json:"branes"`
	Ports      int             `json:"ports"`
	Warnings   []string        `json:"warnings,omitempty"`
}

// Lease is one address lease.
type Lease struct {
	Name    string       `json:"name"`
	MAC     string       `json:"mac"`
	Addrs   []netip.Addr `json:"addresses"`
	Static  bool         `json:"static,omitempty"`
	Held    bool         `json:"held,omitempty"`
	Expires *time.Time   `json:"expires,omitempty"`
}

// Publish is a port of the host that leads to a brane.
type Publish struct {
	Host  netip.AddrPort `json:"host"`
	Port  uint16         `json:"port"`
	Proto string         `json:"proto"` // tcp or udp
}

// BraneRequest asks for a brane.
type BraneRequest struct {
	Name      string    `json:"name,omitempty"`
	Network   string    `json:"network,omitempty"` // default when empty
	Command   []string  `json:"command,omitempty"`
	PID       int       `json:"pid,omitempty"`
	Send      []string  `json:"send,omitempty"`
	Receive   []string  `json:"receive,omitempty"`
	AllowHost []uint16  `json:"allowHost,omitempty"`
	Publish   []Publish `json:"publish,omitempty"`
	NoAddress bool      `json:"noAddress,omitempty"`
	Adopt     bool      `json:"adopt,omitempty"`
}

// Brane is a network stack instance as shown.
type Brane struct {
	Name      string         `json:"name"`
	Network   string         `json:"network"`
	State     string         `json:"state"` // started; created while no port of it is open
	MAC       string         `json:"mac"`
	MTU       int            `json:"mtu"`
	Addresses []netip.Prefix `json:"addresses"`
	Gateways  []netip.Addr   `json:"gateways"`
	Domain    string         `json:"domain"`
	Owner     string         `json:"owner"`
	Command   []string       `json:"command,omitempty"`
	PID       int            `json:"pid,omitempty"`
	Created   time.Time      `json:"created"`
	Send      []string       `json:"send,omitempty"`
	Receive   []string       `json:"receive,omitempty"`
	AllowHost []uint16       `json:"allowHost,omitempty"`
	Publish   []Publish      `json:"publish,omitempty"`
	NoAddress bool           `json:"noAddress,omitempty"`
	Ports     []Port         `json:"ports,omitempty"`
}

// Port is an open port as shown, with its counters by verdict.
type Port struct {
	ID      uint64            `json:"id"`
	Device  string            `json:"device"`
	Kind    string            `json:"kind"`
	MAC     string            `json:"mac"`
	MTU     int               `json:"mtu"`
	Owner   string            `json:"owner"`
	Brane   string            `json:"brane,omitempty"`
	Filter  string            `json:"filter,omitempty"`
	Send    []string          `json:"send,omitempty"`
	Receive []string          `json:"receive,omitempty"`
	From    map[string]uint64 `json:"from,omitempty"` // frames that its client sent
	To      map[string]uint64 `json:"to,omitempty"`   // frames that were for it
	Bytes   [2]uint64         `json:"bytes"`          // sent, received
	Learned int               `json:"learned,omitempty"`
}

// Drop is one refused frame.
type Drop struct {
	Seq    uint64    `json:"seq"`
	Time   time.Time `json:"time"`
	Device string    `json:"device"`
	Brane  string    `json:"brane,omitempty"`
	To     bool      `json:"to"` // refused on the way to the device, not as it was sent
	Reason string    `json:"reason"`
	Frame  string    `json:"frame"`
	Rule   string    `json:"rule,omitempty"`
	Owner  string    `json:"owner,omitempty"`
}

// Event is one change that the daemon tells of.
type Event struct {
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind"` // network, brane, port, lease, trouble
	Subject string    `json:"subject"`
	Action  string    `json:"action"` // created, changed, deleted
	Detail  string    `json:"detail,omitempty"`
}

// OpenRequest is the first message on the device socket.
type OpenRequest struct {
	Op      string `json:"op"`               // open, namespaces, veth
	Device  string `json:"device,omitempty"` // NETWORK/INTERFACE
	Kind    string `json:"kind,omitempty"`   // see datapath.Kind; seqpacket when empty
	Filter  string `json:"filter,omitempty"` // own receive filter, a pcap-filter expression
	Vnet    bool   `json:"vnet,omitempty"`   // a virtio-net header of 12 bytes before each frame
	MAC     string `json:"mac,omitempty"`
	Brane   string `json:"brane,omitempty"`
	Send    string `json:"send,omitempty"`
	Receive string `json:"receive,omitempty"`
	MTU     int    `json:"mtu,omitempty"` // for veth
}

// OpenReply is the one answer; either Error or the rest is set.
type OpenReply struct {
	Error     *fault.Error   `json:"error,omitempty"`
	Port      uint64         `json:"port,omitempty"`
	MAC       string         `json:"mac,omitempty"`
	MTU       int            `json:"mtu,omitempty"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Gateways  []netip.Addr   `json:"gateways,omitempty"`
	Files     []string       `json:"files,omitempty"` // what the descriptors that come along are
}
