package userspace

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"brane/filter"
	"brane/frame"
	"brane/internal/datapath"
	"brane/internal/datapath/datapathtest"
	"brane/internal/fault"
	"brane/internal/linux/linuxtest"
	"brane/internal/plan"
	"brane/internal/verdict"

	"go.uber.org/goleak"
)

// The tests have a network namespace of their own, and leave no goroutine behind.
func TestMain(m *testing.M) {
	code := linuxtest.Network(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// trap panics at frames with the EtherType 0xdead.
type trap struct{}

func (trap) Judge(p *frame.Packet) verdict.Reason {
	if p.Type == 0xdead {
		panic("trapped")
	}
	return verdict.Delivered
}

// setTrap gives a port other rules, in a plan of its own.
func setTrap(w *datapathtest.World, id plan.PortID, r *rules) {
	n := w.Path.(*Switch).port(datapathtest.Name, id).network
	c := *n.plan.Load()
	j := *c.find(id)
	other := *j.plan
	other.Send = []plan.Filter{{Owner: "test", Rule: "trap"}}
	j.rules, j.plan = r, &other
	c.judges = slices.Clone(c.judges)
	c.judges[j.slot] = &j
	n.plan.Store(&c)
}

// A panic in the handling of one port's frame closes that port. The others
// lose nothing, and plans can still be swapped.
func TestPanicIsOfOnePort(t *testing.T) {
	for _, kind := range datapathtest.Kinds() {
		for _, where := range []string{"send", "receive"} {
			t.Run(string(kind)+"/"+where, func(t *testing.T) {
				m := datapathtest.Lan(datapathtest.Interface(1, 1), datapathtest.Interface(2, 2), datapathtest.Interface(3, 3))
				w := datapathtest.NewWorld(t, open, kind, m)
				if where == "send" {
					setTrap(w, 1, &rules{send: []filter.Rule{trap{}}})
				} else {
					setTrap(w, 2, &rules{receive: []filter.Rule{trap{}}})
				}
				bad := datapathtest.Plain(datapathtest.MAC(1), datapathtest.MAC(2))
				bad[12], bad[13] = 0xde, 0xad
				if r := w.Send(1, frame.Vnet{}, bad); r != verdict.Internal {
					t.Fatal(r)
				}
				if kind != datapath.Local { // the gateway loses a frame, not its port
					if id := <-w.Closed; id != 1 {
						t.Fatalf("port %d closed", id)
					}
					w.Attach(1, kind)
				}
				w.Check("others", 2, datapathtest.UDP(2, 3), verdict.Delivered, 3)
				w.Apply(m)
				w.Check("the same port again", 1, bad, verdict.Delivered, 2)
			})
		}
	}
}

// gate is a rule whose verdict waits.
type gate struct{ entered, open chan struct{} }

func (g gate) Judge(*frame.Packet) verdict.Reason {
	close(g.entered)
	<-g.open
	return verdict.Delivered
}

// Apply does not return while a frame is still judged by the old plan, and
// closes the old plan's ports only after that.
func TestApplyWaitsForTheBatchInHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := datapathtest.Lan(datapathtest.Interface(1, 1), datapathtest.Interface(2, 2))
		w := datapathtest.NewWorld(t, open, datapath.Local, m)
		g := gate{make(chan struct{}), make(chan struct{})}
		setTrap(w, 1, &rules{send: []filter.Rule{g}})
		var judged, applied atomic.Bool
		var both sync.WaitGroup
		both.Go(func() {
			w.Clients[1].SendRaw(append(make([]byte, frame.VnetLen), datapathtest.UDP(1, 2)...))
			judged.Store(true)
		})
		<-g.entered
		both.Go(func() {
			w.Apply(datapathtest.Lan(datapathtest.Interface(1, 1)))
			applied.Store(true)
		})
		synctest.Wait()
		if applied.Load() {
			t.Error("Apply returned with a frame of the old plan in hand")
		}
		close(g.open)
		both.Wait()
		if !judged.Load() {
			t.Error("the frame was lost")
		}
	})
}

