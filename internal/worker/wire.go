// Package worker is the process that parses what strangers send: the datapath
// and the gateways of one owner, without capabilities, in an empty root, behind
// a seccomp filter. The daemon hands it plans and descriptors; it sends back
// counters, verdicts and requests for leases.
//
// The two ends speak over one stream of framed messages (unixmsg). When that
// ends, the worker ends: it has nothing of its own to keep. When the worker
// ends, the daemon starts another, hands every plan over again, and the clients
// of its ports come back with their descriptors.
package worker

import (
	"net/netip"

	"brane/frame"
	"brane/internal/datapath"
	"brane/internal/plan"
)

// Mode is the first argument of the binary for this process.
const Mode = "worker-process"

// MaxMessage bounds one message between daemon and worker, in bytes.
const MaxMessage = 32 << 20

// The verbs of the daemon.
const (
	verbPlan     = "plan"     // plan.Mux
	verbChange   = "change"   // change, of the plan in force
	verbRemove   = "remove"   // muxName
	verbAttach   = "attach"   // attach, with one descriptor
	verbForward  = "forward"  // forward, with one listening descriptor
	verbCounters = "counters" // muxName -> []datapath.Counters
	verbDrops    = "drops"    // since -> []datapath.Drop
)

// The verbs of the worker.
const (
	verbLease   = "lease"   // LeaseAsk -> Lease
	verbRelease = "release" // LeaseAsk
	noteClosed  = "closed"  // closed: a port's client is gone
)

type muxName struct {
	Mux string `json:"mux"`
}

type attach struct {
	Mux  string        `json:"mux"`
	Port plan.PortID   `json:"port"`
	Kind datapath.Kind `json:"kind"`
	// Greeting is sent to the client when the port is there.
	Greeting []byte `json:"greeting,omitempty"`
}

type forward struct {
	Mux   string `json:"mux"`
	ID    uint64 `json:"id"`
	Proto string `json:"proto"`
}

type since struct {
	Seq uint64 `json:"seq"`
}

type closed struct {
	Mux   string      `json:"mux"`
	Port  plan.PortID `json:"port"`
	Cause string      `json:"cause"`
}

// LeaseAsk is a DHCP client's request, as the gateway passes it on.
type LeaseAsk struct {
	Mux    string     `json:"mux"`
	MAC    frame.MAC  `json:"mac"`
	Want   netip.Addr `json:"want,omitzero"`
	Client string     `json:"client,omitempty"`
	Host   string     `json:"host,omitempty"`
}

// Lease is the daemon's answer: written down, and in force at the port.
type Lease struct {
	Name string     `json:"name"`
	Addr netip.Addr `json:"addr"`
}
