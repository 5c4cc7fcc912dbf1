package seccomp

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"brane/internal/fault"
)

// run executes a program as the kernel would, with another implementation of
// classic BPF. That one reads words in network order, so the data is made in it.
func run(t interface{ Fatal(...any) }, p []unix.SockFilter, arch, nr uint32, args [6]uint64) Action {
	var raw []bpf.RawInstruction
	for _, i := range p {
		raw = append(raw, bpf.RawInstruction{Op: i.Code, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	program, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the program has an unknown instruction")
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[offNr:], nr)
	binary.BigEndian.PutUint32(data[offArch:], arch)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[offArgs+8*i+lowWord:], uint32(a))
		binary.BigEndian.PutUint32(data[offArgs+8*i+highWord:], uint32(a>>32))
	}
	v, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return Action(uint32(v))
}

func TestCompileKeepsTheMeaning(t *testing.T) {
	action := rapid.SampledFrom([]Action{Allow, Kill, Errno(unix.EPERM), Errno(unix.ENOSYS)})
	value := rapid.SampledFrom([]uint32{0, 1, 2, 5, 0x80000, 0xffffffff})
	cond := rapid.Custom(func(t *rapid.T) Cond {
		return Cond{
			Arg:  rapid.IntRange(0, 5).Draw(t, "arg"),
			Mask: rapid.SampledFrom([]uint32{0, 0xf, 0xfff00}).Draw(t, "mask"),
			In:   rapid.SliceOfN(value, 1, 4).Draw(t, "in"),
			Long: rapid.Bool().Draw(t, "long"),
		}
	})
	rule := rapid.Custom(func(t *rapid.T) Rule {
		return Rule{
			Nr: rapid.Uint32Range(0, 20).Draw(t, "nr"), Do: action.Draw(t, "do"), Else: action.Draw(t, "else"),
			When: rapid.SliceOfN(rapid.SliceOfN(cond, 1, 3), 0, 3).Draw(t, "when"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		table := Table{
			Rules:   rapid.SliceOfNDistinct(rule, 0, 6, func(r Rule) uint32 { return r.Nr }).Draw(t, "rules"),
			Default: action.Draw(t, "default"),
		}
		p, err := Compile(&table)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			nr := rapid.Uint32Range(0, 21).Draw(t, "call")
			var args [6]uint64
			for i := range args {
				args[i] = uint64(value.Draw(t, "low")) | uint64(rapid.SampledFrom([]uint32{0, 0, 1}).Draw(t, "high"))<<32
			}
			if got, want := run(t, p, auditArch, nr, args), table.decide(nr, args); got != want {
				t.Fatalf("call %d with %x: %#x, want %#x", nr, args, got, want)
			}
		}
	})
}

func TestOtherArchitecturesAreKilled(t *testing.T) {
	p, err := Compile(&Table{Rules: []Rule{{Name: "a", Nr: 1, Do: Allow}}, Default: Allow})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		arch, nr uint32
		want     Action
	}{
		{auditArch, 1, Allow},
		{auditArch, 2, Allow},
		{unix.AUDIT_ARCH_I386, 1, Kill},
		{0, 1, Kill},
		{auditArch, x32Bit, Kill},
		{auditArch, x32Bit | 1, Kill},
		{auditArch, 0xffffffff, Kill},
	} {
		if got := run(t, p, c.arch, c.nr, [6]uint64{}); got != c.want {
			t.Errorf("architecture %#x, call %#x: %#x, want %#x", c.arch, c.nr, got, c.want)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	long := make([]uint32, 300)
	for name, rules := range map[string][]Rule{
		"the same number twice": {{Name: "a", Nr: 1}, {Name: "b", Nr: 1}},
		"argument 6":            {{Name: "a", When: [][]Cond{{{Arg: 6, In: []uint32{1}}}}}},
		"no value":              {{Name: "a", When: [][]Cond{{{Arg: 1}}}}},
		"too many values":       {{Name: "a", When: [][]Cond{{{Arg: 1, In: long}}}}},
		"too many alternatives": {{Name: "a", When: [][]Cond{{{In: long[:200]}}, {{In: long[:200]}}}}},
	} {
		if _, err := Compile(&Table{Rules: rules}); fault.KindOf(err) != fault.Internal || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Install(nil); fault.KindOf(err) != fault.Internal {
		t.Errorf("no program: %v", err)
	}
}
