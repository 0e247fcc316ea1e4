package sqldb

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
)

// operationTimeout bounds one transaction or query, so that a stuck database
// can't hold a call without a deadline for ever.
const operationTimeout = 30 * time.Second

// maxAttempts bounds how often a transaction that lost a race is run.
const maxAttempts = 5

// ErrNotFound says that there is no such row.
var ErrNotFound = errors.New("no such row")

// ErrStale says that a row isn't any more what a change was decided on. Stores
// return it from Write's function; it passes through.
var ErrStale = errors.New("the row has changed")

// errUnsupported says that a query asks for what its table hasn't got.
var errUnsupported = errors.New("sqldb: unsupported query")

// Querier is what a *sql.DB and a *sql.Tx have in common.
type Querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// DB is an open database. Safe for concurrent use.
type DB struct {
	write   *sql.DB
	read    *sql.DB
	dialect Dialect
}

// Dialect is in what the database differs from the other.
func (db *DB) Dialect() Dialect { return db.dialect }

// Close closes all connections.
func (db *DB) Close() error {
	if db.read == db.write {
		return db.write.Close()
	}
	return errors.Join(db.read.Close(), db.write.Close())
}

// Ping reports whether the database answers.
func (db *DB) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, operationTimeout)
	defer cancel()
	return db.failed(ctx, db.read.PingContext(ctx))
}

// Read runs fn against the committed state. fn may run concurrently with
// writes.
func (db *DB) Read(ctx context.Context, fn func(ctx context.Context, q Querier) error) error {
	ctx, cancel := context.WithTimeout(ctx, operationTimeout)
	defer cancel()
	return db.failed(ctx, fn(ctx, db.read))
}

// Write runs fn in a transaction and commits it if fn returns nil; once Write
// returns nil the change survives the death of the process. A transaction that
// lost against another one is run again, so fn must have no other effects.
func (db *DB) Write(ctx context.Context, fn func(ctx context.Context, q Querier) error) error {
	ctx, cancel := context.WithTimeout(ctx, operationTimeout)
	defer cancel()
	var err error
	for range maxAttempts {
		if err = db.attempt(ctx, fn); err == nil || !db.dialect.retryable(err) {
			break
		}
	}
	return db.failed(ctx, err)
}

func (db *DB) attempt(ctx context.Context, fn func(ctx context.Context, q Querier) error) error {
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fn(ctx, tx); err != nil {
		if rollback := tx.Rollback(); rollback != nil && !errors.Is(rollback, sql.ErrTxDone) {
			return errors.Join(err, rollback)
		}
		return err
	}
	return tx.Commit()
}

// failed gives database trouble that may pass its coded form. Coded errors,
// ErrNotFound and ErrStale pass through; what is left is a defect of ours, and
// the server reports it as an internal error.
func (db *DB) failed(ctx context.Context, err error) error {
	var coded *fault.Error
	switch {
	case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrStale), errors.As(err, &coded), errors.Is(err, errUnsupported):
		return err
	case ctx.Err() != nil: // drivers have words of their own for it
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	case db.dialect.transient(err):
		return fault.New(codes.Unavailable, "STORE_UNAVAILABLE", "the store could not do that; try again").WithCause(err)
	default:
		return err
	}
}

// Migrate brings the schema up to date from the *.sql files in folder of
// files, keeping its version in versionTable. Concurrent starts of several
// processes are safe.
func (db *DB) Migrate(ctx context.Context, files embed.FS, folder, versionTable string) error {
	sub, err := fs.Sub(files, folder)
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	store, err := database.NewStore(db.dialect.goose(), versionTable)
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	// Goose wants the connection to itself; SQLite's writer has only one.
	unlock, err := db.dialect.lockMigrations(ctx, db.write)
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	defer unlock()
	provider, err := goose.NewProvider("", db.write, sub, goose.WithStore(store))
	if err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	return nil
}

// Micros is t as it is stored.
func Micros(t time.Time) int64 { return t.UnixMicro() }

// Time is the time that Micros stored.
func Time(micros int64) time.Time { return time.UnixMicro(micros).UTC() }
