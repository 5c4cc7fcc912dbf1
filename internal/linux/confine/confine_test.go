package confine

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
	"brane/internal/linux/linuxtest"
	"brane/internal/linux/seccomp"
	"brane/internal/linux/unixmsg"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == "worker" {
		work(os.Args[2], os.Args[3])
		return
	}
	if len(os.Args) > 3 && os.Args[1] == "free" {
		reach(os.Args[3])
		return
	}
	os.Exit(linuxtest.PureGo(m))
}

func ctx() context.Context { return context.Background() }

// worker is the test program started as the daemon starts a worker.
func worker(mode, arg string, files ...*os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "worker", mode, arg)
	cmd.SysProcAttr = Spawn()
	cmd.ExtraFiles = files
	return cmd
}

// both runs a test as an ordinary user and as root.
func both(t *testing.T, test func(t *testing.T)) {
	t.Run("user", func(t *testing.T) {
		if linuxtest.AsUser(t) {
			test(t)
		}
	})
	t.Run("root", func(t *testing.T) {
		linuxtest.NeedRoot(t)
		test(t)
	})
}

// start runs a worker that waits, and stops it with the test.
func start(t *testing.T) int {
	t.Helper()
	cmd := worker("wait", "")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return cmd.Process.Pid
}

func TestWorkerHasNothing(t *testing.T) { both(t, testWorkerHasNothing) }

func testWorkerHasNothing(t *testing.T) {
	pid := start(t)
	proc := fmt.Sprintf("/proc/%d", pid)
	tasks, err := os.ReadDir(proc + "/task")
	if err != nil || len(tasks) < 2 {
		t.Fatalf("threads: %v, %v", tasks, err)
	}
	uid := os.Geteuid()
	if uid == 0 {
		uid = nobody
	}
	for _, task := range tasks {
		status, err := os.ReadFile(proc + "/task/" + task.Name() + "/status")
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for line := range strings.Lines(string(status)) {
			k, v, _ := strings.Cut(line, ":")
			got[k] = strings.Join(strings.Fields(v), " ")
		}
		none := strings.Repeat("0", 16)
		want := map[string]string{
			"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
			"NoNewPrivs": "1", "Seccomp": "2", "Uid": fmt.Sprintf("%d %d %d %d", uid, uid, uid, uid),
		}
		if os.Geteuid() == 0 {
			want["Gid"], want["Groups"] = "65534 65534 65534 65534", ""
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("thread %s: %s is %q, want %q", task.Name(), k, got[k], v)
			}
		}
	}
	mounts, err := os.ReadFile(proc + "/mountinfo")
	if err != nil || strings.Count(string(mounts), "\n") != 1 || !strings.Contains(string(mounts), " / / ro,nosuid,nodev,noexec,") {
		t.Errorf("mounts are %q, %v", mounts, err)
	}
	if files, err := os.ReadDir(proc + "/root/"); err != nil || len(files) != 0 {
		t.Errorf("in the root are %v, %v", files, err)
	}
	if cwd, err := os.Readlink(proc + "/cwd"); err != nil || cwd != "/" {
		t.Errorf("directory is %q, %v", cwd, err)
	}
	limit, err := os.ReadFile(proc + "/limits")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limit)) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok && !slices.Equal(strings.Fields(rest)[:2], []string{"0", "0"}) {
			t.Errorf("core files: %s", rest)
		}
	}
	for ns, ours := range map[string]bool{"net": true, "mnt": false, "pid": false, "ipc": false, "uts": false} {
		theirs, err := os.Readlink(proc + "/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		own, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if (theirs == own) != ours {
			t.Errorf("namespace %s is %s, ours is %s", ns, theirs, own)
		}
	}
}

func TestWorkerOpensNothing(t *testing.T) { both(t, testWorkerOpensNothing) }

func testWorkerOpensNothing(t *testing.T) {
	out, err := worker("open", "").Output()
	if err != nil || strings.Contains(string(out), "false") || strings.Count(string(out), "true") != 5 {
		t.Errorf("%s%v", out, err)
	}
}

// Every number is tried, each by a worker as it is in service, but for the
// error number of what is not in the table.
func TestAllNumbers(t *testing.T) { both(t, testAllNumbers) }

