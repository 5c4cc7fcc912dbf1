package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"brane/client"
	"brane/internal/config"
	"brane/internal/fault"
	"brane/internal/linux/peer"
	"brane/internal/network"
	"brane/internal/store"
)

// maxBody bounds a request; a network file is at most config.MaxBytes of it.
const maxBody = 2 << 20

// idlePatience is how long a connection of the API may rest between requests.
const idlePatience = 2 * time.Minute

type peerKey struct{}

// ServeAPI answers HTTP on the listener until it is closed.
func (s *Server) ServeAPI(l net.Listener) error {
	var known sync.Map // uid by connection that has a place
	srv := &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: patience,
		MaxHeaderBytes:    16 << 10,
		IdleTimeout:       idlePatience,
		ErrorLog:          nil,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			p, err := s.classify(c)
			if err != nil {
				p.Inside = true // who cannot be told is treated as the least trusted
			}
			if s.talking.enter(p.UID) != nil {
				_ = c.Close()
			} else {
				known.Store(c, p.UID)
			}
			return context.WithValue(ctx, peerKey{}, p)
		},
		ConnState: func(c net.Conn, st http.ConnState) {
			if st != http.StateClosed {
				return
			}
			if uid, ok := known.LoadAndDelete(c); ok {
				s.talking.leave(uid.(uint32))
			}
		},
	}
	err := srv.Serve(l)
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// handler is one operation: the answer to encode, or an error.
type handler func(r *http.Request) (any, error)

// Routes are the operations of the API; docs/openapi.yaml describes the same.
func (s *Server) table() map[string]handler {
	return map[string]handler{
		"GET /v1/daemon":                 s.getDaemon,
		"DELETE /v1/daemon":              s.stopDaemon,
		"GET /v1/networks":               s.listNetworks,
		"POST /v1/networks":              s.defineNetwork,
		"GET /v1/networks/{name}":        s.getNetwork,
		"DELETE /v1/networks/{name}":     s.deleteNetwork,
		"POST /v1/networks/{name}/start": s.startNetwork,
		"POST /v1/networks/{name}/stop":  s.stopNetwork,
		"GET /v1/networks/{name}/leases": s.listLeases,
		"GET /v1/branes":                 s.listBranes,
		"POST /v1/branes":                s.createBrane,
		"GET /v1/branes/{name}":          s.getBrane,
		"DELETE /v1/branes/{name}":       s.deleteBrane,
		"GET /v1/ports":                  s.listPorts,
		"GET /v1/drops":                  s.listDrops,
	}
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range s.table() {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			out, err := h(r)
			reply(w, out, err)
		})
	}
	mux.HandleFunc("GET /v1/events", s.Events.serve)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		reply(w, nil, fault.New(fault.NotFound, "serve", r.Method+" "+r.URL.Path, "the API has no such operation").
			WithRemedy("docs/openapi.yaml lists what there is"))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := r.Context().Value(peerKey{}).(peer.Peer)
		if r.Method == http.MethodGet && r.URL.Path == "/v1/whoami" {
			reply(w, s.identity(p), nil)
			return
		}
		if err := s.admit(p, "serve "+r.URL.Path); err != nil {
			reply(w, nil, err)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		mux.ServeHTTP(w, r)
	})
}

func reply(w http.ResponseWriter, out any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		e := fault.From(err, "serve", "")
		w.WriteHeader(fault.HTTPStatus(e))
		_ = json.NewEncoder(w).Encode(e)
		return
	}
	if out == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	_ = json.NewEncoder(w).Encode(out)
}

func who(r *http.Request) store.Principal {
	p := r.Context().Value(peerKey{}).(peer.Peer)
	return store.Principal("uid:" + strconv.FormatUint(uint64(p.UID), 10))
}

// decode reads one JSON value and nothing after it. What it does not know it
// refuses: a misspelt filter must not open what it was to close.
func decode(r io.Reader, v any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the value")
	}
	return nil
}

func (s *Server) getDaemon(*http.Request) (any, error) {
	return client.Daemon{
		Version: client.Version, Release: s.Release, PID: os.Getpid(), Worker: s.Worker.PID(), Broker: s.Broker.PID(),
	}, nil
}

func (s *Server) stopDaemon(*http.Request) (any, error) {
	s.Shutdown()
	return nil, nil
}

func (s *Server) defineNetwork(r *http.Request) (any, error) {
	q := r.URL.Query()
	start, persistent, autostart := q.Get("start") == "true", q.Get("persistent") == "true", q.Get("autostart") == "true"
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fault.New(fault.Invalid, "define network", q.Get("file"), "the request cannot be read: %v", err)
	}
	var def network.Definition
	var warnings []string
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/xml") {
		d, warn, err := config.Parse(strings.NewReader(string(body)), q.Get("file"))
		if err != nil {
			return nil, err
		}
		def = d
		for _, w := range warn {
			warnings = append(warnings, w.String())
		}
	} else if err := decode(bytes.NewReader(body), &def); err != nil {
		return nil, fault.New(fault.Invalid, "define network", q.Get("file"), "the definition cannot be read: %v", err)
	}
	change := s.Service.Define
	if start {
		change = s.Service.Up
	}
	rev, err := change(who(r), def, persistent, autostart)
	if err != nil {
		return nil, err
	}
	if err := s.settle(r.Context(), rev); err != nil {
		return nil, err
	}
	n, err := s.network(def.Name)
	n.Warnings = warnings
	return n, err
}

