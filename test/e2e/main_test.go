package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"brane/client"
)

const officeXML = `<network>
  <name>office</name>
  <forward mode='nat'/>
  <domain name='office'/>
  <dns><host ip='10.20.0.5'><hostname>printer</hostname></host></dns>
  <ip address='10.20.0.1' netmask='255.255.255.0'>
    <dhcp><range start='10.20.0.10' end='10.20.0.200'/><host name='fixed' ip='10.20.0.7'/></dhcp>
  </ip>
  <ip family='ipv6' address='fd00:20::1' prefix='64'/>
</network>
`

// TestFirstRun: no configuration, no daemon: a program is behind an address of
// its own, and reaches the outside in both families.
func TestFirstRun(t *testing.T) {
	as(t, func(w *world) {
		w.serve(w.outside, "["+outsideAddr6+"]:80", "hello")
		w.serve(w.outside, outsideAddr+":80", "hello")
		if got := w.ok("run", "--", "curl", "-sS", "--max-time", "10", "http://"+outsideAddr+"/"); !strings.HasPrefix(got, "hello to "+hostAddr) {
			t := w.t
			t.Errorf("from outside it looks like: %q", got)
		}
		if got := w.ok("run", "--", "curl", "-sS", "--max-time", "10", "http://["+outsideAddr6+"]/"); !strings.HasPrefix(got, "hello to ["+hostAddr6) {
			w.t.Errorf("IPv6: from outside it looks like: %q", got)
		}
		w.ok("run", "--", "ping", "-c1", "-W2", outsideAddr)
		w.ok("run", "--", "ping", "-c1", "-W2", outsideAddr6)
		if got := w.ok("run", "--name", "me", "--", "hostname"); strings.TrimSpace(got) != "me" {
			w.t.Errorf("hostname %q", got)
		}
	})
}

// TestPassThrough: exit status, signals, standard streams, directory, environment, user.
func TestPassThrough(t *testing.T) {
	as(t, func(w *world) {
		for _, code := range []int{0, 1, 42, 255} {
			if r := w.run("run", "--", "sh", "-c", fmt.Sprint("exit ", code)); r.code != code {
				w.t.Errorf("exit %d became %d: %s", code, r.code, r.err)
			}
		}
		if r := w.run("run", "--", "sh", "-c", "kill -TERM $$"); r.code != 128+int(syscall.SIGTERM) {
			w.t.Errorf("a program ended by SIGTERM gives %d", r.code)
		}
		if r := w.run("run", "--", "no-such-program"); r.code != 127 || !strings.Contains(r.err, "no-such-program") {
			w.t.Errorf("not found: %d %s", r.code, r.err)
		}
		if got := w.ok("run", "--", "pwd"); strings.TrimSpace(got) != w.dir+"/home" {
			w.t.Errorf("directory %q", got)
		}
		if got := w.ok("run", "--", "id", "-u"); strings.TrimSpace(got) != fmt.Sprint(w.uid) {
			w.t.Errorf("uid %q, is %d", got, w.uid)
		}
		if got := w.ok("run", "--as-root", "--", "id", "-u"); strings.TrimSpace(got) != "0" {
			w.t.Errorf("uid %q with --as-root", got)
		}
		c := w.brane("run", "--", "sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")
		out, err := c.StdoutPipe()
		if err != nil {
			w.t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			w.t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 16)); err != nil {
			w.t.Fatal(err)
		}
		_ = c.Process.Signal(syscall.SIGTERM)
		_ = c.Wait()
		if c.ProcessState.ExitCode() != 7 {
			w.t.Errorf("the program did not get SIGTERM: %v", c.ProcessState)
		}
	})
}

