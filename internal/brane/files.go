package brane

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
	"brane/internal/linux/mount"
	"brane/internal/linux/nsexec"
)

// resolvConf is resolv.conf(5) of the brane.
func resolvConf(s *Spec) []byte {
	var b bytes.Buffer
	servers := s.DNS
	if len(servers) == 0 {
		servers = s.Gateways
	}
	if s.Domain != "" {
		fmt.Fprintf(&b, "search %s\n", s.Domain)
	}
	for i, a := range servers {
		if i == 3 { // the resolver of glibc reads no more
			break
		}
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	return b.Bytes()
}

// hosts is hosts(5) of the brane: loopback and itself.
func hosts(s *Spec) []byte {
	var b bytes.Buffer
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	names := s.Name
	if s.Domain != "" {
		names = s.Name + "." + s.Domain + " " + s.Name
	}
	if len(s.Addrs) == 0 {
		fmt.Fprintf(&b, "127.0.1.1\t%s\n", names)
	}
	for _, a := range s.Addrs {
		fmt.Fprintf(&b, "%s\t%s\n", a.Addr(), names)
	}
	return b.Bytes()
}

// bindFiles makes the brane's own resolv.conf and hosts, in a file system of
// its own, and lays them over the host's. The program may write to them.
func bindFiles(s *Spec) error {
	t, err := mount.Memory(mount.Options{Size: "1m", Inodes: "8"})
	if err != nil {
		return err
	}
	defer t.Close()
	if err := writeAt(t.FD(), "resolv.conf", resolvConf(s)); err != nil {
		return err
	}
	if err := writeAt(t.FD(), "hosts", hosts(s)); err != nil {
		return err
	}
	if err := t.Attach(nsexec.FilesDir); err != nil {
		return err
	}
	return cover()
}

// ownFiles are the files of /etc that a brane has its own of.
func ownFiles() []string { return []string{"resolv.conf", "hosts"} }

// cover lays the brane's files over the host's, where they are not yet. A link
// is followed: what programs read in the end is what is covered.
func cover() error {
	for _, name := range ownFiles() {
		own, host := filepath.Join(nsexec.FilesDir, name), filepath.Join("/etc", name)
		if sameFile(own, host) {
			continue
		}
		c, err := mount.Clone(own)
		if err != nil {
			return err
		}
		err = c.Attach(host)
		c.Close()
		if fault.KindOf(err) == fault.NotFound {
			return fault.New(fault.Unsupported, "bind", host, "the host has no such file to lay the brane's own over").
				WithRemedy("make an empty one: sudo touch %s", host)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func sameFile(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

func writeAt(dir int, name string, content []byte) error {
	fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err == nil {
		f := os.NewFile(uintptr(fd), name)
		_, err = f.Write(content)
		if e := f.Close(); err == nil {
			err = e
		}
	}
	if err != nil {
		return fault.New(fault.Internal, "write", name, "%v", err)
	}
	return nil
}

// userRuntime gives the program an XDG_RUNTIME_DIR of its own, empty but for
// the way to the daemon's "who am I". The outer one is read-only and shared.
func userRuntime(s *Spec) error {
	if s.UserRuntime == "" {
		return nil
	}
	if fi, err := os.Stat(s.UserRuntime); err != nil || !fi.IsDir() {
		return nil // the variable names nothing; so it does inside
	}
	t, err := mount.Memory(mount.Options{Mode: "0700", Size: "64m", Inodes: "16k"})
	if err != nil {
		return err
	}
	defer t.Close()
	inside := filepath.Join(s.Runtime, "inside")
	rel, err := filepath.Rel(s.UserRuntime, inside)
	if s.Runtime == "" || err != nil || strings.HasPrefix(rel, "..") {
		return t.Attach(s.UserRuntime)
	}
	door, err := mount.Clone(inside)
	if fault.KindOf(err) == fault.NotFound {
		return t.Attach(s.UserRuntime)
	}
	if err != nil {
		return err
	}
	defer door.Close()
	if err := t.Attach(s.UserRuntime); err != nil {
		return err
	}
	if err := os.MkdirAll(inside, 0o700); err != nil {
		return fault.New(fault.Internal, "make", inside, "%v", err)
	}
	return door.Attach(inside)
}

// ownInterfaces lets /sys/class/net show the brane's interfaces instead of the
// host's. Where the kernel refuses a new sysfs (in containers that hide parts of
// theirs), the directory is emptied: no names of the host's interfaces inside.
func ownInterfaces() error {
	places := []string{"class/net", "devices/virtual/net"} // the links of the first lead to the second
	t, err := mount.Sys()
	if fault.KindOf(err) == fault.Denied {
		if t, err = mount.Memory(mount.Options{Size: "4k", Inodes: "2"}); err == nil {
			defer t.Close()
			err = t.Attach("/sys/class/net")
		}
		if fault.KindOf(err) == fault.NotFound {
			err = nil
		}
		return err
	}
	if err != nil {
		return err
	}
	defer t.Close()
	// Linux before 6.15 copies only what is attached; so it is, for a moment.
	if err := t.Attach(nsexec.FilesDir); err != nil {
		return err
	}
	var clones []*mount.Tree
	for _, p := range places {
		var c *mount.Tree
		if c, err = mount.Clone(filepath.Join(nsexec.FilesDir, p)); err != nil {
			break
		}
		defer c.Close()
		clones = append(clones, c)
	}
	if e := mount.Detach(nsexec.FilesDir); err == nil {
		err = e
	}
	for i, c := range clones {
		if err == nil {
			err = c.Attach(filepath.Join("/sys", places[i]))
		}
	}
	return err
}

// writableRun gives a program that appears as root a /run to write to, with all
// that the outer one holds. The outer one is read-only and shared.
func writableRun() error {
	const run = "/run"
	entries, err := os.ReadDir(run)
	if err != nil {
		return fault.New(fault.Internal, "read", run, "%v", err)
	}
	t, err := mount.Memory(mount.Options{Size: "64m", Inodes: "16k"})
	if err != nil {
		return err
	}
	defer t.Close()
	clones := map[string]*mount.Tree{}
	defer func() {
		for _, c := range clones {
			c.Close()
		}
	}()
	for _, e := range entries {
		if err := copyEntry(t.FD(), run, e, clones); err != nil {
			return err
		}
	}
	if err := t.Attach(run); err != nil {
		return err
	}
	for path, c := range clones {
		if err := c.Attach(path); err != nil {
			return err
		}
	}
	return nil
}

// copyEntry makes an entry like e in the directory that to is open on: a link,
// or a place for the clone of what is there.
func copyEntry(to int, dir string, e os.DirEntry, clones map[string]*mount.Tree) error {
	path := filepath.Join(dir, e.Name())
	var err error
	switch {
	case e.Type()&os.ModeSymlink != 0:
		var text string
		if text, err = os.Readlink(path); err == nil {
			err = unix.Symlinkat(text, to, e.Name())
		}
	case e.IsDir():
		err = unix.Mkdirat(to, e.Name(), 0o755)
	default:
		err = writeAt(to, e.Name(), nil)
	}
	if err != nil {
		return fault.New(fault.Internal, "copy", path, "%v", err)
	}
	if e.Type()&os.ModeSymlink == 0 {
		clones[path], err = mount.Clone(path)
	}
	return err
}

// sysctl writes one value below /proc/sys/net. What this kernel does not have
// (IPv6 switched off) is left.
func sysctl(name, value string) error {
	err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0)
	if err != nil && !os.IsNotExist(err) {
		return fault.New(fault.Internal, "set sysctl", "net/"+name, "%v", err)
	}
	return nil
}

// pingRange is net.ipv4.ping_group_range for the groups of this namespace: all
// of them, as far as the kernel takes them, or the only one.
func pingRange(gidMap []byte) string {
	const most = 1<<31 - 1
	f := strings.Fields(string(gidMap))
	if len(f) >= 3 {
		first, err1 := strconv.ParseUint(f[0], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 == nil && err2 == nil && count > 0 && first <= most {
			return fmt.Sprintf("%d %d", first, min(first+count-1, most))
		}
	}
	return "1 0" // nobody
}
