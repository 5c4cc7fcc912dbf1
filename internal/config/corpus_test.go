package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"brane/internal/config"
	"brane/internal/fault"
	"brane/internal/network"
)

func parseFile(t *testing.T, path string) (network.Definition, []config.Warning, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	return config.Parse(f, filepath.Base(path))
}

// again prints a definition and reads it back.
func again(t testing.TB, d network.Definition) network.Definition {
	t.Helper()
	text, err := config.Format(d)
	if err != nil {
		t.Fatal(err)
	}
	back, _, err := config.Parse(strings.NewReader(string(text)), "printed.xml")
	if err != nil {
		t.Fatalf("what was printed cannot be read: %v\n%s", err, text)
	}
	return back
}

// What becomes of libvirt's own test networks: run, or refused at a place for a reason.
func TestCorpus(t *testing.T) {
	table := map[string]string{ // "" runs
		"default.xml":                      "",
		"leasetime-infinite.xml":           "",
		"leasetime-seconds.xml":            "",
		"nat-network.xml":                  "",
		"nat-network-mtu.xml":              "",
		"nat-network-dns-hosts.xml":        "",
		"nat-network-forward-nat-ipv6.xml": "",
		"nat-network-dns-txt-record.xml":   ":7:5: <txt>: not supported: TXT records",
		"netboot-proxy-network.xml":        ":10:7: <bootp>: not supported: there is no boot server",
		"routed-network.xml":               ":6:3: <forward>: mode route needs a route of the host",
		"open-network.xml":                 ":6:3: <forward>: mode open needs a route of the host",
		"host-bridge-net.xml":              ":4:3: <forward>: mode bridge puts machines on a network of the host",
		"isolated-ports.xml":               ":5:3: <forward>: mode bridge",
		"openvswitch-net.xml":              ":4:3: <forward>: mode bridge",
		"8021Qbh-net.xml":                  ":4:3: <forward>: mode private",
		"passthrough-pf.xml":               ":4:3: <forward>: mode passthrough",
		"hostdev-pf-driver-model.xml":      ":4:3: <forward>: mode hostdev",
	}
	files, err := filepath.Glob("testdata/libvirt/*.xml")
	if err != nil || len(files) != len(table) {
		t.Fatalf("%d files for %d rows of the table: %v", len(files), len(table), err)
	}
	for _, path := range files {
		name := filepath.Base(path)
		want, known := table[name]
		d, _, err := parseFile(t, path)
		switch {
		case !known:
			t.Errorf("%s is not in the table", name)
		case want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case want == "":
			if back := again(t, d); !reflect.DeepEqual(back, d) {
				t.Errorf("%s: printed and read again\n%+v\nwant\n%+v", name, back, d)
			}
		case err == nil || !strings.Contains(err.Error(), name+want):
			t.Errorf("%s: %v, want %s", name, err, want)
		case fault.KindOf(err) != fault.Unsupported:
			t.Errorf("%s: kind %s", name, fault.KindOf(err))
		}
	}
}

func TestCorpusInDetail(t *testing.T) {
	d, warnings, err := parseFile(t, "testdata/libvirt/nat-network-mtu.xml")
	if err != nil {
		t.Fatal(err)
	}
	if d.MTU != 7000 || d.Forward != network.NAT || d.Device != "eth1" || len(d.Subnets) != 5 || len(d.Subnets[0].Hosts) != 2 {
		t.Errorf("%+v", d)
	}
	if got := d.Subnets[4].Gateway.String(); got != "10.24.10.1/8" {
		t.Errorf("subnet without a mask: %s", got)
	}
	var lines []string
	for _, w := range warnings {
		lines = append(lines, w.String())
	}
	if got := strings.Join(lines, "\n"); !strings.Contains(got, ":6:3: <forward> dev is not enforced") || !strings.Contains(got, ":4:3: <bridge> name has no effect") {
		t.Errorf("warnings\n%s", got)
	}

	d, _, err = parseFile(t, "testdata/libvirt/leasetime-infinite.xml")
	if err != nil || d.Subnets[0].Ranges[0].Lease != network.Never || d.Subnets[0].Hosts[1].Lease != network.Never {
		t.Errorf("%v %+v", err, d)
	}
}

// The files that ship with Brane and, where it is installed, the network that
// Debian's libvirt ships.
func TestShippedFiles(t *testing.T) {
	d, warnings, err := parseFile(t, "../../examples/office.xml")
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	if d.Name != "office" || d.Domain != "office" || len(d.Subnets) != 2 || d.Hosts[0].Names[0] != "printer" || d.Subnets[0].Hosts[0].Name != "files" {
		t.Errorf("%+v", d)
	}
	if back := again(t, d); !reflect.DeepEqual(back, d) {
		t.Errorf("printed and read again: %+v", back)
	}
	const shipped = "/usr/share/libvirt/networks/default.xml"
	if _, err := os.Stat(shipped); err != nil {
		t.Logf("%s is not installed; testdata has a copy", shipped)
		return
	}
	if d, _, err := parseFile(t, shipped); err != nil || d.Name != "default" {
		t.Errorf("%s: %v %+v", shipped, err, d)
	}
}
