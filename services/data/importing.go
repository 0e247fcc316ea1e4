package data

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"weir.dev/kit/fault"
	"weir.dev/services/internal/resource"
)

// Bounds of an import.
const (
	// importRows and importBytes bound one batch: what is held in memory, and
	// what one transaction commits.
	importRows  = 500
	importBytes = 2 << 20
	// MaxImportErrors bounds the errors that are reported one by one.
	MaxImportErrors = 100
)

// ImportItem is one record of an import.
type ImportItem struct {
	// Parent is the collection's resource name; empty after the first item
	// means the same.
	Parent string
	// ID may be empty: then one is generated.
	ID   string
	Data Object
}

// ImportError says why one record was not imported.
type ImportError struct {
	// Index counts the items from 0.
	Index   int64
	ID      string
	Code    string
	Message string
}

// ImportResult counts what an import did. What it counts as imported is
// committed.
type ImportResult struct {
	Imported, Failed int64
	// Errors holds the first MaxImportErrors.
	Errors []ImportError
}

// ImportRecords adds the records that next yields until io.EOF, in batches that
// are committed one by one. A record that can't be added is counted and the
// others go on. An error means that the import stopped; it says how many
// records had been committed (metadata "imported").
func (s *Service) ImportRecords(ctx context.Context, next func() (ImportItem, error)) (ImportResult, error) {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return ImportResult{}, err
	}
	i := importer{service: s, tenant: tenant}
	if err := i.run(ctx, next); err != nil {
		stopped := *fault.From(err)
		stopped.Message = fmt.Sprintf("%s (the import stopped; %d records were committed before)", stopped.Message, i.result.Imported)
		return i.result, stopped.WithMetadata("imported", strconv.FormatInt(i.result.Imported, 10))
	}
	return i.result, nil
}

type importer struct {
	service    *Service
	tenant     string
	parent     string
	collection string
	index      int64
	batch      []pending
	bytes      int
	result     ImportResult
}

type pending struct {
	index  int64
	object Object
	record Record
}

func (i *importer) run(ctx context.Context, next func() (ImportItem, error)) error {
	for {
		item, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := i.bindParent(ctx, item.Parent); err != nil {
			return err
		}
		i.add(item)
		i.index++
		if len(i.batch) >= importRows || i.bytes >= importBytes {
			if err := i.flush(ctx); err != nil {
				return err
			}
		}
	}
	if i.parent == "" {
		return resource.Invalid("the import names no collection").WithField("parent", "is required in the first message")
	}
	return i.flush(ctx)
}

// bindParent takes the collection from the first item and checks that it is
// there before anything is read that might be in vain.
func (i *importer) bindParent(ctx context.Context, parent string) error {
	switch {
	case i.parent == "":
		ids, err := resource.ParseName(parent, CollectionPattern, "parent")
		if err != nil {
			return err
		}
		if _, err := i.service.store.GetCollection(ctx, i.tenant, ids[0]); err != nil {
			return err
		}
		i.parent, i.collection = parent, ids[0]
	case parent != "" && parent != i.parent:
		return resource.Invalid("message %d of the import names another collection than the first", i.index).
			WithField("parent", "must be that of the first message, or empty")
	}
	return nil
}

func (i *importer) add(item ImportItem) {
	now := resource.Now(i.service.clock)
	id, err := resource.ID(item.ID, "record_id", now)
	if err != nil {
		i.fail(i.index, item.ID, err)
		return
	}
	if item.Data == nil {
		i.fail(i.index, item.ID, resource.Invalid("the record has no data").WithField("data", "is required"))
		return
	}
	encoded, err := document(item.Data, MaxRecordBytes, "data")
	if err != nil {
		i.fail(i.index, item.ID, err)
		return
	}
	i.bytes += len(encoded)
	i.batch = append(i.batch, pending{index: i.index, object: item.Data, record: Record{
		Tenant: i.tenant, Collection: i.collection, ID: id, Data: encoded, CreateTime: now, UpdateTime: now, Revision: 1,
	}})
}

func (i *importer) fail(index int64, id string, err error) {
	i.result.Failed++
	if len(i.result.Errors) >= MaxImportErrors {
		return
	}
	coded := fault.From(err)
	text := coded.Message
	for _, field := range coded.Fields {
		text += "; " + field.Field + " " + field.Description
	}
	i.result.Errors = append(i.result.Errors, ImportError{Index: index, ID: cut(id), Code: coded.Reason, Message: cut(text)})
}

// flush commits the batch. Records that break the schema as it is at the commit
// are left out.
func (i *importer) flush(ctx context.Context) error {
	if len(i.batch) == 0 {
		return nil
	}
	var bad map[int64]error
	var added map[string]bool
	err := i.service.underSchema(ctx, i.tenant, i.collection, func(collection Collection, schema *Schema) error {
		bad = map[int64]error{}
		records := make([]Record, 0, len(i.batch))
		for _, p := range i.batch {
			if err := schemaViolation(schema.Violations(p.object, "data")); err != nil {
				bad[p.index] = err
				continue
			}
			records = append(records, p.record)
		}
		if len(records) == 0 {
			return nil
		}
		var err error
		added, err = i.service.store.ImportRecords(ctx, records, collection.Revision)
		return err
	})
	if err != nil {
		return err
	}
	for _, p := range i.batch {
		switch {
		case bad[p.index] != nil:
			i.fail(p.index, p.record.ID, bad[p.index])
		case added[p.record.ID]:
			delete(added, p.record.ID) // a second one of this id wasn't added
			i.result.Imported++
		default:
			i.fail(p.index, p.record.ID, RecordExists(i.collection, p.record.ID))
		}
	}
	i.batch, i.bytes = i.batch[:0], 0
	return nil
}
