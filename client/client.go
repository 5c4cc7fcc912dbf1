package client

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"brane/internal/fault"
)

// Client talks to one daemon over its API socket.
type Client struct {
	dir  string
	http *http.Client
}

// RuntimeDir is where the sockets of the calling user's daemon are:
// $XDG_RUNTIME_DIR/brane, else /tmp/brane-UID; /run/brane for root.
func RuntimeDir() string {
	if d := os.Getenv("BRANE_RUNTIME_DIR"); d != "" {
		return d
	}
	if os.Geteuid() == 0 {
		return "/run/brane"
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" && filepath.IsAbs(d) {
		if st, err := os.Stat(d); err == nil && st.IsDir() {
			return filepath.Join(d, "brane")
		}
	}
	return "/tmp/brane-" + strconv.Itoa(os.Getuid())
}

// StateDir is where the calling user's daemon keeps its store.
func StateDir() string {
	if d := os.Getenv("BRANE_STATE_DIR"); d != "" {
		return d
	}
	if os.Geteuid() == 0 {
		return "/var/lib/brane"
	}
	if d := os.Getenv("XDG_STATE_HOME"); d != "" && filepath.IsAbs(d) {
		return filepath.Join(d, "brane")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "/tmp/brane-" + strconv.Itoa(os.Getuid()) + "/state"
	}
	return filepath.Join(home, ".local", "state", "brane")
}

// New makes a client for the daemon whose sockets are in dir.
func New(dir string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(dir, "api.sock"))
	}
	return &Client{dir: dir, http: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConns: 2}}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// call makes one request. A nil in sends no body; a string is sent as XML.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	kind := "application/json"
	switch v := in.(type) {
	case nil:
	case string:
		body, kind = strings.NewReader(v), "application/xml"
	default:
		b, err := json.Marshal(v)
		if err != nil {
			return fault.New(fault.Internal, method, path, "%v", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://brane/v1"+path, body)
	if err != nil {
		return fault.New(fault.Invalid, method, path, "%v", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fault.New(fault.Unavailable, "ask the daemon", c.dir, "%v", err).
			WithRemedy("is it running? brane daemon runs it in the foreground")
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fault.New(fault.Unavailable, "ask the daemon", c.dir, "%v", err)
	}
	if resp.StatusCode >= 300 {
		e := new(fault.Error)
		if json.Unmarshal(b, e) != nil || e.Kind == "" {
			return fault.New(fault.Internal, method, path, "the daemon answered %s", resp.Status)
		}
		return e
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fault.New(fault.Internal, method, path, "the daemon's answer cannot be read: %v", err)
	}
	return nil
}

// Daemon asks the daemon about itself.
func (c *Client) Daemon(ctx context.Context) (d Daemon, err error) {
	return d, c.call(ctx, "GET", "/daemon", nil, &d)
}

// Stop asks the daemon to end.
func (c *Client) Stop(ctx context.Context) error { return c.call(ctx, "DELETE", "/daemon", nil, nil) }

// Networks lists the networks.
func (c *Client) Networks(ctx context.Context) (n []Network, err error) {
	return n, c.call(ctx, "GET", "/networks", nil, &n)
}

// Network shows one network.
func (c *Client) Network(ctx context.Context, name string) (n Network, err error) {
	return n, c.call(ctx, "GET", "/networks/"+url.PathEscape(name), nil, &n)
}

// DefineOptions say what happens to a network file.
type DefineOptions struct {
	Name       string // of the file, for error messages
	Start      bool
	Persistent bool
	Autostart  bool
}

// Define gives the daemon a network: libvirt XML as a string, or a definition
// to be sent as JSON.
func (c *Client) Define(ctx context.Context, def any, o DefineOptions) (n Network, err error) {
	q := url.Values{"file": {o.Name}}
	for k, v := range map[string]bool{"start": o.Start, "persistent": o.Persistent, "autostart": o.Autostart} {
		q.Set(k, strconv.FormatBool(v))
	}
	return n, c.call(ctx, "POST", "/networks?"+q.Encode(), def, &n)
}

// StartNetwork starts a defined network.
func (c *Client) StartNetwork(ctx context.Context, name string) error {
	return c.call(ctx, "POST", "/networks/"+url.PathEscape(name)+"/start", nil, nil)
}

// StopNetwork stops a network; what is not persistent is gone then.
func (c *Client) StopNetwork(ctx context.Context, name string) error {
	return c.call(ctx, "POST", "/networks/"+url.PathEscape(name)+"/stop", nil, nil)
}

// DeleteNetwork forgets a stopped network.
func (c *Client) DeleteNetwork(ctx context.Context, name string) error {
	return c.call(ctx, "DELETE", "/networks/"+url.PathEscape(name), nil, nil)
}

// Leases lists the leases of a network.
func (c *Client) Leases(ctx context.Context, name string) (l []Lease, err error) {
	return l, c.call(ctx, "GET", "/networks/"+url.PathEscape(name)+"/leases", nil, &l)
}

// CreateBrane makes a brane.
func (c *Client) CreateBrane(ctx context.Context, r BraneRequest) (b Brane, err error) {
	return b, c.call(ctx, "POST", "/branes", r, &b)
}

// Branes lists the branes.
func (c *Client) Branes(ctx context.Context) (b []Brane, err error) {
	return b, c.call(ctx, "GET", "/branes", nil, &b)
}

// Brane shows one brane with its ports and their counters.
func (c *Client) Brane(ctx context.Context, name string) (b Brane, err error) {
	return b, c.call(ctx, "GET", "/branes/"+url.PathEscape(name), nil, &b)
}

// DeleteBrane forgets a brane.
func (c *Client) DeleteBrane(ctx context.Context, name string) error {
	return c.call(ctx, "DELETE", "/branes/"+url.PathEscape(name), nil, nil)
}

// Ports lists the open ports, of one network or of all.
func (c *Client) Ports(ctx context.Context, network string) (p []Port, err error) {
	return p, c.call(ctx, "GET", "/ports?network="+url.QueryEscape(network), nil, &p)
}

// Drops lists the latest refused frames after a sequence number, oldest first.
func (c *Client) Drops(ctx context.Context, since uint64, brane string) (d []Drop, err error) {
	return d, c.call(ctx, "GET", "/drops?since="+strconv.FormatUint(since, 10)+"&brane="+url.QueryEscape(brane), nil, &d)
}

// Events calls f for each event until ctx ends or the daemon does.
func (c *Client) Events(ctx context.Context, f func(Event)) error {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://brane/v1/events", nil)
	if err != nil {
		return fault.New(fault.Internal, "events", "", "%v", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fault.New(fault.Unavailable, "events", c.dir, "%v", err)
	}
	defer func() { _ = resp.Body.Close() }()
	d := newLines(resp.Body)
	for d.Scan() {
		line, ok := strings.CutPrefix(d.Text(), "data: ")
		if !ok {
			continue
		}
		var e Event
		if json.Unmarshal([]byte(line), &e) == nil {
			f(e)
		}
	}
	return d.Err()
}
