package store

import (
	"encoding/binary"
	"hash/crc64"
	"io"
	"strconv"

	"brane/internal/fault"
)

// read builds the state from a bbolt file. It is right or there is an error:
// each record has a checksum and all together must add up to the totals.
func read(r io.ReaderAt, size int64, subject string, f forest) (*state, error) {
	s, want := &state{}, state{rev: -1}
	written := 0
	err := walkBolt(r, size, func(bucket, key, value []byte) error {
		switch string(bucket) + "/" + string(key) {
		case aboutBucket + "/" + formatKey:
			written, _ = strconv.Atoi(string(value))
			if written > format {
				return fault.New(fault.Unsupported, "open store", subject, "it is of format %d, this version reads up to %d", written, format).
					WithRemedy("use the newer version that wrote it")
			}
			return nil
		case aboutBucket + "/" + totalsKey:
			return want.setTotals(value)
		}
		if string(bucket) != recordsBucket {
			return nil // of a later release of the same format
		}
		e, err := decode(key, value)
		if err != nil {
			return damaged("record %s: %v", quoted(string(key)), err)
		}
		s.take(e, 1)
		s.root = f.put(s.root, e)
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case written < oldestFormat:
		return nil, damaged("it names no format")
	case want.rev < 0:
		return nil, damaged("it has no totals")
	case s.count != want.count || s.sum != want.sum:
		return nil, damaged("%d records, %d were written", s.count, want.count)
	}
	s.rev = want.rev
	return s, nil
}

// totals is the kept form of what a state says of itself: a checksum, then
// revision, number of records and sum, each 8 bytes little endian. The sum of
// all records' checksums makes a record that was lost or came back as visible
// as one that was changed.
func (s *state) totals() []byte {
	b := make([]byte, 8, 32)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.rev))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.count))
	b = binary.LittleEndian.AppendUint64(b, s.sum)
	binary.LittleEndian.PutUint64(b, crc64.Checksum(b[8:], ecma))
	return b
}

func (s *state) setTotals(b []byte) error {
	order := binary.LittleEndian
	if len(b) != 32 || order.Uint64(b) != crc64.Checksum(b[8:], ecma) || int64(order.Uint64(b[8:])) < 0 {
		return damaged("the totals are not whole")
	}
	s.rev, s.count, s.sum = Revision(order.Uint64(b[8:])), int64(order.Uint64(b[16:])), order.Uint64(b[24:])
	return nil
}
