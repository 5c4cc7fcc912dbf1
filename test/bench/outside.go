package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
)

// The outside is a namespace behind the host's.
const (
	hostAddr, outsideAddr = "10.99.0.2", "10.99.0.1"
	forwarded             = 1000 // added to the ports of the guest's servers, on the host
)

const outsideXML = `<network><name>bench</name><forward mode='nat'/><ip address='10.77.0.254' prefix='24'/></network>`

// outside measures a guest and what is outside of the host, both ways.
func outside(l *lab) (string, error) {
	makers := []struct {
		name string
		make func(p *peer, host string) error
	}{
		{"brane", l.outsideBrane}, {"slirp4netns", l.slirp}, {"pasta", l.pasta},
	}
	var peers []*peer
	for _, m := range makers {
		p := &peer{name: m.name, to: outsideAddr, back: hostAddr, port: forwarded}
		host, err := l.host(p)
		if err == nil {
			err = m.make(p, host)
		}
		if err == nil {
			// What each guest may have under way is the same for all; pasta stalls without the bound.
			err = errors.Join(l.must(p.a, "sysctl", "-qw", "net.ipv4.tcp_wmem=4096 16384 262144"), l.serve(p.a), l.serve(p.b), l.reachable(p))
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", m.name, err)
		}
		peers = append(peers, p)
	}
	in := func(p *peer) *peer { return &peer{name: p.name, a: p.b, to: p.back} }
	tests := []test{
		{"TCP out", "Gbit/s", 1, (*lab).tcp},
		{"TCP in", "Gbit/s", 1, func(l *lab, p *peer) (float64, error) { return l.iperf(p.b, p.back, iperfPort+p.port) }},
		{"connections out", "k/s", 1, func(l *lab, p *peer) (float64, error) { return l.echo(p, "crr", echoPort) }},
		{"connections in", "k/s", 1, func(l *lab, p *peer) (float64, error) { return l.echo(in(p), "crr", echoPort+p.port) }},
		{"round trips out", "k/s", 1, func(l *lab, p *peer) (float64, error) { return l.echo(p, "rr", echoPort) }},
	}
	all := l.measure(tests, peers)
	return markdown("Guest to outside and back, `tcp_wmem` of every guest at most 256 KiB", tests, peers, all), nil
}

// echo runs a generator against an echo server.
func (l *lab) echo(p *peer, kind string, port int) (float64, error) {
	v, err := l.generator(p.a, l.self, "load", kind, fmt.Sprintf("%s:%d", p.to, port))
	return v / 1e3, err
}

// host makes a host with an outside behind it, and a namespace for a guest.
func (l *lab) host(p *peer) (string, error) {
	host, err := l.space(p.name + "h")
	if err != nil {
		return "", err
	}
	if p.b, err = l.space(p.name + "o"); err != nil {
		return "", err
	}
	if p.a, err = l.space(p.name + "g"); err != nil {
		return "", err
	}
	return host, errors.Join(
		l.veth(host, p.b, "eth0", "eth0"),
		l.must(host, "ip", "addr", "add", hostAddr+"/24", "dev", "eth0"), l.must(host, "ip", "link", "set", "eth0", "up"),
		l.must(p.b, "ip", "addr", "add", outsideAddr+"/24", "dev", "eth0"), l.must(p.b, "ip", "link", "set", "eth0", "up"),
		l.must(host, "ip", "route", "add", "default", "via", outsideAddr),
	)
}

func (l *lab) outsideBrane(p *peer, host string) (err error) {
	if err := l.network(host, outsideXML); err != nil {
		return err
	}
	forward := func(port int) string { return fmt.Sprintf("%s:%d:%d", hostAddr, port+forwarded, port) }
	if p.a, err = l.guest(host, "a", "-p", forward(iperfPort), "-p", forward(echoPort)); err != nil {
		return err
	}
	p.pids, err = l.daemon(host)
	return err
}

func (l *lab) slirp(p *peer, host string) error {
	sock := filepath.Join(l.dir, "slirp.sock")
	pid, err := l.background(l.in(host, "slirp4netns", "-c", "-m", "65520", "--netns-type=path", "-a", sock, p.a, "tap0"))
	if err != nil {
		return err
	}
	p.pids = []int{pid}
	if err := l.await(func() bool {
		c, err := net.Dial("unix", sock)
		if err == nil {
			_ = c.Close()
		}
		return err == nil && l.in(p.a, "ip", "link", "show", "tap0").Run() == nil
	}); err != nil {
		return err
	}
	return errors.Join(slirpForward(sock, iperfPort), slirpForward(sock, echoPort))
}

// slirpForward leads a port of the host to the guest.
func slirpForward(sock string, port int) error {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: sock, Net: "unix"})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	ask := map[string]any{"execute": "add_hostfwd", "arguments": map[string]any{
		"proto": "tcp", "host_addr": "0.0.0.0", "host_port": port + forwarded, "guest_port": port,
	}}
	if err := json.NewEncoder(c).Encode(ask); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	var r struct{ Error any }
	if err == nil && json.Unmarshal(answer, &r) == nil && r.Error != nil {
		err = fmt.Errorf("slirp4netns: %s", answer)
	}
	return err
}

// pastaArgs are for a guest namespace; without one it makes its own.
func pastaArgs(more ...string) []string {
	return append([]string{"pasta", "--config-net", "-q", "--no-map-gw", "-u", "none", "-T", "none", "-U", "none"}, more...)
}

func (l *lab) pasta(p *peer, host string) error {
	ports := fmt.Sprintf("%d:%d,%d:%d", iperfPort+forwarded, iperfPort, echoPort+forwarded, echoPort)
	var c *exec.Cmd = l.in(host, pastaArgs("-f", "--runas", "0", "-t", ports, "--netns", p.a)...)
	pid, err := l.background(c)
	p.pids = []int{pid}
	return err
}
