package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"brane/client"
	"brane/internal/brane"
	"brane/internal/fault"
	"brane/internal/linux/unixmsg"
)

// runOptions are the flags of brane run.
type runOptions struct {
	req     client.BraneRequest
	publish []string
	allow   []string
	asRoot  bool
}

func (a *app) runCommand() *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:   "run [flags] -- PROGRAM [ARG...]",
		Short: "Run a program on a network of its own",
		Long: "Run a program behind an address of its own. It keeps its terminal, working directory, files and user; " +
			"only its network is another. Its exit status is that of the program; 125 and above as with a shell.",
		Example: "  brane run -- curl http://example.org\n  brane run -n office --name web -p 8080:80 -- python3 -m http.server 80",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o.req.Command = args
			var err error
			if o.req.Publish, err = parsePublish(o.publish); err != nil {
				return err
			}
			if o.req.AllowHost, err = parsePorts(o.allow); err != nil {
				return err
			}
			return a.run(c.Context(), o)
		},
	}
	f := c.Flags()
	f.SetInterspersed(false)
	f.StringVarP(&o.req.Network, "network", "n", "", "network to be on (default \"default\")")
	f.StringVar(&o.req.Name, "name", "", "name of the brane, and its name on the network")
	f.StringArrayVarP(&o.publish, "publish", "p", nil, "[ADDRESS:]HOSTPORT:PORT[/udp], a port of the host, on loopback unless an address is given")
	f.StringArrayVar(&o.req.Send, "send", nil, "what may be sent, in pcap-filter syntax")
	f.StringArrayVar(&o.req.Receive, "receive", nil, "what may be received, in pcap-filter syntax")
	f.StringArrayVar(&o.allow, "allow-host", nil, "a port of the host that the program may reach, at the gateway's address")
	f.BoolVar(&o.asRoot, "as-root", false, "appear as root inside, with root's rights over this brane alone")
	f.BoolVar(&o.req.NoAddress, "no-address", false, "set no address: the program asks for it by DHCP")
	return c
}

// parsePublish reads [ADDRESS:]HOSTPORT:PORT[/PROTO].
func parsePublish(list []string) ([]client.Publish, error) {
	var out []client.Publish
	for _, s := range list {
		bad := fault.New(fault.Invalid, "publish", s, "not of the form [ADDRESS:]HOSTPORT:PORT[/udp]").
			WithRemedy("for example -p 8080:80 or -p [::1]:5353:53/udp")
		p := client.Publish{Proto: "tcp"}
		rest, proto, hasProto := strings.Cut(s, "/")
		if hasProto {
			p.Proto = proto
		}
		i := strings.LastIndexByte(rest, ':')
		if i < 0 || (p.Proto != "tcp" && p.Proto != "udp") {
			return nil, bad
		}
		port, err := strconv.ParseUint(rest[i+1:], 10, 16)
		if err != nil || port == 0 {
			return nil, bad
		}
		p.Port = uint16(port)
		host := rest[:i]
		if !strings.Contains(host, ":") {
			host = "127.0.0.1:" + host
		}
		if p.Host, err = netip.ParseAddrPort(host); err != nil || p.Host.Port() == 0 {
			return nil, bad
		}
		out = append(out, p)
	}
	return out, nil
}

func parsePorts(list []string) ([]uint16, error) {
	var out []uint16
	for _, s := range list {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n == 0 {
			return nil, fault.New(fault.Invalid, "allow host", s, "not a port").WithRemedy("a port is a number from 1 to 65535")
		}
		out = append(out, uint16(n))
	}
	return out, nil
}

// run makes a brane, runs the program in it, and takes the brane away.
func (a *app) run(ctx context.Context, o runOptions) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	outer, err := namespaces(ctx, c)
	if err != nil {
		return err
	}
	o.req.PID = os.Getpid()
	b, err := c.CreateBrane(ctx, o.req)
	if err != nil {
		return err
	}
	h := &holder{app: a, client: c, req: o.req, brane: b}
	h.req.Name = b.Name
	start := time.Now()
	// From here on signals are the program's: the runner passes them on.
	a.stop()
	status, err := brane.Run(context.WithoutCancel(ctx), outer, a.spec(b, o), h)
	h.end()
	_ = c.DeleteBrane(context.WithoutCancel(ctx), b.Name) // and its port, in one step
	h.close()
	if err != nil && status != 0 {
		fmt.Fprintln(a.err, "brane:", err)
		return exitStatus(status)
	}
	if err != nil {
		return err
	}
	if status != 0 {
		a.explain(c, b.Name, start)
		return exitStatus(status)
	}
	return nil
}

