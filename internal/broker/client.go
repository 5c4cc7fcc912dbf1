package broker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
	"brane/internal/linux/nsexec"
	"brane/internal/linux/unixmsg"
)

// SocketFD is where the broker process finds the daemon's requests, for as long
// as it lives. The next number is the socket on which Setup comes in, and a
// fault goes out or, when all is done, the end.
const SocketFD = 3

// Options of Start.
type Options struct {
	Setup
	// Argv starts the broker process with the running program: "brane", "broker".
	Argv []string
	// Log takes what the broker writes to its standard error; nil discards it.
	Log io.Writer
}

// Client is the daemon's side of its broker.
type Client struct {
	conn     *unixmsg.Conn
	rootless bool
	process  *os.Process
	pid      int
	done     chan struct{} // closed when the process has ended
}

// Start starts a broker and has it set up the outer namespaces. The broker ends
// with Close, with the calling process, or by itself when its socket is closed.
func Start(ctx context.Context, o Options) (*Client, error) {
	const op = "start broker"
	ours, theirs, err := unixmsg.Pair(unix.SOCK_STREAM)
	if err != nil {
		return nil, fault.From(err, op, "")
	}
	setup, stage, err := unixmsg.Pair(unix.SOCK_SEQPACKET)
	if err != nil {
		_ = ours.Close()
		_ = theirs.Close()
		return nil, fault.From(err, op, "")
	}
	c := &Client{
		conn: unixmsg.NewConn(unixmsg.NewStream(ours, maxMessage)), done: make(chan struct{}),
		rootless: !nsexec.Privileged(),
	}
	err = c.launch(command(o, c.rootless, theirs, stage))
	_ = theirs.Close()
	_ = stage.Close()
	go func() { _ = c.conn.Serve(refuse) }()
	if err != nil {
		_ = setup.Close()
		_ = c.conn.Close()
		return nil, startFault(op, err)
	}
	if err := prepared(ctx, unixmsg.NewSocket(setup), &o.Setup); err != nil {
		_ = c.Close()
		return nil, fault.From(err, op, "")
	}
	return c, nil
}

// launch starts the process and keeps the thread that did until it has ended:
// the death signal comes when the thread goes that started the process.
func (c *Client) launch(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer close(c.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	c.process, c.pid = cmd.Process, cmd.Process.Pid
	return nil
}

// prepared sends the setup and waits until it has been carried out.
func prepared(ctx context.Context, s *unixmsg.Socket, in *Setup) error {
	defer s.Close()
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if err := s.Send(ctx, b, nil); err != nil {
		return err
	}
	m, err := s.Recv(ctx, make([]byte, maxMessage))
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	f := &fault.Error{}
	if err := json.Unmarshal(m.Payload, f); err != nil {
		return err
	}
	return f
}

func command(o Options, rootless bool, files ...*os.File) *exec.Cmd {
	argv := o.Argv
	if len(argv) == 0 {
		argv = []string{"brane", "broker"}
	}
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: argv, Dir: "/", ExtraFiles: files, Stderr: o.Log}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true, // a Ctrl-C at the terminal that started the daemon is not for the broker
	}
	if rootless {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return cmd
}

// startFault names what forbids user namespaces, as far as it can be known.
func startFault(op string, err error) error {
	return nsexec.Restricted(fault.New(fault.Denied, op, "", "make the outer namespaces: %v", err))
}

// refuse answers calls of the broker, which makes none.
func refuse(_ context.Context, r *unixmsg.Request) (any, []int, error) {
	return nil, nil, fault.New(fault.Invalid, r.Verb, "", "the broker asks for nothing")
}

// Namespaces returns descriptors of the outer namespaces, the caller's own.
func (c *Client) Namespaces(ctx context.Context) (nsexec.Outer, error) {
	fds, err := c.conn.Call(ctx, verbNamespaces, nil, nil, nil)
	if err != nil {
		return nsexec.Outer{}, err
	}
	if len(fds) != 3 {
		unixmsg.CloseFDs(fds)
		return nsexec.Outer{}, fault.New(fault.Internal, verbNamespaces, "", "%d descriptors", len(fds))
	}
	o := nsexec.Outer{
		Mount: os.NewFile(uintptr(fds[0]), "outer mount namespace"),
		Net:   os.NewFile(uintptr(fds[1]), "outer network namespace"),
		User:  os.NewFile(uintptr(fds[2]), "outer user namespace"),
	}
	if !c.rootless { // the system's own: nobody needs to enter it, and nobody can
		_ = o.User.Close()
		o.User = nil
	}
	return o, nil
}

// Veth makes a veth pair between the outer network namespace and that of a
// brane and returns a packet socket on the outer end, with PACKET_VNET_HDR.
// The pair lives as long as the brane's namespace.
func (c *Client) Veth(ctx context.Context, netns *os.File, v Veth) (*os.File, error) {
	fds, err := c.conn.Call(ctx, verbVeth, v, []int{int(netns.Fd())}, nil)
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 {
		unixmsg.CloseFDs(fds)
		return nil, fault.New(fault.Internal, verbVeth, "", "%d descriptors", len(fds))
	}
	return os.NewFile(uintptr(fds[0]), "packet socket"), nil
}

// Ping returns when the broker has answered.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.conn.Call(ctx, verbPing, nil, nil, nil)
	return err
}

// Done is closed when the broker has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the broker and waits for it. The namespaces live on while a brane is in them.
func (c *Client) Close() error {
	_ = c.conn.Close()
	_ = c.process.Kill()
	<-c.done
	return nil
}
