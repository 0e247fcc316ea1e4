package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"weir.dev/services/internal/query"
)

// Table is a table of versioned rows of type T. Every such table has the
// columns tenant, its keys, revision, and its own; (tenant, keys...) is unique.
// A Table is immutable and safe for concurrent use.
type Table[T any] struct {
	// Name of the table.
	Name string
	// Keys are the key columns after tenant; the last one names the row within
	// its parent and breaks ties in orders.
	Keys []string
	// Columns are all the others but revision.
	Columns []string
	// Shared adds the rows of the empty tenant to everyone's reads.
	Shared bool
	// Fields maps the fields of filters and orders to column expressions; of a
	// query.Texts field, to a condition with one %s for the placeholder.
	Fields map[string]string
	// Row gives tenant, keys, revision and columns, in that order.
	Row func(T) []any
	// Scan reads keys, revision and columns, in that order.
	Scan func(scan func(into ...any) error) (T, error)
	// Size, if not nil, is what one row adds to a page's bytes.
	Size func(T) int
}

// maxPageBytes ends a page early, so that it fits a gRPC message: JSON grows
// up to sevenfold as google.protobuf.Struct.
const maxPageBytes = 512 << 10

func (t Table[T]) columnList() string {
	return strings.Join(append(append(append([]string{}, t.Keys...), "revision"), t.Columns...), ", ")
}

func (t Table[T]) visible(c *compiler, tenant string) string {
	if t.Shared {
		return "tenant IN (" + c.bind(tenant) + ", '')"
	}
	return "tenant = " + c.bind(tenant)
}

// Insert adds a row. The error is the database's own: ask the dialect what it
// means.
func (t Table[T]) Insert(ctx context.Context, q Querier, rows ...T) error {
	c := compiler{}
	_, err := q.ExecContext(ctx, t.insert(&c, rows), c.args...)
	return err
}

// InsertNew adds those rows whose keys are free, and returns the last keys of
// the rows that it added. To be called in a transaction.
func (t Table[T]) InsertNew(ctx context.Context, q Querier, dialect Dialect, rows []T) (added map[string]bool, err error) {
	added = make(map[string]bool, len(rows))
	for chunk := range slices.Chunk(rows, dialect.insertRows()) {
		if err := t.insertNew(ctx, q, chunk, added); err != nil {
			return nil, err
		}
	}
	return added, nil
}

func (t Table[T]) insertNew(ctx context.Context, q Querier, rows []T, added map[string]bool) error {
	c := compiler{}
	statement := t.insert(&c, rows) + " ON CONFLICT DO NOTHING RETURNING " + t.Keys[len(t.Keys)-1]
	result, err := q.QueryContext(ctx, statement, c.args...)
	if err != nil {
		return err
	}
	defer result.Close()
	for result.Next() {
		var key string
		if err := result.Scan(&key); err != nil {
			return err
		}
		added[key] = true
	}
	return errors.Join(result.Err(), result.Close())
}

func (t Table[T]) insert(c *compiler, rows []T) string {
	var b strings.Builder
	fmt.Fprintf(&b, "INSERT INTO %s (tenant, %s) VALUES ", t.Name, t.columnList())
	for i, row := range rows {
		if i > 0 {
			b.WriteString(", ")
		}
		for j, value := range t.Row(row) {
			b.WriteString(map[bool]string{true: "(", false: ", "}[j == 0])
			b.WriteString(c.bind(value))
		}
		b.WriteByte(')')
	}
	return b.String()
}

// Get reads one row, or ErrNotFound. lock is a dialect's locking clause, or
// empty.
func (t Table[T]) Get(ctx context.Context, q Querier, lock, tenant string, keys ...string) (T, error) {
	c := compiler{}
	statement := "SELECT " + t.columnList() + " FROM " + t.Name + " WHERE " + t.visible(&c, tenant) + t.equal(&c, keys) + lock
	row, err := t.Scan(q.QueryRowContext(ctx, statement, c.args...).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return row, ErrNotFound
	}
	return row, err
}

func (t Table[T]) equal(c *compiler, keys []string) string {
	var b strings.Builder
	for i, key := range keys {
		b.WriteString(" AND " + t.Keys[i] + " = " + c.bind(key))
	}
	return b.String()
}

