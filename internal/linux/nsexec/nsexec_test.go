package nsexec

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"brane/internal/fault"
	"brane/internal/linux/linuxtest"
)

// state is what a started program tells of itself on descriptor 1.
type state struct {
	UID, GID   int
	UIDMap     string
	Setgroups  string
	CapEff     string
	CapAmb     string
	Args, Env  []string
	User, Net  string
	NoFile     uint64 // soft, before the runtime of the program raised it
	SigBlocked string
	Parent     int
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "tell" {
		tell()
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "limit" {
		l, err := OriginalNoFile()
		fmt.Println(l.Cur, err)
		return
	}
	os.Exit(m.Run())
}

func tell() {
	l, _ := OriginalNoFile()
	s := state{
		UID: os.Getuid(), GID: os.Getgid(), Args: os.Args, Env: os.Environ(), NoFile: l.Cur,
		CapEff: status("CapEff"), CapAmb: status("CapAmb"), SigBlocked: status("SigBlk"), Parent: os.Getppid(),
	}
	b, _ := os.ReadFile("/proc/self/uid_map")
	s.UIDMap = strings.Join(strings.Fields(string(b)), " ")
	b, _ = os.ReadFile("/proc/self/setgroups")
	s.Setgroups = strings.TrimSpace(string(b))
	s.User, _ = os.Readlink("/proc/self/ns/user")
	s.Net, _ = os.Readlink("/proc/self/ns/net")
	_ = json.NewEncoder(os.Stdout).Encode(s)
}

func status(field string) string {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// ask starts the program "tell" and returns what it said.
func ask(t *testing.T, c *Cmd) state {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c.Argv = append([]string{"program", "tell"}, c.Argv...)
	c.Files = []*os.File{nil, w, os.Stderr}
	p, err := Start(c)
	_ = w.Close()
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	var s state
	if err := json.NewDecoder(r).Decode(&s); err != nil {
		t.Errorf("the program said nothing: %v", err)
	}
	if st, err := p.Wait(); err != nil || !st.Success() {
		t.Fatalf("wait: %v %v", st, err)
	}
	return s
}

func namespaces(p *os.Process, kinds ...string) (fs []*os.File, err error) {
	for _, k := range kinds {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", p.Pid, k))
		if err != nil {
			return nil, err
		}
		fs = append(fs, f)
	}
	return fs, nil
}

func TestPlainStart(t *testing.T) {
	s := ask(t, &Cmd{Argv: []string{"a", "b c"}, Env: []string{"X=1"}})
	if got := strings.Join(s.Args, "|"); got != "program|tell|a|b c" {
		t.Errorf("argv %q", got)
	}
	if len(s.Env) != 1 || s.Env[0] != "X=1" {
		t.Errorf("environment %q", s.Env)
	}
	if s.Parent != os.Getpid() {
		t.Errorf("parent %d, want %d", s.Parent, os.Getpid())
	}
	if s.SigBlocked != "0000000000000000" {
		t.Errorf("signals blocked: %s", s.SigBlocked)
	}
}

// The way of a brane: an outer namespace that maps the user to 0, and inside
// it a namespace that maps 0 back to the user.
func TestRootlessInsideOuter(t *testing.T) {
	if !linuxtest.AsUser(t) {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	uid, gid := os.Getuid(), os.Getgid()
	outer := exec.Command("sleep", "60")
	outer.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := outer.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = outer.Process.Kill(); _ = outer.Wait() }()
	ns, err := namespaces(outer.Process, "user", "mnt")
	if err != nil {
		t.Fatal(err)
	}
	join := []Join{{int(ns[0].Fd()), unix.CLONE_NEWUSER}, {int(ns[1].Fd()), unix.CLONE_NEWNS}}
	make := unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS
	for _, inside := range []int{uid, 0} {
		t.Run(fmt.Sprint("uid ", inside), func(t *testing.T) {
			in := uint32(inside)
			s := ask(t, &Cmd{
				Join: join, New: make, KeepCaps: true,
				UIDs: []Map{{in, 0, 1}}, GIDs: []Map{{uint32(gid), 0, 1}},
				NoFile: &unix.Rlimit{Cur: 77, Max: 4000}, DeathSignal: syscall.SIGKILL,
			})
			if s.UID != inside || s.GID != gid {
				t.Errorf("uid %d gid %d", s.UID, s.GID)
			}
			if s.Setgroups != "deny" {
				t.Errorf("setgroups %q", s.Setgroups)
			}
			if !strings.HasPrefix(s.CapEff, "000001ffffff") || s.CapAmb != s.CapEff {
				t.Errorf("capabilities effective %s, ambient %s", s.CapEff, s.CapAmb)
			}
			if s.NoFile != 77 {
				t.Errorf("limit of open files %d, want 77", s.NoFile)
			}
			if own, _ := os.Readlink("/proc/self/ns/net"); s.Net == own {
				t.Error("the network namespace is the caller's")
			}
		})
	}
}

func TestRootMapsEverything(t *testing.T) {
	linuxtest.NeedRoot(t)
	uids, err := Identity("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	gids, err := Identity("/proc/self/gid_map")
	if err != nil {
		t.Fatal(err)
	}
	s := ask(t, &Cmd{New: unix.CLONE_NEWUSER | unix.CLONE_NEWNET, UIDs: uids, GIDs: gids, MapByParent: true, KeepCaps: true})
	if want := strings.TrimSpace(strings.ReplaceAll(string(lines(uids)), "\n", " ")); s.UIDMap != want || s.UID != 0 {
		t.Errorf("uid %d map %q, want %q", s.UID, s.UIDMap, want)
	}
	if s.Setgroups != "allow" {
		t.Errorf("setgroups %q", s.Setgroups)
	}
}

// Each step that fails comes back with its name and its reason, and leaves no process.
func TestFailures(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, c := range []struct {
		name string
		cmd  Cmd
		kind fault.Kind
		text string
	}{
		{"not a namespace", Cmd{Argv: []string{"x"}, Join: []Join{{int(null.Fd()), unix.CLONE_NEWNET}}}, fault.Invalid, "enter network namespace"},
		{"unknown flag", Cmd{Argv: []string{"x"}, New: 1 << 3}, fault.Unsupported, "namespaces"},
		{"no program", Cmd{Argv: []string{"x"}, Exe: null}, fault.Internal, "execute: permission denied"},
		{"no argument", Cmd{}, fault.Invalid, "argument"},
		{"NUL", Cmd{Argv: []string{"a\x00b"}}, fault.Invalid, "NUL"},
		{"NUL in environment", Cmd{Argv: []string{"a"}, Env: []string{"a\x00b"}}, fault.Invalid, "NUL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Start(&c.cmd)
			if fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("got %v of kind %s, want %s with %q", err, fault.KindOf(err), c.kind, c.text)
			}
			var ws syscall.WaitStatus
			if pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil); err != syscall.ECHILD {
				t.Errorf("a child is left: pid %d, %v", pid, err)
			}
		})
	}
}

