package brane

import (
	"os"
	"testing"

	"brane/internal/broker"
)

// BenchmarkRun is a whole run of true with a host that answers at once. Run it
// as an ordinary user for the rootless figure.
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
	for b.Loop() {
		if status, err := Run(b.Context(), o, s, &testHost{b: c}); err != nil || status != 0 {
			b.Fatal(status, err)
		}
	}
}
