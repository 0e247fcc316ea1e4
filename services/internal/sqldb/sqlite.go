package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"

	"github.com/pressly/goose/v3/database"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// OpenSQLite opens, and creates if need be, the database file at path. One
// connection writes; the others read. Every commit is synced to disk.
func OpenSQLite(ctx context.Context, path string) (*DB, error) {
	if path == "" {
		return nil, errors.New("store.sqlite.path is empty: name a file")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("SQLite: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("SQLite: %w", err)
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("SQLite: %w", err)
	}
	write, err := openSQLite(path, "immediate", "journal_mode(WAL)", "synchronous(FULL)")
	if err != nil {
		return nil, err
	}
	write.SetMaxOpenConns(1)
	if err := write.PingContext(ctx); err != nil { // before the readers, which need WAL
		return nil, errors.Join(fmt.Errorf("SQLite %s: %w", path, err), write.Close())
	}
	read, err := openSQLite(path, "deferred", "query_only(1)")
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	readers := max(4, runtime.GOMAXPROCS(0))
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers)
	return &DB{write: write, read: read, dialect: sqliteDialect{}}, nil
}

func openSQLite(path, lock string, pragmas ...string) (*sql.DB, error) {
	query := url.Values{"_txlock": {lock}}
	for _, pragma := range append([]string{"busy_timeout(10000)", "foreign_keys(1)"}, pragmas...) {
		query.Add("_pragma", pragma)
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+query.Encode())
	if err != nil {
		return nil, fmt.Errorf("SQLite %s: %w", path, err)
	}
	return db, nil
}

type sqliteDialect struct{}

// The writer has the database to itself.
func (sqliteDialect) ForUpdate() string { return "" }
func (sqliteDialect) ForShare() string  { return "" }

func (sqliteDialect) Duplicate(err error) (string, bool) {
	var failure *sqlite.Error
	if !errors.As(err, &failure) {
		return "", false
	}
	return failure.Error(), failure.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || failure.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
}

func (sqliteDialect) Dangling(err error) bool {
	var failure *sqlite.Error
	return errors.As(err, &failure) && failure.Code() == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY
}

func (sqliteDialect) retryable(err error) bool {
	var failure *sqlite.Error
	return errors.As(err, &failure) && failure.Code()&0xff == sqlite3.SQLITE_BUSY
}

func (sqliteDialect) transient(err error) bool {
	var failure *sqlite.Error
	if !errors.As(err, &failure) {
		return false
	}
	switch failure.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
		sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY:
		return true
	}
	return false
}

// The driver's time to bind grows with the square of the arguments.
func (sqliteDialect) insertRows() int { return 16 }

func (sqliteDialect) goose() database.Dialect { return database.DialectSQLite3 }

func (sqliteDialect) lockMigrations(context.Context, *sql.DB) (func(), error) {
	return func() {}, nil
}

func (sqliteDialect) bindPath(c *compiler, path []string) string { return c.bind(quotePath(path)) }

func (sqliteDialect) text(column, path string) string {
	return fmt.Sprintf("CASE WHEN json_type(%[1]s, %[2]s) = 'text' THEN json_extract(%[1]s, %[2]s) END", column, path)
}

func (sqliteDialect) number(column, path string) string {
	return fmt.Sprintf("CASE WHEN json_type(%[1]s, %[2]s) IN ('integer', 'real') THEN CAST(json_extract(%[1]s, %[2]s) AS REAL) END", column, path)
}

func (sqliteDialect) boolean(column, path string) string {
	return fmt.Sprintf("CASE json_type(%s, %s) WHEN 'true' THEN 1 WHEN 'false' THEN 0 END", column, path)
}

func (sqliteDialect) present(column, path string) string {
	return fmt.Sprintf("COALESCE(json_type(%s, %s), 'null') <> 'null'", column, path)
}

func (sqliteDialect) has(c *compiler, column, path string, value any) string {
	element := "e.type = 'text' AND e.value = " + c.bind(value)
	switch value.(type) {
	case float64:
		element = "e.type IN ('integer', 'real') AND e.value = " + c.bind(value)
	case bool:
		element = "e.type IN ('true', 'false') AND e.value = " + c.bind(value)
	}
	return fmt.Sprintf("(COALESCE(json_type(%[1]s, %[2]s), 'object') <> 'object' AND EXISTS (SELECT 1 FROM json_each(%[1]s, %[2]s) AS e WHERE %[3]s))",
		column, path, element)
}

func (sqliteDialect) rank(column, path string) string {
	return fmt.Sprintf("CASE json_type(%s, %s) WHEN 'true' THEN 1 WHEN 'false' THEN 1 WHEN 'integer' THEN 2 WHEN 'real' THEN 2 WHEN 'text' THEN 3 ELSE 0 END", column, path)
}
