package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"brane/client"
)

// account is who runs Brane and its guests.
const account = "brane-test"

// lab is the namespaces and processes of one section.
type lab struct {
	options
	self     string // this program
	dir      string
	uid, gid int
	spaces   []string // names of network namespaces
	started  []*exec.Cmd
	notes    map[string]bool
}

// peer is one contender: two guests, or a guest and the outside.
type peer struct {
	name string
	a, b string // network namespaces, by path
	to   string // where a reaches b
	back string // where b reaches a; the ports there are those below
	port int    // added to the ports of the generators on the way back
	pids []int  // the processes that carry the frames
}

func newLab(o options) (*lab, error) {
	l := &lab{options: o, notes: map[string]bool{}}
	var err error
	if l.self, err = os.Executable(); err != nil {
		return nil, err
	}
	u, err := user.Lookup(account)
	if err != nil {
		if out, err := exec.Command("useradd", "--create-home", account).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("make the account %s: %w: %s", account, err, out)
		}
		if u, err = user.Lookup(account); err != nil {
			return nil, err
		}
	}
	l.uid, _ = strconv.Atoi(u.Uid)
	l.gid, _ = strconv.Atoi(u.Gid)
	if err := os.Chmod("/dev/net/tun", 0o666); err != nil {
		return nil, err
	}
	if l.dir, err = os.MkdirTemp("/tmp", "brane-bench-"); err != nil {
		return nil, err
	}
	own := filepath.Join(l.dir, "own")
	copied := filepath.Join(l.dir, "brane")
	self := filepath.Join(l.dir, "bench")
	if err := errors.Join(os.Chmod(l.dir, 0o755), os.Mkdir(own, 0o700), os.Chown(own, l.uid, l.gid), cp(o.brane, copied), cp(l.self, self)); err != nil {
		return nil, err
	}
	l.options.brane, l.self = copied, self
	return l, nil
}

func cp(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// close ends what was started and takes away what was made.
func (l *lab) close() {
	if len(l.spaces) > 0 {
		_ = l.asUser(l.spaces[0], l.brane, "daemon", "stop").Run()
	}
	for _, c := range l.started {
		_ = c.Process.Signal(syscall.SIGTERM)
	}
	for _, c := range l.started {
		t := time.AfterFunc(2*time.Second, func() { _ = c.Process.Kill() })
		_ = c.Wait()
		t.Stop()
	}
	for _, n := range l.spaces {
		_ = exec.Command("ip", "netns", "del", filepath.Base(n)).Run()
	}
	_ = os.RemoveAll(l.dir)
}

func (l *lab) say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// note says something once.
func (l *lab) note(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	if !l.notes[s] {
		l.notes[s] = true
		l.say("%s", s)
	}
}

// space makes a network namespace and gives its path. The settings are those
// of a plain machine: cubic, no bridge hooks, no IPv6 chatter.
func (l *lab) space(name string) (string, error) {
	full := fmt.Sprintf("bench%d%s", os.Getpid(), name)
	if out, err := exec.Command("ip", "netns", "add", full).CombinedOutput(); err != nil {
		return "", fmt.Errorf("ip netns add: %w: %s", err, out)
	}
	path := "/run/netns/" + full
	l.spaces = append(l.spaces, path)
	return path, errors.Join(l.must(path, "ip", "link", "set", "lo", "up"), l.plain(path))
}

// plain sets what differs between machines, where it can be set.
func (l *lab) plain(space string) error {
	for _, s := range []string{
		"net.ipv4.tcp_congestion_control=cubic", "net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0",
		"net.bridge.bridge-nf-call-arptables=0", "net.ipv4.ip_local_port_range=10000 60000", "net.ipv4.ping_group_range=0 2147483647",
		"net.ipv4.tcp_tw_reuse=1", "net.ipv4.tcp_max_tw_buckets=1000",
	} {
		_ = l.in(space, "sysctl", "-qw", s).Run()
	}
	return nil
}

// in is a command of root in a network namespace.
func (l *lab) in(space string, args ...string) *exec.Cmd {
	c := exec.Command("nsenter", append([]string{"--net=" + space, "--"}, args...)...)
	c.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1") // the generators are one loop each
	return c
}

func (l *lab) must(space string, args ...string) error {
	if out, err := l.in(space, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// asUser is a command of the account, with a daemon of its own.
func (l *lab) asUser(space string, args ...string) *exec.Cmd {
	id := []string{"setpriv", "--reuid", strconv.Itoa(l.uid), "--regid", strconv.Itoa(l.gid), "--clear-groups", "--"}
	c := l.in(space, append(id, args...)...)
	c.Env, c.Dir = l.env(), "/"
	return c
}

func (l *lab) env() []string {
	own := filepath.Join(l.dir, "own")
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + own, "LANG=C.UTF-8",
		"XDG_RUNTIME_DIR=" + own, "BRANE_RUNTIME_DIR=" + own + "/run", "BRANE_STATE_DIR=" + own + "/state",
	}
}

// background starts a command that ends with the lab.
func (l *lab) background(c *exec.Cmd) (int, error) {
	if err := c.Start(); err != nil {
		return 0, err
	}
	l.started = append(l.started, c)
	return c.Process.Pid, nil
}

// serve starts the servers of a guest.
func (l *lab) serve(space string) error {
	for _, c := range []*exec.Cmd{
		l.in(space, "iperf3", "-s", "-p", strconv.Itoa(iperfPort)),
		l.in(space, l.self, "load", "serve"),
	} {
		if _, err := l.background(c); err != nil {
			return err
		}
	}
	return nil
}

// daemon asks Brane's daemon for its processes.
func (l *lab) daemon(space string) (pids []int, err error) {
	out, err := l.asUser(space, "curl", "-sS", "--unix-socket", filepath.Join(l.dir, "own/run/api.sock"), "http://brane/v1/daemon").Output()
	if err != nil {
		return nil, err
	}
	var d client.Daemon
	if err := json.Unmarshal(out, &d); err != nil {
		return nil, err
	}
	return []int{d.PID, d.Worker, d.Broker}, nil
}

// guest runs a program that does nothing in a brane and gives its network namespace.
func (l *lab) guest(host, name string, flags ...string) (string, error) {
	args := append([]string{l.brane, "run", "-n", "bench", "--name", name}, flags...)
	pid, err := l.background(l.asUser(host, append(args, "--", "sleep", "infinity")...))
	if err != nil {
		return "", err
	}
	var space string
	err = l.await(func() bool {
		list, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		for _, path := range list {
			b, _ := os.ReadFile(path)
			for _, child := range strings.Fields(string(b)) {
				if c, _ := os.ReadFile("/proc/" + child + "/comm"); string(c) == "sleep\n" {
					space = "/proc/" + child + "/ns/net"
				}
			}
		}
		return space != ""
	})
	if err != nil {
		return "", fmt.Errorf("brane %s: %w", name, err)
	}
	return space, l.plain(space)
}

// await polls for at most ten seconds.
func (l *lab) await(ok func() bool) error {
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-t.C {
		if time.Now().After(end) {
			return errors.New("it did not come up in ten seconds")
		}
	}
	return nil
}

// network brings up a network of Brane on a host.
func (l *lab) network(host, xml string) error {
	c := l.asUser(host, l.brane, "up", "-")
	c.Stdin = strings.NewReader(xml)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("brane up: %w: %s", err, out)
	}
	return nil
}
