package brane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/linux/nsexec"
	"brane/internal/linux/unixmsg"
)

// Run runs the program of s in a new brane below o and returns the status to
// exit with: the program's own, 128 and its number for a signal, 126 or 127,
// with an error, when it could not be executed or was not found. With any other
// error the status is 0 and no program ran. Standard input, output and error, the
// environment and, unless s names one, the working directory are those of the
// calling process, which Run takes for its own: it handles its signals and
// restores its limit of open files. When ctx ends before the program has
// started, the run is given up.
func Run(ctx context.Context, o Outer, s Spec, h Host) (int, error) {
	if err := s.fill(); err != nil {
		return 0, err
	}
	r := &runner{spec: &s, host: h}
	defer r.release()
	signals := catch()
	defer signals.stop()
	if err := r.start(o, signals); err != nil {
		return 0, err
	}
	go signals.forward(r.process)
	started := make(chan result, 1)
	go func() { started <- r.converse(ctx) }()
	status, err := r.wait()
	if err != nil {
		return 0, err
	}
	switch res := <-started; {
	case res.err == nil:
		return status, nil
	case errors.Is(res.err, errEnd) && status > 128:
		return status, nil // interrupted before it began
	case errors.Is(res.err, errEnd):
		return 0, fault.New(fault.Internal, "run", s.Name, "the first stage ended before the program began")
	default:
		return res.status, res.err
	}
}

// fill sets what the caller left out, and checks.
func (s *Spec) fill() error {
	if s.MTU == 0 {
		s.MTU = 1500
	}
	if s.Dir == "" {
		dir, err := os.Getwd()
		if err != nil {
			return fault.New(fault.NotFound, "run", s.Name, "the working directory: %v", err).WithRemedy("change to one that exists")
		}
		s.Dir = dir
	}
	if s.UserRuntime == "" {
		s.UserRuntime = os.Getenv("XDG_RUNTIME_DIR")
	}
	if s.Runtime == "" && s.UserRuntime != "" {
		s.Runtime = filepath.Join(s.UserRuntime, "brane")
	}
	return s.check()
}

// runner is one run.
type runner struct {
	spec    *Spec
	host    Host
	control *control
	process *os.Process
	exited  chan waited
	watch   *fileWatch // of the host's resolv.conf and hosts
	held    []int      // descriptors that stay open until the program has ended
}

type waited struct {
	status int
	err    error
}

// result is how the first stage ended.
type result struct {
	status int
	err    error
}

// start starts the first stage, on a thread that stays until the program has
// ended: the kernel sends the death signal when the thread goes.
func (r *runner) start(o Outer, signals *signals) error {
	ours, theirs, err := unixmsg.Pair(unix.SOCK_SEQPACKET)
	if err != nil {
		return fault.From(err, "run", r.spec.Name)
	}
	defer theirs.Close()
	r.control = newControl(ours)
	spec, err := specFile(r.spec)
	if err != nil {
		return err
	}
	defer spec.Close()
	cmd, err := command(o, r.spec)
	if err != nil {
		return err
	}
	cmd.Files = []*os.File{os.Stdin, os.Stdout, os.Stderr, spec, theirs}
	started := make(chan error)
	r.exited = make(chan waited, 1)
	go func() {
		runtime.LockOSThread()
		p, err := nsexec.Start(cmd)
		r.process = p
		started <- err
		if err == nil {
			r.exited <- signals.await(p.Pid)
		}
	}()
	return <-started
}

// command describes the first stage's process.
func command(o Outer, s *Spec) (*nsexec.Cmd, error) {
	limit, err := nsexec.OriginalNoFile()
	if err != nil {
		return nil, fault.New(fault.Internal, "run", s.Name, "limit of open files: %v", err)
	}
	c := &nsexec.Cmd{
		Argv: []string{"brane", InitMode}, Env: os.Environ(),
		New:      unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS,
		KeepCaps: true, DeathSignal: syscall.SIGKILL, NoFile: &limit,
	}
	if o.User >= 0 {
		// Outside is the outer user namespace, where the user is 0.
		uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
		if s.AsRoot {
			uid, gid = 0, 0
		}
		c.Join = append(c.Join, nsexec.Join{FD: o.User, Kind: unix.CLONE_NEWUSER})
		c.UIDs = []nsexec.Map{{Inside: uid, Outside: 0, Count: 1}}
		c.GIDs = []nsexec.Map{{Inside: gid, Outside: 0, Count: 1}}
	} else {
		c.MapByParent = true
		if c.UIDs, err = nsexec.Identity("/proc/self/uid_map"); err != nil {
			return nil, err
		}
		if c.GIDs, err = nsexec.Identity("/proc/self/gid_map"); err != nil {
			return nil, err
		}
	}
	if o.Mnt < 0 {
		return nil, fault.New(fault.Invalid, "run", s.Name, "the outer mount namespace is missing")
	}
	c.Join = append(c.Join, nsexec.Join{FD: o.Mnt, Kind: unix.CLONE_NEWNS})
	return c, nil
}

