package brane

import (
	"os"
	"testing"
	"time"

	"brane/internal/broker"
	"brane/internal/linux/unixmsg"
)

// BenchmarkRun is a whole run of true with a host that answers at once and
// keeps the port open a while longer, as the worker does: who closes it last
// waits for the kernel to take the interface away. Run it as an ordinary user
// for the rootless figure.
func BenchmarkRun(b *testing.B) {
	dir := b.TempDir()
	c, err := broker.Start(b.Context(), broker.Options{Setup: broker.Setup{Runtime: dir, UID: os.Getuid()}})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	outer, err := c.Namespaces(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer outer.Close()
	o := Outer{User: -1, Mnt: int(outer.Mount.Fd()), Net: int(outer.Net.Fd())}
	if outer.User != nil {
		o.User = int(outer.User.Fd())
	}
	s := Spec{Name: "web", Args: []string{"true"}, MAC: "02:00:00:00:00:01", Dir: "/"}
	_ = os.Setenv("PATH", "/usr/bin:/bin")
	h := &testHost{b: c, keep: true}
	for b.Loop() {
		// The kernel takes the last network namespace away in the background and
		// holds the lock of all interfaces meanwhile; that is not a run's cost.
		b.StopTimer()
		time.Sleep(100 * time.Millisecond)
		unixmsg.CloseFDs(h.copies)
		h.copies = nil
		b.StartTimer()
		if status, err := Run(b.Context(), o, s, h); err != nil || status != 0 {
			b.Fatal(status, err)
		}
	}
}
