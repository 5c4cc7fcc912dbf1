package netlink

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"brane/internal/fault"
)

// Watcher tells that addresses, routes or interfaces of a network namespace
// changed. It says that something did, not what: the receiver lists again, so
// a notice that the kernel dropped (ENOBUFS) is a change like any other and
// nothing can be lost.
type Watcher struct {
	file *os.File
	c    chan struct{}
	done chan struct{}
}

// Watch starts a Watcher in the network namespace of the calling thread. What
// changes after Watch returns is told.
func Watch() (*Watcher, error) {
	w, err := subscribe()
	if err != nil {
		return nil, err
	}
	go w.run()
	return w, nil
}

func subscribe() (*Watcher, error) {
	const op = "watch addresses and routes"
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, netlinkFault(op, "", err)
	}
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE |
		unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV6_ROUTE)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd)
		return nil, netlinkFault(op, "", err)
	}
	file := os.NewFile(uintptr(fd), "netlink")
	if file == nil {
		return nil, fault.New(fault.Internal, op, "", "%d is no descriptor", fd)
	}
	return &Watcher{file: file, c: make(chan struct{}, 1), done: make(chan struct{})}, nil
}

// WatchAt starts a Watcher in the namespace that netns is open on.
func WatchAt(netns int) (*Watcher, error) {
	var w *Watcher
	err := In(netns, func() (err error) {
		w, err = Watch()
		return err
	})
	return w, err
}

// Changes has a value when something changed since the last one was taken. It
// is closed by Close.
func (w *Watcher) Changes() <-chan struct{} { return w.c }

// Close ends the watcher and waits for its goroutine.
func (w *Watcher) Close() error {
	err := w.file.Close()
	<-w.done
	return err
}

func (w *Watcher) run() {
	defer close(w.done)
	defer close(w.c)
	buf := make([]byte, 8192) // what does not fit is cut off: it is not read anyway
	for {
		_, err := w.file.Read(buf)
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return // only Close ends a netlink socket
		}
		select {
		case w.c <- struct{}{}:
		default: // one is waiting already
		}
	}
}
