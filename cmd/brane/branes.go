package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"brane/client"
	"brane/internal/fault"
)

func (a *app) listCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the branes", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			list, err := d.Branes(c.Context())
			if err != nil {
				return err
			}
			return a.show(list, func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tNETWORK\tSTATE\tADDRESS\tPUBLISHED\tPROGRAM")
				for _, b := range list {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", b.Name, b.Network, b.State, plain(b.Addresses, " "), published(b), strings.Join(b.Command, " "))
				}
			})
		},
	}
}

func plain(list []netip.Prefix, sep string) string {
	var out []string
	for _, p := range list {
		out = append(out, p.Addr().String())
	}
	return strings.Join(out, sep)
}

func published(b client.Brane) string {
	var out []string
	for _, p := range b.Publish {
		out = append(out, fmt.Sprintf("%s->%d/%s", p.Host, p.Port, p.Proto))
	}
	return strings.Join(out, " ")
}

func (a *app) showCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show BRANE", Short: "Show one brane, its ports and what became of their frames", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			d, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			b, err := d.Brane(c.Context(), args[0])
			if err != nil {
				return err
			}
			return a.show(b, func(w io.Writer) { tableBrane(w, b) })
		},
	}
}

func tableBrane(w io.Writer, b client.Brane) {
	fmt.Fprintf(w, "name\t%s\nnetwork\t%s\nstate\t%s\nMAC\t%s\nMTU\t%d\naddresses\t%s\n", b.Name, b.Network, b.State, b.MAC, b.MTU, plain(b.Addresses, " "))
	fmt.Fprintf(w, "program\t%s\nrunner\tpid %d, %s, since %s\n", strings.Join(b.Command, " "), b.PID, b.Owner, b.Created.Local().Format(time.DateTime))
	if len(b.Publish) > 0 {
		fmt.Fprintf(w, "published\t%s\n", published(b))
	}
	for _, e := range b.Send {
		fmt.Fprintf(w, "send\t%s\n", e)
	}
	for _, e := range b.Receive {
		fmt.Fprintf(w, "receive\t%s\n", e)
	}
	for _, p := range b.Ports {
		tablePort(w, p)
	}
}

func tablePort(w io.Writer, p client.Port) {
	fmt.Fprintf(w, "port %d\t%s, %s, %s\n", p.ID, p.Device, p.Kind, p.MAC)
	fmt.Fprintf(w, "  sent\t%s, %d bytes\n", verdicts(p.From), p.Bytes[0])
	fmt.Fprintf(w, "  received\t%s, %d bytes\n", verdicts(p.To), p.Bytes[1])
}

// verdicts prints counters with delivered first, then by number.
func verdicts(m map[string]uint64) string {
	words := make([]string, 0, len(m))
	for k := range m {
		if k != "delivered" {
			words = append(words, k)
		}
	}
	sort.Slice(words, func(i, j int) bool {
		return m[words[i]] > m[words[j]] || m[words[i]] == m[words[j]] && words[i] < words[j]
	})
	out := fmt.Sprintf("%d delivered", m["delivered"])
	for _, k := range words {
		out += fmt.Sprintf(", %d %s", m[k], k)
	}
	return out
}

func (a *app) stopCommand() *cobra.Command {
	return &cobra.Command{
		Use: "stop BRANE", Short: "End the program of a brane", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			d, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			b, err := d.Brane(c.Context(), args[0])
			if err != nil {
				return err
			}
			if b.PID > 0 && b.State == "started" {
				if p, err := os.FindProcess(b.PID); err == nil {
					_ = p.Signal(syscall.SIGTERM) // the runner passes it on and takes the brane away
				}
				defer a.waiting("waiting for the end of " + b.Name)()
				return awaitGone(c.Context(), d, b.Name)
			}
			return d.DeleteBrane(c.Context(), b.Name)
		},
	}
}

// awaitGone waits for a brane's end, at most ten seconds.
func awaitGone(ctx context.Context, d *client.Client, name string) error {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, err := d.Brane(ctx, name); fault.KindOf(err) == fault.NotFound {
			return nil
		}
	}
	return fault.New(fault.Busy, "stop brane", name, "its program does not end").WithRemedy("kill it, or wait")
}

func (a *app) idCommand() *cobra.Command {
	return &cobra.Command{
		Use: "id", Short: "Say in which brane this runs; the one question that may be asked from inside", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			id, err := a.askWho()
			if err != nil {
				return err
			}
			return a.show(id, func(w io.Writer) {
				if !id.Inside {
					fmt.Fprintf(w, "outside\tuid %d\n", id.UID)
					return
				}
				if id.Brane == "" { // before Linux 6.5 the process cannot be asked
					fmt.Fprintln(w, "inside\ta network namespace that is not the daemon's")
					return
				}
				fmt.Fprintf(w, "inside\tbrane %s of network %s\n", id.Brane, id.Network)
			})
		},
	}
}

// askWho reads the answer that the daemon gives on self.sock without being asked.
func (a *app) askWho() (client.Identity, error) {
	var id client.Identity
	path := filepath.Join(a.dir(), "inside", "self.sock")
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return id, fault.New(fault.Unavailable, "ask who I am", path, "%v", err).WithRemedy("no daemon runs here")
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	line, err := bufio.NewReader(c).ReadBytes('\n')
	if err != nil {
		return id, fault.New(fault.Unavailable, "ask who I am", path, "%v", err)
	}
	if err := json.Unmarshal(line, &id); err != nil {
		return id, fault.New(fault.Internal, "ask who I am", path, "%v", err)
	}
	return id, nil
}

func (a *app) whoami() (client.Identity, bool) {
	id, err := a.askWho()
	return id, err == nil && id.Inside
}

func (a *app) whyCommand() *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use: "why [BRANE]", Short: "List the latest refused frames: when, where, what, by which rule and whose", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			d, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			list, err := d.Drops(c.Context(), 0, name)
			if err != nil {
				return err
			}
			if err := a.show(list, func(w io.Writer) { tableDrops(w, list, true) }); err != nil || !follow {
				return err
			}
			return a.followDrops(c.Context(), d, name, list)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	return c
}

func tableDrops(w io.Writer, list []client.Drop, head bool) {
	if head {
		fmt.Fprintln(w, "TIME\tDEVICE\tDIRECTION\tFRAME\tREASON\tRULE\tSET BY")
	}
	for _, d := range list {
		dir := "sent"
		if d.To {
			dir = "received"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.Time.Local().Format("15:04:05.000"), d.Device, dir, d.Frame, d.Reason, dash(d.Rule), dash(d.Owner))
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (a *app) followDrops(ctx context.Context, d *client.Client, name string, list []client.Drop) error {
	var last uint64
	if n := len(list); n > 0 {
		last = list[n-1].Seq
	}
	for t := time.NewTicker(250 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		list, err := d.Drops(ctx, last, name)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			continue
		}
		last = list[len(list)-1].Seq
		if err := a.show(list, func(w io.Writer) { tableDrops(w, list, false) }); err != nil {
			return err
		}
	}
}

func (a *app) eventsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "events", Short: "Print what changes, as it does", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			err = d.Events(c.Context(), func(e client.Event) {
				_ = a.show(e, func(w io.Writer) {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", e.Time.Local().Format("15:04:05.000"), e.Kind, e.Subject, e.Action, e.Detail)
				})
			})
			if c.Context().Err() != nil {
				return nil
			}
			return err
		},
	}
}
