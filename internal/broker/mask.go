package broker

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
	"brane/internal/linux/mount"
	"brane/internal/linux/nsexec"
)

// Masking: a Unix socket with a path ignores network namespaces, so each one of
// a host service is a door out of every brane. A mask laid over one socket does
// not hold: the kernel takes a mount away when the host removes or renames what
// is below it (a service that restarts does both), and a socket made later was
// never masked. So the directories where services keep their sockets are
// replaced whole by an empty file system of the outer namespace, in which the
// host can remove nothing, and the few things of /run that ordinary programs
// want are put back. What is new in the host's /run stays out.
//
// The doors that lie elsewhere are covered one by one, by their directory where
// they have one of their own; those covers last as long as what is below them.

// entry is one row of the tables below.
type entry struct {
	path   string
	reason string
}

// kept names what stays visible of /run. Symbolic links that lead out of it
// stay too: they name files, not doors (NixOS has its system there).
func kept() []entry {
	return []entry{
		{"/run/lock", "lock files; programs and device tools agree by them"},
		{"/run/utmp", "who is logged in"},
		{"/run/media", "removable file systems"},
	}
}

// elsewhere names the doors outside the replaced directories; ~ is the home
// and % the uid.
func elsewhere() []entry {
	return []entry{
		{"/tmp/tmux-%", "tmux server: runs commands in the host's network"},
		{"/var/lib/sss/pipes", "sssd: looks names up on the network"},
		{"/var/lib/lxd", "container engine"},
		{"/var/snap/lxd/common/lxd", "container engine"},
		{"/var/lib/incus", "container engine"},
		{"/var/lib/libvirt/qemu", "monitors of virtual machines"},
		{"/var/spool/postfix/private", "mail server"},
		{"~/.docker/run", "container engine (Docker Desktop)"},
		{"~/.docker/desktop", "container engine (Docker Desktop)"},
		{"~/.colima", "container engine"},
		{"~/.gnupg/S.dirmngr", "fetches keys from the network"},
		{"~/.cache/ibus", "D-Bus of the input method"},
	}
}

// bound are the files that every brane gets of its own. Where one is a link
// into a replaced directory, a place to mount over must exist there.
func bound() []string { return []string{"/etc/resolv.conf", "/etc/hosts"} }

// inside is the one thing of the runtime directory that a brane may see: the
// directory with the socket that answers "who am I".
const inside = "inside"

// masks is the work to do, found by looking only.
type masks struct {
	roots  []string          // replaced directories, no link in them, none inside another
	dirs   []string          // to make inside them, 0755
	own    string            // the user's runtime directory, to make with 0700
	files  []string          // to make empty
	links  map[string]string // to make
	keep   []string          // to put back, by path
	covers []string          // doors elsewhere that exist
}

// survey finds what there is to mask.
func survey(s Setup) masks {
	m := masks{links: map[string]string{}, dirs: []string{nsexec.FilesDir}}
	for _, dir := range []string{"/run", "/var/run", s.UserRuntime, s.Runtime} {
		if dir == "" {
			continue
		}
		real, err := filepath.EvalSymlinks(dir)
		if fi, e := os.Stat(real); err != nil || e != nil || !fi.IsDir() || m.replaced(real) {
			continue
		}
		m.roots = append(m.roots, real)
	}
	for _, e := range kept() {
		if fi, err := os.Lstat(e.path); err == nil && fi.Mode()&fs.ModeSymlink == 0 {
			m.keep = append(m.keep, e.path)
		}
	}
	if p, err := filepath.EvalSymlinks(filepath.Join(s.Runtime, inside)); err == nil {
		m.keep = append(m.keep, p)
	}
	if p, err := filepath.EvalSymlinks(s.UserRuntime); err == nil && s.UserRuntime != "" && m.replaced(p) && !slices.Contains(m.roots, p) {
		m.own = p
	}
	m.findLinks("/run")
	for _, f := range bound() {
		if p := target(f); m.replaced(p) {
			m.files = append(m.files, p)
		}
	}
	for _, e := range elsewhere() {
		p := strings.ReplaceAll(e.path, "%", strconv.Itoa(s.UID))
		if rest, ok := strings.CutPrefix(p, "~/"); ok {
			p = filepath.Join(s.Home, rest)
		}
		if real, err := filepath.EvalSymlinks(p); err == nil && filepath.IsAbs(p) && !m.replaced(real) {
			m.covers = append(m.covers, real)
		}
	}
	return m
}