func testAllNumbers(t *testing.T) {
	table := workerTable(1)
	rules := map[int]seccomp.Rule{}
	// These end or bend the thread that makes them: each has a worker of its own.
	alone := []int{unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_RT_SIGRETURN}
	for _, r := range table.Rules {
		rules[int(r.Nr)] = r
		if r.Do == seccomp.Kill {
			alone = append(alone, int(r.Nr))
		}
	}
	alone = append(alone, unfiltered()...)
	skip, err := json.Marshal(alone)
	if err != nil {
		t.Fatal(err)
	}
	out, err := worker("calls", string(skip)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	tried := 0
	for line := range strings.Lines(string(out)) {
		var nr int
		var e syscall.Errno
		if _, err := fmt.Sscan(line, &nr, &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		tried++
		r, listed := rules[nr]
		switch {
		case !listed && e != mark:
			t.Errorf("call %d is not in the table, but gives %v", nr, e)
		case listed && len(r.When) > 0 && seccomp.Errno(e) != r.Else:
			t.Errorf("%s with odd arguments gives %v", r.Name, e)
		case listed && len(r.When) == 0 && (e == mark || e == refused):
			t.Errorf("%s is in the table, but gives %v", r.Name, e)
		}
	}
	if tried+len(alone) != last {
		t.Errorf("%d numbers tried together and %d alone, of %d", tried, len(alone), last)
	}
	for _, nr := range alone {
		if !slices.Contains(unfiltered(), nr) {
			tryAlone(t, nr, rules[nr])
		}
	}
	t.Logf("%d calls allowed, %d with some arguments only; %d kill; %d numbers tried",
		len(rules)-count(table, seccomp.Kill), len(checked(1)), count(table, seccomp.Kill), last)
}

// unfiltered are calls that the kernel keeps from every filter: a probe in user
// space jumps into them, and called by hand they end in SIGILL or an error
// (__secure_computing in kernel/seccomp.c).
func unfiltered() []int {
	if runtime.GOARCH == "amd64" {
		return []int{335, 336} // uretprobe, uprobe
	}
	return nil
}

func count(t *seccomp.Table, a seccomp.Action) int {
	n := 0
	for _, r := range t.Rules {
		if r.Do == a {
			n++
		}
	}
	return n
}

func tryAlone(t *testing.T, nr int, r seccomp.Rule) {
	t.Helper()
	cmd := worker("call", fmt.Sprint(nr))
	out, _ := cmd.CombinedOutput()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	killed := status.Signaled() && status.Signal() == unix.SIGSYS
	if !strings.HasPrefix(string(out), "ready\n") || killed != (r.Do == seccomp.Kill) {
		t.Errorf("%s: %q, then %v", r.Name, out, cmd.ProcessState)
	}
}

func TestArguments(t *testing.T) { both(t, testArguments) }

func testArguments(t *testing.T) {
	out, err := worker("arguments", "").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got := map[string]syscall.Errno{}
	for line := range strings.Lines(string(out)) {
		var name string
		var e syscall.Errno
		if _, err := fmt.Sscan(line, &name, &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		got[name] = e
	}
	for _, p := range probes() {
		if e, ok := got[p.name]; !ok || e != p.want {
			t.Errorf("%s: %v (tried: %v), want %v", p.name, e, ok, p.want)
		}
	}
}

// The positive twin: the worker's own work is not in its way.
func TestWorkerWorks(t *testing.T) { both(t, testWorkerWorks) }

func testWorkerWorks(t *testing.T) {
	ours, theirs, err := unixmsg.Pair(unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	s := unixmsg.NewStream(ours, 0)
	defer s.Close()
	cmd := worker("serve", "", theirs)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := s.Send(ctx(), []byte("take it"), []int{int(w.Fd())}); err != nil {
		t.Error(err)
	}
	w.Close()
	m, err := s.Recv(ctx())
	if err == nil {
		if string(m.Payload) != "take it" || len(m.FDs) != 1 {
			t.Errorf("got %+v", m)
		}
		m.CloseFDs()
	}
	said, _ := io.ReadAll(out)
	if e := cmd.Wait(); e != nil || err != nil || string(said) != "done\n" {
		t.Errorf("%s; %v, %v", said, e, err)
	}
}

// An abstract socket of the same account: a worker that was given a socket of
// the Unix family still cannot reach it.
func TestAbstractSocketsAreOutOfReach(t *testing.T) {
	abi, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 || abi < 6 {
		linuxtest.Missing(t, "Landlock has no scopes here (version %d, %v)", abi, e)
	}
	both(t, testAbstractSockets)
}

func testAbstractSockets(t *testing.T) {
	name := "@" + filepath.Base(t.TempDir()) + fmt.Sprint(os.Getpid())
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, confined := range []bool{false, true} {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "given")
		cmd := worker("abstract", name, f)
		if !confined {
			cmd.SysProcAttr = nil
			cmd.Args[1] = "free"
		}
		out, err := cmd.CombinedOutput()
		f.Close()
		if want := fmt.Sprintln(confined); err != nil || string(out) != want {
			t.Errorf("confined %v: refused %s (%v), want %s", confined, out, err, want)
		}
	}
}

func TestWorkerStartedByHand(t *testing.T) {
	if err := Worker(); fault.KindOf(err) != fault.Invalid {
		t.Errorf("got %v", err)
	}
}

func TestTable(t *testing.T) {
	table := workerTable(1)
	p, err := seccomp.Compile(table)
	if err != nil {
		t.Fatal(err)
	}
	allowed := len(table.Rules) - count(table, seccomp.Kill)
	if allowed > 80 {
		t.Errorf("%d calls are allowed, 80 is the budget", allowed)
	}
	kills := map[string]bool{}
	for _, r := range table.Rules {
		kills[r.Name] = r.Do == seccomp.Kill
		if r.Why == "" || r.Name == "" {
			t.Errorf("%+v: no reason", r)
		}
	}
	for _, name := range []string{
		"execve", "execveat", "ptrace", "mount", "setns", "unshare", "clone3", "bpf", "keyctl", "userfaultfd",
		"io_uring_setup", "io_uring_enter", "io_uring_register", "process_vm_writev", "pidfd_getfd", "perf_event_open",
	} {
		if !kills[name] {
			t.Errorf("%s does not kill", name)
		}
	}
	t.Logf("%d calls allowed, %d instructions", allowed, len(p))
}

func BenchmarkWorkerStart(b *testing.B) {
	for b.Loop() {
		if out, err := worker("exit", "").CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
}
