package brane

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// victim is what a confined program tries to get at, all of it of its own user.
type victim struct {
	Socket   string // a path socket in the runtime directory: the daemon's API
	Service  string // one beside it, in the user's runtime directory: a session bus
	Abstract string // an abstract socket of the host
	TCP      string // a listener on the host's loopback
	PID      int    // a process outside
	Runtime  string
}

// attempt is one way out. It returns nil when it got out.
type attempt struct {
	name string
	try  func(v *victim) error
	// twin: the same, outside, must succeed; false where it takes root there too.
	twin bool
}

func dial(network, address string) error {
	c, err := net.DialTimeout(network, address, 2*time.Second)
	if err == nil {
		_ = c.Close()
	}
	return err
}

func proc(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.IsDir() {
		_, err = f.Readdirnames(-1)
		return err
	}
	if _, err = f.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func errno(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// doors are tried before and after everything that could open them.
func doors() []attempt {
	return []attempt{
		{"connect to the daemon's socket", func(v *victim) error { return dial("unix", v.Socket) }, true},
		{"connect to a service's socket", func(v *victim) error { return dial("unix", v.Service) }, true},
		{"connect by /proc/PID/root", func(v *victim) error { return dial("unix", proc(v.PID, "root")+v.Socket) }, true},
		{"connect to an abstract socket", func(v *victim) error { return dial("unix", v.Abstract) }, true},
		{"connect to the host's loopback", func(v *victim) error { return dial("tcp", v.TCP) }, true},
	}
}

func attempts() []attempt {
	list := doors()
	for _, n := range []string{"environ", "fd/0", "root/etc", "cwd/.", "ns/net", "ns/user", "maps", "mem"} {
		list = append(list, attempt{"read /proc/PID/" + n, func(v *victim) error {
			if n == "mem" {
				f, err := os.OpenFile(proc(v.PID, n), os.O_RDWR, 0)
				if err == nil {
					_ = f.Close()
				}
				return err
			}
			if n[:2] == "ns" {
				fd, err := unix.Open(proc(v.PID, n), unix.O_RDONLY, 0)
				if err == nil {
					_ = unix.Close(fd)
				}
				return err
			}
			return readable(proc(v.PID, n))
		}, true})
	}
	list = append(list, []attempt{
		{"trace", func(v *victim) error {
			_, _, e := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(v.PID), 0, 0, 0, 0)
			if e == 0 {
				_, _, _ = unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(v.PID), 0, 0, 0, 0)
			}
			return errno(e)
		}, true},
		{"take a descriptor by pidfd_getfd", func(v *victim) error {
			p, err := unix.PidfdOpen(v.PID, 0)
			if err != nil {
				return err
			}
			defer unix.Close(p)
			fd, err := unix.PidfdGetfd(p, 0, 0)
			if err == nil {
				_ = unix.Close(fd)
			}
			return err
		}, true},
		{"read its memory", func(v *victim) error {
			var b [1]byte
			_, err := unix.ProcessVMReadv(v.PID, []unix.Iovec{{Base: &b[0], Len: 1}}, []unix.RemoteIovec{{Base: 0x1000, Len: 1}}, 0)
			if errors.Is(err, unix.EFAULT) {
				return nil // allowed; nothing is at that address
			}
			return err
		}, true},
		{"enter its network by pidfd", func(v *victim) error {
			p, err := unix.PidfdOpen(v.PID, 0)
			if err != nil {
				return err
			}
			defer unix.Close(p)
			return unix.Setns(p, unix.CLONE_NEWNET)
		}, false},
		{"nsenter", func(v *victim) error {
			return exec.Command("nsenter", "--preserve-credentials", "-U", "-n", "-t", strconv.Itoa(v.PID), "true").Run()
		}, false},
	}...)
	return append(append(append(list, mountAttempts()...), callAttempts()...), doorsAgain()...)
}

func mountAttempts() []attempt {
	return []attempt{
		{"unmount what is its own, then connect", func(v *victim) error {
			// These mounts the brane made itself; as root it may take them away.
			for _, p := range []string{v.Runtime + "/inside", filepath.Dir(v.Runtime), "/run", "/etc/resolv.conf", "/etc/hosts"} {
				for unix.Unmount(p, unix.MNT_DETACH) == nil {
					continue
				}
			}
			if err := dial("unix", v.Socket); err == nil {
				return nil
			}
			return dial("unix", v.Service)
		}, false},
		{"unmount the mask", func(*victim) error { return unix.Unmount("/run", unix.MNT_DETACH) }, false},
		{"make the mask writable", func(*victim) error {
			return unix.Mount("", "/run", "", unix.MS_REMOUNT|unix.MS_BIND, "")
		}, false},
		{"mount procfs", func(v *victim) error {
			dir, err := os.MkdirTemp("", "brane-probe-")
			if err != nil {
				return err
			}
			defer os.Remove(dir)
			if err := unix.Mount("proc", dir, "proc", 0, ""); err != nil {
				return err
			}
			defer unix.Unmount(dir, unix.MNT_DETACH)
			return dial("unix", filepath.Join(dir, strconv.Itoa(v.PID), "root")+v.Socket)
		}, false},
		{"move the mask away", func(v *victim) error {
			dir, err := os.MkdirTemp("", "brane-probe-")
			if err != nil {
				return err
			}
			defer os.Remove(dir)
			return unix.MoveMount(unix.AT_FDCWD, "/run", unix.AT_FDCWD, dir, 0)
		}, false},
		{"copy what is below the mask", func(v *victim) error {
			fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE)
			if err != nil {
				return err
			}
			return dial("unix", fmt.Sprintf("/proc/self/fd/%d%s", fd, v.Socket))
		}, false},
		{"another user namespace, then unmount", func(v *victim) error {
			return exec.Command("unshare", "-Urm", "umount", "-l", "/run").Run()
		}, false},
		{"write a sysctl of the host", func(*victim) error {
			if owned("/proc/sys") {
				return errors.New("root's program has root's files, these too")
			}
			f, err := os.OpenFile("/proc/sys/kernel/core_pattern", os.O_WRONLY, 0)
			if err == nil {
				_ = f.Close()
			}
			return err
		}, false},
	}
}

