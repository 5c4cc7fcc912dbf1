package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"brane/client"
	"brane/internal/fault"
	"brane/internal/linux/tty"
)

// app is what the commands share: where to print, and the daemon to talk to.
type app struct {
	out, err io.Writer
	stop     func() // gives the signals back
	format   string
	force    bool
	system   bool
}

// root builds the command tree; docs and completion come from the same one.
func (a *app) root() *cobra.Command {
	c := &cobra.Command{
		Use:           "brane",
		Short:         "Networks you can hand out: each program, container and VM behind an address of its own, without root",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			switch a.format {
			case "table", "json", "yaml":
				return nil
			}
			return fault.New(fault.Invalid, "read options", "-o "+a.format, "the output is table, json or yaml")
		},
	}
	c.SetOut(a.out)
	c.SetErr(a.err)
	c.PersistentFlags().StringVarP(&a.format, "output", "o", "table", "form of what is shown: table, json or yaml")
	c.PersistentFlags().BoolVar(&a.system, "system", false, "talk to the system's daemon instead of your own")
	c.AddCommand(a.runCommand(), a.listCommand(), a.showCommand(), a.stopCommand(), a.idCommand(),
		a.upCommand(), a.downCommand(), a.netCommand(), a.muxCommand(), a.deviceCommand(),
		a.whyCommand(), a.eventsCommand(), a.doctorCommand(), a.daemonCommand(), a.versionCommand(), a.docsCommand())
	strict(c)
	a.complete(c)
	return c
}

func (a *app) dir() string {
	if a.system {
		return "/run/brane"
	}
	return client.RuntimeDir()
}

// connect gives a client of a running daemon, started if there is none.
func (a *app) connect(ctx context.Context) (*client.Client, error) {
	c := client.New(a.dir())
	d, err := c.Daemon(ctx)
	if err == nil {
		return c, a.handshake(d)
	}
	if fault.KindOf(err) != fault.Unavailable {
		return nil, err
	}
	if id, inside := a.whoami(); inside {
		return nil, fault.New(fault.Denied, "connect", "", "this program is inside brane %q of network %q, which makes no branes of its own",
			id.Brane, id.Network).WithRemedy("ask outside")
	}
	if a.system {
		return nil, fault.New(fault.Unavailable, "connect", a.dir(), "the system's daemon is not running").
			WithRemedy("systemctl start brane")
	}
	ended, err := a.startDaemon(ctx)
	if err != nil {
		return nil, err
	}
	for wait := time.Millisecond; ; wait *= 2 {
		if d, err = c.Daemon(ctx); err == nil {
			return c, a.handshake(d)
		}
		if wait > 2*time.Second || ctx.Err() != nil {
			return nil, fault.New(fault.Unavailable, "start daemon", a.dir(), "it does not answer: %v", err).
				WithRemedy("its log: %s", a.logPath())
		}
		select {
		case <-ended: // one that is stopping still had the store; what else it may be is in the log
			time.Sleep(wait)
			if ended, err = a.startDaemon(ctx); err != nil {
				return nil, err
			}
		case <-time.After(wait):
		}
	}
}

func (a *app) handshake(d client.Daemon) error {
	if d.Version == client.Version {
		return nil
	}
	return fault.New(fault.Unsupported, "connect", a.dir(), "the daemon speaks version %d, this command %d", d.Version, client.Version).
		WithRemedy("brane daemon --replace starts the new one in its place")
}

func (a *app) logPath() string { return filepath.Join(client.StateDir(), "daemon.log") }

// startDaemon runs the user's daemon in a session of its own, as tmux does its
// server. The channel is closed when it ends.
func (a *app) startDaemon(context.Context) (<-chan struct{}, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fault.From(err, "start daemon", "")
	}
	if err := os.MkdirAll(client.StateDir(), 0o700); err != nil {
		return nil, fault.New(fault.Denied, "start daemon", client.StateDir(), "%v", err).
			WithRemedy("the state directory must be yours to write; BRANE_STATE_DIR names another")
	}
	log, err := os.OpenFile(a.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fault.New(fault.Denied, "start daemon", a.logPath(), "%v", err)
	}
	defer func() { _ = log.Close() }()
	c := exec.Command(self, "daemon", "--ends-when-idle")
	c.Dir, c.Stdout, c.Stderr = "/", log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		return nil, fault.From(err, "start daemon", self)
	}
	ended := make(chan struct{})
	go func() { _ = c.Wait(); close(ended) }()
	return ended, nil
}

// show prints v in the wanted form; the table is what f writes, tab-separated.
func (a *app) show(v any, f func(w io.Writer)) error {
	switch a.format {
	case "json":
		e := json.NewEncoder(a.out)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "yaml":
		b, err := yaml.MarshalWithOptions(v, yaml.UseJSONMarshaler())
		if err != nil {
			return fault.From(err, "print", "")
		}
		_, err = a.out.Write(b)
		return err
	}
	w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	f(w)
	return w.Flush()
}

// say prints a remark for people: only where a person reads.
func (a *app) say(format string, args ...any) {
	if f, ok := a.err.(*os.File); ok && tty.Is(f) {
		fmt.Fprintf(a.err, format+"\n", args...)
	}
}
