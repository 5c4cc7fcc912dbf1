package store_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brane/internal/fault"
	"brane/internal/store"
	"brane/internal/store/storetest"
)

func file(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// filled is a file of about 64 KiB with inner pages, long records and free
// pages, and its state.
func filled(t testing.TB) ([]byte, store.Print) {
	t.Helper()
	path := fresh(t)
	e := open(t, path)
	for i := range 120 {
		apply(t, e, store.Op{Path: fmt.Sprintf("/networks/lan/leases/%03d", i), Value: bytes.Repeat([]byte{byte(i)}, 100+i)})
	}
	apply(t, e, store.Op{Path: "/networks/lan", Value: make([]byte, 9000)}, store.Op{Path: "/gone", Tree: true})
	want := store.PrintOf(e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return file(t, path), want
}

// TestDamagedByte changes the bytes of a file, one at a time: in full each, else
// a sample. Every change is either refused or harmless: what is read is what was
// written, and bbolt can go on from it.
func TestDamagedByte(t *testing.T) {
	content, want := filled(t)
	rng := storetest.Rand(storetest.Seed(t), 0)
	tried, harmless := 0, 0
	for i, old := range content {
		if !storetest.Full() && rng.IntN(10) != 0 {
			continue
		}
		tried++
		content[i] ^= byte(1 + rng.IntN(255))
		s, err := store.ReadImage(content)
		switch {
		case err == nil && s != want:
			t.Fatalf("byte %d from %#x to %#x went unseen", i, old, content[i])
		case err == nil:
			harmless++
			if rng.IntN(400) == 0 {
				useImage(t, content, want, 20)
			}
		case rng.IntN(400) == 0:
			refuseImage(t, content)
		}
		content[i] = old
	}
	t.Logf("%d bytes, %d changes: %d refused, %d harmless", len(content), tried, tried-harmless, harmless)
}

// TestDamagedBranch changes the keys of inner pages so that a search would go
// astray, with every record still there.
func TestDamagedBranch(t *testing.T) {
	content, want := filled(t)
	tried, refused := 0, 0
	for page := 2 * store.PageSize; page < len(content); page += store.PageSize {
		if content[page+8] != 1 || content[page+10] < 5 { // a branch, and not an old one
			continue
		}
		for i := page; i < page+store.PageSize; i++ {
			if old := content[i]; old >= '0' && old <= '9' { // of a key
				content[i] = 'z'
				if _, err := store.ReadImage(content); err != nil {
					refused++
				} else {
					useImage(t, content, want, 20)
				}
				tried++
				content[i] = old
			}
		}
	}
	if refused == 0 {
		t.Error("no change was refused: there is no inner page")
	}
	t.Logf("%d changes, %d refused", tried, refused)
}

// useImage opens a file that was found whole, writes to it and reads it again:
// what bbolt makes of it is the same too.
func useImage(t *testing.T, content []byte, want store.Print, commits int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	e := open(t, path)
	if store.PrintOf(e) != want {
		t.Fatal("opened with another state")
	}
	for i := range commits {
		apply(t, e, store.Op{Path: fmt.Sprintf("/after/%d", i), Value: make([]byte, 50*i)}, store.Op{Path: fmt.Sprintf("/networks/lan/leases/%03d", 6*i), Delete: true})
	}
	after := store.PrintOf(e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := store.ReadImage(file(t, path))
	if err != nil || s != after {
		t.Fatalf("written to, it reads wrong: %v", err)
	}
}

func refuseImage(t *testing.T, content []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := store.Open(path); err == nil || fault.KindOf(err) != fault.Invalid && fault.KindOf(err) != fault.Unsupported {
		t.Errorf("Open: %v", err)
		_ = s.Close()
	}
}

const sector = 512

// TestPowerLoss makes the images that a disk can be left with when power goes
// during a commit. Between two syncs any of the sectors may have been written:
// before the first sync any of the data, so the old state must be read; after
// it all of the data and any part of the meta page, so the old or the new.
// TestSyncOrder shows that the syncs are where this says.
func TestPowerLoss(t *testing.T) {
	images := 20_000
	if storetest.Full() {
		images = 1_000_000
	}
	rng := storetest.Rand(storetest.Seed(t), 0)
	path := fresh(t)
	e := open(t, path)
	const commits = 100
	before, old := file(t, path), store.PrintOf(e)
	for c := range commits {
		var ops []store.Op
		for range 1 + rng.IntN(6) {
			ops = append(ops, store.Op{Path: fmt.Sprintf("/%d", rng.IntN(60)), Value: make([]byte, rng.IntN(1<<rng.IntN(13)))})
		}
		apply(t, e, append(ops, store.Op{Path: fmt.Sprintf("/%d", c%60), Delete: true})...)
		after, now := file(t, path), store.PrintOf(e)
		grown := append(bytes.Clone(before), make([]byte, max(0, len(after)-len(before)))...)
		var data, meta []int
		for i := 0; i < len(after); i += sector {
			if !bytes.Equal(grown[i:i+sector], after[i:i+sector]) {
				if i < 2*store.PageSize {
					meta = append(meta, i)
				} else {
					data = append(data, i)
				}
			}
		}
		if len(meta) != 1 {
			t.Fatalf("commit %d changed %d sectors of the meta pages", c, len(meta))
		}
		for n := range images / commits {
			image := bytes.Clone(grown)
			if n == 0 {
				image = before // not even grown
			}
			chance := rng.Float64()
			for _, i := range data {
				if n > 0 && rng.Float64() < chance {
					copy(image[i:i+sector], after[i:])
				}
			}
			wantImage(t, image, old)
		}
		wantImage(t, after, now)
		before, old = after, now
	}
}

func wantImage(t *testing.T, image []byte, want store.Print) {
	t.Helper()
	if s, err := store.ReadImage(image); err != nil || s != want {
		t.Fatalf("the image reads as %+v, %v, want %+v", s, err, want)
	}
}

// A meta page torn inside of its sector is as good as not written.
func TestTornMeta(t *testing.T) {
	path := fresh(t)
	e := open(t, path)
	for i := range 10 {
		apply(t, e, store.Op{Path: "/a", Value: []byte(strings.Repeat("x", i))})
	}
	before, old := file(t, path), store.PrintOf(e)
	apply(t, e, store.Op{Path: "/a", Value: []byte("new")})
	after, now := file(t, path), store.PrintOf(e)
	page := 0
	if bytes.Equal(before[:store.PageSize], after[:store.PageSize]) {
		page = store.PageSize
	}
	for n := range store.PageHeader + store.MetaSize + 1 {
		image := bytes.Clone(after)
		copy(image[page+n:page+store.PageSize], before[page+n:])
		s, err := store.ReadImage(image)
		if err != nil || s != old && s != now {
			t.Fatalf("torn after %d bytes: %+v, %v", n, s, err)
		}
	}
}

// FuzzFile reads files that nobody wrote: an error or a state that adds up,
// never a panic; and bbolt is never given one on which it panics.
func FuzzFile(f *testing.F) {
	content, _ := filled(f)
	f.Add(uint32(0), []byte{}, uint16(0))
	f.Add(uint32(2*store.PageSize), content[2*store.PageSize:3*store.PageSize], uint16(4))
	f.Add(uint32(store.PageHeader), content[store.PageSize+store.PageHeader:][:store.MetaSize], uint16(9))
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, pages uint16) {
		image := bytes.Clone(content)
		copy(image[int(at)%len(image):], patch)
		if n := int(pages) * store.PageSize / 4; n > 0 && n < len(image) {
			image = image[:n]
		}
		s, err := store.ReadImage(image)
		if err != nil || at%16 != 0 { // with bbolt it takes a hundred times longer
			return
		}
		useImage(t, image, s, 1)
	})
}
