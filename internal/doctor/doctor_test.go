package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	"brane/internal/linux/probe"
)

func yes() probe.Result { return probe.Result{Answer: probe.Yes, Why: "tried"} }

func no(why string) probe.Result { return probe.Result{Answer: probe.No, Why: why} }

// healthy is a machine with nothing to complain about, for an ordinary user.
func healthy() Facts {
	return Facts{
		Kernel: probe.ParseKernel("6.18.1"), User: "ann",
		UserNamespaces: yes(), Nested: yes(), Tun: yes(), Ping: yes(), PeerPIDFD: yes(), Seccomp: yes(),
		Landlock: yes(), Linger: yes(), USO: yes(), TCX: yes(), BPFToken: yes(),
		MaxUserNamespaces: "96365", PingGroupRange: "0\t2147483647", RuntimeDir: "/run/user/1000",
		Host: []netip.Prefix{netip.MustParsePrefix("192.168.1.7/24"), netip.MustParsePrefix("10.0.0.0/8")},
	}
}

func find(t *testing.T, r Report, name string) Check {
	t.Helper()
	for _, c := range r.Checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no check %s", name)
	return Check{}
}

func TestHealthyMachine(t *testing.T) {
	r := Examine(healthy())
	for _, c := range r.Checks {
		if c.State != OK || c.Means != "" || c.Remedy != "" || c.Found == "" {
			t.Errorf("%+v", c)
		}
	}
	if r.Blocking() {
		t.Error("blocking")
	}
}

func TestFindings(t *testing.T) {
	subnet := func(name, p string) Network { return Network{name, netip.MustParsePrefix(p)} }
	for name, c := range map[string]struct {
		check  string
		spoil  func(f *Facts)
		state  State
		found  string // a part of each
		remedy string
	}{
		"old kernel":        {"kernel", func(f *Facts) { f.Kernel = probe.ParseKernel("5.10.0") }, Limited, "5.10", "6.1"},
		"kernel by no name": {"kernel", func(f *Facts) { f.Kernel = probe.ParseKernel("?") }, Unknown, "?", ""},
		"namespaces used up": {"user-namespaces", func(f *Facts) {
			f.UserNamespaces, f.MaxUserNamespaces = no("no space left on device"), "0"
		}, Failed, "max_user_namespaces is 0", "sysctl -w user.max_user_namespaces"},
		"Debian's switch": {"user-namespaces", func(f *Facts) {
			f.UserNamespaces, f.UnprivilegedClone = no("operation not permitted"), "0"
		}, Failed, "unprivileged_userns_clone is 0", "unprivileged_userns_clone=1"},
		"Ubuntu's restriction": {"user-namespaces", func(f *Facts) {
			f.UserNamespaces, f.AppArmorRestricts = no("operation not permitted"), "1"
		}, Failed, "apparmor_restrict", "userns,"},
		"refused by something else": {
			"user-namespaces", func(f *Facts) { f.UserNamespaces = no("operation not permitted") },
			Failed, "not permitted", "administrator",
		},
		"as root it is not blocking": {"user-namespaces", func(f *Facts) {
			f.Root, f.UserNamespaces = true, no("operation not permitted")
		}, Limited, "not permitted", ""},
		"restriction that does not bite": {"user-namespaces", func(f *Facts) { f.AppArmorRestricts = "1" }, OK, "tried", ""},
		"nesting refused":                {"nested-namespaces", func(f *Facts) { f.Nested = no("x") }, Failed, "x", "container"},
		"node of mode 0600": {"tun", func(f *Facts) {
			f.Tun = no("opening /dev/net/tun: permission denied; its mode is 0600")
		}, Limited, "0600", "chmod 0666"},
		"no node":                  {"tun", func(f *Facts) { f.Tun = no("there is no /dev/net/tun") }, Limited, "no /dev", "modprobe tun"},
		"ping not allowed":         {"ping", func(f *Facts) { f.Ping, f.PingGroupRange = no("denied"), "1\t0" }, Limited, `"1 0"`, "ping_group_range"},
		"no runtime directory":     {"runtime-directory", func(f *Facts) { f.RuntimeDir = "" }, Limited, "not set", "XDG_RUNTIME_DIR"},
		"unsafe runtime directory": {"runtime-directory", func(f *Facts) { f.RuntimeErr = errors.New("mode 0777") }, Limited, "0777", "0700"},
		"linger off":               {"linger", func(f *Facts) { f.Linger = no("off") }, Limited, "off", "loginctl enable-linger ann"},
		"root needs no linger":     {"linger", func(f *Facts) { f.Root, f.Linger = true, no("off") }, OK, "root", ""},
		"no seccomp":               {"seccomp", func(f *Facts) { f.Seccomp = no("x") }, Failed, "x", "seccomp"},
		"could not tell":           {"tcx", func(f *Facts) { f.TCX = probe.Result{Answer: probe.Unknown, Why: "hm"} }, Unknown, "hm", ""},
		"overlap": {"subnets", func(f *Facts) {
			f.Networks = []Network{subnet("lab", "172.16.0.0/24"), subnet("office", "10.2.0.0/16")}
		}, Limited, "office (10.2.0.0/16) with 10.0.0.0/8", "another subnet"},
		"no overlap":          {"subnets", func(f *Facts) { f.Networks = []Network{subnet("lab", "172.16.0.0/24")} }, OK, "1 networks", ""},
		"routes not readable": {"subnets", func(f *Facts) { f.HostErr = errors.New("denied") }, Unknown, "denied", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := healthy()
			c.spoil(&f)
			r := Examine(f)
			got := find(t, r, c.check)
			if got.State != c.state || !strings.Contains(got.Found, c.found) || !strings.Contains(got.Remedy, c.remedy) {
				t.Errorf("%+v", got)
			}
			if (got.State == OK) != (got.Means == "") {
				t.Errorf("state %s means %q", got.State, got.Means)
			}
			if r.Blocking() != (c.state == Failed) {
				t.Errorf("blocking: %v", r.Blocking())
			}
			for _, other := range r.Checks {
				if other.Name != c.check && other.State != OK {
					t.Errorf("%+v is not well either", other)
				}
			}
		})
	}
}

