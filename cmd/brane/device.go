package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"brane/client"
	"brane/internal/fault"
	"brane/internal/linux/unixmsg"
	"brane/internal/network"
)

func (a *app) deviceCommand() *cobra.Command {
	c := &cobra.Command{Use: "device", Short: "Devices: open one for a virtual machine"}
	c.AddCommand(a.deviceOpen(), a.deviceList())
	return c
}

func (a *app) deviceList() *cobra.Command {
	return &cobra.Command{
		Use: "list [NETWORK]", Short: "List the open ports", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			d, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			list, err := d.Ports(c.Context(), strings.Join(args, ""))
			if err != nil {
				return err
			}
			return a.show(list, func(w io.Writer) {
				fmt.Fprintln(w, "PORT\tDEVICE\tKIND\tMAC\tOWNER\tBRANE\tSENT\tRECEIVED")
				for _, p := range list {
					fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.ID, p.Device, p.Kind, p.MAC, p.Owner, dash(p.Brane), verdicts(p.From), verdicts(p.To))
				}
			})
		},
	}
}

// openOptions are the flags of brane device open.
type openOptions struct {
	req           client.OpenRequest
	stream, dgram string
}

func (a *app) deviceOpen() *cobra.Command {
	var o openOptions
	c := &cobra.Command{
		Use:   "open NETWORK/INTERFACE {--stream SOCKET | --dgram LOCAL:REMOTE} [-- PROGRAM...]",
		Short: "Open an interface for a virtual machine and hold it",
		Long: "Open an interface and lend it to a program over Unix sockets, as QEMU's -netdev stream and -netdev dgram want them. " +
			"The port lives as long as this command; with a PROGRAM, as long as that.",
		Example: "  brane device open office/vm1 --stream /tmp/vm1.sock -- qemu-system-x86_64 ... -netdev stream,id=n0,addr.type=unix,addr.path=/tmp/vm1.sock",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o.req.Op, o.req.Device = "open", args[0]
			return a.openDevice(c.Context(), o, args[1:])
		},
	}
	f := c.Flags()
	f.SetInterspersed(true)
	f.StringVar(&o.stream, "stream", "", "listen on this Unix socket, frames after a 4-byte length")
	f.StringVar(&o.dgram, "dgram", "", "a pair of Unix datagram sockets, one frame a datagram")
	f.StringVar(&o.req.MAC, "mac", "", "MAC of the interface (default: derived from network and name)")
	f.StringVar(&o.req.Filter, "filter", "", "what this port wants to receive, in pcap-filter syntax")
	f.StringVar(&o.req.Send, "send", "", "what may be sent, in pcap-filter syntax")
	f.StringVar(&o.req.Receive, "receive", "", "what may be received, in pcap-filter syntax")
	return c
}

func (a *app) openDevice(ctx context.Context, o openOptions, program []string) error {
	if (o.stream == "") == (o.dgram == "") {
		return fault.New(fault.Invalid, "open device", o.req.Device, "give one of --stream and --dgram")
	}
	if _, _, err := network.SplitDevice(o.req.Device); err != nil {
		return err
	}
	d, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	if o.dgram != "" {
		local, remote, ok := strings.Cut(o.dgram, ":")
		if !ok {
			return fault.New(fault.Invalid, "open device", o.dgram, "--dgram takes LOCAL:REMOTE, two paths")
		}
		return a.serveDgram(ctx, d, o, local, remote, program)
	}
	return a.serveStream(ctx, d, o, program)
}

// serveStream lets one client after the other have the interface.
func (a *app) serveStream(ctx context.Context, d *client.Client, o openOptions, program []string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: o.stream, Net: "unix"})
	if err != nil {
		return fault.New(fault.Busy, "listen", o.stream, "%v", err).WithRemedy("remove the file when nobody listens there any more")
	}
	defer func() { _ = l.Close() }()
	o.req.Kind = "stream"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, func() { _ = l.Close() })
	ended := a.start(ctx, cancel, program)
	for {
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return <-ended
		}
		if err != nil {
			return fault.New(fault.Internal, "accept", o.stream, "%v", err)
		}
		if err := a.lend(ctx, d, o.req, c); err != nil {
			return err
		}
	}
}

func (a *app) serveDgram(ctx context.Context, d *client.Client, o openOptions, local, remote string, program []string) error {
	defer func() { _ = os.Remove(local) }()
	o.req.Kind = "dgram"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := a.start(ctx, cancel, program)
	c, err := connectDgram(ctx, local, remote)
	if err != nil {
		return err
	}
	if err := a.lend(ctx, d, o.req, c); err != nil {
		return err
	}
	<-ctx.Done()
	return <-ended
}

// start runs the program, if there is one, and ends ctx with it.
func (a *app) start(ctx context.Context, cancel func(), program []string) <-chan error {
	ended := make(chan error, 1)
	if len(program) == 0 {
		ended <- nil
		return ended
	}
	go func() {
		c := exec.CommandContext(ctx, program[0], program[1:]...)
		c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
		err := c.Run()
		if e, ok := err.(*exec.ExitError); ok && e.ExitCode() >= 0 {
			err = exitStatus(e.ExitCode())
		} else if err != nil && ctx.Err() != nil {
			err = nil
		}
		ended <- err
		cancel()
	}()
	return ended
}

// lend gives the connected socket to the daemon and holds the port until it ends.
func (a *app) lend(ctx context.Context, d *client.Client, r client.OpenRequest, c *net.UnixConn) error {
	fd, err := unixmsg.DupFD(c)
	if err != nil {
		return fault.From(err, "open device", r.Device)
	}
	_ = c.Close()
	port, err := d.Open(ctx, r, fd)
	unixmsg.CloseFDs([]int{fd})
	if err != nil {
		return err
	}
	a.say("%s is open: MAC %s, MTU %d, %s", r.Device, port.Reply.MAC, port.Reply.MTU, plain(port.Reply.Addresses, " "))
	done := make(chan struct{})
	go func() { port.Wait(); close(done) }()
	select {
	case <-ctx.Done():
	case <-done:
	}
	err = port.Close()
	<-done
	return err
}
