package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// Addresses of the two guests.
const (
	macA, macB   = "02:77:00:00:00:01", "02:77:00:00:00:02"
	addrA, addrB = "10.77.0.1", "10.77.0.2"
)

const guestsXML = `<network><name>bench</name><ip address='10.77.0.254' prefix='24'><dhcp><range start='10.77.0.1' end='10.77.0.9'/>
<host name='a' ip='10.77.0.1'/><host name='b' ip='10.77.0.2'/></dhcp></ip></network>`

// guests measures two guests of one switch.
func guests(l *lab) (string, error) {
	makers := []struct {
		name string
		make func(p *peer) error
	}{
		{"brane", l.peerBrane},
		{"veth", func(p *peer) error { return l.pair(p, p.a, p.b, "e0", "e0") }},
		{"bridge", func(p *peer) error { return l.bridge(p, "") }},
		{"bridge+nft", func(p *peer) error { return l.bridge(p, antiSpoof) }},
		{"vde_switch", l.vde},
		{"C loop", l.loop},
	}
	var peers []*peer
	for _, m := range makers {
		if m.name == "C loop" && l.tapcat == "" {
			continue
		}
		p := &peer{name: m.name, to: addrB}
		if err := l.twoGuests(p); err != nil {
			return "", err
		}
		if err := m.make(p); err != nil {
			return "", fmt.Errorf("%s: %w", m.name, err)
		}
		if err := errors.Join(l.serve(p.b), l.reachable(p)); err != nil {
			return "", fmt.Errorf("%s: %w", m.name, err)
		}
		peers = append(peers, p)
	}
	tests := []test{
		{"TCP", "Gbit/s", 1, (*lab).tcp},
		{"64-byte frames", "k/s", 0, (*lab).frames},
		{"round trips on one CPU", "k/s", 1, (*lab).roundTripsOneCPU},
	}
	all := l.measure(tests, peers)
	return markdown("Guest to guest, MTU 1500, anti-spoofing on", tests, peers, all), nil
}

func (l *lab) twoGuests(p *peer) (err error) {
	short := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, p.name)
	if p.a, err = l.space(short + "a"); err != nil {
		return err
	}
	p.b, err = l.space(short + "b")
	return err
}

// address gives the guests their addresses on an interface.
func (l *lab) address(p *peer, dev string) error {
	return errors.Join(
		l.must(p.a, "ip", "addr", "add", addrA+"/24", "dev", dev), l.must(p.a, "ip", "link", "set", dev, "address", macA, "up"),
		l.must(p.b, "ip", "addr", "add", addrB+"/24", "dev", dev), l.must(p.b, "ip", "link", "set", dev, "address", macB, "up"),
	)
}

func (l *lab) veth(from, to, name, far string) error {
	return l.must(from, "ip", "link", "add", name, "type", "veth", "peer", "name", far, "netns", filepath.Base(to))
}

func (l *lab) pair(p *peer, a, b, devA, devB string) error {
	if err := l.veth(a, b, devA, devB); err != nil {
		return err
	}
	return l.address(p, devA)
}

// antiSpoof is what libvirt's users write by hand.
const antiSpoof = `table bridge guard {
  chain pa {
    ether saddr != ` + macA + ` drop
    ether type arp arp saddr ether ` + macA + ` arp saddr ip ` + addrA + ` accept
    ether type ip ip saddr ` + addrA + ` accept
    drop
  }
  chain pb {
    ether saddr != ` + macB + ` drop
    ether type arp arp saddr ether ` + macB + ` arp saddr ip ` + addrB + ` accept
    ether type ip ip saddr ` + addrB + ` accept
    drop
  }
  chain pre {
    type filter hook prerouting priority -300; policy drop;
    iifname vmap { "sa" : jump pa, "sb" : jump pb }
  }
}
`

func (l *lab) bridge(p *peer, rules string) error {
	s, err := l.space("switch" + strconv.Itoa(len(l.spaces)))
	if err != nil {
		return err
	}
	err = errors.Join(l.must(s, "ip", "link", "add", "br0", "type", "bridge"), l.must(s, "ip", "link", "set", "br0", "up"),
		l.veth(p.a, s, "e0", "sa"), l.veth(p.b, s, "e0", "sb"),
		l.must(s, "ip", "link", "set", "sa", "master", "br0", "up"), l.must(s, "ip", "link", "set", "sb", "master", "br0", "up"))
	if err != nil {
		return err
	}
	if rules != "" {
		c := l.in(s, "nft", "-f", "-")
		c.Stdin = strings.NewReader(rules)
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
	}
	return l.address(p, "e0")
}

