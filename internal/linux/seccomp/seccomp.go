// Package seccomp turns a table of system calls into a filter for the kernel
// (seccomp(2)) and installs it on all threads of the process.
//
// A table lists what is allowed, each call with a reason and, where it matters,
// with the arguments that are allowed; and what is answered by killing the process,
// because only a hostile program tries it. Every other call fails with the
// table's error number.
package seccomp

import (
	"slices"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

// Action is what becomes of a call: Allow, Kill, or Errno(e).
type Action uint32

// The actions without an error number.
const (
	Allow Action = unix.SECCOMP_RET_ALLOW
	Kill  Action = unix.SECCOMP_RET_KILL_PROCESS
)

// Errno lets a call fail with an error number.
func Errno(e unix.Errno) Action {
	return Action(unix.SECCOMP_RET_ERRNO | uint32(e)&unix.SECCOMP_RET_DATA)
}

// Cond holds when one of an argument's allowed values is there.
type Cond struct {
	Arg  int      // 0 to 5
	Mask uint32   // looked at before comparing; 0 means all bits
	In   []uint32 // the values allowed
	// Long tells that the kernel takes the argument as 64 bits: the upper half
	// must then be zero. Of an int it ignores the upper half, and so does Cond.
	Long bool
}

// Rule is about one system call.
type Rule struct {
	Name string
	Nr   uint32
	Why  string // one line, for the reader of the table
	Do   Action
	// When lists alternatives, each a set of conditions that must all hold; Do is
	// taken when one holds, Else when none does. Without alternatives Do is always taken.
	When [][]Cond
	Else Action
}

// Table is a whole filter.
type Table struct {
	Rules   []Rule
	Default Action
}

// x32Bit marks numbers of amd64's x32 calls, which have the architecture of
// the 64-bit ones but other arguments.
const x32Bit = 0x40000000

// Offsets in struct seccomp_data, linux/seccomp.h.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

// decide is what a table says about a call of this architecture: the meaning
// that Compile must keep.
func (t *Table) decide(nr uint32, args [6]uint64) Action {
	for _, r := range t.Rules {
		if r.Nr != nr {
			continue
		}
		if len(r.When) == 0 || slices.ContainsFunc(r.When, func(all []Cond) bool { return hold(all, args) }) {
			return r.Do
		}
		return r.Else
	}
	return t.Default
}

func hold(all []Cond, args [6]uint64) bool {
	for _, c := range all {
		v := uint32(args[c.Arg])
		if c.Mask != 0 {
			v &= c.Mask
		}
		if c.Long && args[c.Arg]>>32 != 0 || !slices.Contains(c.In, v) {
			return false
		}
	}
	return true
}

// Compile makes the kernel's program of a table. Calls of another architecture
// and of x32 kill the process. The error is of kind Internal: a fault in the table.
func Compile(t *Table) ([]unix.SockFilter, error) {
	p := []unix.SockFilter{
		load(offArch),
		jump(unix.BPF_JEQ, auditArch, 1, 0),
		ret(Kill),
		load(offNr),
		jump(unix.BPF_JGE, x32Bit, 0, 1),
		ret(Kill),
	}
	seen := map[uint32]string{}
	for i := range t.Rules {
		r := &t.Rules[i]
		if other, twice := seen[r.Nr]; twice {
			return nil, tableFault("%s and %s have the same number %d", other, r.Name, r.Nr)
		}
		seen[r.Nr] = r.Name
		body, err := r.body()
		if err != nil {
			return nil, err
		}
		if len(body) > 255 { // as far as a jump reaches
			return nil, tableFault("%s: %d instructions", r.Name, len(body))
		}
		p = append(p, jump(unix.BPF_JEQ, r.Nr, 0, uint8(len(body))))
		p = append(p, body...)
	}
	p = append(p, ret(t.Default))
	if len(p) > unix.BPF_MAXINSNS {
		return nil, tableFault("%d instructions", len(p))
	}
	return p, nil
}

// body decides about a call whose number matched; it always returns.
func (r *Rule) body() ([]unix.SockFilter, error) {
	if len(r.When) == 0 {
		return []unix.SockFilter{ret(r.Do)}, nil
	}
	var p []unix.SockFilter
	for _, all := range r.When {
		alt, err := r.alternative(all)
		if err != nil {
			return nil, err
		}
		p = append(p, alt...)
	}
	return append(p, ret(r.Else)), nil
}

// alternative returns Do when all conditions hold and falls out at its end when
// one does not. It is made from its end, so that the way out is known.
func (r *Rule) alternative(all []Cond) ([]unix.SockFilter, error) {
	p := []unix.SockFilter{ret(r.Do)}
	for _, c := range slices.Backward(all) {
		if c.Arg < 0 || c.Arg > 5 || len(c.In) == 0 {
			return nil, tableFault("%s: a condition on argument %d with %d values", r.Name, c.Arg, len(c.In))
		}
		var head []unix.SockFilter
		if c.Long {
			head = append(head, load(offArgs+8*uint32(c.Arg)+highWord), unix.SockFilter{}) // the jump comes below
		}
		head = append(head, load(offArgs+8*uint32(c.Arg)+lowWord))
		if c.Mask != 0 {
			head = append(head, unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: c.Mask})
		}
		out := len(p) // instructions between the last comparison and the way out
		if len(head)+len(c.In)+out > 255 {
			return nil, tableFault("%s: too many conditions", r.Name)
		}
		if c.Long {
			head[1] = jump(unix.BPF_JEQ, 0, 0, uint8(len(head)-2+len(c.In)+out))
		}
		for i, v := range c.In {
			left := len(c.In) - 1 - i
			miss := 0
			if left == 0 {
				miss = out
			}
			head = append(head, jump(unix.BPF_JEQ, v, uint8(left), uint8(miss)))
		}
		p = append(head, p...)
	}
	return p, nil
}

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func jump(op uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, Jt: yes, Jf: no, K: k}
}

func ret(a Action) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: uint32(a)}
}

func tableFault(format string, args ...any) error {
	return fault.New(fault.Internal, "compile table of system calls", "", format, args...)
}
