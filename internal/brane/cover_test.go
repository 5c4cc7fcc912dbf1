package brane

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brane/internal/linux/linuxtest"
)

// The host replaces its resolv.conf by rename while a brane runs: the brane's
// own must come back. The host here is a mount namespace with an /etc of its own.
func TestHostReplacesFiles(t *testing.T) {
	linuxtest.NeedRoot(t)
	dir := t.TempDir()
	s := testSpec(t, "sh", "-c", `
		own() { grep -q "nameserver 192.168.122.1" /etc/resolv.conf && grep -q web.office /etc/hosts; }
		own && echo ready
		read line
		until own; do sleep 0.01; done
		echo still`)
	cmd := command1(t, s, "D="+dir)
	cmd.Args = []string{"unshare", "-m", "sh", "-c", `cp -a /etc "$D/etc" && mount --bind "$D/etc" /etc && exec "$0" runner`, exe(t)}
	cmd.Path = "/usr/bin/unshare"
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, line := begun(t, cmd)
	if line != "ready" {
		t.Fatalf("%q", line)
	}
	for _, name := range ownFiles() {
		path := filepath.Join(dir, "etc", name)
		if err := os.WriteFile(path+".new", []byte("nameserver 10.9.9.9\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := in.Write([]byte("go on\n")); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil || strings.TrimSpace(line) != "still" {
		t.Errorf("%q %v", line, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func event(mask uint32, name string) []byte {
	padded := append([]byte(name), make([]byte, 16-len(name)%16)...)
	b := binary.NativeEndian.AppendUint32(nil, 1)
	b = binary.NativeEndian.AppendUint32(b, mask)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(padded)))
	return append(b, padded...)
}

func TestConcerns(t *testing.T) {
	w := &fileWatch{interested: map[string]bool{"hosts": true}}
	other, ours := event(unix.IN_CREATE, "passwd"), event(unix.IN_MOVED_TO, "hosts")
	for name, c := range map[string]struct {
		b    []byte
		want bool
	}{
		"nothing":   {nil, false},
		"other":     {other, false},
		"ours":      {ours, true},
		"both":      {bytes.Join([][]byte{other, ours}, nil), true},
		"lost":      {event(unix.IN_Q_OVERFLOW, ""), true},
		"truncated": {ours[:20], false},
	} {
		if got := w.concerns(c.b); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzConcerns(f *testing.F) {
	f.Add(event(unix.IN_CREATE, "hosts"))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		w := &fileWatch{interested: map[string]bool{"hosts": true}}
		_ = w.concerns(b)
	})
}
