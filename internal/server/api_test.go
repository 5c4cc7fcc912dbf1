package server

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"brane/client"
	"brane/internal/fault"
	"brane/internal/linux/peer"
	"brane/internal/plan"
)

// TestDocumentNamesEveryOperation: the table of the server and the document
// have the same operations.
func TestDocumentNamesEveryOperation(t *testing.T) {
	described := openDocument(t).operations()
	served := map[string]bool{"GET /v1/events": true, "GET /v1/whoami": true}
	for op := range new(Server).table() {
		served[op] = true
	}
	for op := range served {
		if described[op] == nil {
			t.Errorf("%s is not in docs/openapi.yaml", op)
		}
	}
	ids := map[any]bool{}
	for op, o := range described {
		if !served[op] {
			t.Errorf("%s is in docs/openapi.yaml alone", op)
		}
		if ids[o["operationId"]] || o["operationId"] == nil {
			t.Errorf("%s: its operationId %v is missing or another's too", op, o["operationId"])
		}
		ids[o["operationId"]] = true
	}
}

// request is one call of an operation and what is to come of it.
type request struct {
	op, path, body string // path when it differs from the operation's; body in XML when it begins with <
	status         int
}

func (d *daemon) check(doc document, used map[string]bool, r request) {
	d.t.Helper()
	method, pattern, _ := strings.Cut(r.op, " ")
	path, kind := r.path, "application/json"
	if path == "" {
		path = strings.ReplaceAll(pattern, "{name}", "office")
	}
	if strings.HasPrefix(r.body, "<") {
		kind = "application/xml"
	}
	status, body := d.ask(method, path, kind, r.body)
	where := method + " " + path
	if status != r.status {
		d.t.Errorf("%s %.60s: status %d, want %d: %s", where, r.body, status, r.status, body)
		return
	}
	schema, documented := doc.answer(doc.operations()[r.op], status)
	if !documented {
		d.t.Errorf("%s: status %d is not in the document", where, status)
		return
	}
	used[r.op] = true
	if status == http.StatusNoContent {
		if len(body) != 0 {
			d.t.Errorf("%s: 204 with %s", where, body)
		}
		return
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		d.t.Errorf("%s: %v: %s", where, err, body)
		return
	}
	if err := doc.mismatch(schema, v, where); err != nil {
		d.t.Errorf("not as documented: %v\n%s", err, body)
	}
	if e := new(fault.Error); status >= 400 && (json.Unmarshal(body, e) != nil || fault.HTTPStatus(e) != status || e.Detail == "") {
		d.t.Errorf("%s: status %d carries %s", where, status, body)
	}
}

// TestAnswersAreAsDocumented runs every operation of a live server and holds
// its answers against the schemas.
func TestAnswersAreAsDocumented(t *testing.T) {
	d, doc, used := newDaemon(t), openDocument(t), map[string]bool{}
	brane := `{"name":"web","network":"office","command":["nginx"],"pid":9,"send":["not tcp port 25"],"receive":["ip"],"allowHost":[5432],
		"publish":[{"host":"127.0.0.1:8080","port":80,"proto":"tcp"},{"host":"[::1]:8080","port":80,"proto":"udp"}]}`
	for _, r := range []request{
		{op: "GET /v1/daemon", status: 200},
		{op: "GET /v1/whoami", status: 200},
		{op: "GET /v1/networks", status: 200},
		{op: "POST /v1/networks", path: "/v1/networks?persistent=true", body: office, status: 200},
		{op: "POST /v1/networks", body: `{"name":"lab","forward":"none"}`, status: 200},
		{op: "POST /v1/networks/{name}/start", status: 204},
		{op: "POST /v1/branes", body: brane, status: 200},
		{op: "POST /v1/branes", body: `{}`, status: 200},
	} {
		d.check(doc, used, r)
	}
	for _, device := range []string{"office/web", "office/vm"} {
		c := client.New(d.dir)
		port, err := c.Open(t.Context(), client.OpenRequest{Op: "open", Device: device, Brane: strings.TrimPrefix(device[7:], "vm"), Filter: "ip or arp"})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = port.Close() }()
		if port.Reply.Port == 0 || len(port.Reply.Addresses) != 2 {
			t.Errorf("%s: %+v", device, port.Reply)
		}
	}
	for _, r := range []request{
		{op: "GET /v1/networks", status: 200},
		{op: "GET /v1/networks/{name}", status: 200},
		{op: "GET /v1/networks/{name}/leases", status: 200},
		{op: "GET /v1/branes", status: 200},
		{op: "GET /v1/branes/{name}", path: "/v1/branes/web", status: 200},
		{op: "GET /v1/ports", status: 200},
		{op: "GET /v1/ports", path: "/v1/ports?network=office", status: 200},
		{op: "GET /v1/drops", status: 200},
		{op: "GET /v1/drops", path: "/v1/drops?since=1&brane=web", status: 200},
		{op: "DELETE /v1/branes/{name}", path: "/v1/branes/web", status: 204},
		{op: "POST /v1/networks/{name}/stop", status: 204},
		{op: "DELETE /v1/networks/{name}", status: 204},
		{op: "DELETE /v1/daemon", status: 204},
	} {
		d.check(doc, used, r)
	}
	<-d.stops
	for op := range doc.operations() {
		if !used[op] && op != "GET /v1/events" {
			t.Errorf("%s was not asked", op)
		}
	}
}