// The parent refuses to write the maps: the child must leave, not hang.
func TestMapsRefused(t *testing.T) {
	_, err := Start(&Cmd{
		Argv: []string{"x"}, New: unix.CLONE_NEWUSER, MapByParent: true,
		UIDs: []Map{{0, 4_294_967_290, 100}}, GIDs: []Map{{0, 4_294_967_290, 100}},
	})
	if fault.KindOf(err) != fault.Denied {
		t.Fatalf("got %v", err)
	}
}

func TestOriginalNoFile(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-c", `ulimit -S -n 123 && exec "$0" limit`, exe).CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "123 <nil>" {
		t.Fatalf("%s %v", out, err)
	}
}

func TestRemedies(t *testing.T) {
	for _, c := range []struct{ file, value, remedy string }{
		{AppArmorRestriction, "1", "apparmor_restrict_unprivileged_userns=0"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "unprivileged_userns_clone=1"},
		{"/proc/sys/user/max_user_namespaces", "0", "max_user_namespaces=10000"},
		{"none", "", "doctor"},
	} {
		f := restrictedBy(fault.New(fault.Denied, "x", "", "y"), func(path string) string {
			if path == c.file {
				return c.value
			}
			return ""
		})
		if !strings.Contains(f.Remedy, c.remedy) {
			t.Errorf("%s: remedy %q", c.file, f.Remedy)
		}
	}
}

func TestIdentityMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in, want []Map
		for range rapid.IntRange(0, 5).Draw(t, "lines") {
			m := Map{rapid.Uint32().Draw(t, "in"), rapid.Uint32().Draw(t, "out"), 1}
			in, want = append(in, m), append(want, Map{m.Inside, m.Inside, 1})
		}
		got, err := identity(lines(in))
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%v -> %v %v", in, got, err)
		}
	})
}

func FuzzIdentityMap(f *testing.F) {
	f.Add([]byte("         0          0 4294967295\n"))
	f.Add([]byte("0 100000 65536\n1 2 3\n"))
	f.Add([]byte("0 0 0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ms, err := identity(b)
		if err != nil {
			return
		}
		for _, m := range ms {
			if m.Inside != m.Outside || m.Count == 0 || uint64(m.Inside)+uint64(m.Count) > 1<<32 {
				t.Fatalf("%v", m)
			}
		}
	})
}

func BenchmarkStart(b *testing.B) {
	truth, err := os.Open("/bin/true")
	if err != nil {
		b.Fatal(err)
	}
	defer truth.Close()
	for b.Loop() {
		p, err := Start(&Cmd{Exe: truth, Argv: []string{"true"}})
		if err != nil {
			b.Fatal(err)
		}
		_, _ = p.Wait()
	}
}
