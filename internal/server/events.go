package server

import (
	"encoding/json"
	"fmt"
	"io"
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
				_ = write(w, "overflow", client.Event{Time: time.Now().UTC(), Kind: "overflow", Action: "overflow"})
				return
			}
			if err := write(w, "", e); err != nil {
				return
			}
			f.Flush()
		}
	}
}

// write sends one server-sent event; the name is left out where it is none.
func write(w io.Writer, name string, e client.Event) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if name != "" {
		name = "event: " + name + "\n"
	}
	_, err = fmt.Fprintf(w, "%sdata: %s\n\n", name, b)
	return err
}
