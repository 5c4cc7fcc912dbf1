// Package brane runs a program inside a brane: a user, a network, a mount and
// a UTS namespace of its own below the outer ones, with one interface whose
// frames come out at a descriptor.
//
// # Theory of operation
//
//	runner (brane run)             first stage (the same binary)        daemon
//	nsexec ──────────────────────► in its namespaces, all capabilities
//	                               there and none elsewhere
//	       ◄── port: TAP, network  makes eth0 and sends its descriptor
//	       ─── Attach ────────────────────────────────────────────────► port
//	                               addresses, routes, resolv.conf, …
//	       ◄── ready ───────────   waits
//	       ─── go ─────────────►   gives up privilege, executes the
//	       ◄── end of file ─────   program: the socket closes with exec
//	waits, passes signals on
//
// The runner is the parent of the program and stays in the same session and
// process group, so that terminal and job control work as if it were not
// there. It holds the port and the namespaces until the program has ended.
// Killed with SIGKILL it takes the program along (not what the program started).
//
// The Spec goes to the first stage in a file in memory, never in
// arguments, and only the first stage reads it: the program inherits descriptors
// 0 to 2 alone.
//
// There is no PID namespace: procfs shows the user's processes, and the user
// namespace keeps the program from looking into them or tracing them. It can
// send signals to processes of the same user where the kernel cannot forbid it
// (Landlock does, from Linux 6.12).
package brane

import (
	"context"
	"net/netip"
	"path/filepath"
	"strings"

	"brane/frame"
	"brane/internal/fault"
)

// InitMode is the first argument of the binary for the first stage.
const InitMode = "brane-init"

// Outer holds descriptors of the namespaces that branes are made in. User is
// -1 where the runner's own privilege makes them (root); Net is not needed here.
type Outer struct {
	User, Mnt, Net int
}

// Spec says what to run and how the brane looks from inside.
type Spec struct {
	Name   string   `json:"name"`             // of the brane; also its host name
	Domain string   `json:"domain,omitempty"` // of the network; its search domain
	Args   []string `json:"args"`             // the program and its arguments
	Dir    string   `json:"dir"`              // working directory; the runner's when empty
	AsRoot bool     `json:"asRoot,omitempty"` // appear as uid 0, with the capabilities of the brane's own user namespace
	MAC    string   `json:"mac"`              // of eth0
	MTU    int      `json:"mtu,omitempty"`    // of eth0, bytes; 1500 when 0
	// NoAddress leaves eth0 up and bare: the program asks for an address itself.
	NoAddress bool           `json:"noAddress,omitempty"`
	Addrs     []netip.Prefix `json:"addrs,omitempty"`    // with the length of their subnets
	Gateways  []netip.Addr   `json:"gateways,omitempty"` // default routes, at most one a family
	DNS       []netip.Addr   `json:"dns,omitempty"`      // name servers; the gateways when empty
	// Runtime and UserRuntime are as for the broker; Run fills UserRuntime from the environment.
	Runtime     string `json:"runtime,omitempty"`
	UserRuntime string `json:"userRuntime,omitempty"`
}

// Host is what the runner needs of the daemon.
type Host interface {
	// Attach connects the brane's interface to its network: kind is a
	// datapath.Kind, and the descriptors are the port's and, for a TAP, that of the brane's
	// network namespace. They stay open, and the runner's, until Run returns.
	Attach(ctx context.Context, kind string, fds []int) error
	// Veth makes a veth pair whose inner end is eth0 in the network namespace
	// given and returns a packet socket on the outer end. It is asked for where no
	// TAP can be opened.
	Veth(ctx context.Context, netns int) (int, error)
}

// Limits of a Spec.
const (
	maxAddrs    = 64
	maxSpec     = 16 << 20 // bytes of its JSON; the kernel bounds arguments to less
	maxHostName = 64       // gethostname(2)
)

// interfaceName is what a brane's interface is called inside.
const interfaceName = "eth0"

// check refuses what the first stage could not carry out.
func (s *Spec) check() error {
	const op = "run"
	bad := func(format string, args ...any) error { return fault.New(fault.Invalid, op, s.Name, format, args...) }
	if s.Name == "" || len(s.Name) > maxHostName || strings.ContainsAny(s.Name, "\x00\n/ ") {
		return bad("%.70q cannot be a host name", s.Name)
	}
	if strings.ContainsAny(s.Domain, "\x00\n ") || len(s.Domain) > 255 {
		return bad("%.70q cannot be a domain", s.Domain)
	}
	if len(s.Args) == 0 || s.Args[0] == "" {
		return bad("no program is given")
	}
	if _, err := frame.ParseMAC(s.MAC); err != nil {
		return bad("%v", err)
	}
	if s.MTU < 68 || s.MTU > 65535 {
		return bad("an MTU of %d; it must be 68 to 65535", s.MTU)
	}
	if len(s.Addrs) > maxAddrs || len(s.Gateways) > maxAddrs || len(s.DNS) > maxAddrs {
		return bad("more than %d addresses, gateways or name servers", maxAddrs)
	}
	for _, a := range s.Addrs {
		if !a.IsValid() {
			return bad("an address is not valid")
		}
	}
	for _, a := range append(append([]netip.Addr{}, s.Gateways...), s.DNS...) {
		if !a.IsValid() || a.Zone() != "" {
			return bad("the address %s of a gateway or name server is not valid", a)
		}
	}
	for _, p := range []string{s.Dir, s.UserRuntime, s.Runtime} {
		if p != "" && !filepath.IsAbs(p) {
			return bad("%q is not an absolute path", p)
		}
	}
	return nil
}

// message goes between runner and first stage, one a packet.
type message struct {
	// Port comes with the descriptors of the port (for a TAP) and the network
	// namespace; NeedVeth with that of the namespace alone.
	Port     string       `json:"port,omitempty"`
	NeedVeth bool         `json:"needVeth,omitempty"`
	Veth     bool         `json:"veth,omitempty"` // from the runner: the pair is there
	Ready    bool         `json:"ready,omitempty"`
	Go       bool         `json:"go,omitempty"` // from the runner: the port is attached
	Fault    *fault.Error `json:"fault,omitempty"`
	Status   int          `json:"status,omitempty"` // with Fault: what the runner exits with, 126 or 127; else 0
}
