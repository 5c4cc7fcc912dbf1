package store

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCodec(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := &entry{Record: Record{
			Path:    rapid.StringMatching(`(/[a-z0-9.:@+%_-]{3,9}){1,4}`).Draw(t, "path"),
			Owner:   Principal(rapid.StringMatching(`[!-~]{1,20}`).Draw(t, "owner")),
			Created: Revision(rapid.Int64Range(1, 1<<62).Draw(t, "created")),
			Value:   own(rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "value")),
		}}
		e.Modified = e.Created + Revision(rapid.Int64Range(0, 1<<60).Draw(t, "later"))
		e.sum = sum(&e.Record)
		kept := e.encode()
		got, err := decode([]byte(e.Path), kept)
		if err != nil || got.Path != e.Path || got.Owner != e.Owner || got.Created != e.Created ||
			got.Modified != e.Modified || !bytes.Equal(got.Value, e.Value) || got.sum != e.sum {
			t.Fatalf("%+v comes back as %+v, %v", e, got, err)
		}
		bad := bytes.Clone(kept)
		bad[rapid.IntRange(0, len(bad)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
		if got, err = decode([]byte(e.Path), bad); err == nil {
			t.Fatalf("damaged %x is read as %+v", bad, got)
		}
		if got, err = decode([]byte(e.Path+"x"), kept); err == nil {
			t.Fatalf("under another path it is read as %+v", got)
		}
	})
}

func FuzzDecode(f *testing.F) {
	e := &entry{Record: Record{Path: "/a", Owner: "uid:1", Created: 1, Modified: 2, Value: []byte("v")}}
	e.sum = sum(&e.Record)
	f.Add([]byte("/a"), e.encode())
	f.Add([]byte("/"), []byte{0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, path, kept []byte) {
		e, err := decode(path, kept)
		if err != nil {
			return
		}
		again, err := decode([]byte(e.Path), e.encode())
		if err != nil || again.sum != e.sum || CheckPath(e.Path) != nil {
			t.Fatalf("%+v: %v", e, err)
		}
	})
}

// FuzzPath holds the check against the obvious one.
func FuzzPath(f *testing.F) {
	for _, seed := range []string{"/", "/a", "/a/b", "//", "/.", "/..", "/a/../b", "/a\x00", "/ü", "", "a", "/" + strings.Repeat("a", 256)} {
		f.Add(seed)
	}
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:@+%"
	f.Fuzz(func(t *testing.T, path string) {
		want := strings.HasPrefix(path, "/") && len(path) <= MaxPath
		for _, element := range strings.Split(path, "/")[min(1, len(path)):] {
			want = want && element != "" && element != "." && element != ".." && len(element) <= MaxElement &&
				strings.Trim(element, letters) == ""
		}
		err := CheckPath(path)
		if (err == nil) != want {
			t.Fatalf("CheckPath(%q) = %v, want valid %v", path, err, want)
		}
		if err != nil && strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Fatalf("the message %q would disturb a terminal", err)
		}
	})
}

func TestUnder(t *testing.T) {
	for _, c := range []struct {
		prefix, path string
		want         bool
	}{
		{"/", "/a", true},
		{"/a", "/a", true},
		{"/a", "/a/b", true},
		{"/a", "/ab", false},
		{"/a", "/a-b", false},
		{"/a/b", "/a", false},
	} {
		if got := Under(c.prefix, c.path); got != c.want {
			t.Errorf("Under(%q, %q) = %v", c.prefix, c.path, got)
		}
	}
	if got := Join("networks", "lan", "leases"); got != "/networks/lan/leases" {
		t.Errorf("Join = %q", got)
	}
}
