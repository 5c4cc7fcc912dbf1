package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"brane/internal/fault"
)

// On disk there are two buckets: "about" with the keys "format", a decimal
// number, and "totals", see state.totals; and "records", path to record, see
// entry.encode. They are read in this order, so that a newer format is told
// apart from damage.
const (
	aboutBucket   = "about"
	recordsBucket = "records"
	formatKey     = "format"
	totalsKey     = "totals"

	format       = 1 // what is written
	oldestFormat = 1 // what is still read; raise it one release after format
)

// Open opens the store in the file at path, which it makes, with mode 0600,
// when it is not there. The directory must exist and be writable by nobody
// else. Only one process has a store open: the second gets fault.Busy, which
// names the first. A damaged or newer file is refused and left as it is.
func Open(path string) (Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fileFault(err, path)
	}
	if err = checkDir(path); err != nil {
		return nil, err
	}
	held, err := lock(path+".lock", path)
	if err != nil {
		return nil, err
	}
	e, err := openLocked(path, held)
	if err != nil {
		_ = held.Close()
		return nil, err
	}
	return e, nil
}

// checkDir refuses a directory in which others could replace the file.
func checkDir(path string) error {
	info, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return fileFault(err, path)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fault.New(fault.Denied, "open store", path, "its directory is writable by others").
			WithRemedy("chmod 0700 %s", filepath.Dir(path))
	}
	return nil
}

func openLocked(path string, held *os.File) (*engine, error) {
	f := newForest()
	s, err := load(path, f)
	if errors.Is(err, fs.ErrNotExist) {
		s = &state{}
		err = create(path)
	}
	if err != nil {
		return nil, openFault(err, path)
	}
	j := &boltJournal{path: path, held: held, rev: s.rev}
	if err = j.open(path); err != nil {
		return nil, openFault(err, path)
	}
	return newEngine(j, f, s), nil
}

func openFault(err error, path string) error {
	var d damage
	switch {
	case fault.As(err) != nil:
		return err
	case errors.As(err, &d):
		return fault.New(fault.Invalid, "open store", path, "the file is damaged: %v", err).
			WithRemedy("put a copy back, or move it away to begin with an empty store")
	default:
		return fileFault(err, path)
	}
}

// create makes an empty store under another name and moves it into place when
// it is whole on disk, so that a kill leaves no half of one.
func create(path string) (err error) {
	fresh := path + ".new"
	if err = os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	j := &boltJournal{path: path}
	if err = j.open(fresh); err != nil {
		return err
	}
	if err = j.commit(&state{}, nil); err != nil {
		_ = j.close()
		return err
	}
	if err = j.close(); err != nil {
		return err
	}
	if err = os.Rename(fresh, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// load reads and checks all of the file at path.
func load(path string, f forest) (*state, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, damaged("it is not a regular file")
	}
	return read(file, info.Size(), path, f)
}

// boltJournal keeps states in a bbolt file. The free pages are not written but
// found again at open, where the whole file is read anyway: one write less for
// each commit, and nothing that could be wrong.
type boltJournal struct {
	path   string
	held   *os.File // the lock
	file   *os.File // bbolt's descriptor, to be closed should bbolt not be able to
	db     *bbolt.DB
	rev    Revision // of the last state that is on disk
	broken error    // why nothing is written any more
}

func (j *boltJournal) open(file string) error {
	err := guard(func() (err error) {
		j.db, err = bbolt.Open(file, 0o600, &bbolt.Options{
			Timeout:        200 * time.Millisecond,
			NoFreelistSync: true,
			FreelistType:   bbolt.FreelistMapType,
			PageSize:       pageSize,
			NoStatistics:   true,
			OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
				f, err := os.OpenFile(name, flag|syscall.O_NOFOLLOW, mode)
				j.file = f
				return f, err
			},
		})
		return err
	})
	if err != nil && j.file != nil {
		_ = j.file.Close() // again, unless bbolt panicked
	}
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fault.New(fault.Busy, "open store", j.path, "another program has the file open").WithRemedy("close that program first")
	}
	return err
}

// guard turns a panic of bbolt into an error.
func guard(fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked{fmt.Sprint(p)}
		}
	}()
	return fn()
}

type panicked struct{ what string }

func (p panicked) Error() string { return "bbolt: " + p.what }

func (j *boltJournal) commit(next *state, changes []change) error {
	if j.broken != nil {
		return fault.New(fault.Unavailable, "write store", j.path, "writing failed before and the disk is not trusted since: %v", j.broken).
			WithRemedy("check the disk, then restart the daemon; reading still works")
	}
	err := guard(func() error { return j.db.Update(func(tx *bbolt.Tx) error { return write(tx, next, changes) }) })
	if err == nil {
		j.rev = next.rev
		return nil
	}
	if why := j.distrust(err); why != nil {
		j.broken = why
		return fault.New(fault.Unavailable, "write store", j.path, "%v", why).
			WithRemedy("check the disk, then restart the daemon; reading still works")
	}
	return fault.New(fault.Unavailable, "write store", j.path, "nothing was changed: %v", err).
		WithRemedy("free space on its file system and try again")
}

// write puts changes into one transaction, in order: a later one of the same
// path wins.
func write(tx *bbolt.Tx, next *state, changes []change) error {
	records, err := tx.CreateBucketIfNotExists([]byte(recordsBucket))
	if err != nil {
		return err
	}
	for _, c := range changes {
		if c.deleted {
			err = records.Delete([]byte(c.Path))
		} else {
			err = records.Put([]byte(c.Path), c.encode())
		}
		if err != nil {
			return err
		}
	}
	about, err := tx.CreateBucketIfNotExists([]byte(aboutBucket))
	if err != nil {
		return err
	}
	if err = about.Put([]byte(formatKey), strconv.AppendInt(nil, format, 10)); err != nil {
		return err
	}
	return about.Put([]byte(totalsKey), next.totals())
}

// distrust returns nil when err left the file as it was. A failed sync is not
// repeated: the kernel may have dropped what it could not write and would call
// the next one a success. Nor is anything written when the failed change can be
// seen in the file: it may or may not survive.
func (j *boltJournal) distrust(err error) error {
	var p panicked
	if errors.As(err, &p) || errors.Is(err, syscall.EIO) || strings.HasSuffix(err.Error(), syscall.EIO.Error()) {
		return err
	}
	seen := Revision(-1)
	look := guard(func() error {
		return j.db.View(func(tx *bbolt.Tx) error {
			var s state
			b := tx.Bucket([]byte(aboutBucket))
			if b != nil && s.setTotals(b.Get([]byte(totalsKey))) == nil {
				seen = s.rev
			}
			return nil
		})
	})
	if look != nil || seen != j.rev {
		return err
	}
	return nil
}

// close writes the last state once more, so that both meta pages lead to it and
// losing either loses nothing.
func (j *boltJournal) close() error {
	err := j.broken
	if err == nil {
		err = guard(func() error { return j.db.Update(func(*bbolt.Tx) error { return nil }) })
		if errors.Is(err, syscall.ENOSPC) {
			err = nil // all that was acknowledged is there
		}
	}
	var p panicked
	if errors.As(err, &p) {
		_ = j.file.Close() // bbolt may hold its own locks for ever
	} else if closed := guard(j.db.Close); err == nil {
		err = closed
	}
	if j.held != nil {
		_ = j.held.Truncate(0)
		_ = j.held.Close()
	}
	if err != nil {
		return fault.New(fault.Unavailable, "close store", j.path, "%v", err).WithRemedy("check the disk")
	}
	return nil
}
