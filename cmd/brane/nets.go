package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brane/client"
	"brane/internal/fault"
	"brane/internal/linux/tty"
	"brane/internal/network"
)

func (a *app) upCommand() *cobra.Command {
	var o client.DefineOptions
	c := &cobra.Command{
		Use: "up FILE", Short: "Bring up the network of a libvirt network file (- for standard input)", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o.Start = true
			return a.define(c.Context(), args[0], o)
		},
	}
	c.Flags().BoolVar(&o.Persistent, "persistent", false, "keep the definition when the network goes down")
	c.Flags().BoolVar(&o.Autostart, "autostart", false, "start it with the daemon; implies --persistent")
	return c
}

func (a *app) define(ctx context.Context, file string, o client.DefineOptions) error {
	o.Persistent = o.Persistent || o.Autostart
	o.Name = file
	var text []byte
	var err error
	if file == "-" {
		o.Name = "standard input"
		text, err = io.ReadAll(io.LimitReader(os.Stdin, 2<<20))
	} else {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return fault.New(fault.NotFound, "read network file", file, "%v", err)
	}
	d, err := a.connect(ctx)
	if err != nil {
		return err
	}
	n, err := d.Define(ctx, string(text), o)
	if err != nil {
		return err
	}
	for _, w := range n.Warnings {
		fmt.Fprintln(a.err, "brane: warning:", w)
	}
	if a.format != "table" {
		return a.show(n, nil)
	}
	a.say("network %s is %s", n.Name, stateOf(n))
	return nil
}

func stateOf(n client.Network) string {
	switch {
	case n.Trouble != "":
		return "in trouble"
	case n.Running:
		return "up"
	}
	return "down"
}

func (a *app) downCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "down NETWORK", Short: "Take a network down, with what runs on it", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			d, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			if err := a.confirm(c.Context(), d, args[0]); err != nil {
				return err
			}
			list, err := d.Branes(c.Context())
			if err != nil {
				return err
			}
			for _, b := range list {
				if b.Network == args[0] {
					endProgram(b)
				}
			}
			defer a.waiting("taking " + args[0] + " down")()
			return d.StopNetwork(c.Context(), args[0])
		},
	}
	c.Flags().BoolVar(&a.force, "force", false, "do not ask, even when programs run on it")
	return c
}

// confirm lists what a stop would cut and asks when something is live.
func (a *app) confirm(ctx context.Context, d *client.Client, name string) error {
	n, err := d.Network(ctx, name)
	if err != nil {
		return err
	}
	if n.Ports == 0 || a.force {
		return nil
	}
	list, err := d.Branes(ctx)
	if err != nil {
		return err
	}
	ports := "ports"
	if n.Ports == 1 {
		ports = "port"
	}
	fmt.Fprintf(a.err, "network %s has %d open %s:\n", name, n.Ports, ports)
	for _, b := range list {
		if b.Network == name {
			fmt.Fprintf(a.err, "  %s  %s\n", b.Name, strings.Join(b.Command, " "))
		}
	}
	if !tty.Is(os.Stdin) {
		return fault.New(fault.Busy, "stop network", name, "programs run on it").WithRemedy("--force cuts them")
	}
	fmt.Fprint(a.err, "cut them? [y/N] ")
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	if s := strings.ToLower(strings.TrimSpace(line)); s != "y" && s != "yes" {
		return fault.New(fault.Busy, "stop network", name, "left as it is")
	}
	return nil
}

func (a *app) netCommand() *cobra.Command {
	c := &cobra.Command{Use: "net", Short: "Networks: list, show, leases, define, start, stop, delete"}
	c.AddCommand(
		&cobra.Command{Use: "list", Short: "List the networks", Args: cobra.NoArgs, RunE: a.netList},
		&cobra.Command{Use: "show NETWORK", Short: "Show one network", Args: cobra.ExactArgs(1), RunE: a.netShow},
		&cobra.Command{Use: "leases NETWORK", Short: "List the leases of a network", Args: cobra.ExactArgs(1), RunE: a.netLeases},
		a.netDefine(),
		a.netVerb("start", "Start a defined network", (*client.Client).StartNetwork),
		a.netVerb("delete", "Forget the definition and the leases of a stopped network", (*client.Client).DeleteNetwork),
	)
	stop := a.downCommand()
	stop.Use, stop.Short = "stop NETWORK", "Stop a network, with what runs on it"
	c.AddCommand(stop)
	return c
}

