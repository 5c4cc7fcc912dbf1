package store

import (
	"encoding/binary"
	"errors"
	"hash/crc64"
)

// A record is kept on disk under its path as: the checksum (8 bytes, little
// endian); created, modified and the length of the owner (unsigned varints);
// the owner; the value.

var errRecord = errors.New("the record is damaged")

var ecma = crc64.MakeTable(crc64.ECMA)

// sum is the checksum of a record: CRC-64 (ECMA-182) over its path, a zero byte
// and its encoded form after the checksum.
func sum(r *Record) uint64 {
	head := make([]byte, 0, MaxPath+1+3*binary.MaxVarintLen64+MaxOwner)
	head = append(append(head, r.Path...), 0)
	c := crc64.Update(0, ecma, appendHead(head, r))
	return crc64.Update(c, ecma, r.Value)
}

func appendHead(b []byte, r *Record) []byte {
	b = binary.AppendUvarint(b, uint64(r.Created))
	b = binary.AppendUvarint(b, uint64(r.Modified))
	b = binary.AppendUvarint(b, uint64(len(r.Owner)))
	return append(b, r.Owner...)
}

// encode gives the kept form of e.
func (e *entry) encode() []byte {
	b := make([]byte, 0, 8+3*binary.MaxVarintLen64+len(e.Owner)+len(e.Value))
	b = binary.LittleEndian.AppendUint64(b, e.sum)
	return append(appendHead(b, &e.Record), e.Value...)
}

// decode reads the kept form of the record at path. The entry shares nothing with b.
func decode(path, b []byte) (*entry, error) {
	if len(path) > MaxPath || len(b) < 8 {
		return nil, errRecord
	}
	e := &entry{Record: Record{Path: string(path)}, sum: binary.LittleEndian.Uint64(b)}
	b = b[8:]
	var head [3]uint64
	for i := range head {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errRecord
		}
		head[i], b = v, b[n:]
	}
	if head[2] > MaxOwner || head[2] > uint64(len(b)) || len(b)-int(head[2]) > MaxValue {
		return nil, errRecord
	}
	e.Created, e.Modified = Revision(head[0]), Revision(head[1])
	e.Owner, e.Value = Principal(b[:head[2]]), own(b[head[2]:])
	ordered := 0 < e.Created && e.Created <= e.Modified
	if !ordered || CheckPath(e.Path) != nil || e.Owner.check() != nil || sum(&e.Record) != e.sum {
		return nil, errRecord
	}
	return e, nil
}
