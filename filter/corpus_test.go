package filter

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/pcapgo"
)

const corpus = "testdata/pcap-filter"

func load[T any](t testing.TB, name string) (v T) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(corpus, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

// capture reads the frames of a capture file.
func capture(t testing.TB, name string) (frames [][]byte) {
	t.Helper()
	f, err := os.Open(filepath.Join(corpus, "captures", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var read func() ([]byte, error)
	if strings.HasSuffix(name, ".pcapng") {
		r, err := pcapgo.NewNgReader(f, pcapgo.DefaultNgReaderOptions)
		if err != nil {
			t.Fatal(err)
		}
		read = func() ([]byte, error) { b, _, err := r.ReadPacketData(); return b, err }
	} else {
		r, err := pcapgo.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		read = func() ([]byte, error) { b, _, err := r.ReadPacketData(); return b, err }
	}
	for {
		b, err := read()
		if err == io.EOF {
			return frames
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		frames = append(frames, b)
	}
}

// allFrames are the frames of all captures.
func allFrames(t testing.TB) (frames [][]byte) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(corpus, "captures", "*.pcap*"))
	if err != nil || len(names) == 0 {
		t.Fatal("no captures", err)
	}
	for _, n := range names {
		frames = append(frames, capture(t, filepath.Base(n))...)
	}
	return frames
}

// Expressions that are the same to libpcap and accepted here judge every frame
// of the captures alike; the others are refused. The number may only grow.
func TestCorpusAccept(t *testing.T) {
	const ratchet = 131
	accepted, refused := 0, []string(nil)
	for _, group := range load[[]struct {
		Name       string
		Equivalent []string
	}](t, "accept.json") {
		frames, first := allFrames(t), (*Program)(nil)
		for _, s := range group.Equivalent {
			e, err := Parse(s)
			if err != nil {
				refused = append(refused, s)
				continue
			}
			accepted++
			checkRoundTrip(t, e)
			g := Compile(e)
			if first == nil {
				first = g
			}
			for i, b := range frames {
				if p := parsed(b); g.Match(p) != first.Match(p) {
					t.Errorf("%s: %q differs on frame %d from its equivalents", group.Name, s, i)
				}
			}
		}
	}
	t.Logf("accepted %d, refused %d: %q", accepted, len(refused), refused)
	if accepted != ratchet {
		t.Errorf("%d expressions of the corpus are accepted, not %d: if more, raise the ratchet", accepted, ratchet)
	}
}

func TestCorpusReject(t *testing.T) {
	for _, c := range load[[]struct{ Name, Expr string }](t, "reject.json") {
		if e, err := Parse(c.Expr); err == nil {
			t.Errorf("%s: %q was accepted as %q", c.Name, c.Expr, e)
		}
	}
}

// An answer is libpcap's, or undecidable, which is listed here.
func TestCorpusApply(t *testing.T) {
	const ratchet = 20
	undecidable := map[string]int{}
	judged := 0
	for _, c := range load[[]struct {
		Name, Expr, Capture string
		Snaplen             []int `json:"snaplen_per_packet"`
	}](t, "apply.json") {
		e, err := Parse(c.Expr)
		if err != nil {
			continue
		}
		judged++
		g, frames := Compile(e), capture(t, c.Capture)
		if len(frames) != len(c.Snaplen) {
			t.Fatalf("%s has %d frames, not %d", c.Capture, len(frames), len(c.Snaplen))
		}
		for i, b := range frames {
			switch got := g.Match(parsed(b)); {
			case got == Undecidable:
				undecidable[c.Name]++
			case (got == Yes) != (c.Snaplen[i] != 0):
				t.Errorf("%s: %q on frame %d of %s: %v, libpcap says %d", c.Name, c.Expr, i, c.Capture, got, c.Snaplen[i])
			}
		}
	}
	t.Logf("judged %d expressions; undecidable: %v", judged, undecidable)
	if judged != ratchet {
		t.Errorf("%d expressions were judged, not %d: if more, raise the ratchet", judged, ratchet)
	}
}