func (l *lab) vde(p *peer) error {
	sock := filepath.Join(l.dir, "vde")
	c := exec.Command("vde_switch", "-s", sock, "-n", "32")
	if _, err := c.StdinPipe(); err != nil { // it ends at the end of its input
		return err
	}
	pid, err := l.background(c)
	if err != nil {
		return err
	}
	p.pids = append(p.pids, pid)
	if err := l.await(func() bool { _, err := os.Stat(sock + "/ctl"); return err == nil }); err != nil {
		return err
	}
	for _, space := range []string{p.a, p.b} {
		pid, err := l.background(l.in(space, "vde_plug2tap", "-s", sock, "t0"))
		if err != nil {
			return err
		}
		p.pids = append(p.pids, pid)
		if err := l.await(func() bool { return l.in(space, "ip", "link", "show", "t0").Run() == nil }); err != nil {
			return err
		}
	}
	return l.address(p, "t0")
}

func (l *lab) loop(p *peer) error {
	pid, err := l.background(exec.Command(l.tapcat, filepath.Base(p.a), "t0", filepath.Base(p.b), "t0", "vnet"))
	if err != nil {
		return err
	}
	p.pids = []int{pid}
	if err := l.await(func() bool { return l.in(p.b, "ip", "link", "show", "t0").Run() == nil }); err != nil {
		return err
	}
	return l.address(p, "t0")
}

func (l *lab) peerBrane(p *peer) (err error) {
	host := p.a // where the daemon is
	if err := l.network(host, guestsXML); err != nil {
		return err
	}
	if p.a, err = l.guest(host, "a"); err != nil {
		return err
	}
	if p.b, err = l.guest(host, "b"); err != nil {
		return err
	}
	p.pids, err = l.daemon(host)
	return err
}

// reachable waits until the path works.
func (l *lab) reachable(p *peer) error {
	return l.await(func() bool {
		return l.in(p.a, l.self, "load", "rr", fmt.Sprintf("%s:%d", p.to, echoPort), "0.01").Run() == nil
	})
}

// generator runs one and reads its number.
func (l *lab) generator(space string, args ...string) (float64, error) {
	out, err := l.in(space, append(append([]string{}, args...), strconv.FormatFloat(l.secs, 'f', -1, 64))...).Output()
	if err != nil {
		return math.NaN(), explain(err)
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}

func explain(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return err
}

func (l *lab) tcp(p *peer) (float64, error) { return l.iperf(p.a, p.to, iperfPort) }

// iperf gives Gbit/s as the receiver counts them.
func (l *lab) iperf(from, to string, port int) (float64, error) {
	out, err := l.in(from, "timeout", strconv.Itoa(int(l.secs)+10), "iperf3", "-c", to, "-p", strconv.Itoa(port), "-C", "cubic",
		"-t", strconv.FormatFloat(l.secs, 'f', -1, 64), "-J").Output()
	var r struct {
		Error string
		End   struct {
			Received struct {
				Bits float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if e := json.Unmarshal(out, &r); e != nil || r.Error != "" || err != nil {
		return math.NaN(), fmt.Errorf("iperf3: %s %w", r.Error, errors.Join(err, e))
	}
	return r.End.Received.Bits / 1e9, nil
}

func (l *lab) frames(p *peer) (float64, error) {
	type result struct {
		v   float64
		err error
	}
	received := make(chan result, 1)
	go func() {
		v, err := l.generator(p.b, l.self, "load", "sink")
		received <- result{v, err}
	}()
	_ = l.await(func() bool { // until the sink listens
		out, _ := l.in(p.b, "ss", "-Hlun", "sport", "=", strconv.Itoa(sinkPort)).Output()
		return len(out) > 0
	})
	if _, err := l.generator(p.a, l.self, "load", "udp", fmt.Sprintf("%s:%d", p.to, sinkPort)); err != nil {
		<-received
		return math.NaN(), err
	}
	r := <-received
	return r.v / 1e3, r.err
}

// roundTripsOneCPU puts the client, the server and the peer on one CPU: what a
// round trip costs, without the wake-ups of another.
func (l *lab) roundTripsOneCPU(p *peer) (float64, error) {
	pids := append([]int{}, p.pids...)
	for _, c := range l.started {
		pids = append(pids, c.Process.Pid)
	}
	pin := func(cpus string) {
		for _, pid := range pids {
			_ = exec.Command("taskset", "-apc", cpus, strconv.Itoa(pid)).Run()
		}
	}
	pin("1")
	defer pin(fmt.Sprintf("0-%d", runtime.NumCPU()-1))
	v, err := l.generator(p.a, "taskset", "-c", "1", l.self, "load", "rr", fmt.Sprintf("%s:%d", p.to, echoPort))
	return v / 1e3, err
}
