package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"brane/client"
	"brane/filter"
	"brane/frame"
	"brane/internal/broker"
	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/linux/peer"
	"brane/internal/linux/unixmsg"
	"brane/internal/network"
	"brane/internal/plan"
	"brane/internal/store"
)

// life is the sign of life of a port's client: the connection that it was
// opened on, kept here while the worker has another descriptor of the port.
type life struct {
	network, brane string
	netns          uint64 // inode of the network namespace of the brane
	conn           *unixmsg.Socket
	ours           bool // closed by us, so that the client comes back
}

// ServeDevices answers the device socket until the listener is closed.
func (s *Server) ServeDevices(l net.Listener) error {
	for {
		c, err := accept(l)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fault.New(fault.Internal, "accept", l.Addr().String(), "%v", err)
		}
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			s.device(c.(*net.UnixConn))
		}()
	}
}

// device serves one connection from its request to the end of its port.
func (s *Server) device(c *net.UnixConn) {
	sock := unixmsg.NewSocket(c)
	p, err := s.classify(c)
	if err == nil {
		err = s.admit(p, "open device")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var m *unixmsg.Message
	if err == nil {
		m, err = s.request(ctx, sock, p.UID)
	}
	if err != nil {
		refuse(ctx, sock, err)
		return
	}
	defer m.CloseFDs()
	var r client.OpenRequest
	if err := json.Unmarshal(m.Payload, &r); err != nil {
		refuse(ctx, sock, fault.New(fault.Invalid, "open device", "", "the request is no JSON object: %v", err))
		return
	}
	switch r.Op {
	case "open":
		err = s.open(ctx, sock, p, r, m)
	case "namespaces":
		err = s.namespaces(ctx, sock)
	case "veth":
		err = s.veth(ctx, sock, r, m)
	case "replace":
		err = s.replace(ctx, sock)
	default:
		err = fault.New(fault.Invalid, "open device", "", "op is open, namespaces, veth or replace, not %q", r.Op)
	}
	if err != nil {
		refuse(ctx, sock, err)
	}
}

// request waits for the one message of a connection, for a place in the queue of its account.
func (s *Server) request(ctx context.Context, sock *unixmsg.Socket, uid uint32) (*unixmsg.Message, error) {
	if err := s.waiting.enter(uid); err != nil {
		return nil, err
	}
	defer s.waiting.leave(uid)
	return sock.Recv(ctx, make([]byte, 64<<10))
}

func refuse(ctx context.Context, sock *unixmsg.Socket, err error) {
	if !errors.Is(err, io.EOF) {
		answer(ctx, sock, client.OpenReply{Error: fault.From(err, "open device", "")}, nil)
	}
	_ = sock.Close()
}

func answer(ctx context.Context, sock *unixmsg.Socket, r client.OpenReply, fds []int) {
	if b, err := json.Marshal(r); err == nil {
		_ = sock.Send(ctx, b, fds)
	}
}

// kindOf checks the form of the client's end and which descriptor it needs.
func kindOf(r client.OpenRequest, fds int) (datapath.Kind, error) {
	k := datapath.Kind(r.Kind)
	want := 1
	switch k {
	case "", datapath.SeqPacket:
		k, want = datapath.SeqPacket, 0
		if r.Vnet {
			k = datapath.SeqVnet
		}
	case datapath.TAP, datapath.Packet, datapath.Stream, datapath.Dgram:
	default:
		return "", fault.New(fault.Invalid, "open device", r.Device, "kind %q is none of tap, packet, stream, dgram, seqpacket", r.Kind)
	}
	if fds != want && (k != datapath.TAP || fds != 2) {
		return "", fault.New(fault.Invalid, "open device", r.Device, "kind %s comes with %d descriptors, not %d", k, want, fds)
	}
	return k, nil
}

// open makes a port of the connection.
func (s *Server) open(ctx context.Context, sock *unixmsg.Socket, p peer.Peer, r client.OpenRequest, m *unixmsg.Message) error {
	kind, err := kindOf(r, len(m.FDs))
	if err != nil {
		return err
	}
	if len(m.FDs) > 0 {
		if err := checkEnd(kind, m.FDs[0]); err != nil {
			return err
		}
	}
	netName, iface, err := network.SplitDevice(r.Device)
	if err != nil {
		return err
	}
	o := network.Open{Network: netName, Interface: iface, Kind: kind, Filter: r.Filter, Brane: r.Brane}
	if r.Filter != "" {
		if _, err := filter.Parse(r.Filter); err != nil {
			return fault.New(fault.Invalid, "set filter", r.Filter, "%v", err)
		}
	}
	if r.MAC != "" {
		if o.MAC, err = frame.ParseMAC(r.MAC); err != nil {
			return fault.New(fault.Invalid, "open device", r.Device, "%v", err)
		}
	}
	if o.Rules, err = rules(some(r.Send), some(r.Receive), nil); err != nil {
		return err
	}
	if err := s.ensure(ctx, netName); err != nil {
		return err
	}
	by := store.Principal("uid:" + strconv.FormatUint(uint64(p.UID), 10))
	port, lease, rev, err := s.Service.Attach(by, o)
	if err != nil {
		return err
	}
	s.remember(port)
	if err := s.settle(ctx, rev); err != nil {
		s.detach(port.ID)
		return err
	}
	out := client.OpenReply{Port: uint64(port.ID), MAC: port.MAC.String(), MTU: port.MTU}
	s.Controller.Snapshot(func(st *network.State) {
		if root, ok := st.Root(netName); ok {
			out.Addresses = prefixes(lease.Addrs, root.Definition.Subnets)
			for _, n := range root.Definition.Subnets {
				out.Gateways = append(out.Gateways, n.Gateway.Addr())
			}
		}
	})
	return s.hand(ctx, sock, port, kind, out, m)
}

func some(e string) []string {
	if e == "" {
		return nil
	}
	return []string{e}
}

// hand gives the port's descriptor to the worker: the one that came with the
// request, or the connection itself, on which the worker then answers.
func (s *Server) hand(ctx context.Context, sock *unixmsg.Socket, port network.Port, kind datapath.Kind, out client.OpenReply, m *unixmsg.Message) error {
	if kind == datapath.SeqPacket || kind == datapath.SeqVnet {
		return s.handConnection(ctx, sock, port, kind, out)
	}
	fd := m.FDs[0]
	var netns uint64
	if len(m.FDs) == 2 {
		netns = inode(m.FDs[1])
		unixmsg.CloseFDs(m.FDs[1:])
	}
	m.FDs = nil
	// Known before the worker has it: whatever ends the port from here on, the
	// worker's death too, ends the connection, and the client comes back.
	l := &life{network: port.Network, brane: port.Brane, netns: netns, conn: sock}
	s.mu.Lock()
	if s.lives == nil {
		s.lives = map[plan.PortID]*life{}
	}
	s.lives[port.ID] = l
	s.mu.Unlock()
	if err := s.Worker.Attach(ctx, port.Network, port.ID, datapath.Endpoint{Kind: kind, FD: fd}); err != nil {
		s.mu.Lock()
		delete(s.lives, port.ID)
		s.mu.Unlock()
		s.detach(port.ID)
		return err
	}
	s.arrived(port.Brane)
	answer(ctx, sock, out, nil)
	s.watch(port, l)
	return nil
}

// handConnection makes the connection the port: the answer is the worker's
// greeting, so that no frame can be sent to the client before it, nor be lost after it.
func (s *Server) handConnection(ctx context.Context, sock *unixmsg.Socket, port network.Port, kind datapath.Kind, out client.OpenReply) error {
	greeting, err := json.Marshal(out)
	if err != nil {
		return fault.From(err, "open device", port.Device())
	}
	fd, err := unixmsg.DupFD(sock.Conn())
	if err == nil {
		err = s.Worker.Attach(ctx, port.Network, port.ID, datapath.Endpoint{Kind: kind, FD: fd, Greeting: greeting})
	}
	if err != nil {
		s.detach(port.ID)
		return err
	}
	return sock.Close()
}

// watch waits for the end of the client, or of the port.
func (s *Server) watch(port network.Port, l *life) {
	for {
		m, err := l.conn.Recv(context.Background(), make([]byte, 4096))
		if err != nil {
			break
		}
		m.CloseFDs()
	}
	_ = l.conn.Close()
	s.mu.Lock()
	ours := l.ours
	delete(s.lives, port.ID)
	s.mu.Unlock()
	if !ours && port.Brane != "" {
		s.drop(port.ID, s.Service.Abandon)
		return
	}
	s.detach(port.ID)
	if port.Brane != "" {
		s.expect(port.Brane)
	}
}

// detach takes a port out of the store; what the worker has of it closes with the plan.
func (s *Server) detach(id plan.PortID) { s.drop(id, s.Service.Detach) }

func (s *Server) drop(id plan.PortID, how func(plan.PortID) (store.Revision, error)) {
	rev, err := how(id)
	if err != nil {
		s.Log.Error("port not closed", "port", id, "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = s.settle(ctx, rev)
}

// Closed is told by the worker when a port's client is gone.
func (s *Server) Closed(id plan.PortID) {
	s.mu.Lock()
	l := s.lives[id]
	if l != nil {
		l.ours = true
	}
	s.mu.Unlock()
	if l != nil {
		_ = l.conn.Close() // its watcher does the rest
		return
	}
	s.detach(id)
}

// WorkerGone closes every port of a worker that died; the clients come back.
func (s *Server) WorkerGone() {
	s.mu.Lock()
	ids := map[plan.PortID]bool{}
	for id, l := range s.lives {
		ids[id] = true
		l.ours = true
		_ = l.conn.Close()
	}
	s.mu.Unlock()
	var rest []plan.PortID
	s.Controller.Snapshot(func(st *network.State) {
		for id := range st.Ports {
			if !ids[id] {
				rest = append(rest, id)
			}
		}
	})
	for _, id := range rest {
		if _, err := s.Service.Detach(id); err != nil {
			s.Log.Error("port not closed", "port", id, "err", err)
		}
	}
}

// expect keeps a brane for a while for a runner that is to come (back).
func (s *Server) expect(brane string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grace == nil {
		s.grace = map[string]*time.Timer{}
	}
	if t := s.grace[brane]; t != nil {
		t.Stop()
	}
	s.grace[brane] = time.AfterFunc(comeBack, func() { s.forget(brane) })
}

// Expect is expect for every brane that the store remembers, at the start.
func (s *Server) Expect(branes []string) {
	for _, b := range branes {
		s.expect(b)
	}
}

// arrived ends the wait for a brane's runner.
func (s *Server) arrived(brane string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.grace[brane]; t != nil {
		t.Stop()
		delete(s.grace, brane)
	}
}

// forget deletes a brane whose runner is gone for good.
func (s *Server) forget(brane string) {
	s.arrived(brane)
	rev, err := s.Service.DeleteBrane("system", brane)
	if fault.KindOf(err) == fault.NotFound {
		return
	}
	if err != nil {
		s.Log.Error("brane not deleted", "brane", brane, "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = s.settle(ctx, rev)
}

// namespaces hands the outer namespaces to a runner.
func (s *Server) namespaces(ctx context.Context, sock *unixmsg.Socket) error {
	ns, err := s.Broker.Namespaces(ctx)
	if err != nil {
		return err
	}
	defer ns.Close()
	var out client.OpenReply
	var fds []int
	for _, f := range []struct {
		kind string
		file *os.File
	}{{"user", ns.User}, {"mnt", ns.Mount}, {"net", ns.Net}} {
		if f.file != nil {
			out.Files, fds = append(out.Files, f.kind), append(fds, int(f.file.Fd()))
		}
	}
	answer(ctx, sock, out, fds)
	return sock.Close()
}

// replace gives the doors to another daemon and ends this one. Who knocks in
// between waits in the sockets' queues.
func (s *Server) replace(ctx context.Context, sock *unixmsg.Socket) error {
	names, fds, err := s.Handover()
	if err != nil {
		return err
	}
	answer(ctx, sock, client.OpenReply{Files: names}, fds)
	unixmsg.CloseFDs(fds)
	_ = sock.Close()
	s.Shutdown()
	return nil
}

// veth makes the pair that stands in for a TAP where none may be opened.
func (s *Server) veth(ctx context.Context, sock *unixmsg.Socket, r client.OpenRequest, m *unixmsg.Message) error {
	if len(m.FDs) != 1 {
		return fault.New(fault.Invalid, "make veth", "", "one descriptor of a network namespace comes with it, not %d", len(m.FDs))
	}
	mac, err := frame.ParseMAC(r.MAC)
	if err != nil {
		return fault.New(fault.Invalid, "make veth", r.MAC, "%v", err)
	}
	netns := os.NewFile(uintptr(m.FDs[0]), "network namespace of a brane")
	m.FDs = nil
	defer func() { _ = netns.Close() }()
	end, err := s.Broker.Veth(ctx, netns, broker.Veth{MAC: mac, MTU: r.MTU})
	if err != nil {
		return err
	}
	defer func() { _ = end.Close() }()
	answer(ctx, sock, client.OpenReply{Files: []string{"packet"}}, []int{int(end.Fd())})
	return sock.Close()
}

// inode tells one namespace from another.
func inode(fd int) uint64 {
	var st syscall.Stat_t
	if syscall.Fstat(fd, &st) != nil {
		return 0
	}
	return st.Ino
}

// ServeSelf answers the one question from inside: who am I. It reads nothing.
func (s *Server) ServeSelf(l net.Listener) error {
	for {
		c, err := accept(l)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fault.New(fault.Internal, "accept", l.Addr().String(), "%v", err)
		}
		if p, err := s.classify(c); err == nil {
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			_ = json.NewEncoder(c).Encode(s.identity(p))
		}
		_ = c.Close()
	}
}

// Close ends the connections of all ports and waits for them.
func (s *Server) Close() {
	s.mu.Lock()
	for _, l := range s.lives {
		l.ours = true
		_ = l.conn.Close()
	}
	for _, t := range s.grace {
		t.Stop()
	}
	s.mu.Unlock()
}
