package client

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"brane/internal/fault"
)

// serve answers on a daemon's API socket.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "api.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	c := New(dir)
	t.Cleanup(func() { c.Close(); _ = s.Close(); <-done })
	return c
}

// TestErrorsCrossTheSocket: a refusal keeps kind, subject and remedy; what is
// no refusal of ours is an error all the same.
func TestErrorsCrossTheSocket(t *testing.T) {
	want := fault.New(fault.Conflict, "start network", "office", "it overlaps %s", "lab").WithRemedy("choose another subnet")
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(want)
	})
	if err := c.StartNetwork(t.Context(), "office"); err == nil || *fault.As(err) != *want {
		t.Errorf("%#v became %#v", want, err)
	}
	for _, answer := range []struct {
		status int
		body   string
	}{{500, ""}, {502, "<html>"}, {404, "{}"}, {200, "no JSON"}} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(answer.status)
			_, _ = w.Write([]byte(answer.body))
		})
		if _, err := c.Networks(t.Context()); fault.KindOf(err) != fault.Internal {
			t.Errorf("%d %q: %v", answer.status, answer.body, err)
		}
	}
	if _, err := New(t.TempDir()).Daemon(t.Context()); fault.KindOf(err) != fault.Unavailable || fault.As(err).Remedy == "" {
		t.Errorf("no daemon: %v", err)
	}
}

// TestNamesAreEscaped: whatever a name holds, it stays one element of the path.
func TestNamesAreEscaped(t *testing.T) {
	var got, query string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got, query = r.URL.EscapedPath(), r.URL.RawQuery
		w.WriteHeader(http.StatusNoContent)
	})
	if err := c.DeleteBrane(t.Context(), "../daemon?x=/y#z"); err != nil || got != "/v1/branes/..%2Fdaemon%3Fx=%2Fy%23z" || query != "" {
		t.Errorf("%v, asked %s ? %s", err, got, query)
	}
}

// TestDefine: a string is a network file, everything else JSON.
func TestDefine(t *testing.T) {
	var kind, query string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		kind, query = r.Header.Get("Content-Type"), r.URL.Query().Encode()
		_, _ = w.Write([]byte(`{"name":"x"}`))
	})
	n, err := c.Define(t.Context(), "<network/>", DefineOptions{Name: "a b.xml", Start: true})
	if err != nil || n.Name != "x" || kind != "application/xml" || query != "autostart=false&file=a+b.xml&persistent=false&start=true" {
		t.Errorf("%v %+v: %s %s", err, n, kind, query)
	}
	if _, err := c.Define(t.Context(), map[string]string{"name": "x"}, DefineOptions{}); err != nil || kind != "application/json" {
		t.Errorf("%v: %s", err, kind)
	}
}

// TestEvents: they come one by one; the end of the daemon is the end.
func TestEvents(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("data: {\"kind\":\"brane\",\"subject\":\"web\"}\n\n: comment\n\nevent: overflow\ndata: {\"kind\":\"overflow\"}\n\n"))
	})
	var kinds []string
	if err := c.Events(t.Context(), func(e Event) { kinds = append(kinds, e.Kind) }); err != nil || strings.Join(kinds, " ") != "brane overflow" {
		t.Errorf("%v %v", err, kinds)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Events(ctx, nil); err == nil {
		t.Error("events after the end of the context")
	}
}

// TestPlaces: where sockets and state are, by account and environment.
func TestPlaces(t *testing.T) {
	for _, name := range []string{"BRANE_RUNTIME_DIR", "BRANE_STATE_DIR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"} {
		t.Setenv(name, "")
	}
	run, state := "/tmp/brane-"+strconv.Itoa(os.Getuid()), "/home/x/.local/state/brane"
	t.Setenv("HOME", "/home/x")
	xdg := t.TempDir()
	given := map[string]string{"XDG_RUNTIME_DIR": filepath.Join(xdg, "brane"), "XDG_STATE_HOME": filepath.Join(xdg, "brane")}
	if os.Geteuid() == 0 {
		run, state = "/run/brane", "/var/lib/brane"
		given["XDG_RUNTIME_DIR"], given["XDG_STATE_HOME"] = run, state
	}
	if RuntimeDir() != run || StateDir() != state {
		t.Errorf("%s %s, want %s %s", RuntimeDir(), StateDir(), run, state)
	}
	t.Setenv("XDG_RUNTIME_DIR", "relative")
	t.Setenv("XDG_STATE_HOME", "relative")
	if RuntimeDir() != run || StateDir() != state {
		t.Errorf("relative: %s %s, want %s %s", RuntimeDir(), StateDir(), run, state)
	}
	t.Setenv("XDG_RUNTIME_DIR", xdg)
	t.Setenv("XDG_STATE_HOME", xdg)
	if RuntimeDir() != given["XDG_RUNTIME_DIR"] || StateDir() != given["XDG_STATE_HOME"] {
		t.Errorf("XDG: %s %s", RuntimeDir(), StateDir())
	}
	t.Setenv("BRANE_RUNTIME_DIR", "/x/run")
	t.Setenv("BRANE_STATE_DIR", "/x/state")
	if RuntimeDir() != "/x/run" || StateDir() != "/x/state" {
		t.Errorf("given: %s %s", RuntimeDir(), StateDir())
	}
}
