// Package store is the tree in which everything of Brane is written down:
// networks, leases, names, ports, branes. It has one global revision, compares
// and applies up to MaxOps operations at once, and is watched from a revision.
// The tree on disk (bbolt) and its twin in memory pass one conformance suite.
package store

import (
	"context"

	"brane/internal/fault"
)

// Limits. What passes one is refused with fault.Limit or fault.Invalid, and nothing is changed.
const (
	MaxOps     = 128     // operations of one Txn, and comparisons of one Txn
	MaxPath    = 1024    // bytes of a path
	MaxElement = 255     // bytes of one element of a path
	MaxValue   = 1 << 20 // bytes of a value
	MaxPending = 4096    // events that wait for one watcher; more is an overflow
	MaxWatches = 1024    // open watches of one store
	MaxTxn     = 8 << 20 // bytes of the paths and values of one Txn
	MaxOwner   = 255     // bytes of a principal
	MaxRecords = 1 << 20 // records of one store
	MaxBytes   = 1 << 28 // bytes of the paths, owners and values of all records

	// KeptRevisions and KeptBytes bound the history from which a watch can start
	// in the past; older revisions are compacted.
	KeptRevisions = 4096
	KeptBytes     = 16 << 20
)

// Revision counts the committed transactions; each has its own. The first is 1.
type Revision int64

// Principal is who owns a record: "uid:1000", "system".
type Principal string

// Record is one node. Paths are absolute, elements divided by '/', each of
// letters, digits and -_.:@+%, never "." or ".."; "/" is not a record.
type Record struct {
	Path     string    `json:"path"`
	Value    []byte    `json:"value"`
	Owner    Principal `json:"owner"`
	Created  Revision  `json:"created"`
	Modified Revision  `json:"modified"`
}

// Compare is a condition on one path.
type Compare struct {
	Path     string
	Modified Revision // 0: the path must not exist; Any: it must exist
}

// Any matches every existing record.
const Any Revision = -1

// Op writes or deletes one record. Tree deletes the path and all below it.
// Deleting what is not there is not an error and makes no event. A deletion
// carries no value.
type Op struct {
	Path   string
	Value  []byte
	Delete bool
	Tree   bool
}

// Txn is applied whole or not at all. Operations take effect in order; a later
// one sees the earlier. By becomes the owner of what it creates; what exists keeps its owner.
type Txn struct {
	By Principal
	If []Compare
	Do []Op
}

// Event is one change of one record. A deleted record comes with its last value.
type Event struct {
	Revision Revision
	Deleted  bool
	Record   Record
}

// Batch is all events of one transaction below the watched prefix, in order.
type Batch struct {
	Revision Revision
	Events   []Event
	// Overflow is set on the last batch of a watch that could not keep up: events
	// were lost after the batch before, the channel is closed, and the watcher lists again.
	Overflow bool
}

// Store is the contract. Every method may be called from any goroutine. Errors
// are *fault.Error of kind NotFound, Conflict, Invalid, Limit, Unavailable (closed, disk full) or Internal.
type Store interface {
	// Get returns one record. Its Value is the caller's own.
	Get(path string) (Record, error)
	// List returns the records at and below prefix ("/" for all) in bytewise
	// order of path, all of one revision, which it returns too.
	List(prefix string) ([]Record, Revision, error)
	// Apply commits t. When it returns without an error the change is on disk. A
	// failed comparison is fault.Conflict with the path as subject. A transaction
	// without operations only compares and returns the present revision.
	Apply(t Txn) (Revision, error)
	// Watch delivers a batch for each transaction after revision from that
	// touches prefix or what is below it, in order, none lost and none twice. It
	// ends, with the channel closed, when ctx ends, on overflow, or when the store
	// closes. Revisions that are no longer kept, or not yet made, give
	// fault.Conflict: list again. The values in a batch are the reader's own. A
	// watch whose reader is idle ends with ctx, so give it one that ends.
	Watch(ctx context.Context, prefix string, from Revision) (<-chan Batch, error)
	// Revision is that of the last committed transaction.
	Revision() Revision
	// Close syncs and closes; watches end. Closing twice is not an error.
	Close() error
}

var _ error = (*fault.Error)(nil)
