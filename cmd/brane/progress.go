package main

import (
	"fmt"
	"os"
	"time"

	"brane/internal/linux/tty"
)

// patience is how long a person waits without being told for what.
const patience = time.Second

// waiting tells a person what is waited for, once that takes over a second, on
// a line that is wiped again by the function it returns. Whoever is no terminal
// is told nothing.
func (a *app) waiting(what string) (end func()) {
	f, ok := a.err.(*os.File)
	if !ok || !tty.Is(f) {
		return func() {}
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		begun, shown := time.Now(), false
		t := time.NewTicker(patience)
		defer t.Stop()
		for {
			select {
			case <-stop:
				if shown {
					fmt.Fprint(f, "\r\x1b[K")
				}
				return
			case <-t.C:
				shown = true
				fmt.Fprintf(f, "\r\x1b[K%s: %d s", what, int(time.Since(begun).Seconds()))
			}
		}
	}()
	return func() { close(stop); <-done }
}
