package unixmsg

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

func TestListenAndTalk(t *testing.T) {
	null := devNull(t)
	defer unix.Close(null)
	// Longer than the 108 bytes of sun_path: the name is used relative to its directory.
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120), "run")
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "device.sock")
	before := openFDs(t)
	l, err := Listen(unix.SOCK_SEQPACKET, path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	checkMode(t, dir, 0o700)
	checkMode(t, path, 0o600)
	if l.Addr().String() != path {
		t.Errorf("address is %s", l.Addr())
	}
	d, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	client, err := DialSocket(t.Context(), "/proc/self/fd/"+strconv.Itoa(d)+"/device.sock")
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	server := NewSocket(c)
	if err := client.Send(t.Context(), []byte("open"), []int{null}); err != nil {
		t.Fatal(err)
	}
	m, err := server.Recv(t.Context(), make([]byte, 64))
	if err != nil || string(m.Payload) != "open" || len(m.FDs) != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	m.CloseFDs()
	if err := client.Send(t.Context(), nil, nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("empty message: %v", err)
	}
	fd, err := client.Detach()
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckSocket(fd, unix.AF_UNIX, unix.SOCK_SEQPACKET); err != nil {
		t.Error(err)
	}
	unix.Close(fd)
	if _, err := server.Recv(t.Context(), make([]byte, 64)); !errors.Is(err, io.EOF) {
		t.Errorf("after the client's end: %v", err)
	}
	server.Close()
	unix.Close(d)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the name is still there: %v", err)
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func checkMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != want {
		t.Errorf("%s has mode %v, want %v", path, st.Mode().Perm(), want)
	}
}

func TestListenOpenToAll(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	l, err := Listen(unix.SOCK_STREAM, filepath.Join(dir, "api.sock"), 0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	checkMode(t, dir, 0o755)
	checkMode(t, filepath.Join(dir, "api.sock"), 0o666)
}

func TestListenOverAnother(t *testing.T) {
	for _, typ := range []int{unix.SOCK_STREAM, unix.SOCK_SEQPACKET} {
		path := filepath.Join(t.TempDir(), "run", "s")
		l, err := Listen(typ, path, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(typ, path, 0o600); fault.KindOf(err) != fault.Busy {
			t.Errorf("while another listens: %v", err)
		}
		// A process that died leaves its name behind.
		if err := l.Leave(); err != nil {
			t.Fatal(err)
		}
		l, err = Listen(typ, path, 0o600)
		if err != nil {
			t.Fatalf("over a dead one: %v", err)
		}
		// Somebody replaced the name: it is not ours to remove.
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		second, err := Listen(typ, path, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("closing the first removed the second's name: %v", err)
		}
		second.Close()
	}
}

func TestListenRefuses(t *testing.T) {
	t.Run("not a socket", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		checkSafe(t, filepath.Dir(path))
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(unix.SOCK_STREAM, path, 0o600); fault.KindOf(err) != fault.Exists {
			t.Errorf("got %v", err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
			t.Errorf("the file is %q, %v", b, err)
		}
	})
	t.Run("symbolic link to a live socket", func(t *testing.T) {
		dir := t.TempDir()
		checkSafe(t, dir)
		if err := os.Symlink("/nowhere", filepath.Join(dir, "s")); err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(unix.SOCK_STREAM, filepath.Join(dir, "s"), 0o600); fault.KindOf(err) != fault.Exists {
			t.Errorf("got %v", err)
		}
	})
	t.Run("directory others may write", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(unix.SOCK_STREAM, filepath.Join(dir, "s"), 0o600); fault.KindOf(err) != fault.Denied {
			t.Errorf("got %v", err)
		}
	})
	t.Run("directory is a symbolic link", func(t *testing.T) {
		dir := t.TempDir()
		link := filepath.Join(dir, "link")
		if err := os.Symlink(dir, link); err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(unix.SOCK_STREAM, filepath.Join(link, "s"), 0o600); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("got %v", err)
		}
	})
}

func checkSafe(t *testing.T, dir string) {
	t.Helper()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestAdopt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "s")
	l, err := Listen(unix.SOCK_STREAM, path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := DupFD(l)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Leave(); err != nil {
		t.Fatal(err)
	}
	again, err := Adopt(fd, path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	go func() {
		if c, err := again.Accept(); err == nil {
			c.Close()
		}
	}()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := Adopt(devNull(t), path); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a file: %v", err)
	}
}

func TestDescribe(t *testing.T) {
	null := devNull(t)
	defer unix.Close(null)
	a, _ := pair(t, unix.SOCK_SEQPACKET)
	seq, err := DupFD(a)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(seq)
	path, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(path)
	for fd, ok := range map[int]bool{null: false, seq: true, path: false, 1 << 20: false} {
		if err := CheckSocket(fd, unix.AF_UNIX, unix.SOCK_SEQPACKET); (err == nil) != ok {
			t.Errorf("descriptor %d: %v", fd, err)
		}
	}
	if err := CheckSocket(seq, unix.AF_UNIX, unix.SOCK_STREAM); fault.KindOf(err) != fault.Invalid {
		t.Errorf("another type: %v", err)
	}
	if err := CheckSocket(seq, unix.AF_INET, unix.SOCK_SEQPACKET); fault.KindOf(err) != fault.Invalid {
		t.Errorf("another domain: %v", err)
	}
}
