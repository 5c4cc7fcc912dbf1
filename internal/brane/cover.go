package brane

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
	"brane/internal/linux/nsexec"
)

// When the host replaces its resolv.conf or hosts (a DHCP client does, by
// rename), the kernel takes away what branes have mounted over the old file, and
// they would see the host's. So the runner watches the directory and has the
// brane's own laid over the new file. Between the two moments the host's text
// shows; it opens nothing that the network does not.

// coverArg, after InitMode, makes the first stage's binary do only that.
const coverArg = "cover"

// coverAgain is the process that the runner starts in the brane's namespaces.
func coverAgain() {
	if err := cover(); err != nil {
		fmt.Fprintln(os.Stderr, "brane:", err)
		os.Exit(fault.ExitCode(err))
	}
	os.Exit(0)
}

// fileWatch watches the directories of the host's files for one brane.
type fileWatch struct {
	events     *os.File
	user, mnt  *os.File // the brane's namespaces
	interested map[string]bool
	files      map[string]os.FileInfo // as the brane covered them, by path
	stopped    chan struct{}
	done       chan struct{}
}

// A watch that has begun takes the kernel several milliseconds to end, so it
// begins when the program has run for a while, with a look at what was missed.
const watchAfter = 100 * time.Millisecond

// watchFiles begins to watch for the brane that the process pid is in, which
// must not have been waited for. A directory that cannot be watched is not.
func watchFiles(pid int) (*fileWatch, error) {
	const op = "watch /etc"
	w := &fileWatch{interested: map[string]bool{}, files: map[string]os.FileInfo{}, stopped: make(chan struct{}), done: make(chan struct{})}
	var err error
	if w.user, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", pid)); err == nil {
		w.mnt, err = os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	}
	if err != nil {
		w.close()
		return nil, fault.New(fault.Internal, op, "", "%v", err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		w.close()
		return nil, fault.New(fault.Limit, op, "", "%v", err).WithRemedy("raise fs.inotify.max_user_instances (sysctl)")
	}
	w.events = os.NewFile(uintptr(fd), "inotify")
	for _, name := range ownFiles() {
		path := filepath.Join("/etc", name)
		for _, p := range []string{path, realPath(path)} {
			w.interested[filepath.Base(p)] = true
			w.files[p], _ = os.Lstat(p)
		}
	}
	go w.run()
	return w, nil
}

// begin watches from now on; true when a file was replaced already.
func (w *fileWatch) begin() (replaced bool) {
	c, err := w.events.SyscallConn()
	if err != nil {
		return false
	}
	for path, was := range w.files {
		_ = c.Control(func(fd uintptr) { // an error: it has been stopped
			_, _ = unix.InotifyAddWatch(int(fd), filepath.Dir(path), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
		})
		now, err := os.Lstat(path)
		if err == nil && (was == nil || !os.SameFile(was, now) || !was.ModTime().Equal(now.ModTime())) {
			replaced = true
		}
	}
	return replaced
}

func realPath(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

func (w *fileWatch) run() {
	defer close(w.done)
	select {
	case <-w.stopped:
		return
	case <-time.After(watchAfter):
	}
	if w.begin() {
		w.cover()
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := w.events.Read(buf)
		if err != nil {
			return
		}
		if w.concerns(buf[:n]) {
			w.cover()
		}
	}
}

// concerns says whether one of the events of inotify(7) in b is about a file
// that branes have their own of. Lost events concern us too.
func (w *fileWatch) concerns(b []byte) bool {
	for len(b) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(b[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if end > len(b) || end < unix.SizeofInotifyEvent {
			return false
		}
		name, _, _ := strings.Cut(string(b[unix.SizeofInotifyEvent:end]), "\x00")
		if mask&unix.IN_Q_OVERFLOW != 0 || w.interested[name] {
			return true
		}
		b = b[end:]
	}
	return false
}

// cover has a process inside lay the brane's files over the new ones. When it
// fails (the program took its mounts away, as root it may), so be it.
func (w *fileWatch) cover() {
	p, err := nsexec.Start(&nsexec.Cmd{
		Argv: []string{"brane", InitMode, coverArg},
		Join: []nsexec.Join{{FD: int(w.user.Fd()), Kind: unix.CLONE_NEWUSER}, {FD: int(w.mnt.Fd()), Kind: unix.CLONE_NEWNS}},
		// Descriptors of the runner's are not for a process that a hostile root
		// inside could look into: standard input, output and error stay closed.
		Files: []*os.File{nil, nil, nil}, KeepCaps: true,
	})
	if err == nil {
		_, _ = p.Wait()
	}
}

// stop ends the watch; it may be nil.
func (w *fileWatch) stop() {
	if w == nil {
		return
	}
	close(w.stopped)
	_ = w.events.Close()
	<-w.done
	w.close()
}

func (w *fileWatch) close() {
	for _, f := range []*os.File{w.user, w.mnt} {
		if f != nil {
			_ = f.Close()
		}
	}
}
