// Package publish holds the ports of the host that lead to branes: it listens
// where a brane's record says so, and hands each listening socket to the worker
// that carries the connections. A socket stays open here while its record is
// there, so that a worker's death refuses nobody.
package publish

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"

	"brane/internal/fault"
	"brane/internal/network"
)

// Worker takes listening sockets; the descriptor stays the caller's.
type Worker interface {
	Forward(ctx context.Context, mux string, id uint64, proto string, fd int) error
}

// key is an address of the host in one protocol.
type key struct{ proto, host string }

// socket is one that we listen on. It belongs to a record once id is set.
type socket struct {
	file   *os.File
	id     uint64
	handed bool // the present worker has it
}

// Set is all published ports.
type Set struct {
	controller *network.Controller
	worker     Worker
	log        *slog.Logger

	mu      sync.Mutex
	sockets map[key]*socket
	tried   map[key]bool // opened, its record not yet seen
}

// New makes an empty set.
func New(c *network.Controller, w Worker, log *slog.Logger) *Set {
	return &Set{controller: c, worker: w, log: log, sockets: map[key]*socket{}, tried: map[key]bool{}}
}

// Open listens on a port of the host, so that its being taken is known before
// anything is written down.
func (s *Set) Open(p network.Publish) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key{p.Proto, p.Host.String()}
	if s.sockets[k] != nil {
		return nil
	}
	f, err := listen(p)
	if err != nil {
		return err
	}
	s.sockets[k], s.tried[k] = &socket{file: f}, true
	return nil
}

// listen opens a socket and gives its descriptor.
func listen(p network.Publish) (*os.File, error) {
	var c interface {
		File() (*os.File, error)
		Close() error
	}
	var err error
	if p.Proto == "udp" {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(p.Host))
	} else {
		c, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(p.Host))
	}
	if err != nil {
		e := fault.New(fault.Busy, "publish", p.String(), "the host's port cannot be had: %v", err)
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			return nil, e.WithRemedy("choose another port; ss -lnp shows who has this one")
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			return nil, e.WithRemedy("%s is no address of this host", p.Host.Addr())
		case errors.Is(err, syscall.EACCES):
			return nil, e.WithRemedy("ports below net.ipv4.ip_unprivileged_port_start need root; choose a higher one")
		}
		return nil, e
	}
	f, err := c.File()
	_ = c.Close()
	if err != nil {
		return nil, fault.From(err, "publish", p.String())
	}
	return f, nil
}

// Settle closes what no record asks for, opens what one does, and hands the
// sockets that the worker does not have to it.
func (s *Set) Settle(ctx context.Context) {
	type want struct {
		mux string
		p   network.Publish
	}
	wanted := map[key]want{}
	s.controller.Snapshot(func(st *network.State) {
		for _, b := range st.Branes {
			root, ok := st.Root(b.Network)
			if !ok || !root.Started {
				continue
			}
			for _, p := range b.Publish {
				wanted[key{p.Proto, p.Host.String()}] = want{root.Definition.Name, p}
			}
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, sock := range s.sockets {
		w, ok := wanted[k]
		if !ok && !s.tried[k] || ok && sock.id != 0 && sock.id != w.p.ID {
			_ = sock.file.Close()
			delete(s.sockets, k)
		}
		delete(s.tried, k)
	}
	for k, w := range wanted {
		sock := s.sockets[k]
		if sock == nil {
			f, err := listen(w.p)
			if err != nil {
				s.log.Warn("published port lost", "port", w.p.String(), "err", err)
				continue
			}
			sock = &socket{file: f}
			s.sockets[k] = sock
		}
		sock.id = w.p.ID
		if sock.handed {
			continue
		}
		if err := s.worker.Forward(ctx, w.mux, w.p.ID, w.p.Proto, int(sock.file.Fd())); err != nil {
			s.log.Warn("published port not handed over", "port", w.p.String(), "err", err)
			continue
		}
		sock.handed = true
	}
}

// WorkerGone notes that the next worker has none of the sockets.
func (s *Set) WorkerGone() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sock := range s.sockets {
		sock.handed = false
	}
}

// Close stops listening.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, sock := range s.sockets {
		_ = sock.file.Close()
		delete(s.sockets, k)
	}
}