// TestBadInput: what is wrong is an error of a documented status, and changes
// nothing.
func TestBadInput(t *testing.T) {
	d, doc, used := newDaemon(t), openDocument(t), map[string]bool{}
	d.check(doc, used, request{op: "POST /v1/networks", path: "/v1/networks?start=true&persistent=true", body: office, status: 200})
	_, before := d.ask("GET", "/v1/networks", "", "")
	long := strings.Repeat("n", 64)
	filters := `["ip"` + strings.Repeat(`,"ip"`, 16) + `]`
	for _, r := range []request{
		{op: "POST /v1/networks", body: "<network><name>x</nam></network>", status: 400},
		{op: "POST /v1/networks", body: "", status: 400},
		{op: "POST /v1/networks", body: "{}", status: 400},
		{op: "POST /v1/networks", body: `{"name":"x","forward":"none","subnet":[]}`, status: 400},
		{op: "POST /v1/networks", body: `{"name":"x","forward":"none"} {}`, status: 400},
		{op: "POST /v1/networks", body: `{"name":"` + long + `","forward":"none"}`, status: 400},
		{op: "POST /v1/networks", body: `{"name":"x","forward":"mail"}`, status: 400},
		{op: "POST /v1/networks", body: `{"name":"x","forward":"none","uplink":"nowhere"}`, path: "/v1/networks?start=true", status: 404},
		{op: "POST /v1/networks", path: "/v1/networks?start=true", body: strings.Replace(office, "office", "other", 1), status: 409},
		{op: "POST /v1/networks", body: `{"name":"` + strings.Repeat("n", maxBody) + `"}`, status: 400},
		{op: "GET /v1/networks/{name}", path: "/v1/networks/nowhere", status: 404},
		{op: "GET /v1/networks/{name}", path: "/v1/networks/" + long, status: 404},
		{op: "GET /v1/networks/{name}", path: "/v1/networks/a%2fb%00", status: 404},
		{op: "DELETE /v1/networks/{name}", path: "/v1/networks/nowhere", status: 404},
		{op: "DELETE /v1/networks/{name}", status: 409},
		{op: "POST /v1/networks/{name}/start", path: "/v1/networks/nowhere/start", status: 404},
		{op: "POST /v1/networks/{name}/stop", path: "/v1/networks/nowhere/stop", status: 404},
		{op: "GET /v1/networks/{name}/leases", path: "/v1/networks/nowhere/leases", status: 404},
		{op: "GET /v1/ports", path: "/v1/ports?network=nowhere", status: 404},
		{op: "GET /v1/branes/{name}", path: "/v1/branes/nobody", status: 404},
		{op: "DELETE /v1/branes/{name}", path: "/v1/branes/nobody", status: 404},
		{op: "GET /v1/drops", path: "/v1/drops?since=-1", status: 400},
		{op: "POST /v1/branes", body: "", status: 400},
		{op: "POST /v1/branes", body: `{"name":1}`, status: 400},
		{op: "POST /v1/branes", body: `{"network":"nowhere"}`, status: 404},
		{op: "POST /v1/branes", body: `{"network":"office","name":"a/b"}`, status: 400},
		{op: "POST /v1/branes", body: `{"network":"office","name":"` + long + `"}`, status: 400},
		{op: "POST /v1/branes", body: `{"network":"office","sendd":["ip"]}`, status: 400},
		{op: "POST /v1/branes", body: `{"network":"office","send":["portragne 1-2"]}`, status: 400},
		{op: "POST /v1/branes", body: `{"network":"office","send":` + filters + `}`, status: 429},
		{op: "POST /v1/branes", body: `{"network":"office","publish":[{"host":"127.0.0.1:0","port":80,"proto":"tcp"}]}`, status: 400},
		{op: "POST /v1/branes", body: `{"network":"office","publish":[{"host":"127.0.0.1:9","port":80,"proto":"icmp"}]}`, status: 400},
		{op: "POST /v1/branes", body: `{"network":"office","publish":[{"host":"127.0.0.1:7","port":80,"proto":"tcp"}]}`, status: 409},
	} {
		d.check(doc, used, r)
	}
	if _, after := d.ask("GET", "/v1/networks", "", ""); string(after) != string(before) {
		t.Errorf("the refusals changed the networks:\n%s\n%s", before, after)
	}
	if status, body := d.ask("PUT", "/v1/networks", "", ""); status != 404 || !strings.Contains(string(body), "openapi") {
		t.Errorf("no such operation: %d %s", status, body)
	}
	d.worker.mu.Lock()
	d.worker.away = true
	d.worker.mu.Unlock()
	d.check(doc, used, request{op: "GET /v1/drops", status: 503})
	d.check(doc, used, request{op: "GET /v1/ports", status: 503})
}

