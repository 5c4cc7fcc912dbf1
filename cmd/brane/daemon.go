package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"brane/client"
	"brane/internal/broker"
	"brane/internal/config"
	"brane/internal/fault"
	"brane/internal/linux/unixmsg"
	"brane/internal/network"
	"brane/internal/plan"
	"brane/internal/publish"
	"brane/internal/server"
	"brane/internal/store"
	"brane/internal/worker"
)

// idleEnd is how long a daemon that was started by a command outlives its last
// port, brane and running network.
const idleEnd = 30 * time.Second

// daemonOptions are the flags of brane daemon.
type daemonOptions struct {
	replace, idle bool
}

func (a *app) daemonCommand() *cobra.Command {
	var o daemonOptions
	c := &cobra.Command{
		Use: "daemon", Short: "Run the daemon in the foreground; commands start it by themselves", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.daemon(c.Context(), o) },
	}
	c.Flags().BoolVar(&o.replace, "replace", false, "take the place of the running daemon; programs keep their connections")
	c.Flags().BoolVar(&o.idle, "ends-when-idle", false, "end some time after the last port, brane and network are gone")
	c.AddCommand(&cobra.Command{
		Use: "stop", Short: "End the daemon; runners start it again when they need it", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d := client.New(a.dir())
			defer d.Close()
			return d.Stop(c.Context())
		},
	})
	return c
}

// daemon owns everything: store, controller, broker, worker, doors.
type daemon struct {
	log    *slog.Logger
	dir    string
	store  store.Store
	svc    *network.Service
	ctl    *network.Controller
	worker *worker.Handle
	broker *broker.Supervisor
	set    *publish.Set
	doors  *server.Server
	events *server.Events
	stop   context.CancelFunc

	subnets []netip.Prefix // for the built-in network

	given map[string]int // listening sockets of the daemon that this one replaces

	mu        sync.Mutex
	host      network.Host
	near      []netip.Prefix // the subnets of the host
	listeners []door
	leaving   bool // the doors belong to the next daemon now
}

func (a *app) daemon(ctx context.Context, o daemonOptions) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	conf, err := config.LoadDaemon(configPath())
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: conf.Log})).With("process", "daemon")
	d := &daemon{log: log, dir: a.dir(), stop: stop, events: server.NewEvents(), subnets: conf.Subnets}
	if err := os.MkdirAll(client.StateDir(), 0o700); err != nil {
		return fault.New(fault.Denied, "make state directory", client.StateDir(), "%v", err)
	}
	if o.replace {
		if err := d.takeOver(ctx); err != nil {
			return err
		}
	}
	if d.store, err = store.Open(filepath.Join(client.StateDir(), "store.db")); err != nil {
		return err
	}
	defer func() { _ = d.store.Close() }()
	d.build()
	return d.run(ctx, o)
}

// configPath is where the daemon's own configuration may be.
func configPath() string {
	if os.Geteuid() == 0 {
		return "/etc/brane/brane.yaml"
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "brane", "brane.yaml")
}

// takeOver gets the doors of the running daemon, if there is one, and waits
// until its store is free.
func (d *daemon) takeOver(ctx context.Context) error {
	c := client.New(d.dir)
	defer c.Close()
	old, err := c.Daemon(ctx)
	if fault.KindOf(err) == fault.Unavailable {
		return nil // none runs
	}
	if err != nil {
		return err
	}
	got, err := c.Open(ctx, client.OpenRequest{Op: "replace"})
	if err != nil {
		return err
	}
	d.given = map[string]int{}
	for i, name := range got.Reply.Files {
		if i < len(got.Files) {
			d.given[name] = got.Files[i]
		}
	}
	_ = got.Close()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		// An ended process that nobody has waited for yet has no descriptors.
		if _, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", old.PID)); err != nil {
			return nil
		}
		if list, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", old.PID)); len(list) == 0 {
			return nil
		}
	}
	return fault.New(fault.Busy, "replace daemon", d.dir, "the running daemon (pid %d) does not end", old.PID)
}

// listen opens one of the doors, or takes the one that was handed over.
func (d *daemon) listen(name string, kind int) (*unixmsg.Listener, error) {
	path := filepath.Join(d.dir, name)
	var l *unixmsg.Listener
	var err error
	if fd, ok := d.given[name]; ok {
		l, err = unixmsg.Adopt(fd, path)
	} else {
		l, err = unixmsg.Listen(kind, path, 0o600)
	}
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listeners = append(d.listeners, door{name, l})
	return l, nil
}

// door is a listening socket by the name of its file.
type door struct {
	name string
	*unixmsg.Listener
}

// handover gives the doors away; they keep their names when this daemon ends.
func (d *daemon) handover() (names []string, fds []int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.listeners {
		fd, err := unixmsg.DupFD(l.Listener)
		if err != nil {
			unixmsg.CloseFDs(fds)
			return nil, nil, err
		}
		names, fds = append(names, l.name), append(fds, fd)
	}
	d.leaving = true
	return names, fds, nil
}

// shut closes the doors.
func (d *daemon) shut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.listeners {
		if d.leaving {
			_ = l.Leave()
		} else {
			_ = l.Close()
		}
	}
}

