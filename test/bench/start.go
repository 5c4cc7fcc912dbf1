package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// start measures what a user waits for: a program that does nothing, and the
// first answer of the gateway. Everything is run by the ordinary account.
func start(l *lab) (string, error) {
	p := &peer{name: "brane"}
	host, err := l.host(p)
	if err != nil {
		return "", err
	}
	// The daemon runs and the network is up: warm.
	if out, err := l.asUser(host, l.brane, "run", "--", "true").CombinedOutput(); err != nil {
		return "", fmt.Errorf("brane run: %w: %s", err, out)
	}
	gateway, err := l.asUser(host, l.brane, "run", "--", "sh", "-c", "ip -4 route show default | cut -d' ' -f3").Output()
	if err != nil {
		return "", err
	}
	peers := []*peer{{name: "brane", a: host, to: strings.TrimSpace(string(gateway))}, {name: "unshare -Urn", a: host}, {name: "pasta", a: host, to: outsideAddr}, {name: "slirp4netns", a: host, to: "10.0.2.2"}}
	tests := []test{{"a program that does nothing", "ms", 1, (*lab).nothing}, {"first ping of the gateway", "ms", 1, (*lab).firstPing}}
	// A start is short: many rounds cost little.
	l.rounds *= 4
	all := l.measure(tests, peers)
	return markdown("Start, as an ordinary user", tests, peers, all), nil
}

// took gives the milliseconds of a command of the account. Entering the
// namespace and the account is the same for all and not counted.
func (l *lab) took(host string, args ...string) (float64, error) {
	out, err := l.asUser(host, append([]string{l.self, "load", "took"}, args...)...).Output()
	if err != nil {
		return math.NaN(), explain(err)
	}
	var ms float64
	_, err = fmt.Sscan(string(out), &ms)
	return ms, err
}

// tookLoad is the other side of took.
func tookLoad(args []string) error {
	begin := time.Now()
	var err error
	if args[0] == "slirp" {
		err = slirpProgram(args[1:])
	} else {
		c := exec.Command(args[0], args[1:]...)
		c.Stderr = os.Stderr
		err = c.Run()
	}
	if err != nil {
		return err
	}
	_, err = fmt.Printf("%.3f\n", float64(time.Since(begin).Microseconds())/1e3)
	return err
}

// slirpProgram does what rootless container engines do: a namespace, slirp4netns
// for it, and the program when that is ready.
func slirpProgram(args []string) error {
	c := exec.Command("unshare", append([]string{"-Urn", "sh", "-c", `echo; read -r _; exec "$@"`, "sh"}, args...)...)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		return err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	one := make([]byte, 1)
	if _, err := out.Read(one); err != nil {
		return err
	}
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	s := exec.Command("slirp4netns", "-c", "-m", "65520", "-r", "3", strconv.Itoa(c.Process.Pid), "tap0")
	s.ExtraFiles = []*os.File{theirs}
	if err := s.Start(); err != nil {
		return err
	}
	defer func() { _ = s.Process.Kill(); _ = s.Wait() }()
	_ = theirs.Close()
	if _, err := ready.Read(one); err != nil {
		return fmt.Errorf("slirp4netns was not ready: %w", err)
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		return err
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return c.Wait()
}

func (l *lab) nothing(p *peer) (float64, error) { return l.program(p, "true") }

func (l *lab) firstPing(p *peer) (float64, error) {
	if p.to == "" {
		return math.NaN(), nil // a namespace without a network
	}
	return l.program(p, "ping", "-q", "-c", "1", "-W", "1", p.to)
}

func (l *lab) program(p *peer, args ...string) (float64, error) {
	switch p.name {
	case "brane":
		return l.took(p.a, append([]string{l.brane, "run", "--"}, args...)...)
	case "pasta":
		return l.took(p.a, append(append(pastaArgs("-t", "none"), "--"), args...)...)
	case "slirp4netns":
		return l.took(p.a, append([]string{"slirp"}, args...)...)
	}
	return l.took(p.a, append([]string{"unshare", "-Urn"}, args...)...)
}
