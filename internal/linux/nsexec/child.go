package nsexec

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

// step is a position in the child's way to exec.
type step uint32

const (
	stepAskMaps step = iota + 1 // not a failure: the parent shall write the ID maps
	stepNoFile
	stepDeath
	stepHide
	stepJoin
	stepUnshare
	stepMapOpen
	stepMapWrite
	stepCaps
	stepFiles
	stepExec
)

// recordLen is the size of a record on the pipe: step, index, errno.
const recordLen = 12

type record struct {
	step  step
	index uint32 // which of Join, Files or the maps
	errno syscall.Errno
}

func readRecord(r *os.File) (record, bool, error) {
	var b [recordLen]byte
	_, err := io.ReadFull(r, b[:])
	if errors.Is(err, io.EOF) {
		return record{}, false, nil
	}
	if err != nil {
		return record{}, false, err
	}
	return record{
		step:  step(binary.NativeEndian.Uint32(b[0:])),
		index: binary.NativeEndian.Uint32(b[4:]),
		errno: syscall.Errno(binary.NativeEndian.Uint32(b[8:])),
	}, true, nil
}

// child is all that the child needs, made before the fork. After it, nothing
// may allocate.
type child struct {
	reportR, reportW *os.File
	answerR, answerW *os.File
	program          *os.File

	report, answer uintptr // descriptor numbers of reportW, answerR
	answerOwn      uintptr // and of answerW
	exe            uintptr
	death, parent  uintptr
	nofile         unix.Rlimit
	setNoFile      bool
	hide           bool
	join           []joining
	unshare        uintptr
	askMaps        bool
	maps           []mapping
	keepCaps       bool
	files          []int // copies above the range of targets; -1 for none
	argv, envv     []*byte
	empty          *byte

	pipe    [3]uint32 // a record on its way out
	reply   [1]byte
	capHdr  unix.CapUserHeader
	capData [2]unix.CapUserData
}

type joining struct{ fd, kind uintptr }

// mapping is one file of /proc/self to write.
type mapping struct {
	path *byte
	data []byte
}

// prepare makes the child's state. Everything that can fail early fails here.
func prepare(c *Cmd, exe *os.File) (*child, error) {
	ch := &child{
		exe: exe.Fd(), unshare: uintptr(c.New), keepCaps: c.KeepCaps,
		death: uintptr(c.DeathSignal), parent: uintptr(os.Getpid()), askMaps: c.MapByParent,
	}
	var err error
	if ch.argv, err = syscall.SlicePtrFromStrings(c.Argv); err != nil || len(c.Argv) == 0 {
		return nil, fault.New(fault.Invalid, "start", "", "an argument is missing or holds a NUL byte")
	}
	if ch.envv, err = syscall.SlicePtrFromStrings(c.Env); err != nil {
		return nil, fault.New(fault.Invalid, "start", "", "an environment variable holds a NUL byte")
	}
	ch.empty = &[]byte{0}[0]
	ch.capHdr.Version = unix.LINUX_CAPABILITY_VERSION_3
	if c.NoFile != nil {
		ch.nofile, ch.setNoFile = *c.NoFile, true
	}
	for _, j := range c.Join {
		ch.hide = ch.hide || j.Kind == unix.CLONE_NEWUSER && c.New&unix.CLONE_NEWUSER == 0
		ch.join = append(ch.join, joining{uintptr(j.FD), uintptr(j.Kind)})
	}
	if !c.MapByParent {
		ch.maps = ownMaps(c)
	}
	if err := ch.descriptors(c); err != nil {
		ch.release()
		return nil, fault.New(fault.Limit, "start", "", "prepare descriptors: %v", err).
			WithRemedy("raise the limit of open files (ulimit -n)")
	}
	return ch, nil
}

