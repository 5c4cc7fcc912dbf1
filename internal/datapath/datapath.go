// Package datapath is the contract between a plan and what carries its frames.
// The userspace switch implements it today; kernel datapaths come later behind
// the same conformance suite.
package datapath

import (
	"time"

	"brane/internal/plan"
	"brane/internal/verdict"
)

// Datapath runs plans. All methods may be called from any goroutine.
type Datapath interface {
	// Apply puts a plan in force: made when the mux is new, swapped whole when
	// it is not. When it returns, no frame is judged by the old plan: every port
	// has passed a quiescent point, batches in hand included. Ports that the plan
	// no longer names are closed; ports it names but that are not attached yet
	// drop what is for them with Closed. On error the old plan stays whole.
	Apply(m *plan.Mux) error
	// Remove ends a mux and closes its ports.
	Remove(mux string) error
	// Attach gives a port of a plan in force its endpoint. The endpoint belongs
	// to the datapath from then on, also when Attach fails. No frame moves before
	// the plan that names the port is in force.
	Attach(mux string, id plan.PortID, e Endpoint) error
	// Send puts a frame (virtio-net header first) in at a port with a Local
	// endpoint, as its client would. The buffer is the caller's again on return;
	// the header in it may have been written anew. A refusal is the result alone:
	// no answer is delivered to a Local client.
	Send(mux string, id plan.PortID, buf []byte) verdict.Reason
	// Counters are those of one mux, by port.
	Counters(mux string) []Counters
	// Drops are the latest refused frames of all muxes, oldest first, newer than
	// the sequence number given; the ring holds 1,024.
	Drops(since uint64) []Drop
	// Close ends everything. It waits for the ports' goroutines.
	Close() error
}

// Kind is the form of an endpoint's descriptor.
type Kind string

// The kinds.
const (
	TAP       Kind = "tap"       // a TAP with IFF_VNET_HDR, header of 12 bytes
	Packet    Kind = "packet"    // a packet socket bound to one interface, PACKET_VNET_HDR (10-byte header)
	SeqPacket Kind = "seqpacket" // a device socket, one frame a message, without a header
	SeqVnet   Kind = "seqvnet"   // the same, each frame after its virtio-net header of 12 bytes
	Stream    Kind = "stream"    // QEMU -netdev stream: 4 bytes big-endian length, then the frame
	Dgram     Kind = "dgram"     // QEMU -netdev dgram: one frame a datagram, socket connected
	Local     Kind = "local"     // in this process: Deliver takes frames, Datapath.Send puts them in
)

// Endpoint is the client's side of a port.
type Endpoint struct {
	Kind Kind
	FD   int // owned by the datapath after Attach; unused for Local
	// Deliver takes one frame, virtio-net header first, for a Local client. The
	// buffer is valid during the call only. It must not block, and must not call
	// back into the datapath for the same mux.
	Deliver func(buf []byte)
	// Greeting is sent to a socket's client as one message before anything else,
	// so that the client knows of its port when, and not before, the port is there.
	Greeting []byte
}

// Events is what a datapath tells its owner. Calls come from its goroutines and must not block.
type Events struct {
	// Closed tells that a port's client has gone; the port stays in the plan until the next Apply.
	Closed func(mux string, id plan.PortID, cause error)
}

// Counters of one port. From counts frames that its client sent, To those that
// were for it; each is indexed by verdict.Reason. A flooded frame counts once
// in its sender's From and once in each candidate receiver's To.
type Counters struct {
	Port      plan.PortID           `json:"port"`
	From      [verdict.Count]uint64 `json:"from"`
	To        [verdict.Count]uint64 `json:"to"`
	FromBytes uint64                `json:"fromBytes"` // of delivered frames, Ethernet header included
	ToBytes   uint64                `json:"toBytes"`
	Learned   int                   `json:"learned"` // addresses now known behind the port
}

// Drop is one refused frame.
type Drop struct {
	Seq    uint64         `json:"seq"`
	Time   time.Time      `json:"time"`
	Mux    string         `json:"mux"`
	Port   plan.PortID    `json:"port"` // whose verdict it is
	To     bool           `json:"to"`   // false: refused as it was sent; true: refused on the way to the port
	Reason verdict.Reason `json:"reason"`
	Frame  string         `json:"frame"` // one line, as frame.Packet.String
	Rule   string         `json:"rule,omitempty"`
	Owner  string         `json:"owner,omitempty"`
}
