// Package fault is the one error of Brane: what was being done, to what, why
// it failed and what the reader can do. It is the same on both sides of a
// socket, so a refusal keeps its kind, its subject and its remedy on the way
// from the daemon to the prompt.
package fault

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says what sort of failure it was. The list is closed; exit codes and
// HTTP statuses derive from it.
type Kind string

// The kinds. Their meaning for a caller: Invalid, the request is wrong and
// repeating it is useless; NotFound and Exists, about the named subject;
// Conflict, somebody else changed it meanwhile; Denied, permission; Busy, it is
// in use; Limit, a bound was reached; Unavailable, try again later; Unsupported,
// this machine or version cannot; Internal, a defect of Brane.
const (
	Invalid     Kind = "invalid"
	NotFound    Kind = "not-found"
	Exists      Kind = "exists"
	Conflict    Kind = "conflict"
	Denied      Kind = "denied"
	Busy        Kind = "busy"
	Limit       Kind = "limit"
	Unavailable Kind = "unavailable"
	Unsupported Kind = "unsupported"
	Internal    Kind = "internal"
)

// Kinds lists every kind once.
func Kinds() []Kind {
	return []Kind{Invalid, NotFound, Exists, Conflict, Denied, Busy, Limit, Unavailable, Unsupported, Internal}
}

// Error is a designed failure. Its zero fields are left out of the text.
type Error struct {
	Op      string `json:"op,omitempty"`      // what was being done: "open device"
	Kind    Kind   `json:"kind"`              // of the closed list above
	Subject string `json:"subject,omitempty"` // to what: "office/web"
	Detail  string `json:"detail"`            // why it failed
	Remedy  string `json:"remedy,omitempty"`  // what the reader can do, one sentence
	cause   error
}

// New makes an Error; the detail is formatted as by fmt.Sprintf. An argument
// that is an error becomes the cause.
func New(kind Kind, op, subject, format string, args ...any) *Error {
	e := &Error{Op: op, Kind: kind, Subject: subject, Detail: fmt.Sprintf(format, args...)}
	for _, a := range args {
		if err, ok := a.(error); ok {
			e.cause = err
		}
	}
	return e
}

// WithRemedy returns e with the remedy set, formatted as by fmt.Sprintf.
func (e *Error) WithRemedy(format string, args ...any) *Error {
	e.Remedy = fmt.Sprintf(format, args...)
	return e
}

// Error gives one line: "op subject: detail (remedy)".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Subject != "" {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(e.Subject)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(e.Detail)
	if e.Remedy != "" {
		b.WriteString("; ")
		b.WriteString(e.Remedy)
	}
	return b.String()
}

// Unwrap returns the cause on the side where the error was made; the cause
// does not cross a socket.
func (e *Error) Unwrap() error { return e.cause }

// KindOf returns the kind of the first Error in err's chain, Internal when
// there is none, and "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	if e := As(err); e != nil {
		return e.Kind
	}
	return Internal
}

// As returns the first Error in err's chain, or nil.
func As(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// From returns err as an Error: itself when it is one, else wrapped as
// Internal with the given op and subject. nil stays nil.
func From(err error, op, subject string) *Error {
	if err == nil {
		return nil
	}
	if e := As(err); e != nil {
		return e
	}
	return New(Internal, op, subject, "%v", err)
}

// ExitCode is the documented exit status of the command line for err (see
// docs/exit-codes.md): 0 for nil, 64 to 78 as in sysexits(3).
func ExitCode(err error) int {
	switch KindOf(err) {
	case "":
		return 0
	case Invalid:
		return 64
	case NotFound:
		return 66
	case Exists, Conflict, Busy:
		return 73
	case Denied:
		return 77
	case Limit, Unavailable:
		return 75
	case Unsupported:
		return 69
	default:
		return 70
	}
}

// HTTPStatus is the status code of the API for err's kind.
func HTTPStatus(err error) int {
	switch KindOf(err) {
	case "":
		return 200
	case Invalid:
		return 400
	case NotFound:
		return 404
	case Exists, Conflict, Busy:
		return 409
	case Denied:
		return 403
	case Limit:
		return 429
	case Unavailable:
		return 503
	case Unsupported:
		return 501
	default:
		return 500
	}
}