// descriptors opens the pipes and copies the program's files to numbers above
// all targets, so that no dup3 in the child overwrites a source.
func (ch *child) descriptors(c *Cmd) error {
	floor := len(c.Files) + 3
	high := func(fd int) (int, error) {
		return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, floor)
	}
	for _, f := range c.Files {
		fd := -1
		if f != nil {
			var err error
			if fd, err = high(int(f.Fd())); err != nil {
				return err
			}
		}
		ch.files = append(ch.files, fd)
	}
	pipe := func() (p [2]int, err error) {
		if err = unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return p, err
		}
		for i, low := range p {
			if p[i], err = high(low); err != nil {
				return p, err
			}
			_ = unix.Close(low)
		}
		return p, nil
	}
	report, err := pipe()
	if err != nil {
		return err
	}
	// The poller waits for the report: a thread that blocks in read(2) keeps its
	// processor from the others for up to 10 ms.
	if err := unix.SetNonblock(report[0], true); err != nil {
		return err
	}
	answer, err := pipe()
	if err != nil {
		return err
	}
	ch.reportR, ch.reportW = os.NewFile(uintptr(report[0]), "report"), os.NewFile(uintptr(report[1]), "report")
	ch.answerR, ch.answerW = os.NewFile(uintptr(answer[0]), "answer"), os.NewFile(uintptr(answer[1]), "answer")
	ch.report, ch.answer, ch.answerOwn = ch.reportW.Fd(), ch.answerR.Fd(), ch.answerW.Fd()
	fd, err := high(int(ch.exe))
	if err != nil {
		return err
	}
	ch.program = os.NewFile(uintptr(fd), "program")
	ch.exe = uintptr(fd)
	return nil
}

// release closes what prepare opened.
func (ch *child) release() {
	for _, f := range []*os.File{ch.reportR, ch.reportW, ch.answerR, ch.answerW, ch.program} {
		if f != nil {
			_ = f.Close()
		}
	}
	for _, fd := range ch.files {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// The runtime's hooks around a fork: block signals, forbid the stack to grow,
// and in the child put signal handlers back to their defaults.

//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

//go:linkname runtimeAfterForkInChild syscall.runtime_AfterForkInChild
func runtimeAfterForkInChild()

// fork makes the child and returns in the parent only.
//
//go:noinline
//go:norace
func (ch *child) fork() (int, syscall.Errno) {
	runtimeBeforeFork()
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		runtimeAfterFork()
		return int(pid), errno
	}
	ch.run()
	return 0, 0 // not reached
}

// run is the child. It never returns.
//
//go:nosplit
//go:norace
func (ch *child) run() {
	runtimeAfterForkInChild()
	ch.limits()
	if ch.hide {
		// Whoever is root in a namespace may look into those who join it, and this
		// process still has the memory and the descriptors of its parent.
		if _, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0, 0); e != 0 {
			ch.fail(stepHide, 0, e)
		}
	}
	for i := range ch.join {
		j := &ch.join[i]
		if _, _, e := syscall.RawSyscall(unix.SYS_SETNS, j.fd, j.kind, 0); e != 0 {
			ch.fail(stepJoin, i, e)
		}
	}
	if ch.unshare != 0 {
		if _, _, e := syscall.RawSyscall(unix.SYS_UNSHARE, ch.unshare, 0, 0); e != 0 {
			ch.fail(stepUnshare, 0, e)
		}
	}
	if ch.askMaps {
		ch.ask()
	}
	for i := range ch.maps {
		ch.writeMap(i)
	}
	if ch.keepCaps {
		ch.caps()
	}
	ch.place()
	_, _, e := syscall.RawSyscall6(unix.SYS_EXECVEAT, ch.exe, uintptr(unsafe.Pointer(ch.empty)),
		uintptr(unsafe.Pointer(&ch.argv[0])), uintptr(unsafe.Pointer(&ch.envv[0])), unix.AT_EMPTY_PATH, 0)
	ch.fail(stepExec, 0, e)
}

