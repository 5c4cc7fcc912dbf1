package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
)

// bbolt trusts its file: on a damaged one it panics, in part in a goroutine of
// its own where nobody can recover, or reads past the end of its mapping, or
// hands out a page twice. So before bbolt sees a file this reader has walked
// all of it and believed nothing: every page is inside the file and used once,
// every key is in order and where a search would find it. The walk is also how
// the records are loaded.
//
// The format is bbolt's version 2. A page is 4,096 bytes, or several of them:
// a header (id 8, flags 2, count 2, overflow 4), then count elements, then
// their keys and values. Pages 0 and 1 are meta pages; the valid one with the
// greater transaction number counts. A bucket is a tree of pages, or a page
// inside the value that names it.
const (
	pageSize    = 4096
	pageHeader  = 16
	elementSize = 16

	branchPage = 1
	leafPage   = 2

	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaSize    = 64
	noFreelist  = ^uint64(0)
	bucketHead  = 16 // root page 8, sequence 8

	maxDepth = 24   // of branches; the greatest store needs 5
	maxPages = 2048 // of one page: bbolt does not divide four records of MaxValue
)

// damage says where a file is not what it must be.
type damage struct{ what string }

func (d damage) Error() string { return d.what }

func damaged(format string, args ...any) error { return damage{fmt.Sprintf(format, args...)} }

// boltFile is one walk over one file.
type boltFile struct {
	r    io.ReaderAt
	size int64
	high uint64          // pages from here on are not in use
	used map[uint64]bool // pages seen
}

// walkBolt reads the bbolt file of size bytes and calls fn for each key of its
// buckets, in order, with slices that fn may keep. The error is a damage, one
// of fn, or one of reading.
func walkBolt(r io.ReaderAt, size int64, fn func(bucket, key, value []byte) error) error {
	f := &boltFile{r: r, size: size, used: map[uint64]bool{0: true, 1: true}}
	root, err := f.meta()
	if err != nil {
		return err
	}
	return f.page(root, bounds{}, 0, func(name, value []byte, bucket bool) error {
		if !bucket {
			return damaged("a key beside the buckets")
		}
		leaf := func(key, value []byte, bucket bool) error {
			if bucket {
				return damaged("a bucket in bucket %q", name)
			}
			return fn(name, key, value)
		}
		if len(value) < bucketHead {
			return damaged("bucket %q has no root", name)
		}
		if root := binary.NativeEndian.Uint64(value); root != 0 {
			return f.page(root, bounds{}, 0, leaf)
		}
		return f.elements(value[bucketHead:], 0, bounds{}, 0, leaf)
	})
}

// meta chooses the meta page, as bbolt does, and returns the root page.
func (f *boltFile) meta() (root uint64, err error) {
	found, last := false, uint64(0)
	for i := range int64(2) {
		b := make([]byte, metaSize)
		if _, err := f.r.ReadAt(b, i*pageSize+pageHeader); err == io.EOF {
			break
		} else if err != nil {
			return 0, err
		}
		order := binary.NativeEndian
		check := fnv.New64a()
		check.Write(b[:56])
		if order.Uint32(b) != metaMagic || order.Uint32(b[4:]) != metaVersion || order.Uint64(b[56:]) != check.Sum64() {
			continue
		}
		if txid := order.Uint64(b[48:]); !found || txid > last {
			found, last = true, txid
			root, f.high = order.Uint64(b[16:]), order.Uint64(b[40:])
			if order.Uint32(b[8:]) != pageSize || order.Uint64(b[32:]) != noFreelist {
				err = damaged("page %d: not written by this store", i)
			} else {
				err = nil
			}
		}
	}
	switch {
	case !found:
		return 0, damaged("neither of the first two pages is valid")
	case err == nil && (f.high > uint64(f.size)/pageSize):
		return 0, damaged("the file ends at byte %d, it should have %d pages of %d", f.size, f.high, pageSize)
	}
	return root, err
}

// bounds are the keys that a search would seek in a page: from <= key < to;
// nil is without bound.
type bounds struct{ from, to []byte }

