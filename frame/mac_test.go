package frame

import (
	"encoding/json"
	"net"
	"strings"
	"testing"
)

func TestParseMAC(t *testing.T) {
	for _, c := range []struct {
		in string
		ok bool
	}{
		{"02:00:5e:10:00:01", true},
		{"FF:ff:Ff:00:aA:Bb", true},
		{"", false},
		{"02:00:5e:10:00:1", false},
		{"02-00-5e-10-00-01", false},
		{"0200.5e10.0001", false},
		{"02005e100001", false},
		{"02:00:5e:10:00:0g", false},
		{"02:00:5e:10:00:01 ", false},
		{" 2:00:5e:10:00:01", false},
		{"02:00:5e:10:00:01:02", false},
	} {
		m, err := ParseMAC(c.in)
		if (err == nil) != c.ok {
			t.Errorf("ParseMAC(%q) = %v, %v; want ok %v", c.in, m, err, c.ok)
		}
		if err != nil && !m.IsZero() {
			t.Errorf("ParseMAC(%q) gave %v with its error", c.in, m)
		}
	}
}

func TestMACText(t *testing.T) {
	want := MAC{2, 0, 0x5e, 0x10, 0xab, 1}
	b, err := json.Marshal(map[string]MAC{"mac": want})
	if err != nil || string(b) != `{"mac":"02:00:5e:10:ab:01"}` {
		t.Fatalf("marshal: %s, %v", b, err)
	}
	got := map[string]MAC{}
	if err := json.Unmarshal(b, &got); err != nil || got["mac"] != want {
		t.Fatalf("unmarshal: %v, %v", got, err)
	}
	keep := want
	if err := keep.UnmarshalText([]byte("no address")); err == nil || keep != want {
		t.Fatalf("a wrong text gave %v, %v", keep, err)
	}
}

func TestMACKinds(t *testing.T) {
	for _, c := range []struct {
		mac                                     string
		multicast, broadcast, local, link, zero bool
	}{
		{mac: "ff:ff:ff:ff:ff:ff", multicast: true, broadcast: true, local: true},
		{mac: "01:80:c2:00:00:00", multicast: true, link: true},
		{mac: "01:80:c2:00:00:0f", multicast: true, link: true},
		{mac: "01:80:c2:00:00:10", multicast: true},
		{mac: "33:33:00:00:00:01", multicast: true, local: true},
		{mac: "52:54:00:12:34:56", local: true},
		{mac: "00:1b:21:00:00:01"},
		{mac: "00:00:00:00:00:00", zero: true},
	} {
		m, err := ParseMAC(c.mac)
		if err != nil {
			t.Fatal(err)
		}
		if m.IsMulticast() != c.multicast || m.IsBroadcast() != c.broadcast || m.IsLocal() != c.local ||
			m.IsLinkLocal() != c.link || m.IsZero() != c.zero {
			t.Errorf("%s: multicast %v broadcast %v local %v link-local %v zero %v", c.mac,
				m.IsMulticast(), m.IsBroadcast(), m.IsLocal(), m.IsLinkLocal(), m.IsZero())
		}
		if m.String() != c.mac {
			t.Errorf("String() = %s, want %s", m, c.mac)
		}
	}
}

// The derived addresses are promised to stay: they are in leases and caches.
func TestDeriveMAC(t *testing.T) {
	if got := DeriveMAC("office", "web").String(); got != "32:f2:c8:b0:b1:63" {
		t.Errorf("DeriveMAC(office, web) = %s: the derivation changed", got)
	}
	seen := map[MAC]string{}
	for _, network := range []string{"", "a", "ab", "office", "lab"} {
		for _, name := range []string{"", "b", "c", "bc", "web", "db"} {
			m := DeriveMAC(network, name)
			if m.IsMulticast() || !m.IsLocal() || m.IsZero() {
				t.Errorf("DeriveMAC(%q, %q) = %s is no local unicast address", network, name, m)
			}
			if old, dup := seen[m]; dup {
				t.Errorf("%q/%q and %s have the same address", network, name, old)
			}
			seen[m] = network + "/" + name
		}
	}
}

// What ParseMAC takes the standard library takes too, with the same address,
// and it comes back as it was written but for case.
func FuzzParseMAC(f *testing.F) {
	f.Add("02:00:5e:10:00:01")
	f.Add("FF-ff-Ff-00-aA-Bb")
	f.Add("0200.5e10.0001")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMAC(s)
		std, stdErr := net.ParseMAC(s)
		if strict := stdErr == nil && len(std) == len(m) && len(s) == 17 && s[2] == ':'; strict != (err == nil) {
			t.Fatalf("ParseMAC(%q) = %v, %v; the standard library %v, %v", s, m, err, std, stdErr)
		}
		if err == nil && (string(m[:]) != string(std) || m.String() != strings.ToLower(s)) {
			t.Fatalf("ParseMAC(%q) = %v", s, m)
		}
	})
}
