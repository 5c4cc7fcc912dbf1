package brane

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
	"brane/internal/linux/unixmsg"
)

// Descriptors that the first stage inherits.
const (
	specFD    = 3
	controlFD = 4
)

// Exit statuses of shells for a program that cannot be executed, and is not there.
const (
	statusNotExecutable = 126
	statusNotFound      = 127
)

// Init is the first stage: it runs inside the new namespaces with all
// capabilities over them, sets the brane up, gives the capabilities up and
// becomes the program. It never returns.
func Init() {
	if len(os.Args) > 2 && os.Args[2] == coverArg {
		coverAgain()
	}
	runtime.LockOSThread() // capabilities and seccomp belong to the thread that executes
	conn, err := unixmsg.FromFD(controlFD)
	if err != nil {
		fmt.Fprintln(os.Stderr, "brane:", errNoSpec)
		os.Exit(fault.ExitCode(fault.New(fault.Invalid, "", "", "%v", errNoSpec)))
	}
	c := newControl(conn)
	m := message{}
	s, err := readSpec()
	if err == nil {
		err = setUp(c, s)
	}
	if err == nil {
		m.Status, err = become(s)
	}
	m.Fault = fault.From(err, "run", "")
	_ = c.send(&m)
	os.Exit(fault.ExitCode(err))
}

func readSpec() (*Spec, error) {
	f := os.NewFile(specFD, "spec")
	defer f.Close()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fault.New(fault.Internal, "run", "", "%v", errNoSpec)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSpec))
	if err != nil {
		return nil, fault.New(fault.Internal, "run", "", "read the spec: %v", err)
	}
	return parseSpec(b)
}

func parseSpec(b []byte) (*Spec, error) {
	s := &Spec{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fault.New(fault.Internal, "run", "", "read the spec: %v", err)
	}
	return s, s.check()
}

// setUp makes everything that the program will find and waits for the go. The
// port goes out first, so that the daemon attaches it meanwhile.
func setUp(c *control, s *Spec) error {
	for _, step := range []func() error{
		func() error { return prepare(s) },
		func() error { return openPort(c) },
		func() error { return configure(s) },
		func() error { return userRuntime(s) },
		func() error {
			if s.AsRoot {
				return writableRun()
			}
			return nil
		},
		ownInterfaces,
		func() error { return bindFiles(s) },
		func() error { return c.send(&message{Ready: true}) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	m, err := c.receive()
	if errors.Is(err, errEnd) {
		os.Exit(1) // the runner gave up and knows why
	}
	if err == nil && !m.Go {
		err = fault.New(fault.Internal, "run", "", "the runner's answer is not the go")
	}
	return err
}

// become gives privilege up and executes the program. On failure it returns the
// status for the runner's exit with the reason.
func become(s *Spec) (int, error) {
	if err := surrender(s.AsRoot); err != nil {
		return 0, err
	}
	if err := os.Chdir(s.Dir); err != nil {
		return statusNotExecutable, fault.New(fault.NotFound, "enter working directory", s.Dir, "%v", reason(err)).
			WithRemedy("start from a directory that exists inside a brane; runtime directories do not")
	}
	// Everything but 0, 1 and 2 closes with exec, the socket to the runner included.
	if err := unix.CloseRange(3, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return 0, fault.New(fault.Unsupported, "close descriptors", "", "%v", err)
	}
	return execute(s.Args, os.Getenv("PATH"), os.Environ())
}

// execute becomes the program, found as execvp(3) finds it.
func execute(args []string, path string, env []string) (int, error) {
	name := args[0]
	var denied error
	for _, file := range candidates(name, path) {
		err := syscall.Exec(file, args, env)
		if errors.Is(err, unix.ENOEXEC) { // a script without its first line
			err = syscall.Exec("/bin/sh", append([]string{"sh", file}, args[1:]...), env)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
			if _, e := os.Stat(file); e == nil { // the interpreter is what is missing
				return statusNotExecutable, fault.New(fault.Invalid, "execute", file, "its interpreter or loader is missing")
			}
		case errors.Is(err, unix.EACCES):
			if _, e := os.Stat(file); e != nil && file != name {
				continue // the directory may not be searched: for PATH there is nothing in it
			}
			denied = fault.New(fault.Denied, "execute", file, "%v", reason(err))
		default:
			return statusNotExecutable, fault.New(fault.Invalid, "execute", file, "%v", reason(err))
		}
	}
	if denied != nil {
		return statusNotExecutable, denied
	}
	if strings.Contains(name, "/") {
		return statusNotFound, fault.New(fault.NotFound, "", name, "no such file")
	}
	return statusNotFound, fault.New(fault.NotFound, "", name, "not found in PATH")
}

// candidates are the files that name may mean, in their order. An empty element
// of PATH is the working directory, as POSIX has it.
func candidates(name, path string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	if path == "" {
		path = "/usr/local/bin:/usr/bin:/bin"
	}
	var files []string
	for _, dir := range filepath.SplitList(path) {
		if dir == "" {
			dir = "."
		}
		files = append(files, dir+"/"+name)
	}
	return files
}

// reason is the bare error number of err, without the path that the fault names already.
func reason(err error) error {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}