// Update replaces a row whose revision is still expected; row carries the new
// revision. It reports whether there was such a row.
func (t Table[T]) Update(ctx context.Context, q Querier, row T, expected int64) (bool, error) {
	c := compiler{}
	values := t.Row(row)
	keys := 1 + len(t.Keys)
	columns := append([]string{"revision"}, t.Columns...)
	assignments := make([]string, len(columns))
	for i, column := range columns {
		assignments[i] = column + " = " + c.bind(values[keys+i])
	}
	statement := "UPDATE " + t.Name + " SET " + strings.Join(assignments, ", ") + " WHERE tenant = " + c.bind(values[0])
	for i, column := range t.Keys {
		statement += " AND " + column + " = " + c.bind(values[1+i])
	}
	statement += " AND revision = " + c.bind(expected)
	return changed(q.ExecContext(ctx, statement, c.args...))
}

// Delete removes the row with these keys, if its revision is still expected
// (zero for any). It reports whether there was such a row.
func (t Table[T]) Delete(ctx context.Context, q Querier, expected int64, tenant string, keys ...string) (bool, error) {
	c := compiler{}
	statement := "DELETE FROM " + t.Name + " WHERE tenant = " + c.bind(tenant) + t.equal(&c, keys)
	if expected != 0 {
		statement += " AND revision = " + c.bind(expected)
	}
	return changed(q.ExecContext(ctx, statement, c.args...))
}

func changed(result sql.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	count, err := result.RowsAffected()
	return count > 0, err
}

// List reads one page of the rows under the given parent keys. The cursor is
// nil on the last page.
func (t Table[T]) List(ctx context.Context, q Querier, dialect Dialect, list query.List, tenant string, parents ...string) ([]T, *query.Cursor, error) {
	c := compiler{dialect: dialect, columns: t.Fields}
	statement, width, err := t.list(&c, list, tenant, parents)
	if err != nil {
		return nil, nil, err
	}
	result, err := q.QueryContext(ctx, statement, c.args...)
	if err != nil {
		return nil, nil, err
	}
	defer result.Close()
	var page []T
	var last []any
	size := 0
	for result.Next() {
		position := make([]any, width)
		row, err := t.Scan(func(into ...any) error {
			for i := range position {
				into = append(into, &position[i])
			}
			return result.Scan(into...)
		})
		if err != nil {
			return nil, nil, err
		}
		if t.Size != nil {
			size += t.Size(row)
		}
		if len(page) == list.Limit || (len(page) > 0 && size > maxPageBytes) {
			return page, &query.Cursor{Values: normal(last)}, result.Close()
		}
		page, last = append(page, row), position
	}
	return page, nil, result.Err()
}

func (t Table[T]) list(c *compiler, list query.List, tenant string, parents []string) (statement string, width int, err error) {
	columns, err := c.order(list.Order, t.Keys[len(t.Keys)-1])
	if err != nil {
		return "", 0, err
	}
	var keys, orders []string
	inner := t.columnList()
	for i, column := range columns {
		alias := fmt.Sprintf("k%d", i)
		inner += ", " + column.expression + " AS " + alias
		keys = append(keys, alias)
		orders = append(orders, alias+map[bool]string{true: " DESC", false: ""}[column.desc])
	}
	base := t.visible(c, tenant) + t.equal(c, parents)
	filter, err := c.where(list.Filter)
	if err != nil {
		return "", 0, err
	}
	after, err := c.after(columns, list.After)
	if err != nil {
		return "", 0, err
	}
	statement = fmt.Sprintf("SELECT %s, %s FROM (SELECT %s FROM %s WHERE %s AND %s) AS page WHERE %s ORDER BY %s LIMIT %s",
		t.columnList(), strings.Join(keys, ", "), inner, t.Name, base, filter, after, strings.Join(orders, ", "), c.bind(int64(list.Limit+1)))
	return statement, len(columns), nil
}

func normal(values []any) []any {
	for i, value := range values {
		switch v := value.(type) {
		case []byte:
			values[i] = string(v)
		case int32:
			values[i] = int64(v)
		}
	}
	return values
}
