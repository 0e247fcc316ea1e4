package sqldb

import (
	"context"
	"database/sql"
	"strings"

	"github.com/pressly/goose/v3/database"
)

// Dialect is in what the two databases differ. Document expressions take the
// column and a path that is already bound as placeholders (bindPath).
type Dialect interface {
	// ForUpdate is the clause that locks the selected rows until the end of
	// the transaction; ForShare lets others read-lock them too.
	ForUpdate() string
	ForShare() string
	// Duplicate reports whether err says that a row with this key exists, and
	// names the constraint or columns.
	Duplicate(err error) (where string, ok bool)
	// Dangling reports whether err says that a referenced row doesn't exist, or
	// that a row is still referenced.
	Dangling(err error) bool

	retryable(err error) bool
	// transient reports whether err may pass: no connection, no space, a lock.
	transient(err error) bool
	// insertRows is how many rows one statement inserts best.
	insertRows() int
	goose() database.Dialect
	lockMigrations(ctx context.Context, db *sql.DB) (unlock func(), err error)
	bindPath(c *compiler, path []string) string
	text(column, path string) string
	number(column, path string) string
	boolean(column, path string) string
	present(column, path string) string
	has(c *compiler, column, path string, value any) string
	// rank orders the types: 0 absent or without order, 1 boolean, 2 number,
	// 3 text.
	rank(column, path string) string
}

func quotePath(path []string) string {
	var b strings.Builder
	b.WriteByte('$')
	for _, segment := range path { // checked by query.CheckPath: no quotes
		b.WriteString(`."` + segment + `"`)
	}
	return b.String()
}
