package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"brane/client"
	"brane/internal/doctor"
	"brane/internal/fault"
)

// endProgram asks a brane's runner to end.
func endProgram(b client.Brane) {
	if b.PID <= 0 || b.State != "started" {
		return
	}
	if p, err := os.FindProcess(b.PID); err == nil {
		_ = p.Signal(syscall.SIGTERM)
	}
}

// connectDgram binds local and connects it to remote as soon as that is there.
func connectDgram(ctx context.Context, local, remote string) (*net.UnixConn, error) {
	if _, err := os.Lstat(local); err == nil {
		return nil, fault.New(fault.Exists, "listen", local, "there is a file of this name").WithRemedy("remove it when nobody uses it any more")
	}
	for {
		c, err := net.DialUnix("unixgram", &net.UnixAddr{Name: local, Net: "unixgram"}, &net.UnixAddr{Name: remote, Net: "unixgram"})
		if err == nil {
			return c, nil
		}
		_ = os.Remove(local) // bound, then not connected
		select {
		case <-ctx.Done():
			return nil, fault.New(fault.Unavailable, "connect", remote, "%v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this command", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Release string `json:"release"`
				API     int    `json:"api"`
			}{release, client.Version}
			return a.show(v, func(w io.Writer) { fmt.Fprintf(w, "brane %s, API %d\n", v.Release, v.API) })
		},
	}
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Say what this machine allows, and the remedy for what it does not", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r := doctor.Run(c.Context())
			if err := a.show(r, func(w io.Writer) { _ = r.Table(w) }); err != nil {
				return err
			}
			if r.Blocking() {
				return exitStatus(fault.ExitCode(fault.New(fault.Unsupported, "", "", "")))
			}
			return nil
		},
	}
}

func (a *app) docsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write the manual pages", Args: cobra.ExactArgs(1), Hidden: true,
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fault.From(err, "write manual", args[0])
			}
			return doc.GenManTree(c.Root(), &doc.GenManHeader{Title: "BRANE", Section: "1", Source: "brane " + release}, args[0])
		},
	}
}
