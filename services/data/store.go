package data

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
	"weir.dev/services/internal/query"
)

// ErrStale is returned by a store when a change was decided on a version, of
// the resource itself or of its collection's schema, that isn't current any
// more. The service decides again.
var ErrStale = errors.New("the version has changed")

// Result is the remembered outcome of a create with an idempotency key.
type Result struct {
	RequestID string
	// Fingerprint tells requests apart that reuse a key.
	Fingerprint string
	// Response is the encoded resource as it was created.
	Response []byte
	Time     time.Time
}

// CollectionStore keeps collections. Every method sees only the rows of the
// tenant that its arguments name, returns coded errors of this package
// (CollectionNotFound, CollectionExists, ...), and is safe for concurrent use.
// A nil error of a change means that it survives the death of the process.
type CollectionStore interface {
	// CreateCollection adds c, and remembers result if it isn't nil, both or
	// neither. If a result with that key exists already, nothing is added and
	// that result returned; otherwise nil.
	CreateCollection(ctx context.Context, c Collection, result *Result) (*Result, error)
	GetCollection(ctx context.Context, tenant, id string) (Collection, error)
	ListCollections(ctx context.Context, tenant string, list query.List) ([]Collection, *query.Cursor, error)
	// UpdateCollection replaces the version before c's, or returns ErrStale.
	UpdateCollection(ctx context.Context, c Collection) error
	// DeleteCollection deletes the collection if its revision is still the
	// given one (zero for any), else returns ErrStale; its records too when
	// force is set, and CollectionNotEmpty if there are any otherwise.
	DeleteCollection(ctx context.Context, tenant, id string, revision int64, force bool) error
}

// RecordStore keeps records, under the same contract as CollectionStore.
type RecordStore interface {
	// CreateRecord adds r, as CreateCollection does, if the collection's
	// revision is still the given one, and else returns ErrStale.
	CreateRecord(ctx context.Context, r Record, collectionRevision int64, result *Result) (*Result, error)
	GetRecord(ctx context.Context, tenant, collection, id string) (Record, error)
	// ListRecords returns CollectionNotFound rather than an empty page for a
	// collection that isn't there.
	ListRecords(ctx context.Context, tenant, collection string, list query.List) ([]Record, *query.Cursor, error)
	// UpdateRecord replaces the version before r's, or returns ErrStale.
	UpdateRecord(ctx context.Context, r Record, collectionRevision int64) error
	// DeleteRecord deletes the record if its revision is still the given one
	// (zero for any), and else returns ErrStale.
	DeleteRecord(ctx context.Context, tenant, collection, id string, revision int64) error
	// ImportRecords adds, in one transaction, those records whose ids are free
	// and returns their ids. All are of one tenant and collection; of several
	// with one id the first is added. ErrStale as for CreateRecord.
	ImportRecords(ctx context.Context, records []Record, collectionRevision int64) (added map[string]bool, err error)
}

// ResultStore keeps the results of creates with an idempotency key.
type ResultStore interface {
	// FindResult returns nil when there is none.
	FindResult(ctx context.Context, tenant, requestID string) (*Result, error)
	// ForgetResults drops the results from before a time, a bounded number in
	// one call, and returns how many.
	ForgetResults(ctx context.Context, before time.Time) (int64, error)
}

// Store is all that the service needs.
type Store interface {
	CollectionStore
	RecordStore
	ResultStore
}

// CollectionNotFound is the error of a collection that the tenant doesn't have.
func CollectionNotFound(id string) *fault.Error {
	return fault.New(codes.NotFound, "COLLECTION_NOT_FOUND", "collections/%s does not exist", id)
}

// CollectionExists is the error of an id that is taken.
func CollectionExists(id string) *fault.Error {
	return fault.New(codes.AlreadyExists, "COLLECTION_ALREADY_EXISTS", "collections/%s exists already", id)
}

// CollectionNotEmpty is the error of deleting a collection with records.
func CollectionNotEmpty(id string) *fault.Error {
	return fault.New(codes.FailedPrecondition, "COLLECTION_NOT_EMPTY", "collections/%s has records; set force to delete them too", id)
}

// RecordNotFound is the error of a record that the tenant doesn't have.
func RecordNotFound(collection, id string) *fault.Error {
	return fault.New(codes.NotFound, "RECORD_NOT_FOUND", "%s does not exist", recordName(collection, id))
}

// RecordExists is the error of an id that is taken.
func RecordExists(collection, id string) *fault.Error {
	return fault.New(codes.AlreadyExists, "RECORD_ALREADY_EXISTS", "%s exists already", recordName(collection, id))
}

func keyReused() *fault.Error {
	return fault.New(codes.FailedPrecondition, "IDEMPOTENCY_KEY_REUSED",
		"the request id was used for a different request; use a new one for each").
		WithField("request_id", "was used for a different request")
}
