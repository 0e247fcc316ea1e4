// Package sqlite keeps the data service's data in SQLite.
package sqlite

import (
	"context"
	"embed"
	"errors"

	"weir.dev/services/data/store"
	"weir.dev/services/internal/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Open opens, and creates if need be, the database file at path.
// Its schema is brought up to date first.
func Open(ctx context.Context, path string) (*store.Store, error) {
	db, err := sqldb.OpenSQLite(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := db.Migrate(ctx, migrations, "migrations", "data_schema_version"); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return store.New(db), nil
}
