package brane

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brane/internal/linux/linuxtest"
)

// begun starts s and waits for the program's first line.
func begun(t *testing.T, cmd *exec.Cmd) (*bufio.Reader, string) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("the program did not begin: %v", err)
	}
	return r, strings.TrimSpace(line)
}

func TestSignalsPass(t *testing.T) {
	if !linuxtest.AsUser(t) {
		return
	}
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH} {
		n := strconv.Itoa(int(sig))
		cmd := command1(t, testSpec(t, "sh", "-c", `trap "echo got `+n+`; exit 5" `+n+`; echo ready; while :; do sleep 0.01; done`))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal: nobody else sends it
		r, _ := begun(t, cmd)
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		line, _ := r.ReadString('\n')
		_ = cmd.Wait()
		if strings.TrimSpace(line) != "got "+n || cmd.ProcessState.ExitCode() != 5 {
			t.Errorf("%v: the program said %q, %v", sig, line, cmd.ProcessState)
		}
	}
}

func TestSignalKillsProgram(t *testing.T) {
	if !linuxtest.AsUser(t) {
		return
	}
	cmd := command1(t, testSpec(t, "sh", "-c", "echo ready; exec sleep 100"))
	begun(t, cmd)
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 128+15 {
		t.Errorf("exit status %d", got)
	}
}

// Signals that the caller ignores (nohup) stay ignored in the program.
func TestIgnoredSignals(t *testing.T) {
	if !linuxtest.AsUser(t) {
		return
	}
	cmd := command1(t, testSpec(t, "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"))
	cmd.Args, cmd.Path = []string{"sh", "-c", `trap "" HUP; exec "$0" runner`, exe(t)}, "/bin/sh"
	out, err := cmd.CombinedOutput()
	// What the machine's own start ignores besides is no matter.
	blocked, ignored, _ := strings.Cut(strings.TrimSpace(string(out)), "\nSigIgn:\t")
	set, bad := strconv.ParseUint(ignored, 16, 64)
	if err != nil || blocked != "SigBlk:\t0000000000000000" || bad != nil || set&1 == 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// A runner that is killed takes its program along.
func TestRunnerKilled(t *testing.T) {
	if !linuxtest.AsUser(t) {
		return
	}
	cmd := command1(t, testSpec(t, "sh", "-c", "echo $$; exec sleep 100"))
	_, line := begun(t, cmd)
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	p, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(p), Events: unix.POLLIN}}, 10_000); n != 1 {
		t.Errorf("the program lives on: %v", err)
	}
	_ = cmd.Wait()
}

// terminal makes a pseudo-terminal.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return master, slave
}

// An interrupt typed at the terminal reaches the program once: the terminal
// sends it to the whole group, and the runner does not send it again. The TERM
// after it goes through the runner, behind what the runner would have sent.
func TestInterruptOnce(t *testing.T) {
	if !linuxtest.AsUser(t) {
		return
	}
	master, slave := terminal(t)
	cmd := command1(t, testSpec(t, "sh", "-c",
		`n=0; trap 'n=$((n+1)); echo interrupted' INT; trap 'echo count $n; exit 0' TERM; echo ready; while :; do sleep 0.01; done`))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	r := bufio.NewReader(master)
	until(t, r, "ready")
	if _, err := master.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	until(t, r, "interrupted")
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if line := until(t, r, "count"); line != "count 1" {
		t.Errorf("%q", line)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// until reads lines until one holds text, and returns that.
func until(t *testing.T, r *bufio.Reader, text string) string {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if strings.Contains(line, text) {
			return strings.TrimSpace(line[strings.Index(line, text):])
		}
		if err != nil {
			t.Fatalf("before %q: %v", text, err)
		}
	}
}

// jobMain is what a shell with job control does: it starts the runner in a
// group of its own in the foreground, sees it stop, and continues the group.
func jobMain() int {
	tty, err := unix.Open("/dev/tty", unix.O_RDWR, 0)
	if err != nil {
		fmt.Println("no terminal", err)
		return 2
	}
	cmd := exec.Command("/proc/self/exe", "runner")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Foreground: true, Ctty: tty}
	if err := cmd.Start(); err != nil {
		fmt.Println("start", err)
		return 2
	}
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(cmd.Process.Pid, &ws, unix.WUNTRACED, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 2
		case ws.Stopped():
			fmt.Println("stopped")
			_ = unix.Kill(-cmd.Process.Pid, unix.SIGCONT)
		case ws.Exited():
			fmt.Println("status", ws.ExitStatus())
			return 0
		}
	}
}

// A program that stops, by itself or by Ctrl-Z, stops the runner for the shell
// to see, and goes on with it.
func TestStop(t *testing.T) {
	if !linuxtest.AsUser(t) {
		return
	}
	for name, c := range map[string]struct {
		script string
		typed  []byte
	}{
		"itself": {"kill -STOP $$; echo on; exit 3", nil},
		"Ctrl-Z": {"trap 'echo on; exit 3' CONT; echo ready; while :; do sleep 0.01; done", []byte{26}},
	} {
		t.Run(name, func(t *testing.T) {
			master, slave := terminal(t)
			cmd := command1(t, testSpec(t, "sh", "-c", c.script))
			cmd.Args[1] = "job"
			cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			_ = slave.Close()
			_ = master.SetReadDeadline(time.Now().Add(20 * time.Second))
			r := bufio.NewReader(master)
			if c.typed != nil {
				until(t, r, "ready")
				if _, err := master.Write(c.typed); err != nil {
					t.Fatal(err)
				}
			}
			until(t, r, "stopped")
			until(t, r, "status 3")
			_, _ = io.Copy(io.Discard, r)
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestIsStopped(t *testing.T) {
	cmd := exec.Command("sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if isStopped(cmd.Process.Pid) {
		t.Error("it runs, and is called stopped")
	}
	_ = cmd.Process.Signal(unix.SIGSTOP)
	var ws unix.WaitStatus
	if _, err := unix.Wait4(cmd.Process.Pid, &ws, unix.WUNTRACED, nil); err != nil || !ws.Stopped() {
		t.Fatal(err, ws)
	}
	if !isStopped(cmd.Process.Pid) {
		t.Error("it is stopped")
	}
}