// build makes the parts and ties them together.
func (d *daemon) build() {
	d.svc = &network.Service{Store: d.store, Now: time.Now, Host: d.hostSubnets, Subnets: d.subnets}
	d.worker = worker.NewHandle(worker.Owner{
		Ready: func() { d.ctl.Kick() },
		Gone: func() {
			d.set.WorkerGone()
			d.doors.WorkerGone()
		},
		Lease:   d.lease,
		Release: func(context.Context, worker.LeaseAsk) error { return nil },
		Closed:  func(_ string, id plan.PortID) { d.doors.Closed(id) },
	}, d.log)
	d.broker = broker.NewSupervisor(brokerOptions(d.dir), d.log)
	d.ctl = network.NewController(d.store, d.worker, d.hostFacts, d.log)
	d.set = publish.New(d.ctl, d.worker, d.log)
	d.doors = &server.Server{
		Service: d.svc, Controller: d.ctl, Worker: d.worker, Broker: d.broker, Listeners: d.set, Events: d.events,
		Log: d.log, Release: release, UID: uint32(os.Getuid()), Shutdown: d.stop, Handover: d.handover,
	}
}

// run opens the doors and works until ctx ends.
func (d *daemon) run(ctx context.Context, o daemonOptions) error {
	if _, err := d.refreshHost(); err != nil {
		return err
	}
	if err := d.recover(); err != nil {
		return err
	}
	api, err := d.listen("api.sock", syscall.SOCK_STREAM)
	if err != nil {
		return err
	}
	dev, err := d.listen("device.sock", syscall.SOCK_SEQPACKET)
	if err != nil {
		return err
	}
	self, err := d.listen("inside/self.sock", syscall.SOCK_STREAM)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	context.AfterFunc(ctx, d.shut)
	g.Go(func() error { return d.broker.Run(ctx) })
	g.Go(func() error { return d.ctl.Run(ctx) })
	g.Go(func() error { return d.worker.Run(ctx) })
	g.Go(func() error { return d.doors.ServeAPI(api) })
	g.Go(func() error { return d.doors.ServeDevices(dev) })
	g.Go(func() error { return d.doors.ServeSelf(self) })
	g.Go(func() error { return d.watchHost(ctx) })
	g.Go(func() error { return d.watchStore(ctx) })
	if o.idle {
		g.Go(func() error { return d.watchIdle(ctx) })
	}
	d.log.Info("ready", "pid", os.Getpid(), "dir", d.dir, "release", release)
	err = g.Wait()
	d.doors.Close()
	d.set.Close()
	if err == nil || ctx.Err() != nil {
		d.log.Info("ended")
	}
	return err
}

// recover brings the store to what is true after a start: no port is open, and
// branes wait a while for their runners.
func (d *daemon) recover() error {
	err := d.svc.Sweep(func(s *network.State) (ports []network.Port, branes []string) {
		for _, p := range s.Ports {
			ports = append(ports, p)
		}
		return ports, nil
	})
	if err != nil {
		return err
	}
	st, err := d.svc.State()
	if err != nil {
		return err
	}
	var branes []string
	for name := range st.Branes {
		branes = append(branes, name)
	}
	d.doors.Expect(branes)
	for name, r := range st.Networks {
		if !r.Autostart || r.Started {
			continue
		}
		if _, err := d.svc.Start("system", name); err != nil {
			d.log.Error("network not started", "network", name, "err", err)
			d.events.Tell("network", name, "trouble", err.Error())
		}
	}
	return nil
}

// lease answers a DHCP client of a network.
func (d *daemon) lease(ctx context.Context, a worker.LeaseAsk) (worker.Lease, error) {
	l, rev, err := d.svc.DHCP(a.Mux, network.Ask{MAC: a.MAC, Want: a.Want, Client: a.Client, Host: a.Host})
	if err != nil {
		return worker.Lease{}, err
	}
	if err := d.ctl.Wait(ctx, rev); err != nil {
		return worker.Lease{}, err
	}
	for _, addr := range l.Addrs {
		if addr.Is4() {
			return worker.Lease{Name: l.Name, Addr: addr}, nil
		}
	}
	return worker.Lease{}, fault.New(fault.NotFound, "lease", a.MAC.String(), "the network has no IPv4 addresses")
}

// brokerOptions say where the broker finds what it hides from branes.
func brokerOptions(dir string) broker.Options {
	o := broker.Options{Setup: broker.Setup{Runtime: dir, UserRuntime: os.Getenv("XDG_RUNTIME_DIR"), UID: os.Getuid()}, Log: os.Stderr}
	o.Argv = []string{"brane", brokerMode}
	if home, err := os.UserHomeDir(); err == nil {
		o.Home = filepath.Clean(home)
	}
	if st, err := os.Stat(o.UserRuntime); err != nil || !st.IsDir() || !filepath.IsAbs(o.UserRuntime) {
		o.UserRuntime = ""
	}
	return o
}

// watchStore tells of what changes.
func (d *daemon) watchStore(ctx context.Context) error {
	for ctx.Err() == nil {
		w, err := d.store.Watch(ctx, "/", d.store.Revision())
		if err != nil {
			return err
		}
		for b := range w {
			for _, e := range b.Events {
				kind, subject := network.Describe(e.Record.Path)
				if kind == "" {
					continue
				}
				action := "changed"
				switch {
				case e.Deleted:
					action = "deleted"
				case e.Record.Created == e.Record.Modified:
					action = "created"
				}
				d.events.Tell(kind, subject, action, "")
			}
		}
	}
	return nil
}

// watchIdle ends the daemon when nothing has needed it for a while.
func (d *daemon) watchIdle(ctx context.Context) error {
	t := time.NewTicker(idleEnd / 10)
	defer t.Stop()
	since := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		d.ctl.Snapshot(func(s *network.State) {
			for name, r := range s.Networks {
				if r.Started && name != network.DefaultName {
					since = time.Now()
				}
			}
			if len(s.Ports)+len(s.Branes) > 0 {
				since = time.Now()
			}
		})
		if time.Since(since) > idleEnd {
			d.log.Info("idle")
			d.stop()
			return nil
		}
	}
}
