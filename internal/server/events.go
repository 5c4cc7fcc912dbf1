package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"brane/client"
	"brane/internal/fault"
)

// maxPending events wait for one reader; a slower one is cut off with a notice.
const maxPending = 256

// Events fans what happens out to who listens.
type Events struct {
	mu   sync.Mutex
	subs map[chan client.Event]bool
}

// NewEvents makes an empty fan.
func NewEvents() *Events { return &Events{subs: map[chan client.Event]bool{}} }

// Tell sends one event to all; nobody is waited for.
func (v *Events) Tell(kind, subject, action, detail string) {
	e := client.Event{Time: time.Now().UTC(), Kind: kind, Subject: subject, Action: action, Detail: detail}
	v.mu.Lock()
	defer v.mu.Unlock()
	for c := range v.subs {
		select {
		case c <- e:
		default:
			delete(v.subs, c)
			close(c)
		}
	}
}

func (v *Events) serve(w http.ResponseWriter, r *http.Request) {
	f, ok := w.(http.Flusher)
	if !ok {
		reply(w, nil, fault.New(fault.Internal, "events", "", "the connection cannot be flushed"))
		return
	}
	c := make(chan client.Event, maxPending)
	v.mu.Lock()
	v.subs[c] = true
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		delete(v.subs, c)
		v.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	f.Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case e, ok := <-c:
			if !ok {
				_, _ = fmt.Fprint(w, "event: overflow\ndata: {\"kind\":\"overflow\"}\n\n")
				return
			}
			b, err := json.Marshal(e)
			if err != nil {
				return
			}
			if _, err := fmt.Fprintf(w, "data: %s\n\n", b); err != nil {
				return
			}
			f.Flush()
		}
	}
}
