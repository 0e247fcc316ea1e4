// Package postgres keeps the user service's data in PostgreSQL.
package postgres

import (
	"context"
	"embed"
	"errors"

	"weir.dev/services/internal/sqldb"
	"weir.dev/services/user/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Open connects to the database that url names.
// Its schema is brought up to date first.
func Open(ctx context.Context, url string) (*store.Store, error) {
	db, err := sqldb.OpenPostgres(ctx, url)
	if err != nil {
		return nil, err
	}
	if err := db.Migrate(ctx, migrations, "migrations", "user_schema_version"); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return store.New(db), nil
}
