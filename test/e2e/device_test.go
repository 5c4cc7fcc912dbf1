package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"brane/client"
	"brane/frame"
)

func itoa(n int) string { return strconv.Itoa(n) }

// tap is one port on the device socket, spoken to as any program would: one
// JSON message, then frames.
type tap struct {
	t     testing.TB
	fd    int
	reply client.OpenReply
}

// dialer connects as a program of the account does, asks, and passes the
// answer with the connection on.
const dialer = `import socket,sys
s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
s.send(sys.argv[2].encode())
r=s.recv(65536)
socket.send_fds(socket.socket(fileno=3),[r],[s.fileno()])
`

// dial opens a port on the device socket.
func (w *world) dial(r client.OpenRequest) (*tap, error) {
	w.t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = syscall.Close(pair[0]) }()
	b, err := json.Marshal(r)
	if err != nil {
		w.t.Fatal(err)
	}
	c := w.cmd("python3", "-c", dialer, filepath.Join(w.dir, "run", "brane", "device.sock"), string(b))
	theirs := os.NewFile(uintptr(pair[1]), "theirs")
	c.ExtraFiles = []*os.File{theirs}
	out, err := c.CombinedOutput()
	_ = theirs.Close()
	if err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
	buf, oob := make([]byte, 65536), make([]byte, syscall.CmsgSpace(4))
	n, oobn, _, _, err := syscall.Recvmsg(pair[0], buf, oob, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	msgs, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		w.t.Fatalf("no descriptor: %v", err)
	}
	fds, err := syscall.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		w.t.Fatalf("no descriptor: %v", err)
	}
	p := &tap{t: w.t, fd: fds[0]}
	w.t.Cleanup(p.close)
	if err := json.Unmarshal(buf[:n], &p.reply); err != nil {
		w.t.Fatal(err)
	}
	if p.reply.Error != nil {
		p.close()
		return nil, p.reply.Error
	}
	return p, nil
}

