package config_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"brane/internal/config"
	"brane/internal/fault"
)

// The reference file says what holds without it.
func TestReferenceConfiguration(t *testing.T) {
	d, err := config.LoadDaemon("../../examples/brane.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if want := config.DefaultDaemon(); !reflect.DeepEqual(d, want) {
		t.Errorf("the file says %+v, the defaults are %+v", d, want)
	}
}

func TestNoConfiguration(t *testing.T) {
	d, err := config.LoadDaemon(filepath.Join(t.TempDir(), "brane.yaml"))
	if err != nil || !reflect.DeepEqual(d, config.DefaultDaemon()) {
		t.Errorf("%v %+v", err, d)
	}
	dir := t.TempDir()
	if _, err := config.LoadDaemon(dir); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a directory: %v", err)
	}
	path := filepath.Join(dir, "brane.yaml")
	if err := os.WriteFile(path, []byte("log: debug\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := config.LoadDaemon(path); err != nil || d.Log != slog.LevelDebug || len(d.Subnets) < 2 {
		t.Errorf("%v %+v", err, d)
	}
}

func TestParseDaemon(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{ // "" is accepted
		{"empty", "", ""},
		{"comment", "# nothing\n", ""},
		{"level", "log: warn\n", ""},
		{"subnet", "default-network:\n  subnets: [10.9.8.0/24]\n", ""},
		{"no level", "log: loud\n", `log: "loud" is none of`},
		{"unknown key", "log: info\ncolour: red\n", "b.yaml:2:1: unknown field"},
		{"key twice", "log: info\nlog: warn\n", "b.yaml:2:1:"},
		{"wrong kind", "log: [a]\n", "b.yaml:1:"},
		{"two documents", "log: info\n---\nlog: warn\n", "a second document"},
		{"malformed", "log: 'x\n", "b.yaml:1:"},
		{"no subnets", "default-network:\n  subnets: []\n", "0 subnets"},
		{"no subnet", "default-network:\n  subnets: [example]\n", `"example" is no IPv4 subnet`},
		{"host bits", "default-network:\n  subnets: [10.9.8.1/24]\n", "is no IPv4 subnet"},
		{"IPv6", "default-network:\n  subnets: ['fd00::/64']\n", "is no IPv4 subnet"},
		{"loopback", "default-network:\n  subnets: [127.0.0.0/24]\n", "cannot be a gateway's address"},
	} {
		_, err := config.ParseDaemon(strings.NewReader(c.text), "b.yaml")
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want == "":
		case err == nil || !strings.Contains(err.Error(), c.want) || fault.KindOf(err) != fault.Invalid:
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	if _, err := config.ParseDaemon(strings.NewReader(strings.Repeat("#", 65<<10)), "b.yaml"); fault.KindOf(err) != fault.Limit {
		t.Errorf("65 KiB: %v", err)
	}
}

func FuzzParseDaemon(f *testing.F) {
	f.Add("log: info\ndefault-network:\n  subnets: [10.0.0.0/24]\n")
	f.Add("a: &a [*a]\n")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := config.ParseDaemon(strings.NewReader(s), "b.yaml")
		if err == nil && len(d.Subnets) == 0 || err != nil && fault.As(err) == nil {
			t.Fatalf("%v %+v", err, d)
		}
	})
}