// TestPeers: every operation is refused to other accounts and to whoever is
// inside a brane, but for the one question; the owner and root are admitted.
func TestPeers(t *testing.T) {
	d, doc := newDaemon(t), openDocument(t)
	d.UID = 1000
	ask := func(p peer.Peer, op string) *httptest.ResponseRecorder {
		method, path, _ := strings.Cut(op, " ")
		r := httptest.NewRequest(method, strings.ReplaceAll(path, "{name}", "x"), nil)
		w := httptest.NewRecorder()
		d.routes().ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, p)))
		return w
	}
	for op, o := range doc.operations() {
		for _, p := range []peer.Peer{{UID: 1001}, {UID: 1000, Inside: true}, {UID: 0, Inside: true}} {
			w := ask(p, op)
			want := http.StatusForbidden
			if op == "GET /v1/whoami" {
				want = http.StatusOK
			}
			schema, documented := doc.answer(o, w.Code)
			var v any
			if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || w.Code != want || !documented {
				t.Errorf("%s for %+v: %d, documented: %t, %v", op, p, w.Code, documented, err)
			} else if err := doc.mismatch(schema, v, op); err != nil {
				t.Error(err)
			}
		}
	}
	for _, uid := range []uint32{1000, 0} {
		if w := ask(peer.Peer{UID: uid}, "GET /v1/networks"); w.Code != http.StatusOK {
			t.Errorf("uid %d: %d %s", uid, w.Code, w.Body)
		}
	}
}

// TestEvents: an event reaches a reader as documented; one that does not read
// is told so and cut off, and nobody waits for it.
func TestEvents(t *testing.T) {
	d, doc := newDaemon(t), openDocument(t)
	schema, _ := doc.answer(doc.operations()["GET /v1/events"], 200)
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://brane/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := d.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if k := resp.Header.Get("Content-Type"); k != "text/event-stream" {
		t.Errorf("Content-Type %q", k)
	}
	d.Events.Tell("brane", "web", "created", "")
	lines := bufio.NewScanner(resp.Body)
	next := func() string {
		for lines.Scan() {
			if lines.Text() != "" {
				return lines.Text()
			}
		}
		return ""
	}
	valid := func(line string) (kind string) {
		t.Helper()
		var v any
		if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &v); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if err := doc.mismatch(schema, v, "event"); err != nil {
			t.Error(err)
		}
		return v.(map[string]any)["kind"].(string)
	}
	if kind := valid(next()); kind != "brane" {
		t.Errorf("kind %s", kind)
	}
	for range 1 << 16 { // more than the socket holds; Tell returns at once all the same
		d.Events.Tell("lease", "office/"+strings.Repeat("x", 63), "changed", "")
	}
	line := next()
	for strings.HasPrefix(line, "data: ") {
		line = next()
	}
	if line != "event: overflow" || valid(next()) != "overflow" || next() != "" {
		t.Errorf("a slow reader's last line: %q", line)
	}
}

