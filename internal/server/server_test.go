package server

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"brane/internal/broker"
	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/linux/linuxtest"
	"brane/internal/linux/nsexec"
	"brane/internal/linux/unixmsg"
	"brane/internal/network"
	"brane/internal/plan"
	"brane/internal/store"
	"brane/internal/verdict"
)

// fakeWorker takes every plan and counts what a worker would.
type fakeWorker struct {
	mu    sync.Mutex
	plans map[string]*plan.Mux
	held  map[plan.PortID]int // descriptors
	away  bool
}

func (w *fakeWorker) Apply(_ context.Context, m *plan.Mux) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.plans[m.Name] = m
	for id, fd := range w.held {
		if !hasPort(m, id) {
			_ = syscall.Close(fd)
			delete(w.held, id)
		}
	}
	return nil
}

func hasPort(m *plan.Mux, id plan.PortID) bool {
	for _, p := range m.Ports {
		if p.ID == id {
			return true
		}
	}
	return false
}

func (w *fakeWorker) Remove(_ context.Context, mux string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.plans, mux)
	return nil
}

func (w *fakeWorker) Attach(_ context.Context, mux string, id plan.PortID, e datapath.Endpoint) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := w.plans[mux]; m == nil || !hasPort(m, id) {
		_ = syscall.Close(e.FD)
		return fault.New(fault.NotFound, "attach port", mux, "the plan has no port %d", id)
	}
	w.held[id] = e.FD
	if len(e.Greeting) > 0 {
		_, _ = syscall.Write(e.FD, e.Greeting)
	}
	return nil
}

func (w *fakeWorker) Counters(_ context.Context, mux string) ([]datapath.Counters, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return nil, fault.New(fault.Unavailable, "ask worker", "counters", "the worker is starting again")
	}
	var out []datapath.Counters
	for _, p := range w.plans[mux].Ports {
		c := datapath.Counters{Port: p.ID, FromBytes: 60, Learned: 1}
		c.From[verdict.Delivered], c.To[verdict.ReceiveFilter] = 1, 2
		out = append(out, c)
	}
	return out, nil
}

func (w *fakeWorker) Drops(_ context.Context, since uint64) ([]datapath.Drop, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return nil, fault.New(fault.Unavailable, "ask worker", "drops", "the worker is starting again")
	}
	var out []datapath.Drop
	for name, m := range w.plans {
		for _, p := range m.Ports {
			if n := uint64(len(out)) + 1; n > since {
				out = append(out, datapath.Drop{
					Seq: n, Time: time.Unix(1, 0).UTC(), Mux: name, Port: p.ID, Reason: verdict.SendFilter, Frame: "TCP 10.20.0.10:1 > 10.20.0.1:2", Rule: "not tcp", Owner: "uid:1",
				})
			}
		}
	}
	return out, nil
}

func (w *fakeWorker) PID() int { return 2 }

type fakeBroker struct{}

func (fakeBroker) Namespaces(context.Context) (nsexec.Outer, error) {
	f, err := os.Open("/proc/self/ns/user")
	return nsexec.Outer{User: f}, err
}

func (fakeBroker) Veth(context.Context, *os.File, broker.Veth) (*os.File, error) {
	return nil, fault.New(fault.Unsupported, "make veth", "", "not here")
}
func (fakeBroker) PID() int { return 3 }

// fakeListeners has port 7 of the host taken.
type fakeListeners struct{}

func (fakeListeners) Open(p network.Publish) error {
	if p.Host.Port() == 7 {
		return fault.New(fault.Busy, "publish", p.String(), "the host's port cannot be had")
	}
	return nil
}
func (fakeListeners) Settle(context.Context) {}

// daemon is a Server with fakes around it, its doors open in dir.
type daemon struct {
	*Server
	t      testing.TB
	dir    string
	worker *fakeWorker
	http   *http.Client
	stops  chan struct{}
}

func newDaemon(t testing.TB) *daemon {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	s := store.NewMemory()
	w := &fakeWorker{plans: map[string]*plan.Mux{}, held: map[plan.PortID]int{}}
	host := func() network.Host { return network.Host{} }
	d := &daemon{t: t, worker: w, dir: filepath.Join(t.TempDir(), "brane"), stops: make(chan struct{}, 8)}
	d.Server = &Server{
		Service:    &network.Service{Store: s, Now: time.Now},
		Controller: network.NewController(s, w, host, log), Worker: w, Broker: fakeBroker{}, Listeners: fakeListeners{},
		Events: NewEvents(), Log: log, Release: "test", UID: uint32(os.Getuid()), Shutdown: func() { d.stops <- struct{}{} },
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = d.Controller.Run(ctx) })
	for name, typ := range map[string]int{"api.sock": syscall.SOCK_STREAM, "device.sock": syscall.SOCK_SEQPACKET, "self.sock": syscall.SOCK_STREAM} {
		l, err := unixmsg.Listen(typ, filepath.Join(d.dir, name), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		serve := map[string]func(net.Listener) error{"api.sock": d.ServeAPI, "device.sock": d.ServeDevices, "self.sock": d.ServeSelf}[name]
		wg.Go(func() { _ = serve(l) })
		context.AfterFunc(ctx, func() { _ = l.Close() })
	}
	d.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(d.dir, "api.sock"))
	}}}
	t.Cleanup(func() {
		d.http.CloseIdleConnections()
		cancel()
		wg.Wait()
		d.Close()
		_ = s.Close()
	})
	return d
}

// ask makes one request and gives status and body.
func (d *daemon) ask(method, path, kind, body string) (int, []byte) {
	d.t.Helper()
	r, err := http.NewRequest(method, "http://brane"+path, bytes.NewReader([]byte(body)))
	if err != nil {
		d.t.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	resp, err := d.http.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, b
}

const office = `<network><name>office</name><forward mode='nat'/>
<dns><host ip='10.20.0.5'><hostname>printer</hostname></host></dns>
<ip address='10.20.0.1' prefix='24'><dhcp><range start='10.20.0.10' end='10.20.0.200'/><host name='fixed' ip='10.20.0.7'/></dhcp></ip>
<ip family='ipv6' address='fd00:20::1' prefix='64'/></network>`

// TestCurl: the examples of the document work as they stand.
func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		linuxtest.Missing(t, "curl is not installed")
	}
	d := newDaemon(t)
	sock := filepath.Join(d.dir, "api.sock")
	run := func(args ...string) []byte {
		t.Helper()
		out, err := exec.Command(curl, append([]string{"-sS", "--fail-with-body", "--max-time", "10", "--unix-socket", sock}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("curl %v: %v: %s", args, err, out)
		}
		return out
	}
	run("-H", "Content-Type: application/xml", "--data-binary", office, "http://brane/v1/networks?start=true")
	var list []map[string]any
	if err := json.Unmarshal(run("http://brane/v1/networks"), &list); err != nil || len(list) != 1 || list[0]["name"] != "office" {
		t.Errorf("networks: %v %v", err, list)
	}
	if out := run("-X", "POST", "http://brane/v1/networks/office/stop"); len(out) != 0 {
		t.Errorf("stop: %s", out)
	}
}