// A stream cut at every byte gives the same frames.
func TestStreamAtAllSplitPoints(t *testing.T) {
	w := datapathtest.NewWorld(t, open, datapath.Local, datapathtest.Lan(datapathtest.Interface(1, 1), datapathtest.Interface(2, 2)))
	var all []byte
	var frames [][]byte
	for n := range 3 {
		b := datapathtest.Plain(datapathtest.MAC(3), datapathtest.MAC(1), bytes.Repeat([]byte{byte(n)}, 10*n)...)
		frames = append(frames, b)
		all = append(binary.BigEndian.AppendUint32(all, uint32(len(b))), b...)
	}
	w.Apply(datapathtest.Lan(datapathtest.Interface(1, 1), datapathtest.Interface(2, 2), datapathtest.Interface(3, 3)))
	client := w.Attach(3, datapath.Stream)
	s := w.Path.(*Switch)
	for cut := range len(all) + 1 {
		for _, part := range [][]byte{all[:cut], all[cut:]} {
			if _, err := client.Write(part); err != nil {
				t.Fatal(err)
			}
			// The next part goes when this one was read: the cut is where it should be.
			w.Await("the part", func() bool { return pending(t, s, 3) == 0 })
		}
		for n := range frames {
			if _, got := w.Clients[1].Recv(); !bytes.Equal(got, frames[n]) {
				t.Fatalf("cut at %d, frame %d: %x", cut, n, got)
			}
		}
	}
	if c := w.Counters(3).From; datapathtest.Sum(c) != uint64(3*(len(all)+1)) {
		t.Errorf("counters %v", c)
	}
}

// pending gives how many bytes wait in the descriptor of a port.
func pending(t *testing.T, s *Switch, id plan.PortID) int {
	t.Helper()
	e := s.port(datapathtest.Name, id).end.Load()
	if e == nil {
		t.Fatalf("port %d is closed", id)
	}
	b := make([]byte, 1<<16)
	n, _, err := syscall.Recvfrom(e.fd, b, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	if err != nil && !errors.Is(err, syscall.EAGAIN) {
		t.Fatal(err)
	}
	return max(n, 0)
}

// A length that no frame has ends the port, whatever memory it asks for; the
// longest that is allowed is read.
func TestStreamLengths(t *testing.T) {
	for _, c := range []struct {
		length uint32
		ends   bool
	}{{0, false}, {1, false}, {maxStream, false}, {maxStream + 1, true}, {0xffffffff, true}} {
		w := datapathtest.NewWorld(t, open, datapath.Stream, datapathtest.Lan(datapathtest.Interface(1, 1), datapathtest.Interface(2, 2)))
		out := binary.BigEndian.AppendUint32(nil, c.length)
		if !c.ends {
			out = append(out, make([]byte, c.length)...)
		}
		if _, err := w.Clients[1].Write(out); err != nil {
			t.Fatal(err)
		}
		if c.ends {
			if id := <-w.Closed; id != 1 {
				t.Errorf("length %d: port %d closed", c.length, id)
			}
			continue
		}
		w.Await("a verdict", func() bool { return datapathtest.Sum(w.Counters(1).From) == 1 })
		w.Check("goes on", 1, datapathtest.UDP(1, 2), verdict.Delivered, 2)
	}
}

// FuzzStream feeds any bytes, in any pieces, to a stream port: the switch takes
// the frames that a plain reading of the bytes finds, and no others.
func FuzzStream(f *testing.F) {
	good := datapathtest.UDP(1, 2)
	one := append(binary.BigEndian.AppendUint32(nil, uint32(len(good))), good...)
	f.Add(one, uint64(1))
	f.Add(append(one, one...), uint64(2))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 7}, uint64(3))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, uint64(4))
	f.Fuzz(func(t *testing.T, in []byte, seed uint64) {
		want, broken := uint64(0), false
		for rest := in; len(rest) >= 4; {
			n := int(binary.BigEndian.Uint32(rest))
			if broken = n > maxStream; broken || len(rest)-4 < n {
				break
			}
			want, rest = want+1, rest[4+n:]
		}
		s := New(datapath.Events{}, nil)
		defer s.Close()
		m := datapathtest.Lan(datapathtest.Interface(1, 1), datapathtest.Interface(2, 2))
		if err := s.Apply(m); err != nil {
			t.Fatal(err)
		}
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Attach(datapathtest.Name, 1, datapath.Endpoint{Kind: datapath.Stream, FD: fds[1]}); err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fds[0]), "client")
		conn, err := net.FileConn(file)
		_ = file.Close()
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(seed, 0))
		for len(in) > 0 {
			n := 1 + rng.IntN(len(in))
			if _, err := conn.Write(in[:n]); err != nil && !broken {
				t.Fatal(err)
			}
			in = in[n:]
		}
		_ = conn.(*net.UnixConn).CloseWrite()
		_, _ = io.Copy(io.Discard, conn) // until the switch closed its end too
		_ = conn.Close()
		if c := datapathtest.CountersOf(t, s, datapathtest.Name, 1); datapathtest.Sum(c.From) != want {
			t.Errorf("%d frames, want %d", datapathtest.Sum(c.From), want)
		}
	})
}

