package data

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"weir.dev/kit/fault"
	"weir.dev/services/internal/query"
	"weir.dev/services/internal/resource"
)

// maxAttempts bounds how often a change that lost a race is decided again.
const maxAttempts = 8

// Options are what a Service is made from.
type Options struct {
	Store Store
	// PageSecret keys the page tokens; see query.Pager.
	PageSecret []byte
	// Clock tells the time; nil means time.Now.
	Clock func() time.Time
}

// Service is the data service. Each method acts for the tenant of the identity
// in its context, and fails with TENANT_REQUIRED without one. All errors are
// coded. Safe for concurrent use.
type Service struct {
	store   Store
	pager   query.Pager
	clock   func() time.Time
	schemas *schemaCache
}

// New makes a service.
func New(options Options) *Service {
	if options.Clock == nil {
		options.Clock = time.Now
	}
	return &Service{
		store: options.Store, pager: query.Pager{Secret: options.PageSecret},
		clock: options.Clock, schemas: newSchemaCache(),
	}
}

// Forget drops idempotency results that have been kept long enough, and
// returns how many. To be called now and then.
func (s *Service) Forget(ctx context.Context) (int64, error) {
	total := int64(0)
	for {
		count, err := s.store.ForgetResults(ctx, s.clock().Add(-ResultsKept))
		total += count
		if err != nil || count == 0 {
			return total, err
		}
	}
}

// remember prepares the result of a create. replayed is true when the same
// request was made before: then its outcome is decoded into resource.
func (s *Service) remember(ctx context.Context, tenant, requestID string, parameters []string, into any) (fingerprint string, replayed bool, err error) {
	if requestID == "" {
		return "", false, nil
	}
	if problem := checkRequestID(requestID); problem != "" {
		return "", false, resource.Invalid("the request id can't be used").WithField("request_id", problem)
	}
	h := sha256.New()
	for _, parameter := range parameters {
		h.Write([]byte(strconv.Itoa(len(parameter)) + ":" + parameter))
	}
	fingerprint = hex.EncodeToString(h.Sum(nil))
	earlier, err := s.store.FindResult(ctx, tenant, requestID)
	if err != nil || earlier == nil {
		return fingerprint, false, err
	}
	return fingerprint, true, replay(earlier, fingerprint, into)
}

func replay(earlier *Result, fingerprint string, into any) error {
	if earlier.Fingerprint != fingerprint {
		return keyReused()
	}
	if err := json.NewDecoder(bytes.NewReader(earlier.Response)).Decode(into); err != nil {
		return fmt.Errorf("stored result: %w", err)
	}
	return nil
}

func newResult(requestID, fingerprint string, created any, now time.Time) (*Result, error) {
	if requestID == "" {
		return nil, nil
	}
	response, err := json.Marshal(created)
	if err != nil {
		return nil, fmt.Errorf("result: %w", err)
	}
	return &Result{RequestID: requestID, Fingerprint: fingerprint, Response: response, Time: now}, nil
}

func checkRequestID(id string) string {
	if len(id) > MaxRequestIDBytes {
		return fmt.Sprintf("has more than %d characters", MaxRequestIDBytes)
	}
	for i := range len(id) {
		if id[i] < 0x20 || id[i] > 0x7e {
			return "has characters other than printable ASCII"
		}
	}
	return ""
}

// document encodes an object of a request.
func document(o Object, limit int, field string) (Document, error) {
	encoded, err := NewDocument(o, limit)
	if err != nil {
		return nil, resource.Invalid("%s can't be stored", field).WithField(field, err.Error())
	}
	return encoded, nil
}

// expected is the revision that a change is bound to: the current one if the
// client sent an etag, any (zero) otherwise.
func expected(etag string, revision int64) int64 {
	if etag == "" {
		return 0
	}
	return revision
}

func invalidIf(err *fault.Error) error {
	if len(err.Fields) == 0 {
		return nil
	}
	return err
}
