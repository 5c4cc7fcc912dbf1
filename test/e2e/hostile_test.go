package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"brane/client"
	"brane/frame"
)

// seed is printed, and taken from BRANE_SEED when that is set.
func seed(t testing.TB) *rand.Rand {
	n := uint64(time.Now().UnixNano())
	if s := os.Getenv("BRANE_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		n = v
	}
	t.Logf("BRANE_SEED=%d", n)
	return rand.New(rand.NewPCG(n, 0))
}

// sample is n, or the full count of a torture run.
func sample(n, full int) int {
	if os.Getenv("BRANE_TORTURE") != "" {
		return full
	}
	return n
}

// scene opens attacker, victim and spectator on the network office.
func (w *world) scene() *scene {
	w.t.Helper()
	w.ok("up", w.file("office.xml", officeXML))
	c := &scene{rng: seed(w.t)}
	c.a, c.v, c.s = w.open(client.OpenRequest{Device: "office/a"}), w.open(client.OpenRequest{Device: "office/v"}), w.open(client.OpenRequest{Device: "office/s"})
	c.gw = frame.DeriveMAC("office", "gateway")
	return c
}

// port shows an open port of the raw kind.
func (w *world) port(id uint64) client.Port {
	w.t.Helper()
	var list []client.Port
	if err := json.Unmarshal([]byte(w.ok("device", "list", "-o", "json")), &list); err != nil {
		w.t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(p client.Port) bool { return p.ID == id })
	if i < 0 {
		w.t.Fatalf("port %d is not listed", id)
	}
	return list[i]
}

func sum(m map[string]uint64) (n uint64) {
	for _, x := range m {
		n += x
	}
	return n
}

// quiet sends a frame that must arrive at each of the ports, and says which of
// the hostile frames sent before arrived too.
func (c *scene) quiet(hostile map[string]bool, at ...*tap) (arrived [][]byte) {
	for _, p := range at {
		word := fmt.Sprint("twin", c.rng.Uint64())
		c.a.send(udp(c.a, p, 7, word))
		got := p.next(soon, func(q *frame.Packet) bool {
			if bytes.Contains(q.Frame, []byte(mark)) || hostile[string(q.Frame)] || q.Src != c.gw && q.Src != c.a.mac() {
				arrived = append(arrived, bytes.Clone(q.Frame))
			}
			return bytes.Contains(q.Frame, []byte(word))
		})
		if got == nil {
			c.a.t.Error("a frame that is allowed did not arrive")
		}
	}
	return arrived
}

func set(frames [][]byte) map[string]bool {
	m := make(map[string]bool, len(frames))
	for _, b := range frames {
		m[string(b)] = true
	}
	return m
}

// reasons counts the refusals that why lists, by reason, of one device.
func (w *world) reasons(device string) map[string]int {
	w.t.Helper()
	var list []client.Drop
	if err := json.Unmarshal([]byte(w.ok("why", "-o", "json")), &list); err != nil {
		w.t.Fatal(err)
	}
	out := map[string]int{}
	for _, d := range list {
		if d.Device == device {
			out[d.Reason]++
		}
	}
	return out
}

// TestHostileFrames: of every kind of hostile frame none arrives, each is
// counted once with its reason, and why names it; an honest frame arrives after each kind.
func TestHostileFrames(t *testing.T) {
	as(t, func(w *world) {
		c := w.scene()
		before, named := w.port(c.a.reply.Port).From, map[string]int{}
		total := 0
		for _, x := range c.all() {
			for _, b := range x.frames {
				c.a.send(b)
			}
			total += len(x.frames)
			if leaks := c.quiet(set(x.frames), c.v, c.s); len(leaks) > 0 {
				w.t.Errorf("%s: %d arrived, the first: %x", x, len(leaks), leaks[0])
			}
			after := w.port(c.a.reply.Port).From
			var refused uint64
			for _, r := range x.reasons {
				refused += after[r] - before[r]
				if after[r] > before[r] {
					named[r]++
				}
			}
			if refused != uint64(len(x.frames)) {
				w.t.Errorf("%s: %d refused for %v; before %v, after %v", x, refused, x.reasons, before, after)
			}
			if got, want := sum(after)-sum(before), uint64(len(x.frames)+2); got != want {
				w.t.Errorf("%s: %d verdicts on %d frames", x, got, want)
			}
			why := w.reasons("office/a")
			if !slices.ContainsFunc(x.reasons, func(r string) bool { return why[r] > 0 }) {
				w.t.Errorf("%s: why names none of %v: %v", x, x.reasons, why)
			}
			before = after
		}
		for _, r := range []string{"source-mac", "source-ip", "arp", "nd", "router-advert", "dhcp-server", "vlan", "llc", "ethertype", "link-local", "runt", "malformed", "undecidable", "oversize"} {
			if named[r] == 0 {
				w.t.Errorf("nothing was refused for %s", r)
			}
		}
		w.t.Logf("%d hostile frames", total)
	})
}