func (w *world) open(r client.OpenRequest) *tap {
	w.t.Helper()
	r.Op = "open"
	p, err := w.dial(r)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (p *tap) close() {
	if p.fd >= 0 {
		_ = syscall.Close(p.fd)
		p.fd = -1
	}
}

func (p *tap) send(b []byte) {
	p.t.Helper()
	if _, err := syscall.Write(p.fd, b); err != nil {
		p.t.Fatal(err)
	}
}

// next is the next frame that matches, within the time.
func (p *tap) next(wait time.Duration, match func(*frame.Packet) bool) []byte {
	p.t.Helper()
	end := time.Now().Add(wait)
	buf := make([]byte, 65536)
	for {
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		tv := syscall.NsecToTimeval(int64(left))
		if err := syscall.SetsockoptTimeval(p.fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &tv); err != nil {
			p.t.Fatal(err)
		}
		n, err := syscall.Read(p.fd, buf)
		if err != nil || n == 0 {
			return nil
		}
		var q frame.Packet
		q.Parse(buf[:n])
		if match(&q) {
			return buf[:n]
		}
	}
}

func (p *tap) addr4() netip.Addr {
	for _, a := range p.reply.Addresses {
		if a.Addr().Is4() {
			return a.Addr()
		}
	}
	p.t.Fatal("no IPv4 address")
	return netip.Addr{}
}

func (p *tap) mac() frame.MAC {
	m, err := frame.ParseMAC(p.reply.MAC)
	if err != nil {
		p.t.Fatal(err)
	}
	return m
}

// udp is a datagram from one port to another with a word in it.
func udp(from, to *tap, port uint16, word string) []byte {
	return frame.AppendUDP(nil, from.mac(), to.mac(), netip.AddrPortFrom(from.addr4(), 999), netip.AddrPortFrom(to.addr4(), port), []byte(word))
}

func has(word string) func(*frame.Packet) bool {
	return func(q *frame.Packet) bool { return bytes.Contains(q.Frame, []byte(word)) }
}

const soon = 2 * time.Second

// barrier sends a frame that must arrive; what was sent before it and has not
// arrived by then was dropped.
func barrier(from, to *tap, unwanted string) bool {
	word := fmt.Sprint("barrier", time.Now().UnixNano())
	from.send(udp(from, to, 7, word))
	clean := true
	got := to.next(soon, func(q *frame.Packet) bool {
		if unwanted != "" && bytes.Contains(q.Frame, []byte(unwanted)) {
			clean = false
		}
		return bytes.Contains(q.Frame, []byte(word))
	})
	if got == nil {
		to.t.Errorf("a frame that is allowed did not arrive")
	}
	return clean
}

// TestDeviceSocket: the descriptor is the port.
func TestDeviceSocket(t *testing.T) {
	as(t, func(w *world) {
		w.ok("up", w.file("office.xml", officeXML))
		a := w.open(client.OpenRequest{Device: "office/a"})
		b := w.open(client.OpenRequest{Device: "office/b"})
		if want := frame.DeriveMAC("office", "a"); a.mac() != want || a.reply.MTU != 1500 {
			w.t.Errorf("MAC %v, not %v; MTU %d", a.mac(), want, a.reply.MTU)
		}
		a.send(udp(a, b, 5, "hello b"))
		if b.next(soon, has("hello b")) == nil {
			w.t.Fatal("b did not get the frame for b")
		}
		// Several ports on one interface: each has its own filter, and they do not hear each other.
		only5 := w.open(client.OpenRequest{Device: "office/b", Filter: "udp port 5"})
		a.send(udp(a, b, 6, "six"))
		a.send(udp(a, b, 5, "five"))
		if b.next(soon, has("six")) == nil || b.next(soon, has("five")) == nil {
			w.t.Error("the first port of b misses frames")
		}
		if got := only5.next(soon, func(q *frame.Packet) bool {
			return bytes.Contains(q.Frame, []byte("six")) || bytes.Contains(q.Frame, []byte("five"))
		}); got == nil || bytes.Contains(got, []byte("six")) {
			w.t.Errorf("the port with the filter udp port 5 got %q", got)
		}
		only5.send(udp(only5, a, 5, "from the twin"))
		if a.next(soon, has("from the twin")) == nil {
			w.t.Error("a did not hear the second port of b")
		}
		if !barrier(a, b, "from the twin") {
			w.t.Error("two ports of one interface hear each other")
		}
		// A spoofed source does not arrive; an honest one does (the barrier).
		spoofed := frame.AppendUDP(nil, b.mac(), b.mac(), netip.AddrPortFrom(a.addr4(), 9), netip.AddrPortFrom(b.addr4(), 9), []byte("spoofed MAC"))
		a.send(spoofed)
		forged := frame.AppendUDP(nil, a.mac(), b.mac(), netip.MustParseAddrPort("10.20.0.99:9"), netip.AddrPortFrom(b.addr4(), 9), []byte("spoofed IP"))
		a.send(forged)
		if !barrier(a, b, "spoofed") {
			w.t.Error("a spoofed frame arrived")
		}
		why := w.ok("why")
		for _, word := range []string{"source-mac", "source-ip", "office/a"} {
			if !strings.Contains(why, word) {
				w.t.Errorf("why does not name %s:\n%s", word, why)
			}
		}
		b.close()
		w.until("port of b gone", func() bool { return strings.Count(w.ok("device", "list", "office"), "office/b") == 1 })
		for _, bad := range []client.OpenRequest{
			{Device: "nowhere/a"},
			{Device: "office/../a"},
			{Device: "office/a", Filter: "tpc port 1"},
			{Device: "office/a", MAC: "02:00:00:00:00:01"},
			{Device: "office/c", MAC: a.reply.MAC},
			{Device: "office/a", Kind: "tap"},
			{Device: "office/" + strings.Repeat("x", 64)},
		} {
			bad.Op = "open"
			if _, err := w.dial(bad); err == nil {
				w.t.Errorf("%+v was not refused", bad)
			}
		}
	})
}

// TestInternalAndNestedMux: a mux without an uplink is an internal network; one
// below another reaches through it.
func TestInternalAndNestedMux(t *testing.T) {
	as(t, func(w *world) {
		w.ok("up", w.file("office.xml", officeXML))
		w.ok("mux", "create", "lan")
		w.ok("mux", "create", "lab", "--uplink", "office")
		a := w.open(client.OpenRequest{Device: "office/a"})
		v := w.open(client.OpenRequest{Device: "lab/v"})
		v.send(udp(v, a, 5, "from the lab"))
		if a.next(soon, has("from the lab")) == nil {
			w.t.Error("the nested mux does not reach the one above")
		}
		a.send(udp(a, v, 5, "to the lab"))
		if v.next(soon, has("to the lab")) == nil {
			w.t.Error("the mux above does not reach the nested one")
		}
		if got := w.ok("run", "-n", "lab", "--", "ping", "-c1", "-W2", "10.20.0.1"); !strings.Contains(got, "1 received") {
			w.t.Errorf("the gateway does not answer through the nested mux: %s", got)
		}
		r := w.run("run", "-n", "lan", "--", "ping", "-c1", "-W1", outsideAddr)
		if r.code == 0 {
			w.t.Error("an internal network reaches the outside")
		}
	})
}

// TestConnectionsSurvive: 100 connections between two branes outlive the worker
// and the daemon, killed one after the other, and a daemon that is replaced.
func TestConnectionsSurvive(t *testing.T) {
	as(t, func(w *world) {
		w.ok("up", w.file("office.xml", officeXML))
		server := w.file("server.py", `import socket,threading
s=socket.create_server(("",7),backlog=256)
def echo(c):
    while True:
        b=c.recv(100)
        if not b: return
        c.sendall(b)
while True:
    c,_=s.accept(); threading.Thread(target=echo,args=(c,),daemon=True).start()
`)
		dialer := w.file("client.py", `import socket,sys,time
c=[socket.create_connection(("srv",7),timeout=20) for _ in range(100)]
print("open",flush=True)
for line in sys.stdin:
    alive=0
    for x in c: x.sendall(b"y")
    for x in c:
        if x.recv(1)==b"y": alive+=1
    print(alive,flush=True)
`)
		w.background("run", "-n", "office", "--name", "srv", "--", "python3", server)
		w.until("listening server", func() bool {
			return w.run("run", "-n", "office", "--", "python3", "-c", "import socket; socket.create_connection(('srv',7),timeout=2)").code == 0
		})
		c := w.brane("run", "-n", "office", "--name", "cli", "--", "python3", dialer)
		in, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = in.Close(); _ = c.Wait() }()
		lines := newLines(out)
		if got := lines.next(w.t); got != "open" {
			w.t.Fatalf("client: %q", got)
		}
		check := func(after string) {
			w.t.Helper()
			if _, err := in.Write([]byte("?\n")); err != nil {
				w.t.Fatal(err)
			}
			if got := lines.next(w.t); got != "100" {
				w.t.Errorf("after %s: %s of 100 connections are alive", after, got)
			}
		}
		check("nothing")
		for _, who := range []string{"worker", "broker", "daemon"} {
			w.kill(who)
			check(who + " killed")
			w.until(who+" again", func() bool { return w.run("list").code == 0 && w.pid(who) > 0 })
		}
		before := w.pid("daemon")
		w.background("daemon", "--replace")
		for range 20 { // whoever knocks meanwhile waits and is not turned away
			w.ok("list")
		}
		w.until("new daemon", func() bool { r, p := w.run("list"), w.pid("daemon"); return r.code == 0 && p != 0 && p != before })
		check("daemon replaced")
	})
}