func (s *Server) network(name string) (client.Network, error) {
	st, err := s.Service.State()
	if err != nil {
		return client.Network{}, err
	}
	rec, ok := st.Networks[name]
	if !ok {
		return client.Network{}, fault.New(fault.NotFound, "show network", name, "there is no network of this name").
			WithRemedy("brane net list shows those there are")
	}
	return showNetwork(st, rec)
}

func showNetwork(st *network.State, rec network.Record) (client.Network, error) {
	d := rec.Definition
	raw, err := json.Marshal(d)
	if err != nil {
		return client.Network{}, fault.From(err, "show network", d.Name)
	}
	xml, err := config.Format(d)
	if err != nil {
		return client.Network{}, err
	}
	n := client.Network{
		Name: d.Name, Definition: raw, XML: string(xml), Running: rec.Started, Persistent: rec.Persistent,
		Autostart: rec.Autostart, Trouble: rec.Trouble, Forward: string(d.Forward), Uplink: d.Uplink,
		Ports: len(st.PortsOf(d.Name)), Subnets: []netip.Prefix{},
	}
	for _, sub := range d.Subnets {
		n.Subnets = append(n.Subnets, sub.Gateway)
	}
	for _, b := range st.Branes {
		if b.Network == d.Name {
			n.Branes++
		}
	}
	return n, nil
}

func (s *Server) listNetworks(*http.Request) (any, error) {
	st, err := s.Service.State()
	if err != nil {
		return nil, err
	}
	out := []client.Network{}
	for _, name := range sortedKeys(st.Networks) {
		n, err := showNetwork(st, st.Networks[name])
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

func (s *Server) getNetwork(r *http.Request) (any, error) { return s.network(r.PathValue("name")) }

// change runs one change of a network and waits for it to be in force.
func (s *Server) change(r *http.Request, f func(store.Principal, string) (store.Revision, error)) (any, error) {
	rev, err := f(who(r), r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	return nil, s.settle(r.Context(), rev)
}

func (s *Server) deleteNetwork(r *http.Request) (any, error) { return s.change(r, s.Service.Delete) }
func (s *Server) stopNetwork(r *http.Request) (any, error)   { return s.change(r, s.Service.Stop) }
func (s *Server) startNetwork(r *http.Request) (any, error)  { return s.change(r, s.Service.Start) }
func (s *Server) deleteBrane(r *http.Request) (any, error)   { return s.change(r, s.Service.DeleteBrane) }

func (s *Server) listLeases(r *http.Request) (any, error) {
	st, err := s.Service.State()
	if err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	if _, ok := st.Networks[name]; !ok {
		return nil, fault.New(fault.NotFound, "list leases", name, "there is no network of this name")
	}
	out := []client.Lease{}
	for _, k := range sortedKeys(st.Leases[name]) {
		l := st.Leases[name][k]
		c := client.Lease{Name: k, MAC: l.MAC.String(), Addrs: l.Addrs, Static: l.Static, Held: l.Held}
		if !l.Held && !l.Expires.IsZero() {
			c.Expires = &l.Expires
		}
		out = append(out, c)
	}
	return out, nil
}

func (s *Server) listDrops(r *http.Request) (any, error) {
	since, err := strconv.ParseUint(r.URL.Query().Get("since"), 10, 64)
	if err != nil && r.URL.Query().Get("since") != "" {
		return nil, fault.New(fault.Invalid, "list drops", "since", "%q is no number", r.URL.Query().Get("since"))
	}
	drops, err := s.Worker.Drops(r.Context(), since)
	if err != nil {
		return nil, err
	}
	want := r.URL.Query().Get("brane")
	out := []client.Drop{}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Controller.Snapshot(func(st *network.State) {
		for _, d := range drops {
			p, known := s.known[d.Port]
			c := client.Drop{
				Seq: d.Seq, Time: d.Time, Device: fmt.Sprintf("%s/port %d", d.Mux, d.Port), To: d.To,
				Reason: d.Reason.String(), Frame: d.Frame, Rule: d.Rule, Owner: d.Owner,
			}
			if known {
				c.Device, c.Brane = p.device, p.brane
			} else if rec, ok := st.Networks[d.Mux]; ok && rec.Gateway == d.Port {
				c.Device = d.Mux + "/gateway"
			}
			if want == "" || want == c.Brane {
				out = append(out, c)
			}
		}
	})
	return out, nil
}
