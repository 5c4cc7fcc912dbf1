package server

import (
	"errors"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"brane/internal/datapath"
	"brane/internal/fault"
	"brane/internal/linux/tap"
	"brane/internal/linux/unixmsg"
)

// maxCallers connections of one account may wait at a door: those of the device
// socket before their request, those of the API in all.
const maxCallers = 4096

// maxPause is the longest wait after a connection that could not be accepted.
const maxPause = time.Second

// accept is l.Accept, but goes on where the machine lacks something for a
// while: who floods a door must not end the daemon.
func accept(l net.Listener) (net.Conn, error) {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, maxPause) {
		c, err := l.Accept()
		if err == nil || !passing(err) {
			return c, err
		}
		<-time.After(pause)
	}
}

// passing tells the errors of accept(2) that end by themselves.
func passing(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// callers counts connections by account.
type callers struct {
	mu sync.Mutex
	n  map[uint32]int
}

// enter takes a place; it fails with kind Limit when there is none.
func (c *callers) enter(uid uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n[uid] >= maxCallers {
		return fault.New(fault.Limit, "connect", "", "uid %d has %d connections that wait", uid, maxCallers).
			WithRemedy("close some, or try again")
	}
	if c.n == nil {
		c.n = map[uint32]int{}
	}
	c.n[uid]++
	return nil
}

// leave gives a place back.
func (c *callers) leave(uid uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n[uid]--; c.n[uid] <= 0 {
		delete(c.n, uid)
	}
}

// checkEnd refuses a descriptor that is not what its kind says, before anything
// is made for it. A TAP is put into the state that the datapath expects.
func checkEnd(kind datapath.Kind, fd int) error {
	domains, typ := []int{syscall.AF_UNIX, syscall.AF_INET, syscall.AF_INET6}, syscall.SOCK_STREAM
	switch kind {
	case datapath.TAP:
		_, err := tap.Verify(fd)
		return err
	case datapath.Packet:
		return unixmsg.CheckSocket(fd, syscall.AF_PACKET, syscall.SOCK_RAW)
	case datapath.Dgram:
		typ = syscall.SOCK_DGRAM
	}
	i, err := unixmsg.Describe(fd)
	if err != nil {
		return err
	}
	if i.Kind != unixmsg.SocketFD || !slices.Contains(domains, i.Domain) || i.Type != typ || i.Listening {
		return fault.New(fault.Invalid, "check descriptor", "", "kind %s comes with a connected socket, not with: %s", kind, i)
	}
	return nil
}
