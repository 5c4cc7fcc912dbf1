package e2e

import (
	"io"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"brane/frame"
)

// shell is a brane with a shell in it that appears as root.
type shell struct {
	w     *world
	in    io.WriteCloser
	lines *lineReader
}

// station is a brane as seen from the network.
type station struct {
	mac          frame.MAC
	addr4, addr6 netip.Addr
}

// shell starts one on the network office, until the test ends.
func (w *world) shell(name string, flags ...string) *shell {
	w.t.Helper()
	args := append([]string{"run", "-n", "office", "--name", name, "--as-root"}, flags...)
	c := w.brane(append(args, "--", "sh")...)
	in, err := c.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		w.t.Fatal(err)
	}
	s := &shell{w: w, in: in, lines: newLines(out)}
	w.t.Cleanup(func() {
		_ = in.Close()
		_ = c.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { _ = c.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			_ = c.Process.Kill()
			<-done
		}
	})
	s.ask("exec 2>&1")
	return s
}

// ask runs a command and gives its output.
func (s *shell) ask(command string) string {
	s.w.t.Helper()
	const end = "--end of answer--"
	if _, err := io.WriteString(s.in, command+"\necho '"+end+"'\n"); err != nil {
		s.w.t.Fatal(err)
	}
	var b strings.Builder
	for {
		line := s.lines.next(s.w.t)
		if line == end {
			return b.String()
		}
		b.WriteString(line + "\n")
	}
}

// station asks for the addresses of the shell's brane.
func (s *shell) station(name string) station {
	s.w.t.Helper()
	st := station{mac: frame.DeriveMAC("office", name)}
	for _, f := range strings.Fields(s.ask("ip -o addr show dev eth0 scope global")) {
		p, err := netip.ParsePrefix(f)
		switch {
		case err != nil:
		case p.Addr().Is4():
			st.addr4 = p.Addr()
		default:
			st.addr6 = p.Addr()
		}
	}
	if !st.addr4.IsValid() || !st.addr6.IsValid() {
		s.w.t.Fatalf("addresses of %s: %+v", name, st)
	}
	return st
}
