package peer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"brane/internal/linux/linuxtest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "connect", "connect-given", "connect-and-leave":
			client(os.Args[1], os.Args[2])
			return
		case "hold":
			_, _ = io.Copy(io.Discard, os.Stdin)
			return
		case "reuse":
			if err := reuse(os.Args[2]); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			return
		}
	}
	os.Exit(m.Run())
}

// client connects to path, says so, and waits for the end of its input. One
// that leaves gives its connection to another process first.
func client(mode, path string) {
	fd := 3
	if mode != "connect-given" {
		var err error
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			fail(err)
		}
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		fail(err)
	}
	if mode == "connect-and-leave" {
		holder := exec.Command("/proc/self/exe", "hold", "-")
		holder.Stdin = os.Stdin
		holder.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "connection")}
		if err := holder.Start(); err != nil {
			fail(err)
		}
	}
	fmt.Println("connected")
	if mode != "connect-and-leave" {
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
}

func fail(err error) {
	fmt.Println(err)
	os.Exit(1)
}

type door struct {
	path string
	l    *net.UnixListener
}

func listen(dir string) (*door, error) {
	d := &door{path: filepath.Join(dir, "door")}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.path, Net: "unix"})
	if err == nil {
		err = os.Chmod(d.path, 0o666)
	}
	d.l = l
	return d, err
}

// visit starts a client and accepts it. stop ends the client and waits.
func (d *door) visit(mode string, attr *syscall.SysProcAttr, files ...*os.File) (c *net.UnixConn, cmd *exec.Cmd, stop func(), err error) {
	cmd = exec.Command("/proc/self/exe", mode, d.path)
	cmd.SysProcAttr = attr
	cmd.ExtraFiles = files
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, nil, err
	}
	stop = func() {
		_ = in.Close()
		_ = cmd.Wait()
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "connected\n" {
		stop()
		return nil, nil, nil, fmt.Errorf("client said %q: %w", line, err)
	}
	c, err = d.l.AcceptUnix()
	if err != nil {
		stop()
	}
	return c, cmd, stop, err
}

// ask is what Of says about one visit.
func ask(t *testing.T, d *door, mode string, attr *syscall.SysProcAttr, files ...*os.File) Peer {
	t.Helper()
	c, cmd, stop, err := d.visit(mode, attr, files...)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	defer c.Close()
	p, err := Of(c)
	if err != nil {
		t.Fatal(err)
	}
	if int(p.PID) != cmd.Process.Pid && attr == nil {
		t.Errorf("PID is %d, want %d", p.PID, cmd.Process.Pid)
	}
	return p
}

func openDoor(t *testing.T) *door {
	t.Helper()
	dir, err := os.MkdirTemp("", "peer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.l.Close() })
	return d
}

// inside starts a process in a user and a network namespace of its own.
func inside() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
}

// given is a socket made here, to be connected by somebody else.
func given(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "given")
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// hasPeerPIDFD is Linux 6.5 or later.
func hasPeerPIDFD(t *testing.T) bool {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	pidfd, err := unix.GetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		return false
	}
	_ = unix.Close(pidfd)
	return true
}

func testInsideAndOutside(t *testing.T) {
	d, pidfd := openDoor(t), hasPeerPIDFD(t)
	uid := uint32(os.Geteuid())

	out := ask(t, d, "connect", nil)
	if out.Inside || out.Certain != pidfd || out.UID != uid {
		t.Errorf("outside: %+v", out)
	}
	in := ask(t, d, "connect", inside())
	if !in.Inside || in.Certain != pidfd || in.UID != uid || in.Cookie == out.Cookie {
		t.Errorf("inside: %+v", in)
	}
	if pidfd && (in.NetNS == out.NetNS || in.UserNS == out.UserNS) {
		t.Errorf("namespaces inside %d %d, outside %d %d", in.NetNS, in.UserNS, out.NetNS, out.UserNS)
	}
	// A sandbox that keeps the network is outside: it is no brane.
	attr := inside()
	attr.Cloneflags = syscall.CLONE_NEWUSER
	if p := ask(t, d, "connect", attr); p.Inside {
		t.Errorf("user namespace only: %+v", p)
	}
	if !pidfd {
		linuxtest.Missing(t, "this kernel has no SO_PEERPIDFD: a socket given to a process inside is not recognised")
	}
	p := ask(t, d, "connect-given", inside(), given(t))
	if !p.Inside || !p.Certain || p.Cookie != out.Cookie {
		t.Errorf("a socket from outside in a process inside: %+v", p)
	}
	if p := ask(t, d, "connect-given", nil, given(t)); p.Inside || !p.Certain {
		t.Errorf("its twin outside: %+v", p)
	}
}

func TestInsideAndOutside(t *testing.T) {
	if linuxtest.AsUser(t) {
		testInsideAndOutside(t)
	}
}

func TestInsideAndOutsideAsRoot(t *testing.T) {
	linuxtest.NeedRoot(t)
	testInsideAndOutside(t)
}

