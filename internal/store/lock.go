package store

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strconv"
	"syscall"

	"brane/internal/fault"
)

// lock takes the file at path for this process: flock(2), which the kernel
// gives back however the process ends. The holder's pid is in the file, for
// the message that the second one gets.
func lock(path, subject string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fileFault(err, subject)
	}
	if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fault.New(fault.Busy, "open store", subject, "it is in use by %s", holder(f)).
				WithRemedy("use that daemon, or stop it first")
		}
		return nil, fileFault(err, subject)
	}
	// A pid that cannot be written (a full disk) costs the message, not the lock.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
	}
	return f, nil
}

// holder names who wrote the lock file.
func holder(r io.ReaderAt) string {
	var b [16]byte
	n, _ := r.ReadAt(b[:], 0)
	pid, err := strconv.ParseUint(string(bytes.TrimSpace(b[:n])), 10, 31)
	if err != nil || pid == 0 {
		return "another process"
	}
	return "process " + strconv.FormatUint(pid, 10)
}

// fileFault is what an error of a file means to whoever opens the store.
func fileFault(err error, subject string) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fault.New(fault.NotFound, "open store", subject, "%v", err).WithRemedy("make the directory with mode 0700 first")
	case errors.Is(err, os.ErrPermission):
		return fault.New(fault.Denied, "open store", subject, "%v", err).WithRemedy("the state belongs to another user, or its mode was changed")
	case errors.Is(err, syscall.ELOOP):
		return fault.New(fault.Denied, "open store", subject, "it is a symbolic link").WithRemedy("put the file itself there")
	default:
		return fault.New(fault.Unavailable, "open store", subject, "%v", err).WithRemedy("check the disk and its free space")
	}
}
