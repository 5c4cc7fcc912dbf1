package unixmsg

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is two connected sockets of a type in this process.
func pair(t testing.TB, typ int) (a, b *net.UnixConn) {
	t.Helper()
	a, f, err := Pair(typ)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	b, err = FromFD(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// openFDs counts the descriptors of this process.
func openFDs(t testing.TB) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func devNull(t testing.TB) int {
	t.Helper()
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func repeat(fd, n int) []int {
	fds := make([]int, n)
	for i := range fds {
		fds[i] = fd
	}
	return fds
}

func TestStreamCarriesMessagesWhole(t *testing.T) {
	a, b := pair(t, unix.SOCK_STREAM)
	from, to := NewStream(a, 1<<20), NewStream(b, 1<<20)
	null := devNull(t)
	defer unix.Close(null)
	for _, size := range []int{0, 1, 4, oneWrite - 1, oneWrite, oneWrite + 1, firstRead*3 + 7, 1 << 20} {
		for _, fds := range []int{0, 1, MaxFDs} {
			want := bytes.Repeat([]byte{byte(size), byte(fds)}, size/2+1)[:size]
			sent := make(chan error, 1)
			go func() { sent <- from.Send(t.Context(), want, repeat(null, fds)) }()
			m, err := to.Recv(t.Context())
			if err != nil {
				t.Fatalf("%d bytes, %d descriptors: %v", size, fds, err)
			}
			if !bytes.Equal(m.Payload, want) || len(m.FDs) != fds || m.Dropped {
				t.Fatalf("%d bytes, %d descriptors: got %d bytes, %v, dropped %v", size, fds, len(m.Payload), m.FDs, m.Dropped)
			}
			for _, fd := range m.FDs {
				if i, err := Describe(fd); err != nil || !i.CloExec {
					t.Fatalf("descriptor %d: %+v, %v; want close-on-exec", fd, i, err)
				}
			}
			m.CloseFDs()
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestStreamConcurrentSendersDoNotMix(t *testing.T) {
	a, b := pair(t, unix.SOCK_STREAM)
	from, to := NewStream(a, 0), NewStream(b, 0)
	const senders, each = 8, 100
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for range each {
				if err := from.Send(t.Context(), bytes.Repeat([]byte{byte(s)}, 1+s*20000), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	seen := map[byte]int{}
	for range senders * each {
		m, err := to.Recv(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s := m.Payload[0]
		if len(m.Payload) != 1+int(s)*20000 || bytes.Count(m.Payload, []byte{s}) != len(m.Payload) {
			t.Fatalf("message of sender %d is torn: %d bytes", s, len(m.Payload))
		}
		seen[s]++
	}
	wg.Wait()
	for s := range byte(senders) {
		if seen[s] != each {
			t.Errorf("sender %d: %d messages of %d", s, seen[s], each)
		}
	}
}

func TestStreamRefusals(t *testing.T) {
	a, b := pair(t, unix.SOCK_STREAM)
	from, to := NewStream(a, 100), NewStream(b, 100)
	if err := from.Send(t.Context(), make([]byte, 101), nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("too large: %v", err)
	}
	if err := from.Send(t.Context(), nil, make([]int, MaxFDs+1)); fault.KindOf(err) != fault.Invalid {
		t.Errorf("too many descriptors: %v", err)
	}
	if err := from.Send(t.Context(), nil, []int{1 << 20}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("descriptor that is not open: %v", err)
	}
	// The twin: none of the refusals harmed the connection.
	if err := from.Send(t.Context(), make([]byte, 100), nil); err != nil {
		t.Fatal(err)
	}
	if m, err := to.Recv(t.Context()); err != nil || len(m.Payload) != 100 {
		t.Fatalf("%v, %v", m, err)
	}
	// A length over the limit ends the connection before any memory is taken.
	if _, err := a.Write([]byte{0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Recv(t.Context()); fault.KindOf(err) != fault.Limit {
		t.Errorf("length over the limit: %v", err)
	}
	if _, err := to.Recv(t.Context()); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("after it: %v", err)
	}
}

func TestStreamEnds(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes []byte
		clean bool
	}{
		{"between messages", nil, true},
		{"in the length", []byte{0, 0}, false},
		{"in the payload", []byte{0, 0, 0, 9, 1, 2}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := pair(t, unix.SOCK_STREAM)
			if len(c.bytes) > 0 {
				if _, err := a.Write(c.bytes); err != nil {
					t.Fatal(err)
				}
			}
			a.Close()
			_, err := NewStream(b, 0).Recv(t.Context())
			if c.clean != errors.Is(err, io.EOF) || err == nil {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestStreamContext(t *testing.T) {
	a, b := pair(t, unix.SOCK_STREAM)
	from, to := NewStream(a, 0), NewStream(b, 0)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := to.Recv(ctx); fault.KindOf(err) != fault.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("receive without a sender: %v", err)
	}
	// Nothing was lost: the connection still works.
	if err := from.Send(t.Context(), []byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	if m, err := to.Recv(t.Context()); err != nil || string(m.Payload) != "x" {
		t.Fatalf("%v, %v", m, err)
	}
	// A send that stops half-way closes the connection.
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := from.Send(ctx, make([]byte, 8<<20), nil); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("send without a reader: %v", err)
	}
	if err := from.Send(t.Context(), nil, nil); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("send behind half a message: %v", err)
	}
}

// The storm of THREATS' descriptor exhaustion: up to 253 descriptors a message
// (SCM_MAX_FD), attached to any byte of it.
func TestDescriptorStormReturnsToBaseline(t *testing.T) {
	null := devNull(t)
	defer unix.Close(null)
	messages := 10_000
	if os.Getenv("BRANE_TORTURE") != "" {
		messages = 100_000
	}
	before := openFDs(t)

	a, b := pair(t, unix.SOCK_STREAM)
	to := NewStream(b, 0)
	// An account may have no more descriptors under way than files open, so the
	// sender of an ordinary account must not run ahead.
	ahead := make(chan struct{}, 2)
	go func() {
		for i := range messages {
			ahead <- struct{}{}
			n := i % 254
			oob := []byte(nil)
			if n > 0 {
				oob = unix.UnixRights(repeat(null, n)...)
			}
			frame := binary.BigEndian.AppendUint32(nil, 8)
			frame = append(frame, fmt.Sprintf("%08d", i)...)
			cut := i % len(frame) // the descriptors travel with what is behind the cut
			if cut > 0 {
				if _, err := a.Write(frame[:cut]); err != nil {
					t.Error(err)
					return
				}
			}
			if _, _, err := a.WriteMsgUnix(frame[cut:], oob, nil); err != nil {
				t.Error(err)
				return
			}
		}
		a.Close()
	}()
	most := 0
	for i := range messages {
		m, err := to.Recv(t.Context())
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if len(m.FDs) > MaxFDs {
			t.Fatalf("message %d: %d descriptors", i, len(m.FDs))
		}
		if n, cut := i%254, i%12; cut < headerLen && (n > MaxFDs) != m.Dropped {
			t.Fatalf("message %d with %d descriptors: dropped %v", i, n, m.Dropped)
		}
		most = max(most, len(m.FDs))
		m.CloseFDs()
		<-ahead
	}
	if most != MaxFDs {
		t.Errorf("at most %d descriptors in a message, the storm should reach %d", most, MaxFDs)
	}
	if _, err := to.Recv(t.Context()); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	b.Close()
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// A message is one message, however its first bytes are cut up.
func TestDescriptorsWithEachByte(t *testing.T) {
	if oobLen != unix.CmsgSpace(4*MaxFDs) {
		t.Errorf("room for %d bytes of control data, %d is what %d descriptors take", oobLen, unix.CmsgSpace(4*MaxFDs), MaxFDs)
	}
	null := devNull(t)
	defer unix.Close(null)
	a, b := pair(t, unix.SOCK_STREAM)
	before := openFDs(t)
	for _, c := range binary.BigEndian.AppendUint32(nil, 0) {
		if _, _, err := a.WriteMsgUnix([]byte{c}, unix.UnixRights(repeat(null, 5)...), nil); err != nil {
			t.Fatal(err)
		}
	}
	m, err := NewStream(b, 0).Recv(t.Context())
	if err != nil || len(m.FDs) != MaxFDs || !m.Dropped {
		t.Fatalf("%+v, %v", m, err)
	}
	m.CloseFDs()
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestSocketStormReturnsToBaseline(t *testing.T) {
	null := devNull(t)
	defer unix.Close(null)
	const messages = 2000
	before := openFDs(t)
	a, b := pair(t, unix.SOCK_SEQPACKET)
	to := NewSocket(b)
	ahead := make(chan struct{}, 2)
	go func() {
		for i := range messages {
			ahead <- struct{}{}
			oob := unix.UnixRights(repeat(null, 1+i%253)...)
			if _, _, err := a.WriteMsgUnix(make([]byte, 1+i%200), oob, nil); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	buf := make([]byte, 100)
	for i := range messages {
		m, err := to.Recv(t.Context(), buf)
		<-ahead
		if tooLong := 1+i%200 > len(buf); tooLong {
			if fault.KindOf(err) != fault.Limit {
				t.Fatalf("message %d: %v", i, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if want := min(1+i%253, MaxFDs); len(m.FDs) != want || m.Dropped != (1+i%253 > MaxFDs) {
			t.Fatalf("message %d: %d descriptors, want %d; dropped %v", i, len(m.FDs), want, m.Dropped)
		}
		m.CloseFDs()
	}
	a.Close()
	b.Close()
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// FuzzStream feeds what a stranger may write to a Stream and to a Conn above it.
func FuzzStream(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 2, 1, 2, 0, 0, 0, 1, 9})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	call := (&envelope{kind: callKind, verb: "echo", id: 7, body: []byte(`"x"`)}).append(nil)
	f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(call))), call...))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 16<<10 {
			return // must fit in the socket's buffer: nobody reads meanwhile
		}
		a, b := pair(t, unix.SOCK_STREAM)
		if len(data) > 0 {
			if _, err := a.Write(data); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		c := NewConn(NewStream(b, 1<<10))
		_ = c.Serve(func(_ context.Context, r *Request) (any, []int, error) { return r.Body, nil, nil })
		c.Close()
	})
}