func (a *app) netVerb(verb, short string, f func(*client.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NETWORK", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			d, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			return f(d, c.Context(), args[0])
		},
	}
}

func (a *app) netDefine() *cobra.Command {
	o := client.DefineOptions{Persistent: true}
	c := &cobra.Command{
		Use: "define FILE", Short: "Keep the definition of a network without starting it", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.define(c.Context(), args[0], o) },
	}
	c.Flags().BoolVar(&o.Autostart, "autostart", false, "start it with the daemon")
	return c
}

func (a *app) netList(c *cobra.Command, _ []string) error {
	d, err := a.connect(c.Context())
	if err != nil {
		return err
	}
	list, err := d.Networks(c.Context())
	if err != nil {
		return err
	}
	return a.show(list, func(w io.Writer) {
		fmt.Fprintln(w, "NAME\tSTATE\tFORWARD\tSUBNETS\tBRANES\tPORTS\tPERSISTENT\tAUTOSTART")
		for _, n := range list {
			var subs []string
			for _, p := range n.Subnets {
				subs = append(subs, p.Masked().String())
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%t\t%t\n", n.Name, stateOf(n), dash(n.Forward), dash(strings.Join(subs, " ")), n.Branes, n.Ports, n.Persistent, n.Autostart)
		}
	})
}

func (a *app) netShow(c *cobra.Command, args []string) error {
	d, err := a.connect(c.Context())
	if err != nil {
		return err
	}
	n, err := d.Network(c.Context(), args[0])
	if err != nil {
		return err
	}
	ports, err := d.Ports(c.Context(), args[0])
	if err != nil {
		return err
	}
	return a.show(n, func(w io.Writer) {
		fmt.Fprintf(w, "name\t%s\nstate\t%s\npersistent\t%t\nautostart\t%t\n", n.Name, stateOf(n), n.Persistent, n.Autostart)
		if n.Trouble != "" {
			fmt.Fprintf(w, "trouble\t%s\n", n.Trouble)
		}
		for _, p := range ports {
			tablePort(w, p)
		}
		fmt.Fprintf(w, "definition\t\n%s", n.XML)
	})
}

func (a *app) netLeases(c *cobra.Command, args []string) error {
	d, err := a.connect(c.Context())
	if err != nil {
		return err
	}
	list, err := d.Leases(c.Context(), args[0])
	if err != nil {
		return err
	}
	return a.show(list, func(w io.Writer) {
		fmt.Fprintln(w, "NAME\tMAC\tADDRESSES\tUNTIL")
		for _, l := range list {
			var addrs []string
			for _, x := range l.Addrs {
				addrs = append(addrs, x.String())
			}
			until := "in use"
			if l.Expires != nil {
				until = l.Expires.Local().Format(time.DateTime)
			} else if l.Static && !l.Held {
				until = "static"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", l.Name, l.MAC, strings.Join(addrs, " "), until)
		}
	})
}

func (a *app) muxCommand() *cobra.Command {
	c := &cobra.Command{Use: "mux", Short: "Multiplexers: a network without services, with or without an uplink"}
	var uplink string
	create := &cobra.Command{
		Use: "create NAME", Short: "Make a multiplexer; its interfaces are made by opening NAME/INTERFACE", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			d, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			def := network.Definition{Name: args[0], Forward: network.None, Uplink: uplink}
			_, err = d.Define(c.Context(), def, client.DefineOptions{Name: args[0], Start: true})
			return err
		},
	}
	create.Flags().StringVar(&uplink, "uplink", "", "network or multiplexer above it; without one it is internal")
	del := a.downCommand()
	del.Use, del.Short = "delete NAME", "Take a multiplexer away, with its ports"
	c.AddCommand(create, del)
	return c
}
