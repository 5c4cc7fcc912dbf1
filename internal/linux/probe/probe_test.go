package probe

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"

	"brane/internal/linux/linuxtest"
)

func TestParseKernel(t *testing.T) {
	for release, want := range map[string][2]int{
		"6.1.0-18-amd64": {6, 1}, "6.18.44": {6, 18}, "5.15.0": {5, 15}, "7.0-rc1": {7, 0}, "6.9": {6, 9},
		"": {0, 0}, "6": {0, 0}, "x.y": {0, 0}, "6.x": {0, 0},
	} {
		if k := ParseKernel(release); [2]int{k.Major, k.Minor} != want {
			t.Errorf("%q: %+v", release, k)
		}
	}
	k := ParseKernel("6.1.0")
	for v, want := range map[[2]int]bool{{6, 1}: true, {6, 0}: true, {5, 99}: true, {6, 2}: false, {7, 0}: false} {
		if k.AtLeast(v[0], v[1]) != want {
			t.Errorf("6.1 at least %v: %v", v, !want)
		}
	}
	if KernelVersion().Major == 0 {
		t.Errorf("this kernel is %v", KernelVersion())
	}
}

func FuzzParseKernel(f *testing.F) {
	f.Add("6.1.0-18-amd64")
	f.Add("6.")
	f.Fuzz(func(t *testing.T, s string) {
		if k := ParseKernel(s); k.Release != s || k.Major == 0 && k.Minor > 0 && !strings.ContainsAny(s[:1], "0+-") {
			t.Errorf("%q: %+v", s, k)
		}
	})
}

// Every probe answers on this machine, says why, and leaves nothing behind.
func TestProbesAnswer(t *testing.T) {
	before, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for name, probe := range probes() {
		r := probe()
		t.Logf("%-24s %-15s %s", name, r.Answer, r.Why)
		if r.Why == "" || r.Answer != Yes && r.Answer != No && r.Answer != Unknown {
			t.Errorf("%s: %+v", name, r)
		}
	}
	after, err := os.ReadDir("/proc/self/fd")
	if err != nil || len(after) != len(before) {
		t.Errorf("%d descriptors before, %d after, %v", len(before), len(after), err)
	}
	var status unix.WaitStatus
	if pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("a child is left: %d, %v", pid, err)
	}
}

func probes() map[string]func() Result {
	return map[string]func() Result{
		"user namespaces": UserNamespaces, "nested": NestedUserNamespaces, "tun": Tun, "ping": Ping,
		"SO_PEERPIDFD": PeerPIDFD, "seccomp": Seccomp, "Landlock": Landlock, "USO": USO, "tcx": TCX, "BPF token": BPFToken,
	}
}

// The account of the tests is known to be allowed what the project needs.
func TestProbesAsUser(t *testing.T) {
	if !linuxtest.AsUser(t) {
		return
	}
	for name, probe := range probes() {
		r := probe()
		t.Logf("%-24s %-15s %s", name, r.Answer, r.Why)
	}
	for name, probe := range map[string]func() Result{
		"user namespaces": UserNamespaces, "nested": NestedUserNamespaces, "seccomp": Seccomp,
	} {
		if r := probe(); r.Answer != Yes {
			linuxtest.Missing(t, "%s: %+v", name, r)
		}
	}
}

// In a user namespace that allows no further one the answer is no: the negative
// twin, by the same probe.
func TestNoMoreNamespaces(t *testing.T) {
	linuxtest.NeedRoot(t)
	if os.Getenv("BRANE_TEST_INNER") == "" {
		runInner(t)
		return
	}
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := UserNamespaces(); r.Answer != No || !strings.Contains(r.Why, "Linux") {
		t.Errorf("%+v", r)
	}
	if r := NestedUserNamespaces(); r.Answer != No {
		t.Errorf("%+v", r)
	}
}

func TestLinger(t *testing.T) {
	seats := &fstest.MapFile{Mode: os.ModeDir | 0o755}
	for name, c := range map[string]struct {
		fs   fstest.MapFS
		user string
		want Answer
	}{
		"no login manager": {fstest.MapFS{}, "ann", Yes},
		"on":               {fstest.MapFS{"run/systemd/seats": seats, "var/lib/systemd/linger/ann": {}}, "ann", Yes},
		"off":              {fstest.MapFS{"run/systemd/seats": seats, "var/lib/systemd/linger/bob": {}}, "ann", No},
		"no name":          {fstest.MapFS{}, "", Unknown},
		"a path":           {fstest.MapFS{}, "../ann", Unknown},
	} {
		if r := Linger(c.fs, c.user); r.Answer != c.want {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestSysctl(t *testing.T) {
	root := fstest.MapFS{"proc/sys/user/max_user_namespaces": {Data: []byte("42\n")}}
	if v, ok := Sysctl(root, "user/max_user_namespaces"); v != "42" || !ok {
		t.Errorf("%q, %v", v, ok)
	}
	if v, ok := Sysctl(root, "kernel/none"); v != "" || ok {
		t.Errorf("%q, %v", v, ok)
	}
}