// TestOffice: a libvirt network file, two programs that reach each other by
// name, a published port, and what the commands show of it.
func TestOffice(t *testing.T) {
	as(t, func(w *world) {
		file := w.file("office.xml", officeXML)
		w.ok("up", file)
		w.background("run", "-n", "office", "--name", "web", "-p", "8080:80", "--", "python3", "-m", "http.server", "80", "--bind", "::")
		get := func(args ...string) bool {
			return w.run(append([]string{"run", "-n", "office", "--", "curl", "-sS", "--max-time", "5", "-o", "/dev/null"}, args...)...).code == 0
		}
		w.until("answer of web.office", func() bool { return get("http://web.office/") })
		if !get("-6", "http://web.office/") || !get("-4", "http://web/") {
			w.t.Error("web does not answer in both families and by its short name")
		}
		if c := w.cmd("curl", "-sS", "--max-time", "5", "http://127.0.0.1:8080/"); c.Run() != nil {
			w.t.Error("the published port does not answer on loopback")
		}
		if c := w.cmd("curl", "-sS", "--max-time", "5", "http://"+hostAddr+":8080/"); c.Run() == nil {
			w.t.Error("the published port answers on an address that was not asked for")
		}
		var list []client.Brane
		if err := json.Unmarshal([]byte(w.ok("list", "-o", "json")), &list); err != nil || len(list) != 1 || list[0].Name != "web" {
			w.t.Errorf("list: %v %+v", err, list)
		}
		if got := w.ok("show", "web"); !strings.Contains(got, "delivered") {
			w.t.Errorf("show web: %s", got)
		}
		if got := w.ok("net", "show", "office"); !strings.Contains(got, "10.20.0.1") {
			w.t.Errorf("net show: %s", got)
		}
		if got := w.ok("run", "-n", "office", "--name", "fixed", "--", "hostname", "-I"); !strings.Contains(got, "10.20.0.7") {
			w.t.Errorf("the static lease of the name: %q", got)
		}
		w.refused("programs run on it", "down", "office")
		w.ok("down", "--force", "office")
		w.refused("no network of this name", "net", "show", "office")
	})
}

// TestHostIsRefused: the host's loopback and addresses are refused at once and
// the last line says what was blocked and what would open it; --allow-host opens one port.
func TestHostIsRefused(t *testing.T) {
	as(t, func(w *world) {
		w.serve(w.host, "127.0.0.1:5432", "loopback")
		w.serve(w.host, "[::1]:5432", "loopback")
		w.serve(w.host, hostAddr+":5432", "host")
		gateway := strings.Fields(w.ok("run", "--", "ip", "-4", "route", "show", "default"))[2]
		for _, to := range []string{gateway, hostAddr, "169.254.169.254", "0.0.0.0"} {
			r := w.run("run", "--", "curl", "-sS", "--max-time", "3", "http://"+to+":5432/")
			if r.code == 0 || r.code == 28 {
				w.t.Errorf("%s: curl's exit %d (28 is a silent hang): %s%s", to, r.code, r.out, r.err)
			}
			if to != "0.0.0.0" && !strings.Contains(r.err, "blocked:") {
				w.t.Errorf("%s: the last line does not name the block: %s", to, r.err)
			}
		}
		if got := w.ok("run", "--allow-host", "5432", "--", "curl", "-sS", "--max-time", "5", "http://"+gateway+":5432/"); !strings.HasPrefix(got, "loopback") {
			w.t.Errorf("--allow-host: %q", got)
		}
		if got := w.ok("why"); !strings.Contains(got, "host") || !strings.Contains(got, "guard") {
			w.t.Errorf("why: %s", got)
		}
	})
}

// TestFiltersOfTheUser: --send stops what it does not name, at once, and lets the rest through.
func TestFiltersOfTheUser(t *testing.T) {
	as(t, func(w *world) {
		w.serve(w.outside, outsideAddr+":80", "web")
		w.serve(w.outside, outsideAddr+":25", "mail")
		w.ok("run", "--send", "not tcp port 25", "--", "curl", "-sS", "--max-time", "5", "http://"+outsideAddr+":80/")
		r := w.run("run", "--send", "not tcp port 25", "--", "curl", "-sS", "--max-time", "3", "http://"+outsideAddr+":25/")
		if r.code == 0 || r.code == 28 || !strings.Contains(r.err, "not tcp port 25") {
			w.t.Errorf("port 25: %d %s%s", r.code, r.out, r.err)
		}
		w.ok("run", "--", "curl", "-sS", "--max-time", "5", "http://"+outsideAddr+":25/")
		w.refused("portrange", "run", "--send", "portragne 1-2", "--", "true")
	})
}