// limits sets the death signal and the limit of descriptors.
//
//go:nosplit
//go:norace
func (ch *child) limits() {
	if ch.death != 0 {
		if _, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, ch.death, 0, 0, 0, 0); e != 0 {
			ch.fail(stepDeath, 0, e)
		}
		// The parent may have died before the call; then nobody would tell.
		if ppid, _, _ := syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); ppid != ch.parent {
			ch.fail(stepDeath, 0, syscall.ESRCH)
		}
	}
	if ch.setNoFile {
		if _, _, e := syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE,
			uintptr(unsafe.Pointer(&ch.nofile)), 0, 0, 0); e != 0 {
			ch.fail(stepNoFile, 0, e)
		}
	}
}

// ask has the parent write the ID maps and waits until it has.
//
//go:nosplit
//go:norace
func (ch *child) ask() {
	// The fork copied the parent's end too; while it is open here, the parent's
	// leaving would not be seen.
	_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, ch.answerOwn, 0, 0)
	ch.send(stepAskMaps, 0, 0)
	for {
		n, _, e := syscall.RawSyscall(unix.SYS_READ, ch.answer, uintptr(unsafe.Pointer(&ch.reply[0])), 1)
		if e == syscall.EINTR {
			continue
		}
		if e != 0 || n != 1 {
			ch.exit() // the parent knows why
		}
		return
	}
}

//go:nosplit
//go:norace
func (ch *child) writeMap(i int) {
	m := &ch.maps[i]
	dir := unix.AT_FDCWD
	fd, _, e := syscall.RawSyscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(m.path)),
		unix.O_WRONLY|unix.O_CLOEXEC, 0, 0, 0)
	if e != 0 {
		ch.fail(stepMapOpen, i, e)
	}
	if _, _, e = syscall.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&m.data[0])), uintptr(len(m.data))); e != 0 {
		ch.fail(stepMapWrite, i, e)
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
}

// caps copies the permitted set to the inheritable and the ambient one.
//
//go:nosplit
//go:norace
func (ch *child) caps() {
	hdr, data := uintptr(unsafe.Pointer(&ch.capHdr)), uintptr(unsafe.Pointer(&ch.capData[0]))
	if _, _, e := syscall.RawSyscall(unix.SYS_CAPGET, hdr, data, 0); e != 0 {
		ch.fail(stepCaps, 0, e)
	}
	ch.capData[0].Inheritable = ch.capData[0].Permitted
	ch.capData[1].Inheritable = ch.capData[1].Permitted
	if _, _, e := syscall.RawSyscall(unix.SYS_CAPSET, hdr, data, 0); e != 0 {
		ch.fail(stepCaps, 1, e)
	}
	for c := uintptr(0); c < 64; c++ {
		if ch.capData[c/32].Permitted&(1<<(c%32)) == 0 {
			continue
		}
		_, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0, 0)
		if e != 0 && e != syscall.EINVAL { // EINVAL: a bit beyond the last capability
			ch.fail(stepCaps, 2, e)
		}
	}
}

// place puts the files at 0, 1, 2, …; no other descriptor outlives the exec.
//
//go:nosplit
//go:norace
func (ch *child) place() {
	for i := range ch.files {
		fd := ch.files[i]
		if fd < 0 {
			_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, uintptr(i), 0, 0)
			continue
		}
		if _, _, e := syscall.RawSyscall(unix.SYS_DUP3, uintptr(fd), uintptr(i), 0); e != 0 {
			ch.fail(stepFiles, i, e)
		}
	}
	const highest = 1<<31 - 1
	_, _, e := syscall.RawSyscall(unix.SYS_CLOSE_RANGE, uintptr(len(ch.files)), highest, unix.CLOSE_RANGE_CLOEXEC)
	if e != 0 {
		ch.fail(stepFiles, len(ch.files), e)
	}
}

//go:nosplit
//go:norace
func (ch *child) fail(s step, index int, e syscall.Errno) {
	ch.send(s, index, e)
	ch.exit()
}

//go:nosplit
//go:norace
func (ch *child) send(s step, index int, e syscall.Errno) {
	ch.pipe = [3]uint32{uint32(s), uint32(index), uint32(e)}
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, ch.report, uintptr(unsafe.Pointer(&ch.pipe[0])), recordLen)
}

//go:nosplit
//go:norace
func (ch *child) exit() {
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 253, 0, 0)
	}
}