// specFile puts the spec into a file in memory.
func specFile(s *Spec) (*os.File, error) {
	b, err := json.Marshal(s)
	if err == nil && len(b) > maxSpec {
		err = fmt.Errorf("%d bytes of arguments", len(b))
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "run", s.Name, "%v", err)
	}
	fd, err := unix.MemfdCreate("brane-spec", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "run", s.Name, "make a file in memory: %v", err)
	}
	f := os.NewFile(uintptr(fd), "spec")
	if _, err := f.Write(b); err != nil {
		_ = f.Close()
		return nil, fault.New(fault.Unavailable, "run", s.Name, "write a file in memory: %v", err)
	}
	return f, nil
}

// converse takes the first stage from its start to the program's. When it
// fails, the first stage is ended, so that wait returns.
func (r *runner) converse(ctx context.Context) result {
	stop := context.AfterFunc(ctx, func() { _ = r.process.Kill() })
	defer stop()
	res := r.talk(ctx)
	if res.err != nil {
		_ = r.process.Kill()
		if e := ctx.Err(); e != nil {
			return result{0, fault.New(fault.Unavailable, "run", r.spec.Name, "given up: %v", context.Cause(ctx))}
		}
	}
	return res
}

func (r *runner) talk(ctx context.Context) result {
	ready, running := false, false
	for {
		m, err := r.control.receive()
		switch {
		case errors.Is(err, errEnd) && running:
			return result{} // executed; or killed, and its status says so
		case errors.Is(err, errEnd):
			return result{0, errEnd}
		case err != nil:
			return result{0, fault.From(err, "run", r.spec.Name)}
		case m.Fault != nil:
			return result{m.Status, m.Fault}
		case m.NeedVeth:
			err = r.veth(ctx)
		case m.Port != "":
			err = r.attach(ctx, m.Port, r.control.claim())
		case m.Ready:
			ready = true
			r.watch, err = watchFiles(r.process.Pid)
		}
		if err != nil {
			return result{0, fault.From(err, "run", r.spec.Name)}
		}
		if ready && !running {
			if err := r.control.send(&message{Go: true}); err != nil {
				return result{0, fault.From(err, "run", r.spec.Name)}
			}
			running = true
		}
	}
}

// attach keeps the descriptors and hands them to the host.
func (r *runner) attach(ctx context.Context, kind string, fds []int) error {
	r.held = append(r.held, fds...)
	if len(fds) != 2 || kind != string(datapath.TAP) {
		return fault.New(fault.Internal, "attach", r.spec.Name, "%d descriptors of kind %q", len(fds), kind)
	}
	return r.host.Attach(ctx, kind, fds)
}

// veth asks for a veth pair, tells the first stage, and attaches the outer end.
func (r *runner) veth(ctx context.Context) error {
	fds := r.control.claim()
	r.held = append(r.held, fds...)
	if len(fds) != 1 {
		return fault.New(fault.Internal, "make veth", r.spec.Name, "%d descriptors", len(fds))
	}
	packet, err := r.host.Veth(ctx, fds[0])
	if err != nil {
		return err
	}
	r.held = append(r.held, packet)
	if err := r.control.send(&message{Veth: true}); err != nil {
		return err
	}
	return r.host.Attach(ctx, string(datapath.Packet), []int{packet})
}

// wait returns when the program has ended.
func (r *runner) wait() (int, error) {
	w := <-r.exited
	return w.status, w.err
}

func (r *runner) release() {
	if r.control != nil {
		r.control.close()
	}
	r.watch.stop()
	unixmsg.CloseFDs(r.held)
}
