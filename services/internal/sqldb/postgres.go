package sqldb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3/database"
)

// migrationLock is the advisory lock that processes of one database migrate
// under; any number that nothing else uses.
const migrationLock = 7_323_951_044

// maxConnections bounds the pool of one process.
const maxConnections = 16

// OpenPostgres connects to the database that url (a postgres:// URL or a
// key=value string) names. Errors don't repeat the URL: it holds a password.
func OpenPostgres(ctx context.Context, url string) (*DB, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, errors.New("store.postgres.url (or WEIR_POSTGRES_URL) is not a PostgreSQL URL; write postgres://USER:PASSWORD@HOST:PORT/DATABASE")
	}
	config.ConnectTimeout = 10 * time.Second
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "weir"
	}
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(maxConnections)
	db.SetMaxIdleConns(maxConnections)
	db.SetConnMaxIdleTime(5 * time.Minute)
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("PostgreSQL at %s:%d, database %q: %w", config.Host, config.Port, config.Database, err), db.Close())
	}
	return &DB{write: db, read: db, dialect: postgresDialect{}}, nil
}

type postgresDialect struct{}

func (postgresDialect) ForUpdate() string { return " FOR UPDATE" }
func (postgresDialect) ForShare() string  { return " FOR SHARE" }

// SQLSTATE values, from appendix A of the PostgreSQL manual.
const (
	uniqueViolation     = "23505"
	foreignKeyViolation = "23503"
	serialization       = "40001"
	deadlock            = "40P01"
)

func state(err error) (*pgconn.PgError, string) {
	var failure *pgconn.PgError
	if errors.As(err, &failure) {
		return failure, failure.Code
	}
	return nil, ""
}

func (postgresDialect) Duplicate(err error) (string, bool) {
	if failure, code := state(err); code == uniqueViolation {
		return failure.ConstraintName, true
	}
	return "", false
}

func (postgresDialect) Dangling(err error) bool {
	_, code := state(err)
	return code == foreignKeyViolation
}

func (postgresDialect) retryable(err error) bool {
	_, code := state(err)
	return code == serialization || code == deadlock
}

// transient takes an error that the server didn't send for one of the
// connection. Of the server's, these classes of appendix A pass: connection,
// rollback, resources, object state, operator intervention, system.
func (postgresDialect) transient(err error) bool {
	_, code := state(err)
	return code == "" || slices.Contains([]string{"08", "40", "53", "55", "57", "58"}, code[:2])
}

// A statement takes at most 65,535 arguments.
func (postgresDialect) insertRows() int { return 1000 }

func (postgresDialect) goose() database.Dialect { return database.DialectPostgres }

func (postgresDialect) lockMigrations(ctx context.Context, db *sql.DB) (func(), error) {
	connection, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := connection.ExecContext(ctx, "SELECT pg_advisory_lock($1)", int64(migrationLock)); err != nil {
		return nil, errors.Join(err, connection.Close())
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		// If this fails, closing the session releases the lock.
		_, _ = connection.ExecContext(ctx, "SELECT pg_advisory_unlock($1)", int64(migrationLock))
		_ = connection.Close()
	}, nil
}

func (postgresDialect) bindPath(c *compiler, path []string) string {
	bound := make([]string, len(path))
	for i, segment := range path {
		bound[i] = "CAST(" + c.bind(segment) + " AS text)"
	}
	return strings.Join(bound, ", ")
}

func at(column, path string) string { return "jsonb_extract_path(" + column + ", " + path + ")" }

func (postgresDialect) text(column, path string) string {
	return fmt.Sprintf(`CASE WHEN jsonb_typeof(%[1]s) = 'string' THEN (%[1]s #>> '{}') COLLATE "C" END`, at(column, path))
}

func (postgresDialect) number(column, path string) string {
	return fmt.Sprintf("CASE WHEN jsonb_typeof(%[1]s) = 'number' THEN CAST(%[1]s #>> '{}' AS double precision) END", at(column, path))
}

func (postgresDialect) boolean(column, path string) string {
	return fmt.Sprintf("CASE WHEN jsonb_typeof(%[1]s) = 'boolean' THEN CAST(%[1]s #>> '{}' AS boolean) END", at(column, path))
}

func (postgresDialect) present(column, path string) string {
	return fmt.Sprintf("COALESCE(jsonb_typeof(%s), 'null') <> 'null'", at(column, path))
}

// has relies on jsonb's containment: an array contains a scalar element, and a
// scalar contains itself.
func (postgresDialect) has(c *compiler, column, path string, value any) string {
	literal, err := json.Marshal(value) // a string, a finite float64 or a bool
	if err != nil {
		return "FALSE"
	}
	return fmt.Sprintf("COALESCE(%s @> CAST(%s AS jsonb), FALSE)", at(column, path), c.bind(string(literal)))
}

func (postgresDialect) rank(column, path string) string {
	return fmt.Sprintf("CASE jsonb_typeof(%s) WHEN 'boolean' THEN 1 WHEN 'number' THEN 2 WHEN 'string' THEN 3 ELSE 0 END", at(column, path))
}
