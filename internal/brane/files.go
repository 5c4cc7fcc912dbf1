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

// bindFiles lays the brane's own resolv.conf and hosts over the host's. The
// files live in a file system of the brane's own; the program may write to them.
// A link is followed: what programs read in the end is what is covered.
func bindFiles(s *Spec) error {
	t, err := mount.Memory(mount.Options{Size: "1m", Inodes: "8"})
	if err != nil {
		return err
	}
	defer t.Close()
	files := []struct {
		name    string
		content []byte
	}{{"resolv.conf", resolvConf(s)}, {"hosts", hosts(s)}}
	for _, f := range files {
		if err := writeAt(t.FD(), f.name, f.content); err != nil {
			return err
		}
	}
	// Linux before 6.15 copies only what is attached; so it is, for a moment.
	const stage = "/run"
	if err := t.Attach(stage); err != nil {
		return err
	}
	var clones []*mount.Tree
	for _, f := range files {
		var c *mount.Tree
		if c, err = mount.Clone(filepath.Join(stage, f.name)); err != nil {
			break
		}
		defer c.Close()
		clones = append(clones, c)
	}
	if e := mount.Detach(stage); err == nil {
		err = e
	}
	for i, c := range clones {
		if err != nil {
			break
		}
		if err = c.Attach("/etc/" + files[i].name); fault.KindOf(err) == fault.NotFound {
			err = fault.New(fault.Unsupported, "bind", "/etc/"+files[i].name, "the host has no such file to lay the brane's own over").
				WithRemedy("make an empty one: sudo touch /etc/%s", files[i].name)
		}
	}
	return err
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
