package store_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"

	"brane/internal/fault"
	"brane/internal/store"
)

// whole prints all that a store holds.
func whole(t testing.TB, s store.Store) string {
	t.Helper()
	records, rev, err := s.List("/")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %+v", rev, records)
}

// refused ends the test when Open does not fail with kind, with a remedy, and
// with each of the words in its text.
func refused(t *testing.T, path string, kind fault.Kind, words ...string) {
	t.Helper()
	s, err := store.Open(path)
	if err == nil {
		_ = s.Close()
	}
	f := fault.As(err)
	if f == nil || f.Kind != kind || f.Remedy == "" {
		t.Fatalf("Open: %v, want kind %s and a remedy", err, kind)
	}
	for _, w := range words {
		if !strings.Contains(f.Error(), w) {
			t.Errorf("Open: %v does not say %q", f, w)
		}
	}
}

func TestReopen(t *testing.T) {
	path := fresh(t)
	s := open(t, path)
	apply(t, s, put("/a", "1"), put("/b", strings.Repeat("x", 100_000)))
	apply(t, s, put("/a", "2"), put("/c/d", ""))
	apply(t, s, store.Op{Path: "/c", Tree: true})
	want := whole(t, s)
	for range 3 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, path)
		if got := whole(t, s); got != want {
			t.Fatalf("after opening again\n%s, want\n%s", got, want)
		}
	}
	if rev := apply(t, s, put("/e", "")); rev != 4 {
		t.Errorf("revision %d follows 3", rev)
	}
	if _, err := s.Watch(t.Context(), "/", 2); fault.KindOf(err) != fault.Conflict {
		t.Errorf("Watch of a revision before the start: %v", err)
	}
	for _, name := range []string{path, path + ".lock"} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestOpenTwice(t *testing.T) {
	path := fresh(t)
	s := open(t, path)
	apply(t, s, put("/a", ""))
	refused(t, path, fault.Busy, fmt.Sprintf("process %d", os.Getpid()))
	apply(t, s, put("/a", "still works"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}

// A second process is told who has the store; the one that was killed has
// given it back.
func TestOpenInOtherProcess(t *testing.T) {
	path := fresh(t)
	c := startChild(t, path)
	c.wantLine(t)
	refused(t, path, fault.Busy, fmt.Sprintf("process %d", c.cmd.Process.Pid))
	c.kill(t)
	open(t, path)
}

func TestForeignLock(t *testing.T) {
	path := fresh(t)
	_ = open(t, path).Close()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	refused(t, path, fault.Busy)
}

func TestBadPlaces(t *testing.T) {
	dir := t.TempDir()
	refused(t, filepath.Join(dir, "none", "store"), fault.NotFound)

	shared := filepath.Join(dir, "shared")
	if err := os.Mkdir(shared, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(shared, 0o722); err != nil {
		t.Fatal(err)
	}
	refused(t, filepath.Join(shared, "store"), fault.Denied)

	_ = open(t, filepath.Join(dir, "store")).Close()
	if err := os.Symlink("store", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	refused(t, filepath.Join(dir, "link"), fault.Denied, "symbolic link")
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	refused(t, filepath.Join(dir, "folder"), fault.Invalid, "regular file")
}

// sample makes a store with some of everything and returns its file.
func sample(t testing.TB) (path string, content []byte, want string) {
	t.Helper()
	path = fresh(t)
	s := open(t, path)
	for i := range 40 {
		apply(t, s, put(fmt.Sprintf("/networks/n%d", i), strings.Repeat("v", i*40)), put("/large", strings.Repeat("y", 9000)))
	}
	want = whole(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, content, want
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// What is damaged is refused and left as it is; the copy put back works.
func TestDamagedFile(t *testing.T) {
	path, content, want := sample(t)
	zeroed := append([]byte(nil), content...)
	clear(zeroed[:8192])
	holed := append([]byte(nil), content...)
	clear(holed[8192:])
	for name, bad := range map[string][]byte{
		"empty":            {},
		"one byte":         content[:1],
		"one page":         content[:4096],
		"without last":     content[:used(content)-1],
		"half":             content[:len(content)/2],
		"text":             []byte(strings.Repeat("not a store\n", 4000)),
		"zeroes":           make([]byte, 1<<16),
		"no meta":          zeroed,
		"no data":          holed,
		"shifted":          append([]byte{0}, content...),
		"one record older": older(t, content),
	} {
		t.Run(name, func(t *testing.T) {
			write(t, path, bad)
			refused(t, path, fault.Invalid, "damaged", path)
			if now, _ := os.ReadFile(path); string(now) != string(bad) {
				t.Error("the damaged file was changed")
			}
		})
	}
	write(t, path, content)
	if got := whole(t, open(t, path)); got != want {
		t.Error("the copy put back is not the same")
	}
}

// used is where the last page that is not all zero ends.
func used(content []byte) int {
	return len(strings.TrimRight(string(content), "\x00"))
}

// older puts another record with a right checksum in the place of one, as a
// disk does that lost one write.
func older(t *testing.T, content []byte) []byte {
	path := fresh(t)
	write(t, path, content)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true, PageSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("records"))
		return b.Delete([]byte("/networks/n7"))
	})
	if err != nil || db.Close() != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFormats(t *testing.T) {
	for value, kind := range map[string]fault.Kind{"1": "", "2": fault.Unsupported, "99": fault.Unsupported, "0": fault.Invalid, "x": fault.Invalid} {
		t.Run(value, func(t *testing.T) {
			path, _, want := sample(t)
			db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true})
			if err != nil {
				t.Fatal(err)
			}
			err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("about")).Put([]byte("format"), []byte(value)) })
			if err != nil || db.Close() != nil {
				t.Fatal(err)
			}
			if kind != "" {
				refused(t, path, kind)
				return
			}
			if got := whole(t, open(t, path)); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}

// What an earlier kill left beside the file is no hindrance.
func TestLeftovers(t *testing.T) {
	path := fresh(t)
	write(t, path+".new", []byte("half of a store"))
	write(t, path+".lock", []byte("4194303"))
	apply(t, open(t, path), put("/a", ""))
	if _, err := os.Stat(path + ".new"); err == nil {
		t.Error("the half is still there")
	}
}

func TestNotOurs(t *testing.T) {
	path, _, want := sample(t)
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() { refused(t, path, fault.Denied) })
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := whole(t, open(t, path)); got != want {
		t.Error("the store changed")
	}
}

// asNobody runs fn with the file rights of a stranger when the test is root,
// who may read everything: the file system uid belongs to a thread.
func asNobody(t *testing.T, fn func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		fn()
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := syscall.Setfsuid(65534); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Setfsuid(0) }()
	fn()
}

// self is the command that runs this test binary as the child.
func self(t testing.TB, path string, mode ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, mode...)
	cmd.Env = append(os.Environ(), childEnv+"="+path)
	cmd.Stderr = os.Stderr
	return cmd
}
