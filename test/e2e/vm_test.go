package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brane/frame"
	"brane/internal/linux/linuxtest"
)

// virtioModules are what a Debian cloud kernel loads for a network card of
// QEMU, in the order of their needs.
var virtioModules = []string{"virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "failover", "net_failover", "virtio_net"}

// peers is where the kernel was unpacked.
func peers(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("BRANE_PEERS")
	if dir == "" {
		dir = filepath.Join("..", "..", "dist", "peers")
	}
	if list, _ := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*")); len(list) == 0 {
		linuxtest.Missing(t, "no kernel for virtual machines below %s: test/peers unpacks one", dir)
	}
	return dir
}

// archive writes an initramfs: the newc form of cpio (initramfs-format, kernel documentation).
type archive struct {
	b   bytes.Buffer
	ino int
}

func (a *archive) add(name string, mode uint32, body []byte) {
	a.ino++
	fmt.Fprintf(&a.b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", a.ino, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name)+1, 0)
	a.b.WriteString(name)
	a.b.WriteByte(0)
	a.pad()
	a.b.Write(body)
	a.pad()
}

func (a *archive) pad() {
	for a.b.Len()%4 != 0 {
		a.b.WriteByte(0)
	}
}

func (a *archive) dir(name string)               { a.add(name, 0o040755, nil) }
func (a *archive) file(name string, body []byte) { a.add(name, 0o100755, body) }

// initramfs is busybox, the modules named, and a script that is the whole life of the machine.
func initramfs(t testing.TB, modules []string, script string, files map[string][]byte) []byte {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		linuxtest.Missing(t, "busybox-static: %v", err)
	}
	a := &archive{}
	for _, d := range []string{"bin", "proc", "sys", "dev", "etc", "tmp", "run", "www", "modules", "sbin", "root", "home"} {
		a.dir(d)
	}
	a.file("bin/busybox", busybox)
	head := "#!/bin/busybox sh\n/bin/busybox --install -s /bin\nmount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev\n" +
		"mkdir -p /dev/pts /dev/shm; mount -t tmpfs tmpfs /tmp; mount -t tmpfs tmpfs /run; chmod 1777 /tmp\n"
	for _, m := range modules {
		list, _ := filepath.Glob(filepath.Join(peers(t), "lib", "modules", "*", "kernel"))
		found := ""
		for _, base := range list {
			_ = filepath.Walk(base, func(p string, _ os.FileInfo, err error) error {
				if err == nil && filepath.Base(p) == m+".ko" {
					found = p
				}
				return nil
			})
		}
		body, err := os.ReadFile(found)
		if err != nil {
			t.Fatalf("module %s: %v", m, err)
		}
		a.file("modules/"+m+".ko", body)
		head += "insmod /modules/" + m + ".ko\n"
	}
	a.file("init", []byte(head+script+"\necho THE END\npoweroff -f\n"))
	a.file("dhcp.sh", []byte("#!/bin/sh\n[ \"$1\" = bound ] && { ip addr add $ip/$mask dev $interface; ip route add default via $router; echo \"GOT $ip\"; }\nexit 0\n"))
	for name, body := range files {
		a.file(name, body)
	}
	a.add("TRAILER!!!", 0, nil)
	return a.b.Bytes()
}

// machine is one virtual machine and what its console says.
type machine struct {
	t     testing.TB
	lines chan string
	all   *strings.Builder
}