// TestShown: what is created is what is shown afterwards.
func TestShown(t *testing.T) {
	d := newDaemon(t)
	c := client.New(d.dir)
	defer c.Close()
	if _, err := c.Define(t.Context(), office, client.DefineOptions{Name: "office.xml", Start: true}); err != nil {
		t.Fatal(err)
	}
	made, err := c.CreateBrane(t.Context(), client.BraneRequest{Name: "web", Network: "office"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Brane(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if got.Domain != "office" || !slices.Equal(got.Addresses, made.Addresses) || !slices.Equal(got.Gateways, made.Gateways) || got.MTU != made.MTU {
		t.Errorf("created %+v\nshown   %+v", made, got)
	}
	_, err = c.Define(t.Context(), "<network>\n  <name>x</nam>\n</network>", client.DefineOptions{Name: "bad.xml"})
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "bad.xml:2:") {
		t.Errorf("a bad file: %v", err)
	}
}

// TestDevices: the device socket's refusals say why; the port's end is seen.
func TestDevices(t *testing.T) {
	d := newDaemon(t)
	c := client.New(d.dir)
	defer c.Close()
	if _, err := c.Define(t.Context(), office, client.DefineOptions{Start: true}); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		kind fault.Kind
		in   client.OpenRequest
	}{
		{fault.Invalid, client.OpenRequest{Op: "fly"}},
		{fault.Invalid, client.OpenRequest{Op: "open", Device: "office/../x"}},
		{fault.Invalid, client.OpenRequest{Op: "open", Device: "office/a", Kind: "carrier-pigeon"}},
		{fault.Invalid, client.OpenRequest{Op: "open", Device: "office/a", Kind: "tap"}},
		{fault.Invalid, client.OpenRequest{Op: "open", Device: "office/a", MAC: "no"}},
		{fault.Invalid, client.OpenRequest{Op: "open", Device: "office/a", Filter: "portragne 1"}},
		{fault.Invalid, client.OpenRequest{Op: "open", Device: "office/a", Send: "portragne 1"}},
		{fault.NotFound, client.OpenRequest{Op: "open", Device: "nowhere/a"}},
		{fault.Invalid, client.OpenRequest{Op: "veth"}},
	} {
		if p, err := c.Open(t.Context(), r.in); fault.KindOf(err) != r.kind {
			t.Errorf("%+v: %v (%v), want %s", r.in, err, p, r.kind)
		}
	}
	ns, err := c.Open(t.Context(), client.OpenRequest{Op: "namespaces"})
	if err != nil || len(ns.Files) != 1 || ns.Reply.Files[0] != "user" {
		t.Errorf("namespaces: %v %+v", err, ns)
	}
	p, err := c.Open(t.Context(), client.OpenRequest{Op: "open", Device: "office/a"})
	if err != nil {
		t.Fatal(err)
	}
	id := p.Reply.Port
	held := func() int {
		d.worker.mu.Lock()
		defer d.worker.mu.Unlock()
		return len(d.worker.held)
	}
	// The client is answered first and the worker has the port after that.
	for end := time.Now().Add(5 * time.Second); held() != 1 && time.Now().Before(end); {
		runtime.Gosched()
	}
	if n := held(); n != 1 {
		t.Errorf("the worker holds %d descriptors", n)
	}
	d.Closed(plan.PortID(id))
	p.Wait()
	if list, err := c.Ports(t.Context(), "office"); err != nil || len(list) != 1 {
		t.Errorf("ports after the end: %v %+v", err, list)
	}
	if _, err := client.New(filepath.Join(d.dir, "none")).Open(t.Context(), client.OpenRequest{}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("no daemon: %v", err)
	}
}
