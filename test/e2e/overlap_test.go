package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brane/internal/linux/linuxtest"
)

// TestLaterOverlap: the host joins a network that a running one overlaps: the
// network is in trouble, says so, and takes no new branes until the host leaves.
func TestLaterOverlap(t *testing.T) {
	as(t, func(w *world) {
		w.ok("up", w.file("office.xml", officeXML))
		w.ok("run", "-n", "office", "--", "true")
		w.must("ip", "-n", w.host, "addr", "add", "10.20.0.77/24", "dev", "eth0")
		w.until("trouble", func() bool { return strings.Contains(w.ok("net", "list"), "in trouble") })
		w.refused("overlaps", "run", "-n", "office", "--", "true")
		w.must("ip", "-n", w.host, "addr", "del", "10.20.0.77/24", "dev", "eth0")
		w.until("end of the trouble", func() bool { return !strings.Contains(w.ok("net", "list"), "in trouble") })
		w.ok("run", "-n", "office", "--", "true")
	})
}

// TestDefaultMovesAside: the built-in network takes the first subnet of its
// list that the host does not use.
func TestDefaultMovesAside(t *testing.T) {
	as(t, func(w *world) {
		w.must("ip", "-n", w.host, "addr", "add", "192.168.122.9/24", "dev", "eth0")
		if got := w.ok("run", "--", "ip", "-4", "addr", "show", "eth0"); !strings.Contains(got, "192.168.123.") {
			w.t.Errorf("addresses: %s", got)
		}
	})
}

// TestLibvirtDefault: the network file that libvirt ships, as it is.
func TestLibvirtDefault(t *testing.T) {
	as(t, func(w *world) {
		text, err := os.ReadFile(filepath.Join(peers(w.t), "default.xml"))
		if err != nil {
			linuxtest.Missing(w.t, "libvirt's default.xml: %v", err)
		}
		w.ok("up", w.file("default.xml", string(text)))
		if got := w.ok("run", "--", "ip", "-4", "addr", "show", "eth0"); !strings.Contains(got, "192.168.122.") {
			w.t.Errorf("addresses: %s", got)
		}
	})
}
