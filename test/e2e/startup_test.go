package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"brane/client"
	"brane/internal/linux/linuxtest"
)

// The benchmarks of the control plane: how long a start takes, what an idle
// port costs in memory, how the cost of an operation grows with what is there.
//
//	go test ./test/e2e -run '^$' -bench 'Start|Ports' -benchtime 50x

// BenchmarkStart is the time from the command to its end, beside the time that
// other programs take to do nothing in a network of its own.
func BenchmarkStart(b *testing.B) {
	linuxtest.NeedRoot(b)
	w := newWorld(b, linuxtest.Account)
	w.ok("run", "--", "true")
	for _, c := range []struct {
		name string
		args []string
	}{
		{"brane-warm", []string{w.bin, "run", "--", "true"}},
		{"brane-ping-gateway", []string{w.bin, "run", "--", "ping", "-c1", "-W2", "gateway"}},
		{"brane-version", []string{w.bin, "version"}},
		{"unshare", []string{"unshare", "-Urn", "true"}},
		{"pasta", []string{"pasta", "--config-net", "--", "true"}},
		{"true", []string{"/bin/true"}},
	} {
		b.Run(c.name, func(b *testing.B) { w.times(b, c.args) })
	}
}

// times reports the median and the ninth decile of the runs of one command,
// less what it takes to enter the host's namespace as the account.
func (w *world) times(b *testing.B, args []string) {
	if _, err := exec.LookPath(args[0]); err != nil {
		b.Skipf("%s is not installed", args[0])
	}
	full := append([]string{"bash", "-c", `while read -r _; do s=$EPOCHREALTIME; "$@" </dev/null >/dev/null 2>&1 || exit 1; echo $s $EPOCHREALTIME; done`, "sh"}, args...)
	c := w.cmd(full...)
	in, err := c.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var took []float64
	for b.Loop() {
		fmt.Fprintln(in)
		var from, to float64
		if !lines.Scan() {
			b.Fatalf("%s failed", strings.Join(args, " "))
		}
		if _, err := fmt.Sscan(lines.Text(), &from, &to); err != nil {
			b.Fatal(err)
		}
		took = append(took, (to-from)*1e3)
	}
	_ = in.Close()
	_ = c.Wait()
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2], "ms/median")
	b.ReportMetric(took[len(took)*9/10], "ms/p90")
}

// BenchmarkColdStart is the first command of a day: no daemon runs.
func BenchmarkColdStart(b *testing.B) {
	linuxtest.NeedRoot(b)
	w := newWorld(b, linuxtest.Account)
	w.ok("run", "--", "true")
	for b.Loop() {
		b.StopTimer()
		w.ok("daemon", "stop")
		w.until("end of the daemon", func() bool { return w.run("daemon", "stop").code != 0 })
		b.StartTimer()
		w.ok("run", "--", "true")
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/op")
}

// opener opens as many ports as a line says and answers how many seconds it
// took; with its input it ends, and all ports with it.
const opener = `import socket,sys,time
held=[]
for line in sys.stdin:
  if not line.strip(): break
  t=time.time()
  for i in range(int(line)):
    s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)
    s.connect(sys.argv[1])
    s.send(b'{"op":"open","device":"wide/p%d"}' % len(held))
    r=s.recv(65536)
    assert b'"error"' not in r, r
    held.append(s)
  print(time.time()-t,flush=True)
`

const wideXML = `<network>
  <name>wide</name>
  <forward mode='nat'/>
  <ip address='10.30.0.1' prefix='16'><dhcp><range start='10.30.1.0' end='10.30.200.0'/></dhcp></ip>
</network>
`

// BenchmarkPorts opens 1,000 ports, one after the other, and says how long one
// takes, what they cost daemon, broker and worker in memory, and how long it
// takes until all are closed again.
func BenchmarkPorts(b *testing.B) {
	linuxtest.NeedRoot(b)
	const count = 1000
	for b.Loop() {
		w := newWorld(b, linuxtest.Account)
		w.ok("up", w.file("wide.xml", wideXML))
		w.ok("run", "-n", "wide", "--", "true")
		idle := w.memory()
		c := w.cmd("python3", "-c", opener, filepath.Join(w.dir, "run", "brane", "device.sock"))
		in, err := c.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		out, err := c.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			b.Fatal(err)
		}
		lines := newLines(out)
		open := func(n int) (seconds float64) {
			fmt.Fprintln(in, n)
			if _, err := fmt.Sscan(lines.next(b), &seconds); err != nil {
				b.Fatal(err)
			}
			return seconds
		}
		open(1)
		b.ReportMetric(idle, "KiB/idle")
		b.ReportMetric(w.memory()-idle, "KiB/first-port")
		b.ReportMetric(open(count-1), "s/open-1000")
		b.ReportMetric((w.memory()-idle)/1024, "MiB/1000-ports")
		begun := time.Now()
		_ = in.Close()
		_ = c.Wait()
		w.until("end of all ports", func() bool {
			var ports []client.Port
			return json.Unmarshal([]byte(w.ok("device", "list", "-o", "json")), &ports) == nil && len(ports) <= 2
		})
		b.ReportMetric(time.Since(begun).Seconds(), "s/close-1000")
	}
}

// memory is the proportional set size of daemon, broker and worker, in KiB.
func (w *world) memory() float64 {
	w.t.Helper()
	var sum float64
	for _, who := range []string{"daemon", "broker", "worker"} {
		pid := w.pid(who)
		if pid == 0 {
			w.t.Fatalf("no %s", who)
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			w.t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); f[0] == "Pss:" {
				n, _ := strconv.ParseFloat(f[1], 64)
				sum += n
			}
		}
	}
	return sum
}
