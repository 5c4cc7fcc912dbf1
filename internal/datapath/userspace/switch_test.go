package userspace

import (
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"testing"

	"brane/internal/datapath"
	"brane/internal/datapath/datapathtest"
	"brane/internal/linux/linuxtest"
	"brane/internal/plan"
	"brane/internal/verdict"
)

func open(ev datapath.Events) datapath.Datapath { return New(ev, slog.New(slog.DiscardHandler)) }

func TestConformance(t *testing.T) {
	datapathtest.Run(t, open, datapathtest.Kinds()...)
}

func TestInterfaces(t *testing.T) {
	linuxtest.NeedRoot(t)
	datapathtest.Run(t, open, datapathtest.InterfaceKinds()...)
}

// A client that keeps a copy of its TAP descriptor and makes it blocking holds
// up neither its own port nor the end of the switch.
func TestClientKeepsItsDescriptor(t *testing.T) {
	linuxtest.NeedRoot(t)
	w := datapathtest.NewWorld(t, open, datapath.Local, datapathtest.Lan(datapathtest.Interface(1, 1)))
	w.Apply(datapathtest.Lan(datapathtest.Interface(1, 1), datapathtest.Interface(2, 2)))
	c, e := datapathtest.Pair(t, datapath.TAP)
	copied, err := syscall.Dup(e.FD)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(copied)
	w.Join(c, 2, e)
	if err := syscall.SetNonblock(copied, false); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		w.Check("from it, after which nothing is left to read", 2, datapathtest.UDP(2, 1), verdict.Delivered, 1)
		w.Check("to it", 1, datapathtest.UDP(1, 2), verdict.Delivered, 2)
	}
	w.Apply(datapathtest.Lan(datapathtest.Interface(1, 1)))
	w.Await("the end of the switch's descriptor", func() bool {
		var st syscall.Stat_t
		return errors.Is(syscall.Fstat(e.FD, &st), syscall.EBADF)
	})
}

// BenchmarkApply swaps the plan of a mux with many ports.
func BenchmarkApply(b *testing.B) {
	for _, ports := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(ports), func(b *testing.B) {
			m := &plan.Mux{Name: datapathtest.Name, MTU: 1500}
			for n := range ports {
				p := datapathtest.Interface(plan.PortID(n+1), n+1)
				p.Device = fmt.Sprint(datapathtest.Name, "/n", n)
				p.Send = []plan.Filter{{Owner: "x", Rule: "clean", Bound: prefixes(n + 1)}, {Owner: "y", Rule: "not tcp port 25"}}
				p.Receive = []plan.Filter{{Owner: "x", Rule: "clean"}}
				m.Ports = append(m.Ports, p)
			}
			s := New(datapath.Events{}, nil)
			defer s.Close()
			for b.Loop() {
				if err := s.Apply(m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