func (b bounds) hold(key []byte) bool {
	return (b.from == nil || bytes.Compare(key, b.from) >= 0) && (b.to == nil || bytes.Compare(key, b.to) < 0)
}

// leafFunc gets an element of a leaf; bucket says that the value names a bucket.
type leafFunc func(key, value []byte, bucket bool) error

// page walks the page id and what hangs below it.
func (f *boltFile) page(id uint64, in bounds, depth int, fn leafFunc) error {
	if id >= f.high || depth > maxDepth {
		return damaged("page %d: outside of the file or too deep", id)
	}
	var head [pageHeader]byte
	if _, err := f.r.ReadAt(head[:], int64(id)*pageSize); err != nil {
		return err
	}
	pages := uint64(binary.NativeEndian.Uint32(head[12:])) + 1
	if got := binary.NativeEndian.Uint64(head[:]); got != id || pages > min(f.high-id, maxPages) {
		return damaged("page %d: says that it is page %d and %d long", id, got, pages)
	}
	for i := id; i < id+pages; i++ {
		if f.used[i] {
			return damaged("page %d: in use twice", i)
		}
		f.used[i] = true
	}
	b := make([]byte, pages*pageSize)
	if _, err := f.r.ReadAt(b, int64(id)*pageSize); err != nil {
		return err
	}
	return f.elements(b, id, in, depth, fn)
}

// elements walks the elements of one page, which is b, whole.
func (f *boltFile) elements(b []byte, id uint64, in bounds, depth int, fn leafFunc) error {
	if len(b) < pageHeader {
		return damaged("page %d: too short", id)
	}
	order := binary.NativeEndian
	flags, count := order.Uint16(b[8:]), int(order.Uint16(b[10:]))
	known := flags == leafPage || flags == branchPage && id != 0 // a page inside a value is a leaf
	if order.Uint64(b) != id || !known || pageHeader+count*elementSize > len(b) {
		return damaged("page %d: neither leaf nor branch", id)
	}
	keys := make([]element, count)
	for i := range keys {
		if !keys[i].read(b, pageHeader+i*elementSize, flags == leafPage) {
			return damaged("page %d: element %d is outside of it", id, i)
		}
		if !in.hold(keys[i].key) || i > 0 && bytes.Compare(keys[i-1].key, keys[i].key) >= 0 {
			return damaged("page %d: key %d is out of order", id, i)
		}
	}
	for i, k := range keys {
		if flags == leafPage {
			if k.flags > 1 {
				return damaged("page %d: element %d is of no known kind", id, i)
			}
			if err := fn(k.key, k.value, k.flags == 1); err != nil {
				return err
			}
			continue
		}
		below := bounds{from: k.key, to: in.to}
		if i+1 < count {
			below.to = keys[i+1].key
		}
		if err := f.page(k.child, below, depth+1, fn); err != nil {
			return err
		}
	}
	return nil
}

// element is one of a page: of a leaf with a value, of a branch with a child.
type element struct {
	key, value []byte
	child      uint64
	flags      uint32
}

// read decodes the element at byte at of page b; false when it leaves the page.
// In a leaf: flags 4, position 4, key size 4, value size 4. In a branch:
// position 4, key size 4, page 8. Positions count from the element itself.
func (e *element) read(b []byte, at int, leaf bool) bool {
	order, h := binary.NativeEndian, b[at:at+elementSize]
	var pos, ksize, vsize uint32
	if leaf {
		e.flags, pos, ksize, vsize = order.Uint32(h), order.Uint32(h[4:]), order.Uint32(h[8:]), order.Uint32(h[12:])
	} else {
		pos, ksize, e.child = order.Uint32(h), order.Uint32(h[4:]), order.Uint64(h[8:])
	}
	start := uint64(at) + uint64(pos)
	end := start + uint64(ksize) + uint64(vsize)
	if end > uint64(len(b)) || ksize == 0 || pos < elementSize {
		return false
	}
	split := start + uint64(ksize)
	e.key, e.value = b[start:split:split], b[split:end:end]
	return true
}