// The other way round: a socket that was made inside, connected outside.
func TestSocketFromInside(t *testing.T) {
	linuxtest.NeedRoot(t)
	made, hold := make(chan int), make(chan struct{})
	defer close(hold)
	var inside func()
	inside = func() { // the thread ends with the goroutine
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() { // that would move the process: keep it busy, take another
			go inside()
			<-hold
			runtime.UnlockOSThread()
			return
		}
		fd := -1
		if err := unix.Unshare(unix.CLONE_NEWNET); err == nil {
			fd, _ = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		}
		made <- fd
	}
	go inside()
	fd := <-made
	if fd < 0 {
		t.Fatal("no socket in a network namespace")
	}
	f := os.NewFile(uintptr(fd), "from inside")
	defer f.Close()
	if p := ask(t, openDoor(t), "connect-given", nil, f); !p.Inside {
		t.Errorf("%+v", p)
	}
}

func TestAnotherAccount(t *testing.T) {
	linuxtest.NeedRoot(t)
	d := openDoor(t)
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65533}}
	if p := ask(t, d, "connect", nobody); p.UID != 65534 || p.GID != 65533 || p.Inside || !p.Certain {
		t.Errorf("nobody: %+v", p)
	}
	// The account is that of connect, not of whoever holds the connection.
	c, _, stop, err := d.visit("connect-and-leave", nobody)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	defer c.Close()
	if p, err := Of(c); err != nil || p.UID != 65534 {
		t.Errorf("held by another: %+v, %v", p, err)
	}
}

func TestProcAgreesWithIoctl(t *testing.T) {
	if !linuxtest.AsUser(t) {
		return
	}
	for name, attr := range map[string]*syscall.SysProcAttr{"outside": nil, "inside": inside()} {
		d := openDoor(t)
		c, cmd, stop, err := d.visit("connect", attr)
		if err != nil {
			t.Fatal(err)
		}
		pidfd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		want, err := identityByIoctl(pidfd)
		if err != nil {
			linuxtest.Missing(t, "PIDFD_GET_NET_NAMESPACE: %v", err)
		}
		if got, err := identityByProc(pidfd); err != nil || got != want {
			t.Errorf("%s: %+v by /proc, %+v by ioctl, %v", name, got, want, err)
		}
		c.Close()
		stop()
		for how, f := range map[string]func(int) (identity, error){"ioctl": identityByIoctl, "/proc": identityByProc} {
			if id, err := f(pidfd); err == nil {
				t.Errorf("%s: %+v of a process that is gone, by %s", name, id, how)
			}
		}
		unix.Close(pidfd)
	}
}

// A number that was used again must not lend its new owner's face to the old
// one's connection. It happens in a PID namespace where numbers can be chosen.
func TestNumberUsedAgain(t *testing.T) {
	if !linuxtest.AsUser(t) {
		return
	}
	if !hasPeerPIDFD(t) {
		linuxtest.Missing(t, "this kernel has no SO_PEERPIDFD")
	}
	attr := inside()
	attr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
	cmd := exec.Command("/proc/self/exe", "reuse", t.TempDir())
	cmd.SysProcAttr = attr
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// reuse runs as the first process of a PID namespace.
func reuse(dir string) error {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount proc: %w", err)
	}
	d, err := listen(dir)
	if err != nil {
		return err
	}
	for range 20 {
		if again, err := reuseOnce(d); err != nil || again {
			return err
		}
	}
	return errors.New("no number came again")
}

// reuseOnce lets a process connect, leave and be followed by another with the
// same number. It reports false when a thread of this process took the number.
func reuseOnce(d *door) (bool, error) {
	c, cmd, stop, err := d.visit("connect-and-leave", nil)
	if err != nil {
		return false, err
	}
	defer c.Close()
	defer stop()
	old := cmd.Process.Pid
	if err := waitFor(old); err != nil {
		return false, err
	}
	if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(old-1)), 0o644); err != nil {
		return false, err
	}
	next := exec.Command("/proc/self/exe", "hold", "-")
	in, err := next.StdinPipe()
	if err != nil {
		return false, err
	}
	if err := next.Start(); err != nil {
		return false, err
	}
	p, err := Of(c)
	_ = in.Close()
	_ = next.Wait()
	if err != nil || next.Process.Pid != old {
		return false, err
	}
	if p.Certain || !p.Inside {
		return true, fmt.Errorf("the new owner of number %d was taken for the old: %+v", old, p)
	}
	return true, nil
}

// waitFor reaps a process.
func waitFor(pid int) error {
	var status unix.WaitStatus
	_, err := unix.Wait4(pid, &status, 0, nil)
	return err
}

func TestPIDOf(t *testing.T) {
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if pid, err := pidOf(pidfd); err != nil || pid != os.Getpid() {
		t.Errorf("%d, %v", pid, err)
	}
	if _, err := pidOf(0); err == nil || !strings.Contains(err.Error(), "Pid") {
		t.Errorf("a descriptor that is no pidfd: %v", err)
	}
}

func BenchmarkOf(b *testing.B) {
	d, err := listen(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer d.l.Close()
	c, _, stop, err := d.visit("connect", nil)
	if err != nil {
		b.Fatal(err)
	}
	defer stop()
	defer c.Close()
	for b.Loop() {
		if _, err := Of(c); err != nil {
			b.Fatal(err)
		}
	}
}
