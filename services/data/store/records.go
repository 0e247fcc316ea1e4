package store

import (
	"context"
	"errors"

	"weir.dev/services/data"
	"weir.dev/services/internal/query"
	"weir.dev/services/internal/sqldb"
)

// pinned locks the collection against changes of its schema until the end of
// the transaction, and checks that it is the one that was decided on.
func (s *Store) pinned(ctx context.Context, q sqldb.Querier, tenant, collection string, revision int64) error {
	current, err := s.collection(ctx, q, s.db.Dialect().ForShare(), tenant, collection)
	if err != nil {
		return err
	}
	if current.Revision != revision {
		return sqldb.ErrStale
	}
	return nil
}

// CreateRecord implements data.RecordStore.
func (s *Store) CreateRecord(ctx context.Context, r data.Record, collectionRevision int64, result *data.Result) (earlier *data.Result, err error) {
	err = s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		if earlier, err = remember(ctx, q, r.Tenant, result); err != nil || earlier != nil {
			return err
		}
		if err := s.pinned(ctx, q, r.Tenant, r.Collection, collectionRevision); err != nil {
			return err
		}
		err := s.records.Insert(ctx, q, r)
		if _, duplicate := s.db.Dialect().Duplicate(err); duplicate {
			return data.RecordExists(r.Collection, r.ID)
		}
		return err
	})
	return earlier, known(err)
}

// GetRecord implements data.RecordStore.
func (s *Store) GetRecord(ctx context.Context, tenant, collection, id string) (r data.Record, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, q sqldb.Querier) error {
		r, err = s.records.Get(ctx, q, "", tenant, collection, id)
		if errors.Is(err, sqldb.ErrNotFound) {
			return data.RecordNotFound(collection, id)
		}
		return err
	})
	r.Tenant = tenant
	return r, err
}

// ListRecords implements data.RecordStore.
func (s *Store) ListRecords(ctx context.Context, tenant, collection string, list query.List) (page []data.Record, next *query.Cursor, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, q sqldb.Querier) error {
		page, next, err = s.records.List(ctx, q, s.db.Dialect(), list, tenant, collection)
		if err != nil || len(page) > 0 {
			return err
		}
		_, err = s.collection(ctx, q, "", tenant, collection)
		return err
	})
	return page, next, err
}

// UpdateRecord implements data.RecordStore.
func (s *Store) UpdateRecord(ctx context.Context, r data.Record, collectionRevision int64) error {
	err := s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		if err := s.pinned(ctx, q, r.Tenant, r.Collection, collectionRevision); err != nil {
			return err
		}
		ok, err := s.records.Update(ctx, q, r, r.Revision-1)
		if err == nil && !ok {
			return sqldb.ErrStale
		}
		return err
	})
	return known(err)
}

// DeleteRecord implements data.RecordStore.
func (s *Store) DeleteRecord(ctx context.Context, tenant, collection, id string, revision int64) error {
	err := s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		ok, err := s.records.Delete(ctx, q, revision, tenant, collection, id)
		switch {
		case err != nil || ok:
			return err
		case revision != 0:
			if _, err := s.records.Get(ctx, q, "", tenant, collection, id); err == nil {
				return sqldb.ErrStale
			}
		}
		return data.RecordNotFound(collection, id)
	})
	return known(err)
}

// ImportRecords implements data.RecordStore.
func (s *Store) ImportRecords(ctx context.Context, records []data.Record, collectionRevision int64) (added map[string]bool, err error) {
	err = s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		if err := s.pinned(ctx, q, records[0].Tenant, records[0].Collection, collectionRevision); err != nil {
			return err
		}
		added, err = s.records.InsertNew(ctx, q, s.db.Dialect(), records)
		return err
	})
	return added, known(err)
}
