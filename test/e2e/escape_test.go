package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEscape: what a confined program, plain and --as-root, tries against the
// doors and sockets of the host. Each attempt has a twin that succeeds outside.
func TestEscape(t *testing.T) {
	as(t, func(w *world) {
		runtime := filepath.Join(w.dir, "run", "brane")
		api := filepath.Join(runtime, "api.sock")
		w.ok("run", "--", "true")
		// A second name of the door that no mask covers: the door itself must refuse.
		side := filepath.Join(w.dir, "home", "side.sock")
		if err := os.Link(api, side); err != nil {
			t.Fatal(err)
		}
		abstract := "@brane-e2e-" + filepath.Base(w.dir)
		w.in(w.host, func() error {
			l, err := net.Listen("unix", abstract)
			if err == nil {
				w.t.Cleanup(func() { _ = l.Close() })
				go func() {
					for {
						c, err := l.Accept()
						if err != nil {
							return
						}
						_ = c.Close()
					}
				}()
			}
			return err
		})
		curl := func(sock string) []string {
			return []string{"curl", "-sS", "--max-time", "5", "--unix-socket", sock, "http://brane/v1/networks"}
		}
		tries := []struct {
			name    string
			args    []string
			message string // of the refusal
		}{
			{"brane run", []string{w.bin, "run", "--", "true"}, "inside brane"},
			{"brane list", []string{w.bin, "list"}, "inside brane"},
			{"api.sock by its path", curl(api), ""},
			{"abstract socket", []string{"python3", "-c", "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect('\\0" + abstract[1:] + "')"}, "refused"},
			{"umount of the mask", []string{"umount", runtime}, ""},
			{"umount of the mask, lazily", []string{"umount", "-l", runtime}, ""},
			{"signal of life of the daemon", []string{"cat", "/proc/" + w.daemonPID() + "/environ"}, ""},
			{"network namespace of the daemon", []string{"nsenter", "--net=/proc/" + w.daemonPID() + "/ns/net", "true"}, ""},
		}
		for _, root := range []bool{false, true} {
			flags := []string{"run"}
			if root {
				flags = append(flags, "--as-root")
			}
			for _, x := range tries {
				r := w.run(append(append(append([]string{}, flags...), "--"), x.args...)...)
				if r.code == 0 {
					w.t.Errorf("as root %v: %s succeeded: %s", root, x.name, r.out)
				}
				if !strings.Contains(r.err, x.message) {
					w.t.Errorf("as root %v: %s: %q is not in %q", root, x.name, x.message, r.err)
				}
			}
			r := w.run(append(append(append([]string{}, flags...), "--"), curl(side)...)...)
			if !strings.Contains(r.out, "inside a brane") || !strings.Contains(r.out, "denied") {
				w.t.Errorf("as root %v: the door by another name answered %q %s", root, r.out, r.err)
			}
			args := append(append([]string{}, flags...), "--name", "who", "--", w.bin, "id")
			if got := w.ok(args...); !strings.Contains(got, "who") || !strings.Contains(got, "default") {
				w.t.Errorf("as root %v: who am I: %q", root, got)
			}
			for _, name := range []string{"/run/dbus/system_bus_socket", "/run/nscd/socket", "/run/docker.sock", "/run/systemd/resolve/io.systemd.Resolve"} {
				if r := w.run(append(append([]string{}, flags...), "--", "test", "-S", name)...); r.code == 0 {
					w.t.Errorf("as root %v: %s is there", root, name)
				}
			}
		}
		// The twins: outside, the same doors open.
		if out, err := w.cmd(curl(api)...).Output(); err != nil || !strings.Contains(string(out), "default") {
			w.t.Errorf("outside, the API does not answer: %v %s", err, out)
		}
		if out, err := w.cmd(curl(side)...).Output(); err != nil || !strings.Contains(string(out), "default") {
			w.t.Errorf("outside, the API by its other name does not answer: %v %s", err, out)
		}
		if got := w.ok("id"); !strings.Contains(got, "outside") {
			w.t.Errorf("id outside: %q", got)
		}
	})
}

// TestOtherUsersAreRefused: the doors of one user's daemon are closed to another.
func TestOtherUsersAreRefused(t *testing.T) {
	as(t, func(w *world) {
		if w.uid == 0 {
			return // root may speak to every daemon; the twin is below
		}
		w.ok("run", "--", "true")
		api := filepath.Join(w.dir, "run", "brane", "api.sock")
		for _, p := range []string{w.dir, w.dir + "/run", w.dir + "/run/brane", api} {
			if err := os.Chmod(p, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		try := func(id string) string {
			c := w.cmd()
			c.Args = []string{
				"ip", "netns", "exec", w.host, "setpriv", "--reuid", id, "--regid", id, "--clear-groups", "--",
				"curl", "-sS", "--max-time", "5", "--unix-socket", api, "http://brane/v1/networks",
			}
			out, _ := c.CombinedOutput()
			return string(out)
		}
		if got := try("65534"); !strings.Contains(got, "belongs to uid") {
			w.t.Errorf("nobody was answered %q", got)
		}
		if got := try("0"); !strings.Contains(got, "default") {
			w.t.Errorf("root was answered %q", got)
		}
	})
}

func (w *world) daemonPID() string {
	w.t.Helper()
	return itoa(w.pid("daemon"))
}
