package unixmsg

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

// Listener is a Unix socket with a name in the file system.
type Listener struct {
	*net.UnixListener
	path string
	name string
	dir  int // the socket's directory; -1 when the name is not ours to remove
	ino  uint64
}

// Listen makes a socket of a type (unix.SOCK_STREAM, unix.SOCK_SEQPACKET) at
// path with the permissions mode. The directory is made if it is missing, 0700
// unless mode lets others in (then 0755), and must belong to this user and be
// writable by nobody else. A socket of that name is removed only when nobody
// listens on it. The name is used relative to the open directory, so neither a
// symbolic link in its place nor a long path matters.
//
// Errors are of kind Busy (somebody listens there), Exists (not a socket),
// Denied (the directory is not safe) or Unavailable.
func Listen(typ int, path string, mode fs.FileMode) (*Listener, error) {
	const op = "listen"
	dir, err := openDir(filepath.Dir(path), mode)
	if err != nil {
		return nil, err
	}
	l := &Listener{path: path, name: filepath.Base(path), dir: dir}
	if err := l.listen(typ, mode); err != nil {
		_ = unix.Close(dir)
		if fault.As(err) == nil {
			err = fault.New(fault.Unavailable, op, path, "%v", err)
		}
		return nil, err
	}
	return l, nil
}

// openDir opens the directory of a socket, making it first if it is missing.
func openDir(dir string, mode fs.FileMode) (int, error) {
	const op = "open socket directory"
	perm := uint32(0o700)
	if mode&0o007 != 0 {
		perm = 0o755
	}
	if err := unix.Mkdir(dir, perm); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, fault.New(fault.Unavailable, op, dir, "%v", err)
	}
	// O_RDONLY rather than O_PATH, which flock refuses.
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fault.New(fault.Unavailable, op, dir, "%v", err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return -1, fault.New(fault.Unavailable, op, dir, "%v", err)
	}
	if st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0 {
		_ = unix.Close(fd)
		return -1, fault.New(fault.Denied, op, dir, "it belongs to uid %d with mode %04o", st.Uid, st.Mode&0o7777).
			WithRemedy("remove it, or make it yours with mode 0700")
	}
	return fd, nil
}

func (l *Listener) listen(typ int, mode fs.FileMode) error {
	// The lock keeps two starters from both finding the other's socket dead.
	if err := unix.Flock(l.dir, unix.LOCK_EX); err != nil {
		return err
	}
	defer func() { _ = unix.Flock(l.dir, unix.LOCK_UN) }()
	if err := l.removeStale(); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), l.path)
	defer f.Close()
	// bind takes the permissions of the socket's own inode, less the umask: the
	// name is never open to more than mode.
	if err := unix.Fchmod(fd, uint32(mode.Perm())); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: l.relative()}); err != nil {
		return err
	}
	if err := l.publish(fd, mode); err != nil {
		_ = unix.Unlinkat(l.dir, l.name, 0)
		return err
	}
	ln, err := net.FileListener(f)
	if err != nil {
		_ = unix.Unlinkat(l.dir, l.name, 0)
		return err
	}
	l.UnixListener = ln.(*net.UnixListener)
	return nil
}

// publish widens what the umask took away, listens, and remembers the inode.
func (l *Listener) publish(fd int, mode fs.FileMode) error {
	if err := unix.Fchmodat(l.dir, l.name, uint32(mode.Perm()), 0); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(l.dir, l.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	l.ino = st.Ino
	return unix.Listen(fd, unix.SOMAXCONN)
}

func (l *Listener) relative() string { return fmt.Sprintf("/proc/self/fd/%d/%s", l.dir, l.name) }

// removeStale removes a socket that nobody listens on.
func (l *Listener) removeStale() error {
	const op = "listen"
	var st unix.Stat_t
	err := unix.Fstatat(l.dir, l.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fault.New(fault.Exists, op, l.path, "a file that is not a socket has that name").
			WithRemedy("move it away")
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// A socket of another type answers EPROTOTYPE, a full one EAGAIN: both live.
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: l.relative()}); !errors.Is(err, unix.ECONNREFUSED) {
		return fault.New(fault.Busy, op, l.path, "another process listens there").
			WithRemedy("stop it first, or let the new one replace it")
	}
	if err := unix.Unlinkat(l.dir, l.name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// Adopt makes a Listener of a descriptor that listens already (socket
// activation, or handed over by the process before), which it closes, also on
// error. The socket's name is then left alone by Close.
func Adopt(fd int, path string) (*Listener, error) {
	f := os.NewFile(uintptr(fd), path)
	if f == nil {
		return nil, descriptorFault("%d is no descriptor", fd)
	}
	defer f.Close()
	i, err := Describe(fd)
	if err != nil {
		return nil, err
	}
	if i.Kind != SocketFD || i.Domain != unix.AF_UNIX || !i.Listening {
		return nil, descriptorFault("wanted a listening Unix socket, got %s", i)
	}
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, descriptorFault("%v", err)
	}
	return &Listener{UnixListener: ln.(*net.UnixListener), path: path, dir: -1}, nil
}

// Addr is the socket's path as it was given.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close stops listening and removes the name if it is still this socket's.
func (l *Listener) Close() error {
	l.unlink()
	return l.UnixListener.Close()
}

// Leave stops listening here and leaves the name: another process has the
// descriptor and goes on.
func (l *Listener) Leave() error {
	if l.dir >= 0 {
		_ = unix.Close(l.dir)
		l.dir = -1
	}
	return l.UnixListener.Close()
}

func (l *Listener) unlink() {
	if l.dir < 0 {
		return
	}
	var st unix.Stat_t
	if err := unix.Fstatat(l.dir, l.name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Ino == l.ino {
		_ = unix.Unlinkat(l.dir, l.name, 0)
	}
	_ = unix.Close(l.dir)
	l.dir = -1
}

// DupFD is a new descriptor of a socket's open file, close-on-exec; the caller
// closes it. For listeners it serves a hand-over, for connections Detach.
func DupFD(c syscall.Conn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, descriptorFault("%v", err)
	}
	dup, dupErr := -1, error(nil)
	err = raw.Control(func(fd uintptr) {
		dup, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err = errors.Join(err, dupErr); err != nil {
		return -1, descriptorFault("%v", err)
	}
	return dup, nil
}
