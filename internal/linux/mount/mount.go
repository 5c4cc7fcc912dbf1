// Package mount changes the mounts of the calling process's mount namespace
// with the descriptor-based calls of Linux 5.2 and later (fsopen(2),
// open_tree(2), move_mount(2)): a tree is made first, out of sight, and
// attached when it is complete. All errors are *fault.Error.
package mount

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

// Tree is a mount, or a tree of them, that is not attached yet or was attached
// by Attach. It goes away with its descriptor unless it has been attached.
type Tree struct {
	fd   int
	name string
}

// Close closes the descriptor.
func (t *Tree) Close() { _ = unix.Close(t.fd) }

// FD is the descriptor of the root of the tree, for the …at family of calls.
func (t *Tree) FD() int { return t.fd }

// Private cuts the propagation of mounts between this namespace and the one it
// was copied from, both ways.
func Private() error {
	return problem("make private", "/", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
}

// Clone copies the mount at path and all below it. A symbolic link is
// followed. The error is NotFound when there is nothing at path.
func Clone(path string) (*Tree, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return nil, problem("copy the mount at", path, err)
	}
	return &Tree{fd, path}, nil
}

// Options of a file system in memory.
type Options struct {
	Mode   string // of the root, octal; "0755" when empty
	Size   string // bytes, with k, m or g; the kernel's default (half the memory) is never wanted
	Inodes string // number of files
}

// Memory makes an empty file system in memory. nosuid and nodev are set.
func Memory(o Options) (*Tree, error) {
	const op = "make a file system in memory"
	if o.Mode == "" {
		o.Mode = "0755"
	}
	params := [][2]string{{"source", "brane"}, {"mode", o.Mode}}
	if o.Size != "" {
		params = append(params, [2]string{"size", o.Size})
	}
	if o.Inodes != "" {
		params = append(params, [2]string{"nr_inodes", o.Inodes})
	}
	return create(op, "tmpfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, params)
}

// Sys makes a sysfs that shows the interfaces of the caller's network
// namespace. The kernel allows it only where the present one is whole, and read-only
// where that is; else the error is of kind Denied.
func Sys() (*Tree, error) {
	const op = "make a sysfs"
	attr := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	t, err := create(op, "sysfs", attr, nil)
	if fault.KindOf(err) == fault.Denied {
		return create(op, "sysfs", attr|unix.MOUNT_ATTR_RDONLY, nil)
	}
	return t, err
}

// create makes a file system and a mount of it.
func create(op, kind string, attr int, params [][2]string) (*Tree, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, problem(op, "", err)
	}
	defer unix.Close(fs)
	for _, p := range params {
		if err := unix.FsconfigSetString(fs, p[0], p[1]); err != nil {
			return nil, problem(op, p[0]+"="+p[1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, problem(op, "", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return nil, problem(op, "", err)
	}
	return &Tree{fd, kind}, nil
}

// ReadOnly forbids writing to the tree's root mount. Namespaces of less
// privilege that copy it later cannot undo that.
func (t *Tree) ReadOnly() error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	return problem("make read-only", t.name, unix.MountSetattr(t.fd, "", unix.AT_EMPTY_PATH, &attr))
}

// Attach puts the tree over what is at path; symbolic links are followed to
// the last. It stays usable by its descriptor.
func (t *Tree) Attach(path string) error {
	err := unix.MoveMount(t.fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
	return problem("mount over", path, err)
}

// Detach takes away the topmost mount at path, also while it is in use.
func Detach(path string) error {
	return problem("unmount", path, unix.Unmount(path, unix.MNT_DETACH))
}

func problem(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	f := fault.New(fault.Internal, op, subject, "%v", err)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, os.ErrNotExist):
		f.Kind = fault.NotFound
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		f.Kind = fault.Denied
		f.Remedy = "a security module or a container may forbid mounts in user namespaces: 'brane doctor' says more"
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENODEV):
		f.Kind = fault.Unsupported
		f.Remedy = "Brane needs Linux 6.1 or later with tmpfs"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ENOMEM):
		f.Kind = fault.Limit
	}
	return f
}