// boot starts QEMU; start makes the command that runs it.
func (w *world) boot(name string, image []byte, memory string, start func(qemu []string) *exec.Cmd, netdev ...string) *machine {
	w.t.Helper()
	kernel, _ := filepath.Glob(filepath.Join(peers(w.t), "boot", "vmlinuz-*"))
	rd := w.file(name+".img", string(image))
	vmlinuz, err := os.ReadFile(kernel[0])
	if err != nil {
		w.t.Fatal(err)
	}
	args := []string{
		"qemu-system-x86_64", "-M", "pc", "-m", memory, "-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", w.file(name+".kernel", string(vmlinuz)), "-initrd", rd, "-append", "console=ttyS0 panic=-1 quiet",
	}
	c := start(append(args, netdev...))
	out, err := c.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	var errs bytes.Buffer
	c.Stderr = &errs
	if err := c.Start(); err != nil {
		w.t.Fatal(err)
	}
	m := &machine{t: w.t, lines: make(chan string, 1024), all: &strings.Builder{}}
	go func() {
		defer close(m.lines)
		s := bufio.NewScanner(out)
		for s.Scan() {
			m.lines <- strings.TrimRight(s.Text(), "\r")
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	w.t.Cleanup(func() {
		_ = c.Process.Signal(os.Interrupt)
		done := make(chan struct{})
		go func() { _ = c.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(3 * time.Second):
			_ = c.Process.Kill()
			<-done
		}
		if w.t.Failed() {
			w.t.Logf("%s:\n%s%s", name, m.all.String(), errs.String())
		}
	})
	return m
}

// expect waits for a line of the console that has the word in it.
func (m *machine) expect(word string) string {
	m.t.Helper()
	timeout := time.After(90 * time.Second)
	for {
		select {
		case l, ok := <-m.lines:
			if !ok {
				m.t.Fatalf("the machine ended before it said %q:\n%s", word, m.all)
			}
			m.all.WriteString(l + "\n")
			if strings.Contains(l, word) {
				return l
			}
		case <-timeout:
			m.t.Fatalf("the machine never said %q:\n%s", word, m.all)
		}
	}
}

// TestVirtualMachines: two machines with unmodified kernels, one by a stream
// and one by a datagram socket, get addresses by DHCP, reach a brane and each
// other, and move 10 MB each way.
func TestVirtualMachines(t *testing.T) {
	as(t, func(w *world) {
		w.ok("up", w.file("office.xml", officeXML))
		big := bytes.Repeat([]byte("0123456789abcdef"), 10<<20/16)
		dir := filepath.Join(w.dir, "home", "files")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "big"), big, 0o644); err != nil {
			t.Fatal(err)
		}
		w.background("run", "-n", "office", "--name", "files", "--", "python3", "-m", "http.server", "80", "--bind", "::", "--directory", dir)
		// Busybox is static and has no name service switch: nslookup asks for the address.
		lookup := "of() { nslookup -type=a $1.office | awk '/^Address: 10/{print $2}'; }\n"
		common := lookup + "for i in 1 2 3 4 5 6 7 8 9; do [ -e /sys/class/net/eth0 ] && break; sleep 1; done; ip link set eth0 up\nudhcpc -i eth0 -n -q -t 20 -T 1 -s /dhcp.sh\n" +
			"ping -c1 -W5 10.20.0.1 >/dev/null && echo GATEWAY ANSWERS\nping -c1 -W5 $(of files) >/dev/null && echo BRANE ANSWERS\n" +
			"wget -q -O /tmp/big http://$(of files)/big && wc -c </tmp/big\n"
		files := map[string][]byte{"etc/resolv.conf": []byte("nameserver 10.20.0.1\n")}
		first := initramfs(t, virtioModules, common+"mv /tmp/big /www/big; httpd -h /www -p 80; echo SERVING; read x", files)
		second := initramfs(t, virtioModules, common+"ping -c1 -W5 $(of vm1) >/dev/null && echo MACHINE ANSWERS\nwget -q -O /tmp/other http://$(of vm1)/big && wc -c </tmp/other", files)

		s1 := w.dir + "/home/vm1.sock"
		vm1 := w.boot("vm1", first, "256M", func(qemu []string) *exec.Cmd {
			return w.brane(append([]string{"device", "open", "office/vm1", "--stream", s1, "--"}, qemu...)...)
		}, "-netdev", "stream,id=n0,addr.type=unix,addr.path="+s1,
			"-device", "virtio-net-pci,netdev=n0,romfile=,mac="+frame.DeriveMAC("office", "vm1").String())
		sum := "10485760"
		for _, word := range []string{"GOT 10.20.0.", "GATEWAY ANSWERS", "BRANE ANSWERS", sum, "SERVING"} {
			vm1.expect(word)
		}
		l, r := w.dir+"/home/vm2.local", w.dir+"/home/vm2.remote"
		vm2 := w.boot("vm2", second, "256M", func(qemu []string) *exec.Cmd {
			return w.brane(append([]string{"device", "open", "office/vm2", "--dgram", r + ":" + l, "--"}, qemu...)...)
		}, "-netdev", fmt.Sprintf("dgram,id=n0,local.type=unix,local.path=%s,remote.type=unix,remote.path=%s", l, r),
			"-device", "virtio-net-pci,netdev=n0,romfile=,mac="+frame.DeriveMAC("office", "vm2").String())
		for _, word := range []string{"GOT 10.20.0.", "GATEWAY ANSWERS", "BRANE ANSWERS", sum, "MACHINE ANSWERS", sum} {
			vm2.expect(word)
		}
		got := w.ok("run", "-n", "office", "--", "sh", "-c", "curl -sS --max-time 60 http://vm1.office/big | wc -c")
		if strings.TrimSpace(got) != "10485760" {
			w.t.Errorf("a brane got %s bytes of the machine", got)
		}
	})
}