// A descriptor that cannot carry frames is refused, and closed.
func TestAttachOfWrongDescriptors(t *testing.T) {
	s := New(datapath.Events{}, nil)
	defer s.Close()
	if err := s.Apply(datapathtest.Lan(datapathtest.Interface(1, 1))); err != nil {
		t.Fatal(err)
	}
	file := func() int {
		fd, err := syscall.Open("/proc/self/exe", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	for _, e := range []datapath.Endpoint{
		{Kind: datapath.TAP, FD: file()},
		{Kind: "carrier-pigeon", FD: file()},
		{Kind: datapath.SeqPacket, FD: 1 << 20},
		{Kind: datapath.Local, FD: -1},
	} {
		if err := s.Attach(datapathtest.Name, 1, e); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%v: %v", e.Kind, err)
		}
		if e.Kind != datapath.Local {
			var st syscall.Stat_t
			if err := syscall.Fstat(e.FD, &st); !errors.Is(err, syscall.EBADF) {
				t.Errorf("%v: the descriptor is still open: %v", e.Kind, err)
			}
		}
	}
}

// A thousand ports that nobody uses cost little memory, and no buffer each.
func TestIdlePortsAreSmall(t *testing.T) {
	const ports = 1000
	m := &plan.Mux{Name: datapathtest.Name, MTU: 1500}
	for n := range ports {
		p := datapathtest.Interface(plan.PortID(n+1), n+1)
		p.Device = fmt.Sprint(datapathtest.Name, "/n", n)
		m.Ports = append(m.Ports, p)
	}
	var before, after runtime.MemStats
	s := New(datapath.Events{}, nil)
	defer s.Close()
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&before)
	if err := s.Apply(m); err != nil {
		t.Fatal(err)
	}
	for n := range ports {
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(fds[0])
		if err := s.Attach(datapathtest.Name, plan.PortID(n+1), datapath.Endpoint{Kind: datapath.SeqPacket, FD: fds[1]}); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	per := (after.HeapAlloc + after.StackInuse - before.HeapAlloc - before.StackInuse) / ports
	t.Logf("%d bytes a port", per)
	if per > 16<<10 {
		t.Errorf("%d bytes an idle port, at most 16 KiB", per)
	}
}

func TestForwardingDoesNotAllocate(t *testing.T) {
	a, b := datapathtest.Interface(1, 1), datapathtest.Interface(2, 2)
	a.Send = []plan.Filter{{Owner: "x", Rule: "udp port 5000"}}
	s := New(datapath.Events{}, nil)
	defer s.Close()
	if err := s.Apply(datapathtest.Lan(a, b)); err != nil {
		t.Fatal(err)
	}
	for id := plan.PortID(1); id <= 2; id++ {
		if err := s.Attach(datapathtest.Name, id, datapath.Endpoint{Kind: datapath.Local, Deliver: func([]byte) {}}); err != nil {
			t.Fatal(err)
		}
	}
	good := append(make([]byte, frame.VnetLen), datapathtest.UDP(1, 2)...)
	bad := append(make([]byte, frame.VnetLen), datapathtest.UDP(2, 9)...)
	if n := testing.AllocsPerRun(1000, func() {
		if s.Send(datapathtest.Name, 1, good) != verdict.Delivered || s.Send(datapathtest.Name, 2, bad) != verdict.NoReceiver {
			t.Error("another verdict")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkForward is the cost of the switch itself: no system call.
func BenchmarkForward(b *testing.B) {
	m := datapathtest.Lan(datapathtest.Interface(1, 1), datapathtest.Interface(2, 2))
	own := []plan.Filter{{Owner: "x", Rule: "clean", Bound: prefixes(1)}}
	m.Ports[0].Send, m.Ports[1].Receive = own, []plan.Filter{{Owner: "x", Rule: "clean"}}
	s := New(datapath.Events{}, nil)
	defer s.Close()
	if err := s.Apply(m); err != nil {
		b.Fatal(err)
	}
	for id := plan.PortID(1); id <= 2; id++ {
		if err := s.Attach(datapathtest.Name, id, datapath.Endpoint{Kind: datapath.Local, Deliver: func([]byte) {}}); err != nil {
			b.Fatal(err)
		}
	}
	buf := append(make([]byte, frame.VnetLen), datapathtest.UDP(1, 2)...)
	for b.Loop() {
		if r := s.Send(datapathtest.Name, 1, buf); r != verdict.Delivered {
			b.Fatal(r)
		}
	}
}

func prefixes(n int) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(datapathtest.IP(n), 32)} }