// TestUDHCPC: a program that asked for no address gets its own by DHCP.
func TestUDHCPC(t *testing.T) {
	as(t, func(w *world) {
		w.ok("up", w.file("office.xml", officeXML))
		script := w.file("dhcp.sh", "#!/bin/sh\n[ \"$1\" = bound ] && { ip addr add $ip/$mask dev $interface; ip route add default via $router; echo got $ip $router $dns; }\nexit 0\n")
		w.must("chmod", "755", script)
		got := w.ok("run", "-n", "office", "--name", "fixed", "--no-address", "--as-root", "--", "sh", "-c",
			"udhcpc -i eth0 -n -q -f -s "+script+" && ping -c1 -W2 10.20.0.1")
		if !strings.Contains(got, "got 10.20.0.7 10.20.0.1 10.20.0.1") || !strings.Contains(got, "1 received") {
			w.t.Errorf("udhcpc: %s", got)
		}
	})
}

// TestIdleDaemonHoldsNothing: the API closes cleanly and the next command starts a daemon again.
func TestDaemonStop(t *testing.T) {
	as(t, func(w *world) {
		w.ok("up", "--persistent", w.file("office.xml", officeXML))
		first := w.pid("daemon")
		w.ok("daemon", "stop")
		w.until("end of the daemon", func() bool { return syscall.Kill(first, 0) != nil })
		if got := w.ok("net", "list"); !strings.Contains(got, "office") {
			w.t.Errorf("the network is forgotten: %s", got)
		}
		if w.pid("daemon") == first {
			w.t.Error("no new daemon")
		}
	})
}

// lineReader reads lines with a deadline.
type lineReader struct{ c chan string }

func newLines(r interface{ Read([]byte) (int, error) }) *lineReader {
	l := &lineReader{c: make(chan string, 16)}
	go func() {
		defer close(l.c)
		var line []byte
		b := make([]byte, 1)
		for {
			n, err := r.Read(b)
			if err != nil || n == 0 {
				return
			}
			if b[0] != '\n' {
				line = append(line, b[0])
				continue
			}
			l.c <- string(line)
			line = nil
		}
	}()
	return l
}

func (l *lineReader) next(t testing.TB) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	select {
	case s, ok := <-l.c:
		if !ok {
			t.Fatal("the program ended")
		}
		return s
	case <-ctx.Done():
		t.Fatal("no answer in 30 s")
	}
	return ""
}
