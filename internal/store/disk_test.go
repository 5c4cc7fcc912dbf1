package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"brane/internal/fault"
	"brane/internal/store"
)

// missing ends a test that cannot run here: in CI that is a failure.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

const insideEnv = "BRANE_STORE_INSIDE"

// ownMounts runs the calling test again in a mount namespace of its own, for
// root and for an ordinary user alike, and reports whether this is that run.
func ownMounts(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		return true
	}
	cmd := self(t, "", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stderr = nil
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		missing(t, "this machine gives no mount namespace: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// smallDisk mounts a tmpfs of kib KiB and returns its directory.
func smallDisk(t *testing.T, kib int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("small", dir, "tmpfs", 0, fmt.Sprintf("size=%dk,mode=0700", kib)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// TestDiskFull: on a full disk writes are refused, all that was acknowledged
// stays readable and watched, and when space returns writing goes on.
func TestDiskFull(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	dir := smallDisk(t, 256)
	path := filepath.Join(dir, "store")
	s := open(t, path)
	events, err := s.Watch(t.Context(), "/", 0)
	if err != nil {
		t.Fatal(err)
	}
	acked := 0
	for ; ; acked++ {
		_, err = s.Apply(store.Txn{By: tester, Do: []store.Op{put(fmt.Sprintf("/big/%d", acked), strings.Repeat("x", 6000)), put("/n", strconv.Itoa(acked))}})
		if err != nil {
			break
		}
	}
	wantFull(t, err)
	want := whole(t, s)
	for range 5 { // again and again: no page is lost to a failed attempt
		_, err = s.Apply(store.Txn{By: tester, Do: []store.Op{put("/n", strings.Repeat("x", 200_000))}})
		wantFull(t, err)
	}
	if got := whole(t, s); got != want {
		t.Fatal("a refused write changed the store")
	}
	if err = syscall.Mount("small", dir, "tmpfs", syscall.MS_REMOUNT, "size=4096k"); err != nil {
		t.Fatal(err)
	}
	rev := apply(t, s, put("/n", "space again"))
	if rev != store.Revision(acked+1) {
		t.Errorf("revision %d after %d", rev, acked)
	}
	for i := range acked + 1 {
		if b := <-events; b.Revision != store.Revision(i+1) || b.Overflow {
			t.Fatalf("event %d is of revision %d", i+1, b.Revision)
		}
	}
	want = whole(t, s)
	if err = s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := whole(t, open(t, path)); got != want {
		t.Error("opened again it is not the same")
	}
	t.Logf("%d transactions fit", acked)
}

func wantFull(t *testing.T, err error) {
	t.Helper()
	f := fault.As(err)
	if f == nil || f.Kind != fault.Unavailable || !strings.Contains(f.Detail, "no space left") || !strings.Contains(f.Remedy, "space") {
		t.Fatalf("Apply on a full disk: %v", err)
	}
}

// On a disk that is full from the start nothing is made, a store that is there
// opens, and both work when there is space.
func TestOpenOnFullDisk(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	dir := smallDisk(t, 256)
	old := filepath.Join(dir, "old")
	s := open(t, old)
	apply(t, s, put("/a", "1"))
	want := whole(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal("the ballast fits:", err)
	}
	refused(t, filepath.Join(dir, "new"), fault.Unavailable, "no space left")
	s = open(t, old)
	if whole(t, s) != want {
		t.Error("the store changed")
	}
	_, err := s.Apply(store.Txn{By: tester, Do: []store.Op{put("/a", strings.Repeat("x", 50_000))}})
	wantFull(t, err)
	if err = os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	apply(t, s, put("/a", "2"))
	apply(t, open(t, filepath.Join(dir, "new")), put("/a", "1"))
}

// traced runs the child with one client for n transactions under strace and
// returns what it said and what strace saw.
func traced(t *testing.T, path string, n int, args ...string) (said []string, saw string) {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		missing(t, "strace is not installed")
	}
	log := filepath.Join(t.TempDir(), "trace")
	cmd := self(t, path)
	cmd.Args = append(append([]string{strace, "-f", "-o", log, "-e", "signal=none"}, args...), cmd.Path, strconv.Itoa(n), "1")
	cmd.Path = strace
	var out bytes.Buffer
	cmd.Stdout = &out
	if err = cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	return strings.Split(strings.TrimSpace(out.String()), "\n"), string(file(t, log))
}

// TestSyncOrder reads from the system calls what durability rests on: data,
// sync, meta page, sync, and only then the acknowledgement.
func TestSyncOrder(t *testing.T) {
	path := fresh(t)
	_ = open(t, path).Close()
	const n = 50
	_, saw := traced(t, path, n, "-e", "trace=pwrite64,fdatasync,fsync,write")
	call := regexp.MustCompile(`(?m)^\d+ +(?:(pwrite64)\(\d+, .*, (\d+), (\d+)\) += |(fdatasync|fsync)\(\d+\) += 0|(write)\(1, ")`)
	steps := ""
	for _, m := range call.FindAllStringSubmatch(joined(saw), -1) {
		size, _ := strconv.Atoi(m[2])
		offset, _ := strconv.Atoi(m[3])
		switch {
		case m[1] != "" && size < store.PageSize: // the lock's
		case m[1] != "" && offset < 2*store.PageSize:
			steps += "m"
		case m[1] != "":
			steps += "d"
		case m[4] != "":
			steps += "s"
		default:
			steps += "a"
		}
	}
	// The file may be made longer first, with a sync of its own.
	if !regexp.MustCompile(`^(s?d+smsa){` + strconv.Itoa(n) + `}d*sms$`).MatchString(steps) {
		t.Errorf("data, sync, meta, sync, acknowledgement: %s", steps)
	}
}

// joined puts the halves of interrupted lines of strace -f together.
func joined(saw string) string {
	open := map[string]string{}
	var lines []string
	for _, l := range strings.Split(saw, "\n") {
		pid, _, _ := strings.Cut(l, " ")
		if first, ok := strings.CutSuffix(l, " <unfinished ...>"); ok {
			open[pid] = first
			continue
		}
		if _, rest, ok := strings.Cut(l, " resumed>"); ok {
			l = open[pid] + rest
		}
		lines = append(lines, l)
	}
	return strings.Join(lines, "\n")
}

// injected runs the child with a system call made to fail, opens the store
// after it and returns how many transactions were acknowledged before the first
// error and how many after it.
func injected(t *testing.T, inject string) (before, after int, failed string) {
	t.Helper()
	path := fresh(t)
	_ = open(t, path).Close()
	said, _ := traced(t, path, 40, "-e", "trace=pwrite64,fdatasync", "-e", "inject="+inject)
	var a acks
	for _, l := range said {
		var c, n int
		var rev store.Revision
		switch _, err := fmt.Sscan(l, &c, &n, &rev); {
		case strings.HasPrefix(l, "close"):
		case strings.HasPrefix(l, "error"):
			failed = l
		case err != nil:
			t.Fatalf("the child says %q", l)
		default:
			a.numbers[c], a.revision = n, rev
			if failed == "" {
				before++
			} else {
				after++
			}
		}
	}
	s := open(t, path)
	a.check(t, s)
	_ = s.Close()
	return before, after, failed
}

// A sync that failed is never taken for a success later: nothing is
// acknowledged any more, and all that was is there after a restart.
func TestSyncFails(t *testing.T) {
	for _, when := range []string{"1", "2", "7", "8", "20"} {
		before, after, failed := injected(t, "fdatasync:error=EIO:when="+when)
		if after != 0 || !strings.HasPrefix(failed, "error unavailable") || !strings.Contains(failed, "check the disk") {
			t.Errorf("sync %s: %d acknowledged before and %d after %q", when, before, after, failed)
		}
	}
}

// A write that finds no space fails alone; the next one is tried anew.
func TestWriteFails(t *testing.T) {
	for _, when := range []string{"2", "3", "5", "11"} {
		before, after, failed := injected(t, "pwrite64:error=ENOSPC:when="+when)
		if before+after != 40 || after == 0 || !strings.Contains(failed, "nothing was changed") {
			t.Errorf("write %s: %d acknowledged before and %d after %q", when, before, after, failed)
		}
	}
}
