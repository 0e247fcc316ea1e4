package sqldb

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"weir.dev/services/internal/query"
)

// sortableCharacters is how much of a text inside a document counts for its
// order; it bounds page tokens.
const sortableCharacters = 200

// compiler collects the arguments of one statement. Only column expressions
// from the code, and placeholders, ever become SQL.
type compiler struct {
	dialect Dialect
	columns map[string]string
	args    []any
}

// bind adds an argument and returns its placeholder.
func (c *compiler) bind(value any) string {
	c.args = append(c.args, value)
	return "$" + strconv.Itoa(len(c.args))
}

// where translates a checked filter; each part is two-valued, never NULL.
func (c *compiler) where(e query.Expr) (string, error) {
	switch e := e.(type) {
	case nil:
		return "TRUE", nil
	case query.And:
		return c.junction("AND", e.Left, e.Right)
	case query.Or:
		return c.junction("OR", e.Left, e.Right)
	case query.Not:
		inner, err := c.where(e.Inner)
		return "NOT (" + inner + ")", err
	case query.Compare:
		return c.compare(e)
	default:
		return "", fmt.Errorf("%w: filter of unknown type %T", errUnsupported, e)
	}
}

func (c *compiler) junction(word string, left, right query.Expr) (string, error) {
	l, err := c.where(left)
	if err != nil {
		return "", err
	}
	r, err := c.where(right)
	return "(" + l + " " + word + " " + r + ")", err
}

func (c *compiler) compare(e query.Compare) (string, error) {
	column, known := c.columns[e.Field]
	if !known {
		return "", fmt.Errorf("%w: no column for field %q", errUnsupported, e.Field)
	}
	operator, known := map[query.Op]string{
		query.Equal: "=", query.NotEqual: "<>", query.Less: "<", query.LessEqual: "<=",
		query.Greater: ">", query.GreaterEqual: ">=", query.Has: ":", query.Present: "present",
	}[e.Op]
	if !known {
		return "", fmt.Errorf("%w: unknown operator %q", errUnsupported, e.Op)
	}
	switch e.Kind {
	case query.Document:
		return c.compareDocument(column, operator, e), nil
	case query.Texts: // the column is an EXISTS with a hole for the placeholder
		return fmt.Sprintf(column, c.bind(e.Value)), nil
	}
	value := e.Value
	if at, ok := value.(time.Time); ok {
		value = Micros(at)
	}
	return "(" + column + " " + operator + " " + c.bind(value) + ")", nil
}

func (c *compiler) compareDocument(column, operator string, e query.Compare) string {
	path := c.dialect.bindPath(c, e.Path)
	switch e.Op {
	case query.Present:
		return "(" + c.dialect.present(column, path) + ")"
	case query.Has:
		return c.dialect.has(c, column, path, e.Value)
	}
	var typed string
	switch e.Value.(type) {
	case float64:
		typed = c.dialect.number(column, path)
	case bool:
		typed = c.dialect.boolean(column, path)
	default:
		typed = c.dialect.text(column, path)
	}
	return "COALESCE(" + typed + " " + operator + " " + c.bind(e.Value) + ", FALSE)"
}

// sortColumn is one column of an order, under an alias of its own.
type sortColumn struct {
	expression string
	desc       bool
}

// order translates keys to columns that are never NULL, with the tie-breaker
// last.
func (c *compiler) order(keys []query.Key, tie string) ([]sortColumn, error) {
	var columns []sortColumn
	for _, key := range keys {
		column, known := c.columns[key.Field]
		if !known {
			return nil, fmt.Errorf("%w: no column for field %q", errUnsupported, key.Field)
		}
		if key.Kind != query.Document {
			columns = append(columns, sortColumn{column, key.Desc})
			continue
		}
		path := c.dialect.bindPath(c, key.Path)
		columns = append(columns,
			sortColumn{c.dialect.rank(column, path), key.Desc},
			sortColumn{fmt.Sprintf("COALESCE(%s, CASE WHEN %s THEN 1.0 ELSE 0.0 END)",
				c.dialect.number(column, path), c.dialect.boolean(column, path)), key.Desc},
			sortColumn{fmt.Sprintf("COALESCE(substr(%s, 1, %d), '')", c.dialect.text(column, path), sortableCharacters), key.Desc})
	}
	return append(columns, sortColumn{expression: tie}), nil
}

// after is the condition that a row comes after cursor, over the aliases.
func (c *compiler) after(columns []sortColumn, cursor *query.Cursor) (string, error) {
	if cursor == nil {
		return "TRUE", nil
	}
	if len(cursor.Values) != len(columns) {
		return "", query.InvalidPageToken()
	}
	bound := make([]string, len(columns))
	for i, value := range cursor.Values {
		bound[i] = c.bind(value)
	}
	var alternatives []string
	for i, column := range columns {
		var all []string
		for j := range i {
			all = append(all, fmt.Sprintf("k%d = %s", j, bound[j]))
		}
		operator := ">"
		if column.desc {
			operator = "<"
		}
		all = append(all, fmt.Sprintf("k%d %s %s", i, operator, bound[i]))
		alternatives = append(alternatives, "("+strings.Join(all, " AND ")+")")
	}
	return "(" + strings.Join(alternatives, " OR ") + ")", nil
}
