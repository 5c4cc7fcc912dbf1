package brane

import (
	"bytes"
	"errors"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

// The runner is in the program's process group. What the terminal sends goes
// to the whole group, so the program has it already: an interrupt must not
// arrive twice. What another process sends to the runner alone is passed on.
// Which of the two it was cannot be seen from Go, so the terminal's own signals
// are taken to come from it while the group is in the foreground.
//
// A program that stops is followed: the shell waits for the runner and must
// see it stop too. SIGTSTP is left to its default action for that reason.

// signals catches what is for the program.
type signals struct {
	c     chan os.Signal // to pass on
	child chan os.Signal // a child stopped or ended
	done  chan struct{}
	once  sync.Once
}

// forwarded are the signals that are passed on.
func forwarded() []syscall.Signal {
	return []syscall.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2,
		unix.SIGALRM, unix.SIGCONT, unix.SIGWINCH, unix.SIGPWR, unix.SIGIO,
	}
}

// catch begins. A signal that the runner was started to ignore (nohup) stays
// ignored: the program inherits that.
func catch() *signals {
	s := &signals{c: make(chan os.Signal, 64), child: make(chan os.Signal, 1), done: make(chan struct{})}
	signal.Notify(s.child, unix.SIGCHLD)
	for _, n := range forwarded() {
		if !signal.Ignored(n) {
			signal.Notify(s.c, n)
		}
	}
	return s
}

// forward passes signals on until stop.
func (s *signals) forward(p *os.Process) {
	for {
		select {
		case <-s.done:
			return
		case n := <-s.c:
			if fromTerminal(n) && inForeground() {
				continue
			}
			_ = p.Signal(n)
		}
	}
}

func (s *signals) stop() {
	s.once.Do(func() {
		signal.Stop(s.c)
		signal.Stop(s.child)
		close(s.done)
	})
}

func fromTerminal(n os.Signal) bool {
	return n == unix.SIGINT || n == unix.SIGQUIT || n == unix.SIGWINCH
}

// inForeground says whether this process group is its terminal's foreground one.
func inForeground() bool {
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// await waits for a child to end and follows its stops. It does not block in
// wait4(2): the scheduler would take up to 10 ms to notice and to give the
// processor to somebody else.
func (s *signals) await(pid int) waited {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(pid, &ws, unix.WUNTRACED|unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return waited{0, fault.New(fault.Internal, "wait for program", "", "%v", err)}
		case got == 0:
			<-s.child
		case ws.Exited():
			return waited{status: ws.ExitStatus()}
		case ws.Signaled():
			return waited{status: 128 + int(ws.Signal())}
		case ws.Stopped():
			stopToo(pid)
		}
	}
}

// stopToo stops the runner like its program, where a shell may be waiting for
// it. By now the program may go on again; then nothing is to be done.
func stopToo(pid int) {
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return
	}
	_ = unix.Close(fd)
	if isStopped(pid) {
		_ = unix.Kill(unix.Getpid(), unix.SIGSTOP)
	}
}

// isStopped reads the state of a process, which must not have been waited for.
func isStopped(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	i := bytes.LastIndexByte(b, ')') // the name before it may hold anything
	return i >= 0 && i+2 < len(b) && b[i+2] == 'T'
}
