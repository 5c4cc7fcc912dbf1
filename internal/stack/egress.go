package stack

import (
	"brane/frame"
)

// Bounds of the queue of answers made within Deliver, in frames.
const (
	egressMax    = 1024
	egressPerMAC = 128
)

// later queues a copy of the frame for the egress goroutine. Over the bound it
// is dropped and counted: every frame queued here is an answer that its
// receiver can ask for again.
func (g *Gateway) later(to frame.MAC, buf []byte) {
	if !g.egress.push(to, append([]byte(nil), buf...)) {
		g.count.queueDrops.Add(1)
	}
}

// now hands a frame to the multiplexer from one of the gateway's own goroutines.
func (g *Gateway) now(_ frame.MAC, buf []byte) { g.out(buf) }

func (g *Gateway) drain() {
	for range g.egress.ready {
		for {
			buf, ok, closed := g.egress.pop()
			if closed {
				return
			}
			if !ok {
				break
			}
			g.out(buf)
		}
	}
}