// TestRestart: whatever is killed, branes go on: connections between them
// survive, names and published ports come back.
func TestRestart(t *testing.T) {
	as(t, func(w *world) {
		w.ok("up", w.file("office.xml", officeXML))
		w.background("run", "-n", "office", "--name", "web", "-p", "8080:80", "--", "python3", "-m", "http.server", "80", "--bind", "::")
		published := func() bool {
			return w.cmd("curl", "-sS", "--max-time", "3", "-o", "/dev/null", "http://127.0.0.1:8080/").Run() == nil
		}
		named := func() bool {
			return w.run("run", "-n", "office", "--", "curl", "-sS", "--max-time", "3", "-o", "/dev/null", "http://web.office/").code == 0
		}
		w.until("published port", published)
		for _, who := range []string{"worker", "broker", "daemon"} {
			w.kill(who)
			w.until(who+" killed: published port again", published)
			w.until(who+" killed: name again", named)
		}
	})
}

// pid asks the daemon for the number of one of the three processes; 0 while
// there is no answer.
func (w *world) pid(who string) int {
	w.t.Helper()
	c := w.cmd("curl", "-sS", "--unix-socket", filepath.Join(w.dir, "run", "brane", "api.sock"), "http://brane/v1/daemon")
	out, err := c.Output()
	if err != nil {
		return 0
	}
	var d client.Daemon
	if err := json.Unmarshal(out, &d); err != nil {
		w.t.Fatal(err)
	}
	return map[string]int{"daemon": d.PID, "worker": d.Worker, "broker": d.Broker}[who]
}

// kill ends one of the three processes without warning.
func (w *world) kill(who string) {
	w.t.Helper()
	var pid int
	w.until(who, func() bool { pid = w.pid(who); return pid > 0 })
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
}

// TestBadInput: each is a clear error, and the old state is untouched.
func TestBadInput(t *testing.T) {
	as(t, func(w *world) {
		w.ok("up", w.file("office.xml", officeXML))
		before := w.ok("net", "list", "-o", "json")
		long := strings.Repeat("n", 64)
		w.refused("bad.xml:2:", "up", w.file("bad.xml", "<network>\n<name>x</nam></network>"))
		w.refused("overlap", "up", w.file("o.xml", strings.ReplaceAll(officeXML, "<name>office", "<name>other")))
		w.refused("range", "up", w.file("r.xml", "<network><name>r</name><ip address='10.9.0.1' prefix='24'><dhcp><range start='10.8.0.1' end='10.8.0.9'/></dhcp></ip></network>"))
		w.refused("the host uses", "up", w.file("h.xml", "<network><name>h</name><ip address='198.51.100.9' prefix='24'/></network>"))
		w.refused("name", "up", w.file("l.xml", "<network><name>"+long+"</name></network>"))
		w.refused("63", "run", "-n", "office", "--name", long, "--", "true")
		w.refused("no network of this name", "run", "-n", "nowhere", "--", "true")
		w.refused("NETWORK/INTERFACE", "device", "open", "office/../x", "--stream", w.dir+"/home/s")
		w.refused("publish", "run", "-p", "nonsense", "--", "true")
		w.serve(w.host, "127.0.0.1:8081", "taken")
		w.refused("another port", "run", "-p", "8081:80", "--", "true")
		w.background("run", "-n", "office", "--name", "web", "--", "sleep", "60")
		w.until("web", func() bool { return strings.Contains(w.ok("list"), "started") })
		w.refused("brane of this name", "run", "-n", "office", "--name", "web", "--", "true")
		w.refused("in use", "daemon")
		after := w.ok("net", "list", "-o", "json")
		if strings.ReplaceAll(after, `"branes": 1`, `"branes": 0`) != before && len(after) < len(before) {
			w.t.Errorf("the refusals changed the networks:\n%s\n%s", before, after)
		}
		if _, err := os.Stat(w.dir + "/home/s"); err == nil {
			w.t.Error("a refused open left a socket behind")
		}
	})
}
