// Package store keeps the data service's state in SQL, on either database.
// Packages sqlite and postgres open it.
package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"weir.dev/services/data"
	"weir.dev/services/internal/query"
	"weir.dev/services/internal/sqldb"
)

// forgetBatch bounds the results dropped by one call.
const forgetBatch = 5000

// Store implements data.Store. Safe for concurrent use.
type Store struct {
	db          *sqldb.DB
	collections sqldb.Table[data.Collection]
	records     sqldb.Table[data.Record]
}

var _ data.Store = (*Store)(nil)

// New wraps a database whose schema is up to date. The store owns it.
func New(db *sqldb.DB) *Store {
	return &Store{db: db, collections: collections(), records: records()}
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return s.db.Ping(ctx) }

// PageSecret is the secret that keys page tokens.
func (s *Store) PageSecret(ctx context.Context) ([]byte, error) {
	return s.db.Secret(ctx, "data_secrets", "page-token")
}

func collections() sqldb.Table[data.Collection] {
	return sqldb.Table[data.Collection]{
		Name:    "data_collections",
		Keys:    []string{"id"},
		Columns: []string{"display_name", "schema", "created_at", "updated_at"},
		Fields: map[string]string{
			"name": "id", "display_name": "display_name", "create_time": "created_at", "update_time": "updated_at",
		},
		Row: func(c data.Collection) []any {
			schema := sql.NullString{String: string(c.Schema), Valid: c.Schema != nil}
			return []any{c.Tenant, c.ID, c.Revision, c.DisplayName, schema, sqldb.Micros(c.CreateTime), sqldb.Micros(c.UpdateTime)}
		},
		Scan: func(scan func(...any) error) (c data.Collection, err error) {
			var schema sql.NullString
			var created, updated int64
			err = scan(&c.ID, &c.Revision, &c.DisplayName, &schema, &created, &updated)
			if schema.Valid {
				c.Schema = data.Document(schema.String)
			}
			c.CreateTime, c.UpdateTime = sqldb.Time(created), sqldb.Time(updated)
			return c, err
		},
		Size: func(c data.Collection) int { return len(c.Schema) },
	}
}

func records() sqldb.Table[data.Record] {
	return sqldb.Table[data.Record]{
		Name:    "data_records",
		Keys:    []string{"collection", "id"},
		Columns: []string{"data", "created_at", "updated_at"},
		Fields: map[string]string{
			"name": "id", "data": "data", "create_time": "created_at", "update_time": "updated_at",
		},
		Row: func(r data.Record) []any {
			return []any{r.Tenant, r.Collection, r.ID, r.Revision, string(r.Data), sqldb.Micros(r.CreateTime), sqldb.Micros(r.UpdateTime)}
		},
		Scan: func(scan func(...any) error) (r data.Record, err error) {
			var created, updated int64
			err = scan(&r.Collection, &r.ID, &r.Revision, (*[]byte)(&r.Data), &created, &updated)
			r.CreateTime, r.UpdateTime = sqldb.Time(created), sqldb.Time(updated)
			return r, err
		},
		Size: func(r data.Record) int { return len(r.Data) },
	}
}

// CreateCollection implements data.CollectionStore.
func (s *Store) CreateCollection(ctx context.Context, c data.Collection, result *data.Result) (earlier *data.Result, err error) {
	err = s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		if earlier, err = remember(ctx, q, c.Tenant, result); err != nil || earlier != nil {
			return err
		}
		err := s.collections.Insert(ctx, q, c)
		if _, duplicate := s.db.Dialect().Duplicate(err); duplicate {
			return data.CollectionExists(c.ID)
		}
		return err
	})
	return earlier, err
}

// GetCollection implements data.CollectionStore.
func (s *Store) GetCollection(ctx context.Context, tenant, id string) (c data.Collection, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, q sqldb.Querier) error {
		c, err = s.collection(ctx, q, "", tenant, id)
		return err
	})
	return c, err
}