// TestOldKernel: the rootless story once more, inside a machine with the
// oldest kernel that Brane supports.
func TestOldKernel(t *testing.T) {
	linuxtest.NeedRoot(t)
	w := newWorld(t, "root")
	bin, err := os.ReadFile(w.bin)
	if err != nil {
		t.Fatal(err)
	}
	script := `
ip link set lo up
sysctl -qw net.ipv4.ping_group_range="0 2147483647"
mkdir -p /dev/net; chmod 0666 /dev/net/tun /dev/null /dev/zero /dev/urandom /dev/random /dev/tty
mkdir -p /run/user/1000 /home/u; chown 1000:1000 /run/user/1000 /home/u; chmod 700 /run/user/1000
cat >/home/u/story <<'END'
export XDG_RUNTIME_DIR=/run/user/1000 HOME=/home/u PATH=/bin
cd
check() { what=$1; shift; if "$@" >/tmp/out 2>&1; then echo "PASS $what"; else echo "FAIL $what"; cat /tmp/out; fi; }
check doctor sh -c 'brane doctor; true'
check run brane run -- true
check address sh -c 'brane run -- ip addr show eth0 | grep -q 192.168.122'
check status sh -c 'brane run -- sh -c "exit 7"; [ $? = 7 ]'
check up brane up /office.xml
brane run -n office --name web -- httpd -f -p 80 -h /www &
cat >/home/u/get <<'END2'
a=$(nslookup -type=a web.office | awk '/^Address: 10/{print $2}'); [ -n "$a" ] && wget -q -O /dev/null http://$a/hello
END2
for i in 1 2 3 4 5 6; do brane run -n office -- sh /home/u/get && break; sleep 1; done
check name brane run -n office -- sh /home/u/get
check ping brane run -n office --as-root -- ping -c1 -W5 10.20.0.1
check inside sh -c 'brane run -n office --name me -- brane id | grep -q inside'
check refused sh -c 'brane run -- brane list 2>&1 | grep -q "inside brane"'
check down brane down --force office
END
su -s /bin/sh u -c "sh /home/u/story"
`
	image := initramfs(t, append(append([]string{}, virtioModules...), "tun"), script, map[string][]byte{
		"bin/brane": bin, "office.xml": []byte(officeXML), "www/hello": []byte("hello\n"),
		"etc/passwd": []byte("root:x:0:0::/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n"),
		"etc/group":  []byte("root:x:0:\nu:x:1000:\n"), "etc/resolv.conf": nil, "etc/hosts": nil,
	})
	m := w.boot("old", image, "1G", func(qemu []string) *exec.Cmd { return w.cmd(qemu...) }, "-nic", "none", "-cpu", "max")
	m.expect("THE END")
	for _, what := range []string{"run", "address", "status", "up", "name", "ping", "inside", "refused", "down"} {
		if !strings.Contains(m.all.String(), "PASS "+what) {
			t.Errorf("%s did not pass inside", what)
		}
	}
}