// replaced says whether path is one of the roots or below one.
func (m *masks) replaced(path string) bool {
	for _, r := range m.roots {
		if path == r || strings.HasPrefix(path, r+"/") {
			return true
		}
	}
	return false
}

// findLinks takes over the links of dir that lead out of what is replaced.
func (m *masks) findLinks(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		if real, err := filepath.EvalSymlinks(path); err == nil && !m.replaced(real) {
			if text, err := os.Readlink(path); err == nil {
				m.links[path] = text
			}
		}
	}
}

// target follows path to what it names, also when the last step is missing.
func target(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	text, err := os.Readlink(path)
	if err != nil {
		return path
	}
	if !filepath.IsAbs(text) {
		text = filepath.Join(filepath.Dir(path), text)
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(text))
	if err != nil {
		return filepath.Clean(text)
	}
	return filepath.Join(dir, filepath.Base(text))
}

// apply carries the masks out in the present mount namespace. Whatever fails
// fails the whole: a brane without its masks must not be.
func (m *masks) apply() error {
	if err := mount.Private(); err != nil {
		return err
	}
	var roots, keep []*mount.Tree
	defer func() {
		for _, t := range append(roots, keep...) {
			t.Close()
		}
	}()
	for _, p := range m.keep {
		t, err := mount.Clone(p)
		if err != nil {
			return err
		}
		keep = append(keep, t)
	}
	for _, r := range m.roots {
		t, err := mount.Memory(mount.Options{Size: "1m", Inodes: "1k"})
		if err != nil {
			return err
		}
		roots = append(roots, t)
		if err := t.Attach(r); err != nil {
			return err
		}
	}
	if err := m.furnish(); err != nil {
		return err
	}
	for i, t := range keep {
		if err := t.Attach(m.keep[i]); err != nil {
			return err
		}
	}
	for _, t := range roots {
		if err := t.ReadOnly(); err != nil {
			return err
		}
	}
	return m.cover()
}

// furnish makes what the replaced directories must hold. The kept things are
// still seen through their clones only, so their places are made by kind: the
// inside directory and all others but utmp are directories.
func (m *masks) furnish() error {
	var err error
	try := func(e error) {
		if err == nil {
			err = e
		}
	}
	for _, p := range m.keep {
		if p == "/run/utmp" {
			m.files = append(m.files, p)
			continue
		}
		m.dirs = append(m.dirs, p)
	}
	if m.own != "" {
		try(os.MkdirAll(filepath.Dir(m.own), 0o755))
		try(os.Mkdir(m.own, 0o700))
	}
	for _, d := range m.dirs {
		try(os.MkdirAll(d, 0o755))
	}
	for _, f := range m.files {
		try(os.MkdirAll(filepath.Dir(f), 0o755))
		try(os.WriteFile(f, nil, 0o644))
	}
	for path, text := range m.links {
		try(os.Symlink(text, path))
	}
	if err != nil {
		return fault.New(fault.Internal, "mask the host's doors", "", "%v", err)
	}
	return nil
}

// cover hides the doors elsewhere: a directory below an empty one, anything
// else below /dev/null.
func (m *masks) cover() error {
	for _, p := range m.covers {
		var st unix.Stat_t
		if err := unix.Stat(p, &st); err != nil {
			continue // gone since
		}
		var t *mount.Tree
		var err error
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			if t, err = mount.Memory(mount.Options{Size: "4k", Inodes: "2"}); err == nil {
				err = t.ReadOnly()
			}
		} else {
			t, err = mount.Clone(os.DevNull)
		}
		if err == nil {
			err = t.Attach(p)
		}
		if t != nil {
			t.Close()
		}
		if err != nil && fault.KindOf(err) != fault.NotFound {
			return err
		}
	}
	return nil
}