func callAttempts() []attempt {
	ioctl := func(cmd uintptr) func(*victim) error {
		return func(*victim) error {
			b := byte('x')
			_, _, e := unix.Syscall(unix.SYS_IOCTL, 0, cmd, uintptr(unsafe.Pointer(&b)))
			if e == unix.ENOTTY || e == unix.EIO {
				return nil // it got to the terminal's driver, or would have
			}
			return errno(e)
		}
	}
	return []attempt{
		{"type into the terminal", ioctl(unix.TIOCSTI), true},
		{"type into the terminal, high bits set", ioctl(unix.TIOCSTI | 1<<40), true},
		{"paste into the terminal", ioctl(tioclinux), true},
		{"socket past the network namespace", func(*victim) error {
			fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
			if err == nil {
				_ = unix.Close(fd)
			}
			if errors.Is(err, unix.EAFNOSUPPORT) && !insideBrane() {
				return nil // this machine has none
			}
			return err
		}, true},
		{"io_uring", func(*victim) error {
			var params [120]byte
			fd, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
			if e == 0 {
				_ = unix.Close(int(fd))
			}
			if e != 0 && !insideBrane() {
				return nil // forbidden on this machine anyway
			}
			return errno(e)
		}, true},
		{"signal", func(v *victim) error {
			if !signalsScoped() {
				if insideBrane() {
					return errors.New("this kernel cannot forbid it")
				}
				return nil
			}
			return unix.Kill(v.PID, unix.SIGCONT)
		}, true},
	}
}

func doorsAgain() []attempt {
	list := doors()
	for i := range list {
		list[i].name += ", after all that"
	}
	return list
}

// owned says whether path belongs to the user whose namespace this is.
func owned(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && int(st.Uid) == os.Getuid()
}

func insideBrane() bool { return os.Getenv("INSIDE") != "" }

// signalsScoped says whether the kernel has Landlock's scope for signals.
func signalsScoped() bool {
	abi, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, landlockVersion)
	return e == 0 && abi >= landlockScopeAbi
}

// probeMain tries everything on the victim in $VICTIM and prints what came of it.
func probeMain() int {
	var v victim
	if err := json.Unmarshal([]byte(os.Getenv("VICTIM")), &v); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	result := map[string]string{}
	for _, a := range attempts() {
		if !insideBrane() && !a.twin {
			continue
		}
		result[a.name] = ""
		if err := a.try(&v); err != nil {
			result[a.name] = err.Error()
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		return 2
	}
	return 0
}

func TestEscape(t *testing.T) { eachAccount(t, testEscape) }

// testEscape has a confined program try every way out that is known to us, and
// the same program outside go the same ways.
func testEscape(t *testing.T) {
	s := testSpec(t, exe(t), "probe")
	v := prepareVictim(t, &s)
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	env := "VICTIM=" + string(text)

	twin := exec.Command(exe(t), "probe")
	twin.Env = append(os.Environ(), env)
	var outside map[string]string
	b, err := twin.Output()
	if err != nil || json.Unmarshal(b, &outside) != nil {
		t.Fatalf("outside: %v %s", err, b)
	}
	for name, why := range outside {
		if why != "" {
			t.Errorf("the twin: outside, %q fails: %s", name, why)
		}
	}
	for _, asRoot := range []bool{false, true} {
		s.AsRoot = asRoot
		out, _ := output(t, s, 0, env, "INSIDE=1")
		var inside map[string]string
		if err := json.Unmarshal([]byte(out), &inside); err != nil {
			t.Fatalf("inside: %v %s", err, out)
		}
		if len(inside) != len(attempts()) {
			t.Errorf("%d attempts, want %d", len(inside), len(attempts()))
		}
		for name, why := range inside {
			if why == "" {
				t.Errorf("as root %v: %q got out", asRoot, name)
			}
		}
	}
}

// prepareVictim makes the services and the process that the probe goes for.
func prepareVictim(t *testing.T, s *Spec) *victim {
	t.Helper()
	v := &victim{
		Runtime: s.Runtime, Socket: s.Runtime + "/api.sock", Service: s.UserRuntime + "/bus",
		Abstract: fmt.Sprintf("@brane-test-%d", os.Getpid()),
	}
	for _, path := range []string{v.Socket, v.Service, v.Abstract} {
		_ = os.Remove(path)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go drain(l)
		t.Cleanup(func() { _ = l.Close() })
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go drain(l)
	t.Cleanup(func() { _ = l.Close() })
	v.TCP = l.Addr().String()
	p := exec.Command("sleep", "300")
	p.Stdin, p.SysProcAttr = os.Stdin, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill(); _ = p.Wait() })
	v.PID = p.Process.Pid
	return v
}

func drain(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.Close()
	}
}