func (s *Store) collection(ctx context.Context, q sqldb.Querier, lock, tenant, id string) (data.Collection, error) {
	c, err := s.collections.Get(ctx, q, lock, tenant, id)
	if errors.Is(err, sqldb.ErrNotFound) {
		return data.Collection{}, data.CollectionNotFound(id)
	}
	c.Tenant = tenant
	return c, err
}

// ListCollections implements data.CollectionStore.
func (s *Store) ListCollections(ctx context.Context, tenant string, list query.List) (page []data.Collection, next *query.Cursor, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, q sqldb.Querier) error {
		page, next, err = s.collections.List(ctx, q, s.db.Dialect(), list, tenant)
		return err
	})
	return page, next, err
}

// UpdateCollection implements data.CollectionStore.
func (s *Store) UpdateCollection(ctx context.Context, c data.Collection) error {
	err := s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		ok, err := s.collections.Update(ctx, q, c, c.Revision-1)
		if err == nil && !ok {
			return sqldb.ErrStale
		}
		return err
	})
	return known(err)
}

// DeleteCollection implements data.CollectionStore.
func (s *Store) DeleteCollection(ctx context.Context, tenant, id string, revision int64, force bool) error {
	err := s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		current, err := s.collection(ctx, q, s.db.Dialect().ForUpdate(), tenant, id)
		if err != nil {
			return err
		}
		if revision != 0 && current.Revision != revision {
			return sqldb.ErrStale
		}
		if force {
			if _, err := q.ExecContext(ctx, "DELETE FROM data_records WHERE tenant = $1 AND collection = $2", tenant, id); err != nil {
				return err
			}
		}
		_, err = s.collections.Delete(ctx, q, 0, tenant, id)
		if s.db.Dialect().Dangling(err) {
			return data.CollectionNotEmpty(id)
		}
		return err
	})
	return known(err)
}

// known gives the service's name to what sqldb calls stale.
func known(err error) error {
	if errors.Is(err, sqldb.ErrStale) {
		return data.ErrStale
	}
	return err
}

// remember claims an idempotency key in the transaction of its request. A
// concurrent request with the key is waited for by the database.
func remember(ctx context.Context, q sqldb.Querier, tenant string, result *data.Result) (*data.Result, error) {
	if result == nil {
		return nil, nil
	}
	outcome, err := q.ExecContext(ctx,
		"INSERT INTO data_results (tenant, request_id, fingerprint, response, created_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
		tenant, result.RequestID, result.Fingerprint, string(result.Response), sqldb.Micros(result.Time))
	if err != nil {
		return nil, err
	}
	if count, err := outcome.RowsAffected(); err != nil || count == 1 {
		return nil, err
	}
	return find(ctx, q, tenant, result.RequestID)
}

func find(ctx context.Context, q sqldb.Querier, tenant, requestID string) (*data.Result, error) {
	found := data.Result{RequestID: requestID}
	var created int64
	err := q.QueryRowContext(ctx, "SELECT fingerprint, response, created_at FROM data_results WHERE tenant = $1 AND request_id = $2",
		tenant, requestID).Scan(&found.Fingerprint, &found.Response, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	found.Time = sqldb.Time(created)
	return &found, err
}

// FindResult implements data.ResultStore.
func (s *Store) FindResult(ctx context.Context, tenant, requestID string) (found *data.Result, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, q sqldb.Querier) error {
		found, err = find(ctx, q, tenant, requestID)
		return err
	})
	return found, err
}

// ForgetResults implements data.ResultStore.
func (s *Store) ForgetResults(ctx context.Context, before time.Time) (count int64, err error) {
	err = s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		outcome, err := q.ExecContext(ctx, `DELETE FROM data_results WHERE (tenant, request_id) IN
			(SELECT tenant, request_id FROM data_results WHERE created_at < $1 LIMIT $2)`, sqldb.Micros(before), forgetBatch)
		if err != nil {
			return err
		}
		count, err = outcome.RowsAffected()
		return err
	})
	return count, err
}