// namespaces asks for the outer namespaces.
func namespaces(ctx context.Context, c *client.Client) (brane.Outer, error) {
	d, err := c.Open(ctx, client.OpenRequest{Op: "namespaces"})
	if err != nil {
		return brane.Outer{}, err
	}
	defer func() { _ = d.Close() }()
	o := brane.Outer{User: -1, Mnt: -1, Net: -1}
	for i, kind := range d.Reply.Files {
		if i >= len(d.Files) {
			break
		}
		switch kind {
		case "user":
			o.User = d.Files[i]
		case "mnt":
			o.Mnt = d.Files[i]
		default:
			unixmsg.CloseFDs(d.Files[i : i+1])
		}
	}
	return o, nil
}

// spec is what the first stage inside sets up.
func (a *app) spec(b client.Brane, o runOptions) brane.Spec {
	s := brane.Spec{
		Name: b.Name, MAC: b.MAC, MTU: b.MTU, Domain: b.Domain, Args: o.req.Command, AsRoot: o.asRoot, NoAddress: o.req.NoAddress, Runtime: a.dir(),
	}
	s.Addrs = b.Addresses
	for _, g := range b.Gateways {
		if !g.IsLinkLocalUnicast() {
			s.Gateways = append(s.Gateways, g)
		}
	}
	return s
}

// explain says which frame was refused while a program that failed was running.
func (a *app) explain(c *client.Client, name string, since time.Time) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	drops, err := c.Drops(ctx, 0, name)
	if err != nil {
		return
	}
	for i := len(drops) - 1; i >= 0; i-- {
		d := drops[i]
		if d.Time.Before(since) || d.To {
			continue
		}
		fmt.Fprintf(a.err, "brane run: blocked: %s: %s by %s%s\n", d.Frame, d.Reason, ruleOf(d), remedyOf(d))
		return
	}
}

func ruleOf(d client.Drop) string {
	if d.Rule == "" {
		return "the switch"
	}
	return fmt.Sprintf("rule %q of %s", d.Rule, d.Owner)
}

// remedyOf says what would open a block.
func remedyOf(d client.Drop) string {
	switch d.Reason {
	case "host":
		return "; --allow-host PORT opens a port of the host at the gateway's address"
	case "send-filter":
		return "; --send sets what may be sent"
	case "source-ip", "source-mac", "arp", "nd":
		return "; a brane sends from its own addresses only"
	}
	return ""
}

// holder keeps a brane's port open: it hands the descriptor to the daemon, and
// again to the next one when daemon or worker died.
type holder struct {
	app    *app
	client *client.Client
	req    client.BraneRequest
	brane  client.Brane

	kind   string
	fds    []int
	port   *client.Device
	ended  chan struct{}
	closed chan struct{}
	done   chan struct{}
}

// Attach is called by the runner when the interface inside is there.
func (h *holder) Attach(ctx context.Context, kind string, fds []int) error {
	h.kind, h.fds = kind, fds
	if err := h.open(ctx, h.client); err != nil {
		return err
	}
	h.ended, h.closed, h.done = make(chan struct{}), make(chan struct{}), make(chan struct{})
	go h.keep()
	return nil
}

// Veth is called by the runner where no TAP may be opened.
func (h *holder) Veth(ctx context.Context, netns int) (int, error) {
	d, err := h.client.Open(ctx, client.OpenRequest{Op: "veth", MAC: h.brane.MAC, MTU: h.brane.MTU}, netns)
	if err != nil {
		return -1, err
	}
	defer func() { _ = d.Close() }()
	if len(d.Files) != 1 {
		return -1, fault.New(fault.Internal, "make veth", h.brane.Name, "no descriptor came back")
	}
	return d.Files[0], nil
}

func (h *holder) open(ctx context.Context, c *client.Client) error {
	d, err := c.Open(ctx, client.OpenRequest{
		Op: "open", Device: h.brane.Network + "/" + h.brane.Name, Kind: h.kind, Brane: h.brane.Name, MAC: h.brane.MAC,
	}, h.fds...)
	if err != nil {
		return err
	}
	h.port = d
	return nil
}

// keep waits for the port's end and opens it again until the program has ended.
func (h *holder) keep() {
	defer close(h.done)
	for {
		gone := make(chan struct{})
		port := h.port
		go func() { port.Wait(); close(gone) }()
		select {
		case <-h.closed:
			_ = port.Close()
			<-gone
			return
		case <-gone:
			_ = port.Close()
		}
		if !h.again() {
			return
		}
	}
}

// again finds a daemon, or starts one, and opens the port there. It tries for
// as long as the program runs.
func (h *holder) again() bool {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		c, err := h.app.connect(ctx)
		if err == nil {
			r := h.req
			r.Adopt = true
			if _, err = c.CreateBrane(ctx, r); err == nil {
				err = h.open(ctx, c)
			}
			c.Close()
		}
		cancel()
		if err == nil {
			return true
		}
		select {
		case <-h.ended:
			return false
		case <-time.After(wait):
		}
	}
}

// end says that the program has ended: a port that is lost now is not opened again.
func (h *holder) end() {
	if h.ended != nil {
		close(h.ended)
	}
}

// close closes the port, after end.
func (h *holder) close() {
	if h.closed == nil {
		return
	}
	close(h.closed)
	<-h.done
}
