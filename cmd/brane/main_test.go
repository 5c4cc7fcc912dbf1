package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"brane/client"
	"brane/internal/fault"
)

func TestParsePublish(t *testing.T) {
	for in, want := range map[string]string{
		"8080:80":              "127.0.0.1:8080 80 tcp",
		"8080:80/tcp":          "127.0.0.1:8080 80 tcp",
		"53:5353/udp":          "127.0.0.1:53 5353 udp",
		"0.0.0.0:8080:80":      "0.0.0.0:8080 80 tcp",
		"[::1]:5353:53/udp":    "[::1]:5353 53 udp",
		"[fe80::1%lo]:1:65535": "[fe80::1%lo]:1 65535 tcp",
	} {
		got, err := parsePublish([]string{in})
		if err != nil || fmt.Sprintf("%s %d %s", got[0].Host, got[0].Port, got[0].Proto) != want {
			t.Errorf("%s: %v %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", ":", "80", "80:", ":80", "0:80", "80:0", "65536:80", "80:65536", "-1:80", "a:b", "::1:80:80", "host:80:80",
		"8080:80/", "8080:80/sctp", "8080:80/tcp/udp", " 8080:80", "8080:80-81", "1.2.3.4:80",
	} {
		if got, err := parsePublish([]string{"1:1", in}); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "HOSTPORT") {
			t.Errorf("%q: %v %v", in, got, err)
		}
	}
}

func FuzzParsePublish(f *testing.F) {
	for _, s := range []string{"8080:80", "[::1]:5353:53/udp", "1.2.3.4:1:2/tcp", ":::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parsePublish([]string{s})
		if err == nil && (got[0].Port == 0 || got[0].Host.Port() == 0 || !got[0].Host.Addr().IsValid()) {
			t.Errorf("%q became %+v", s, got[0])
		}
	})
}

func TestParsePorts(t *testing.T) {
	if got, err := parsePorts([]string{"1", "65535"}); err != nil || !slices.Equal(got, []uint16{1, 65535}) {
		t.Errorf("%v %v", got, err)
	}
	for _, in := range []string{"", "0", "-1", "65536", "http", "80/tcp"} {
		if _, err := parsePorts([]string{in}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"run", "list", "ls", "network", "net", "stop", "show"}
	for in, want := range map[string]string{
		"nte": "net", "lsit": "list", "sotp": "stop", "shwo": "show", "netw": "network", "rnu": "run", "x": "", "": "", "frobnicate": "", "stopp": "stop",
	} {
		if got := nearest(in, names); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for _, p := range [][2]string{{"", ""}, {"a", ""}, {"net", "net"}, {"kitten", "sitting"}} {
		if d := distance(p[0], p[1]); d != distance(p[1], p[0]) || (d == 0) != (p[0] == p[1]) {
			t.Errorf("%v: %d", p, d)
		}
	}
	if distance("kitten", "sitting") != 3 {
		t.Error("kitten to sitting takes three letters")
	}
}

// cli runs a command line in this process, with no daemon to talk to.
func cli(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	t.Setenv("BRANE_RUNTIME_DIR", filepath.Join(t.TempDir(), "none"))
	var b bytes.Buffer
	a := &app{out: &b, err: &b, stop: func() {}}
	c := a.root()
	c.SetArgs(args)
	err = c.ExecuteContext(t.Context())
	return b.String(), err
}

// TestMistakes: each is said in one line, with the way out, and ends with 64.
func TestMistakes(t *testing.T) {
	for in, want := range map[string]string{
		"nte":                   "did you mean brane net?",
		"frobnicate":            "brane --help",
		"net lsit":              "did you mean brane net list?",
		"daemon stp":            "did you mean brane daemon stop?",
		"help nte":              "did you mean brane net?",
		"completion tcsh":       "brane completion --help",
		"show":                  "usage: brane show BRANE",
		"show a b":              "arguments than 2",
		"list x":                "usage: brane list",
		"run":                   "PROGRAM",
		"run --pubish 1 -- x":   "did you mean --publish?",
		"list -q":               "brane list --help",
		"list -o xml":           "table, json or yaml",
		"list --output":         "needs an argument",
		"run -p 80 -- x":        "HOSTPORT",
		"run --allow-host x --": "PROGRAM",
	} {
		out, err := cli(t, strings.Fields(in)...)
		if fault.ExitCode(err) != 64 || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") || out != "" {
			t.Errorf("brane %s: exit %d, %v; printed %q", in, fault.ExitCode(err), err, out)
		}
	}
	for in, want := range map[string]string{"": "COMMAND", "net": "leases", "help net list": "brane net list", "net list --help": "List the networks", "completion bash": "complete"} {
		if out, err := cli(t, strings.Fields(in)...); err != nil || !strings.Contains(out, want) {
			t.Errorf("brane %s: %v, %s", in, err, out)
		}
	}
}

// TestCompletionIsSilent: without a daemon there is nothing to offer, no error, and none is started.
func TestCompletionIsSilent(t *testing.T) {
	for _, args := range [][]string{{"show", ""}, {"net", "show", ""}, {"run", "-n", ""}, {"device", "open", ""}, {"why", ""}} {
		out, err := cli(t, append([]string{"__complete"}, args...)...)
		if err != nil || !strings.HasPrefix(out, ":") {
			t.Errorf("%v: %v %q", args, err, out)
		}
	}
	if out, err := cli(t, "__complete", "list", "-o", ""); err != nil || !strings.HasPrefix(out, "table\njson\nyaml\n") {
		t.Errorf("-o: %v %q", err, out)
	}
	if _, err := os.Stat(client.RuntimeDir()); err == nil {
		t.Error("a daemon was started")
	}
}

// TestHelpReadsWell: each command says in one plain line what it does.
func TestHelpReadsWell(t *testing.T) {
	a := &app{out: new(bytes.Buffer), err: new(bytes.Buffer)}
	each(a.root(), func(c *cobra.Command) {
		if s := c.Short; s == "" || len(s) > 110 || strings.HasSuffix(s, ".") || s[0] >= 'a' && s[0] <= 'z' {
			t.Errorf("%s: %q", c.CommandPath(), s)
		}
	})
}

func TestManualPages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man")
	if out, err := cli(t, "man", dir); err != nil || out != "" {
		t.Fatalf("%v %s", err, out)
	}
	for _, page := range []string{"brane.1", "brane-run.1", "brane-net-define.1"} {
		if b, err := os.ReadFile(filepath.Join(dir, page)); err != nil || !bytes.Contains(b, []byte(".SH SYNOPSIS")) {
			t.Errorf("%s: %v", page, err)
		}
	}
}
