package data

import (
	"context"
	"errors"
	"slices"
	"strings"

	"weir.dev/services/internal/query"
	"weir.dev/services/internal/resource"
)

// NewRecord is a request to create a record.
type NewRecord struct {
	// Parent is the collection's resource name.
	Parent string
	// ID may be empty: then one is generated.
	ID   string
	Data Object
	// RequestID is the idempotency key, empty for none.
	RequestID string
}

// CreateRecord adds a record.
func (s *Service) CreateRecord(ctx context.Context, request NewRecord) (Record, error) {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return Record{}, err
	}
	parents, err := resource.ParseName(request.Parent, CollectionPattern, "parent")
	if err != nil {
		return Record{}, err
	}
	encoded, err := recordData(request.Data)
	if err != nil {
		return Record{}, err
	}
	earlier := Record{Tenant: tenant}
	fingerprint, replayed, err := s.remember(ctx, tenant, request.RequestID,
		[]string{"record", request.Parent, request.ID, string(encoded)}, &earlier)
	if err != nil || replayed {
		return earlier, err
	}
	now := resource.Now(s.clock)
	created := Record{Tenant: tenant, Collection: parents[0], Data: encoded, CreateTime: now, UpdateTime: now, Revision: 1}
	if created.ID, err = resource.ID(request.ID, "record_id", now); err != nil {
		return Record{}, err
	}
	result, err := newResult(request.RequestID, fingerprint, created, now)
	if err != nil {
		return Record{}, err
	}
	var lost *Result
	err = s.underSchema(ctx, tenant, parents[0], func(collection Collection, schema *Schema) error {
		if err := schemaViolation(schema.Violations(request.Data, "record.data")); err != nil {
			return err
		}
		lost, err = s.store.CreateRecord(ctx, created, collection.Revision, result)
		return err
	})
	if err != nil {
		return Record{}, err
	}
	if lost != nil {
		return earlier, replay(lost, fingerprint, &earlier)
	}
	return created, nil
}

func recordData(o Object) (Document, error) {
	if o == nil {
		return nil, resource.Invalid("the record has no data").WithField("record.data", "is required")
	}
	return document(o, MaxRecordBytes, "record.data")
}

// underSchema runs change with a collection and its schema, and again with the
// new ones as long as they change meanwhile.
func (s *Service) underSchema(ctx context.Context, tenant, id string, change func(Collection, *Schema) error) error {
	for range maxAttempts {
		collection, err := s.store.GetCollection(ctx, tenant, id)
		if err != nil {
			return err
		}
		schema, err := s.schemas.of(collection)
		if err != nil {
			return err
		}
		if err := change(collection, schema); !errors.Is(err, ErrStale) {
			return err
		}
	}
	return resource.Contended("collections/" + id)
}

// GetRecord returns one record.
func (s *Service) GetRecord(ctx context.Context, name string) (Record, error) {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return Record{}, err
	}
	ids, err := resource.ParseName(name, RecordPattern, "name")
	if err != nil {
		return Record{}, err
	}
	return s.store.GetRecord(ctx, tenant, ids[0], ids[1])
}

// ListRecords returns a page of a collection's records and the token of the
// next.
func (s *Service) ListRecords(ctx context.Context, parent string, request query.Request) ([]Record, string, error) {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return nil, "", err
	}
	ids, err := resource.ParseName(parent, CollectionPattern, "parent")
	if err != nil {
		return nil, "", err
	}
	list, err := s.pager.Parse(request, RecordFields(), "records", tenant, ids[0])
	if err != nil {
		return nil, "", err
	}
	page, next, err := s.store.ListRecords(ctx, tenant, ids[0], list)
	return page, s.pager.Token(next, request, "records", tenant, ids[0]), err
}

// exportPage is how many records an export reads at a time.
const exportPage = 500

// ExportRecords sends every record of a collection that matches filter, in the
// order of names. It stops at the first error of send.
func (s *Service) ExportRecords(ctx context.Context, parent, filter string, send func(Record) error) error {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return err
	}
	ids, err := resource.ParseName(parent, CollectionPattern, "parent")
	if err != nil {
		return err
	}
	list := query.List{Limit: exportPage}
	if list.Filter, err = query.ParseFilter(filter, RecordFields()); err != nil {
		return err
	}
	for {
		page, next, err := s.store.ListRecords(ctx, tenant, ids[0], list)
		if err != nil {
			return err
		}
		for _, record := range page {
			if err := send(record); err != nil {
				return err
			}
		}
		if next == nil {
			return nil
		}
		list.After = next
	}
}

// RecordUpdate is a request to change a record.
type RecordUpdate struct {
	Name string
	Data Object
	// Etag, if not empty, must be the current one.
	Etag string
	// Mask names "data", paths in it, or "*"; empty means the whole data.
	Mask []string
}

// UpdateRecord changes a record; the outcome must satisfy the schema.
func (s *Service) UpdateRecord(ctx context.Context, update RecordUpdate) (Record, error) {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return Record{}, err
	}
	ids, err := resource.ParseName(update.Name, RecordPattern, "record.name")
	if err != nil {
		return Record{}, err
	}
	mask, err := resource.Mask(update.Mask, []string{"data"}, []string{"data"})
	if err != nil {
		return Record{}, err
	}
	var changed Record
	err = s.underSchema(ctx, tenant, ids[0], func(collection Collection, schema *Schema) error {
		current, err := s.store.GetRecord(ctx, tenant, ids[0], ids[1])
		if err != nil {
			return err
		}
		if err := resource.CheckEtag(update.Etag, current.Etag(), current.Name()); err != nil {
			return err
		}
		merged, err := update.apply(current, mask)
		if err != nil {
			return err
		}
		changed = current
		if changed.Data, err = recordData(merged); err != nil {
			return err
		}
		if err := schemaViolation(schema.Violations(merged, "record.data")); err != nil {
			return err
		}
		changed.UpdateTime, changed.Revision = resource.Now(s.clock), current.Revision+1
		return s.store.UpdateRecord(ctx, changed, collection.Revision)
	})
	if err != nil {
		return Record{}, err
	}
	return changed, nil
}

// apply is the data after the update.
func (u RecordUpdate) apply(current Record, mask []string) (Object, error) {
	if slices.Contains(mask, "data") {
		return u.Data, nil
	}
	merged, err := current.Data.Object()
	if err != nil {
		return nil, err
	}
	for _, path := range mask {
		segments := strings.Split(path, ".")[1:]
		if err := query.CheckPath(segments); err != nil {
			return nil, resource.Invalid("the update mask can't be used").WithField("update_mask", err.Error())
		}
		if err := setPath(merged, u.Data, segments); err != nil {
			return nil, resource.Invalid("the update mask doesn't fit the record").WithField("update_mask", err.Error())
		}
	}
	return merged, nil
}

// DeleteRecord deletes a record.
func (s *Service) DeleteRecord(ctx context.Context, name, etag string) error {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return err
	}
	ids, err := resource.ParseName(name, RecordPattern, "name")
	if err != nil {
		return err
	}
	revision := int64(0)
	if etag != "" {
		current, err := s.store.GetRecord(ctx, tenant, ids[0], ids[1])
		if err != nil {
			return err
		}
		if err := resource.CheckEtag(etag, current.Etag(), name); err != nil {
			return err
		}
		revision = current.Revision
	}
	err = s.store.DeleteRecord(ctx, tenant, ids[0], ids[1], revision)
	if errors.Is(err, ErrStale) {
		return resource.EtagMismatch(name)
	}
	return err
}
