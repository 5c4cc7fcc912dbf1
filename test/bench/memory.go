package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"brane/client"
)

// memory measures what Brane's three processes hold: PSS, so that what they
// share is counted once.
func memory(l *lab) (string, error) {
	p := &peer{name: "brane"}
	host, err := l.host(p)
	if err != nil {
		return "", err
	}
	if err := l.network(host, guestsXML1000); err != nil {
		return "", err
	}
	pids, err := l.daemon(host)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("### Memory, PSS of daemon, worker and broker\n\n| open ports | MiB | KiB more for each port |\n| ---: | ---: | ---: |\n")
	var idle float64
	for _, n := range []int{0, 1, 10, 100, 1000} {
		c := l.asUser(host, l.self, "load", "hold", strconv.Itoa(n))
		in, err := c.StdinPipe()
		if err != nil {
			return "", err
		}
		out, err := c.StdoutPipe()
		if err != nil {
			return "", err
		}
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			return "", err
		}
		if line, _ := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
			_ = c.Wait()
			return "", fmt.Errorf("%d ports were not opened", n)
		}
		v := settled(pids)
		_ = in.Close()
		_ = c.Wait()
		more := "-"
		if n == 0 {
			idle = v
		} else {
			more = fmt.Sprintf("%.0f", (v-idle)*1024/float64(n))
		}
		fmt.Fprintf(&b, "| %d | %.1f | %s |\n", n, v, more)
		l.say("memory  %d ports  %.1f MiB  %s", n, v, more)
	}
	return b.String(), nil
}

// guestsXML1000 has room for a thousand ports.
const guestsXML1000 = `<network><name>bench</name><ip address='10.77.0.1' prefix='20'><dhcp><range start='10.77.0.2' end='10.77.15.254'/></dhcp></ip></network>`

// hold opens ports of sockets and holds them until its input ends.
func hold(count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	c := client.New(client.RuntimeDir())
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for i := range n {
		d, err := c.Open(ctx, client.OpenRequest{Op: "open", Device: fmt.Sprintf("bench/p%d", i)})
		if err != nil {
			return err
		}
		defer func() { _ = d.Close() }()
	}
	fmt.Println("held")
	_, _ = os.Stdin.Read(make([]byte, 1))
	return nil
}

// settled reads the PSS in MiB when it has stopped falling: Go gives memory
// back some seconds after it was used.
func settled(pids []int) float64 {
	last := pss(pids)
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	for range 10 {
		<-t.C
		v := pss(pids)
		if v >= last*0.99 {
			return v
		}
		last = v
	}
	return last
}

func pss(pids []int) (mib float64) {
	for _, pid := range pids {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "Pss:"); ok {
				kib, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 64)
				mib += kib / 1024
			}
		}
	}
	return mib
}
