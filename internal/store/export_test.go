package store

import "bytes"

// Print is the fingerprint of a state: two that are equal have the same content.
type Print struct {
	Revision          Revision
	Count, Bytes, Sum uint64
}

func (s *state) print() Print {
	return Print{s.rev, uint64(s.count), uint64(s.bytes), s.sum}
}

// PrintOf is the fingerprint of what s publishes now.
func PrintOf(s Store) Print { return s.(*engine).now.Load().print() }

// ReadImage reads the bytes of a store file without bbolt.
func ReadImage(b []byte) (Print, error) {
	s, err := read(bytes.NewReader(b), int64(len(b)), "image", newForest())
	if err != nil {
		return Print{}, err
	}
	return s.print(), nil
}

// The layout of a file, for tests that damage one.
const (
	PageSize   = pageSize
	PageHeader = pageHeader
	MetaSize   = metaSize
)
