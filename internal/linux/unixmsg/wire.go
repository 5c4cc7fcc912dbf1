package unixmsg

import (
	"encoding/binary"
	"encoding/json"

	"brane/internal/fault"
)

// The envelope of a remote call, at the head of a Stream's payload:
//
//	byte 0      kind
//	byte 1      descriptors that travel with the message
//	byte 2      length of the verb, 0 in all but calls and notices
//	byte 3      zero
//	bytes 4-11  identifier of the call, big-endian; 0 in a notice
//	            the verb, then the body: JSON, or nothing
const envelopeLen = 12

// maxVerb bounds a verb in bytes.
const maxVerb = 64

type kind uint8

const (
	callKind   kind = iota + 1 // wants a reply or a fault with the same identifier
	noticeKind                 // wants nothing
	replyKind
	faultKind  // body: a fault.Error
	cancelKind // nobody waits for the reply any more
)

type envelope struct {
	kind kind
	fds  int
	verb string
	id   uint64
	body []byte
}

// append puts the envelope behind b.
func (e *envelope) append(b []byte) []byte {
	b = append(b, byte(e.kind), byte(e.fds), byte(len(e.verb)), 0)
	b = binary.BigEndian.AppendUint64(b, e.id)
	b = append(b, e.verb...)
	return append(b, e.body...)
}

// parseEnvelope reads one; the body is a part of b.
func parseEnvelope(b []byte) (envelope, error) {
	var e envelope
	if len(b) < envelopeLen {
		return e, badEnvelope("%d bytes are no envelope", len(b))
	}
	e.kind, e.fds = kind(b[0]), int(b[1])
	n := int(b[2])
	e.id = binary.BigEndian.Uint64(b[4:])
	named := e.kind == callKind || e.kind == noticeKind
	switch {
	case e.kind < callKind || e.kind > cancelKind:
		return e, badEnvelope("kind %d", e.kind)
	case e.fds > MaxFDs:
		return e, badEnvelope("%d descriptors announced", e.fds)
	case b[3] != 0:
		return e, badEnvelope("reserved byte is %d", b[3])
	case n > maxVerb || len(b) < envelopeLen+n || named != (n > 0):
		return e, badEnvelope("verb of %d bytes in kind %d", n, e.kind)
	case (e.kind == noticeKind) != (e.id == 0):
		return e, badEnvelope("identifier %d in kind %d", e.id, e.kind)
	}
	e.verb = string(b[envelopeLen : envelopeLen+n])
	for _, c := range []byte(e.verb) {
		if !verbByte(c) {
			return e, badEnvelope("verb %q", e.verb)
		}
	}
	e.body = b[envelopeLen+n:]
	if e.kind == cancelKind && len(e.body) > 0 {
		return e, badEnvelope("body in a cancel")
	}
	return e, nil
}

func verbByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.'
}

func validVerb(v string) bool {
	for _, c := range []byte(v) {
		if !verbByte(c) {
			return false
		}
	}
	return len(v) > 0 && len(v) <= maxVerb
}

func badEnvelope(format string, args ...any) error {
	return fault.New(fault.Invalid, "read message", "", format, args...)
}

// encodeBody makes JSON of v; nil makes nothing, json.RawMessage goes as it is.
func encodeBody(v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case json.RawMessage:
		return v, nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fault.New(fault.Internal, "encode message", "", "%v", err)
	}
	return b, nil
}

// decodeBody is its reverse; a nil target ignores the body.
func decodeBody(b []byte, v any) error {
	if v == nil {
		return nil
	}
	if raw, ok := v.(*json.RawMessage); ok {
		*raw = b
		return nil
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fault.New(fault.Invalid, "decode message", "", "%v", err)
	}
	return nil
}

// decodeFault reads a fault that another process sent; its kind is one of the
// closed list or Internal.
func decodeFault(b []byte) *fault.Error {
	var e fault.Error
	if err := json.Unmarshal(b, &e); err != nil {
		return fault.New(fault.Internal, "read fault", "", "%v", err)
	}
	for _, k := range fault.Kinds() {
		if e.Kind == k {
			return &e
		}
	}
	e.Kind = fault.Internal
	return &e
}