func TestTable(t *testing.T) {
	r := Report{Kernel: "Linux 6.1.0", Checks: []Check{
		{Name: "kernel", State: OK, Found: "Linux 6.1.0"},
		{Name: "tun", State: Limited, Found: "its mode is 0600", Means: "slower", Remedy: "chmod 0666"},
	}}
	want := `Brane on Linux 6.1.0
ok       kernel  Linux 6.1.0
limited  tun     its mode is 0600
         means: slower
         remedy: chmod 0666
`
	var b bytes.Buffer
	if err := r.Table(&b); err != nil || b.String() != want {
		t.Errorf("%v\n%s", err, b.String())
	}
	for n := range strings.Count(want, "\n") {
		if err := r.Table(&short{n}); err == nil {
			t.Errorf("no error from a writer that takes %d lines", n)
		}
	}
}

// short fails after some lines.
type short struct{ lines int }

func (s *short) Write(b []byte) (int, error) {
	if s.lines--; s.lines < 0 {
		return 0, errors.New("full")
	}
	return len(b), nil
}

func TestJSON(t *testing.T) {
	f := healthy()
	f.Tun = no("x")
	r := Examine(f)
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var again Report
	if err := json.Unmarshal(b, &again); err != nil || !reflect.DeepEqual(r, again) {
		t.Errorf("%v: %s", err, b)
	}
}

// On this machine every check has an answer.
func TestRun(t *testing.T) {
	r := Run(t.Context())
	for _, c := range r.Checks {
		t.Logf("%+v", c)
		if c.Found == "" || c.State == "" {
			t.Errorf("%+v", c)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if c := find(t, Run(ended), "tun"); c.State != Unknown {
		t.Errorf("after the context's end: %+v", c)
	}
}

func TestUsable(t *testing.T) {
	dir := t.TempDir()
	for mode, ok := range map[os.FileMode]bool{0o700: true, 0o755: false, 0o770: false} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if err := usable(dir); (err == nil) != ok {
			t.Errorf("%v: %v", mode, err)
		}
	}
	if err := usable(dir + "/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if err := usable(""); err != nil {
		t.Errorf("%v", err)
	}
}
