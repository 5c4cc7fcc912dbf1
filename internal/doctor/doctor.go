// Package doctor says what this machine allows, what that means for the user,
// and the remedy for what it does not allow. Gather asks the machine; Examine
// judges what was found and asks nothing; Report shows it.
package doctor

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"

	"brane/internal/linux/probe"
)

// State of a check.
type State string

// The states. Failed is what Brane cannot do without; Limited is what it does
// without, in a way that Means tells.
const (
	OK      State = "ok"
	Limited State = "limited"
	Failed  State = "failed"
	Unknown State = "unknown"
)

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"`
	State  State  `json:"state"`
	Found  string `json:"found"`            // what was tried and what came of it
	Means  string `json:"means,omitempty"`  // what it costs; empty when OK
	Remedy string `json:"remedy,omitempty"` // what the user can do; empty when OK or when there is nothing
}

// Report is all checks, the most important first.
type Report struct {
	Kernel string  `json:"kernel"`
	Checks []Check `json:"checks"`
}

// Network is a network of Brane whose subnet may overlap with what the host
// reaches itself.
type Network struct {
	Name   string
	Subnet netip.Prefix
}

// Run gathers and examines. Networks are compared with the host's own
// addresses and routes; those of interfaces that carry the networks themselves must be left out.
func Run(ctx context.Context, networks ...Network) Report {
	f := Gather(ctx)
	f.Networks = networks
	return Examine(f)
}

// Blocking reports whether a check failed.
func (r Report) Blocking() bool {
	for _, c := range r.Checks {
		if c.State == Failed {
			return true
		}
	}
	return false
}

// Table writes the report for people: a line for each check, and below those
// that are not well what that means and what to do.
func (r Report) Table(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "Brane on %s\n", r.Kernel); err != nil {
		return err
	}
	var lines strings.Builder
	t := tabwriter.NewWriter(&lines, 0, 0, 2, ' ', 0)
	for _, c := range r.Checks {
		fmt.Fprintf(t, "%s\t%s\t%s\n", c.State, c.Name, c.Found)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	rest := lines.String()
	for _, c := range r.Checks {
		line, after, _ := strings.Cut(rest, "\n")
		rest = after
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
		for _, note := range []struct{ label, text string }{{"means", c.Means}, {"remedy", c.Remedy}} {
			if note.text == "" {
				continue
			}
			if _, err := fmt.Fprintf(w, "         %s: %s\n", note.label, note.text); err != nil {
				return err
			}
		}
	}
	return nil
}

// Facts are what Gather found.
type Facts struct {
	Kernel probe.Kernel
	Root   bool
	User   string // login name; empty when unknown

	UserNamespaces, Nested, Tun, Ping, PeerPIDFD, Seccomp, Landlock, Linger, USO, TCX, BPFToken probe.Result

	MaxUserNamespaces string // of /proc/sys/user/max_user_namespaces; empty when the kernel lacks it
	UnprivilegedClone string // of kernel/unprivileged_userns_clone, a switch of Debian's
	AppArmorRestricts string // of kernel/apparmor_restrict_unprivileged_userns, a switch of Ubuntu's
	PingGroupRange    string // of net/ipv4/ping_group_range

	RuntimeDir string // XDG_RUNTIME_DIR
	RuntimeErr error  // why it cannot be used

	Host     []netip.Prefix // addresses and on-link routes
	HostErr  error
	Networks []Network
}
