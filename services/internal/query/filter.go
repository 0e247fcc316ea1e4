package query

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.einride.tech/aip/filtering"
	expr "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
)

// Bounds of a filter.
const (
	// MaxFilterBytes bounds the text.
	MaxFilterBytes = 2048
	// MaxFilterTerms bounds the comparisons.
	MaxFilterTerms = 50
	// MaxFilterDepth bounds the nesting.
	MaxFilterDepth = 20
	// MaxPathSegments bounds a path into a document.
	MaxPathSegments = 10
)

// Kind is the type of a field.
type Kind int

// Kinds of fields.
const (
	// Text is compared as text, byte by byte.
	Text Kind = iota + 1
	// Time is compared with RFC 3339 times.
	Time
	// Bool is true or false.
	Bool
	// Texts is a list of texts: only the operator ":" applies.
	Texts
	// Document is JSON: paths in it are compared by the literal's type.
	Document
)

// Field describes one field of a resource.
type Field struct {
	Kind Kind
	// Unordered fields may not appear in order_by.
	Unordered bool
	// Value rewrites a literal to what is stored, such as a resource name to
	// its id; nil leaves it. An error is shown to the client.
	Value func(literal string) (string, error)
}

// Schema is the set of fields of a resource that filters and orders may name.
type Schema map[string]Field

// Op is a comparison.
type Op string

// Comparisons. Present has no value; Has is membership in a list, or an
// element of an array of a document.
const (
	Equal        Op = "="
	NotEqual     Op = "!="
	Less         Op = "<"
	LessEqual    Op = "<="
	Greater      Op = ">"
	GreaterEqual Op = ">="
	Has          Op = ":"
	Present      Op = "present"
)

// Expr is a checked filter: an And, Or, Not or Compare. A nil Expr matches all.
type Expr interface{ isExpr() }

// And matches when both sides do.
type And struct{ Left, Right Expr }

// Or matches when either side does.
type Or struct{ Left, Right Expr }

// Not matches when the inner expression doesn't.
type Not struct{ Inner Expr }

// Compare compares one field with a literal. A value that is absent, or of
// another type than the literal, matches no comparison.
type Compare struct {
	Field string
	Kind  Kind
	// Path leads into a Document; empty for the other kinds.
	Path []string
	Op   Op
	// Value is a string, float64, bool or time.Time; nil for Present.
	Value any
}

func (And) isExpr()     {}
func (Or) isExpr()      {}
func (Not) isExpr()     {}
func (Compare) isExpr() {}

// InvalidFilter is the error of a filter that can't be used.
func InvalidFilter(format string, args ...any) *fault.Error {
	message := fmt.Sprintf(format, args...)
	return fault.New(codes.InvalidArgument, "INVALID_FILTER", "the filter can't be used: %s", message).WithField("filter", message)
}

// ParseFilter checks an AIP-160 filter against schema. Empty text gives nil.
// Errors are *fault.Error with the reason INVALID_FILTER.
func ParseFilter(text string, schema Schema) (Expr, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	if len(text) > MaxFilterBytes {
		return nil, InvalidFilter("it is %d bytes long; at most %d are allowed", len(text), MaxFilterBytes)
	}
	if strings.ContainsRune(text, 0) {
		return nil, InvalidFilter("it contains U+0000")
	}
	if strings.Count(text, "(") > MaxFilterTerms {
		return nil, InvalidFilter("it has more than %d parentheses", MaxFilterTerms)
	}
	var parser filtering.Parser
	parser.Init(text)
	parsed, err := parser.Parse()
	if err != nil {
		return nil, InvalidFilter("%s", oneLine(err.Error()))
	}
	c := checker{schema: schema}
	return c.expr(parsed.GetExpr(), 0)
}

// oneLine joins the parser's drawing of the position into one line.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

type checker struct {
	schema Schema
	terms  int
}

func (c *checker) expr(e *expr.Expr, depth int) (Expr, error) {
	if depth > MaxFilterDepth {
		return nil, InvalidFilter("it is nested deeper than %d levels", MaxFilterDepth)
	}
	call := e.GetCallExpr()
	if call == nil {
		return nil, InvalidFilter("%q is not a comparison; write FIELD OPERATOR VALUE, such as name = \"x\"", describe(e))
	}
	args := call.GetArgs()
	switch call.GetFunction() {
	case filtering.FunctionAnd, filtering.FunctionFuzzyAnd, filtering.FunctionOr:
		return c.junction(call.GetFunction(), args, depth)
	case filtering.FunctionNot:
		if len(args) != 1 {
			return nil, InvalidFilter("NOT takes one expression")
		}
		inner, err := c.expr(args[0], depth+1)
		if err != nil {
			return nil, err
		}
		return Not{inner}, nil
	case filtering.FunctionEquals, filtering.FunctionNotEquals, filtering.FunctionLessThan, filtering.FunctionLessEquals,
		filtering.FunctionGreaterThan, filtering.FunctionGreaterEquals, filtering.FunctionHas:
		if len(args) != 2 {
			return nil, InvalidFilter("%q takes a field and a value", call.GetFunction())
		}
		return c.compare(Op(call.GetFunction()), args[0], args[1])
	default:
		return nil, InvalidFilter("there is no function %q here", call.GetFunction())
	}
}

func (c *checker) junction(function string, args []*expr.Expr, depth int) (Expr, error) {
	if len(args) != 2 {
		return nil, InvalidFilter("%s takes two expressions", function)
	}
	// The parser nests a AND b AND c to the left: the chain isn't depth.
	leftDepth := depth + 1
	if left := args[0].GetCallExpr(); left != nil && left.GetFunction() == function {
		leftDepth = depth
	}
	left, err := c.expr(args[0], leftDepth)
	if err != nil {
		return nil, err
	}
	right, err := c.expr(args[1], depth+1)
	if err != nil {
		return nil, err
	}
	if function == filtering.FunctionOr {
		return Or{left, right}, nil
	}
	return And{left, right}, nil
}

func (c *checker) compare(op Op, left, right *expr.Expr) (Expr, error) {
	c.terms++
	if c.terms > MaxFilterTerms {
		return nil, InvalidFilter("it has more than %d comparisons", MaxFilterTerms)
	}
	segments := path(left)
	if segments == nil {
		return nil, InvalidFilter("%q is not a field", describe(left))
	}
	name := segments[0]
	field, known := c.schema[name]
	if !known {
		return nil, InvalidFilter("there is no field %q", strings.Join(segments, "."))
	}
	result := Compare{Field: name, Kind: field.Kind, Path: segments[1:], Op: op}
	if field.Kind == Document {
		if err := CheckPath(result.Path); err != nil {
			return nil, InvalidFilter("%s", err)
		}
		return document(result, right)
	}
	if len(result.Path) > 0 {
		return nil, InvalidFilter("there is no field %q", strings.Join(segments, "."))
	}
	literal, ok := textOf(right)
	if !ok {
		return nil, InvalidFilter("%q can't be compared with %s", name, describe(right))
	}
	return scalar(result, field, literal)
}

func scalar(c Compare, field Field, literal string) (Expr, error) {
	if (c.Op == Has) != (field.Kind == Texts) {
		if c.Op == Has {
			return nil, InvalidFilter(`":" doesn't apply to %q; use "="`, c.Field)
		}
		return nil, InvalidFilter(`only ":" applies to %q`, c.Field)
	}
	switch field.Kind {
	case Time:
		at, err := time.Parse(time.RFC3339Nano, literal)
		if err != nil {
			return nil, InvalidFilter("%q is compared with a quoted RFC 3339 time, such as \"2026-01-31T12:00:00Z\"", c.Field)
		}
		c.Value = at
	case Bool:
		if literal != "true" && literal != "false" {
			return nil, InvalidFilter("%q is compared with true or false", c.Field)
		}
		if c.Op != Equal && c.Op != NotEqual {
			return nil, InvalidFilter(`only "=" and "!=" apply to %q`, c.Field)
		}
		c.Value = literal == "true"
	default:
		if field.Value != nil {
			stored, err := field.Value(literal)
			if err != nil {
				return nil, InvalidFilter("%q: %s", c.Field, err)
			}
			literal = stored
		}
		c.Value = literal
	}
	return c, nil
}

// document types a comparison by its literal.
func document(c Compare, right *expr.Expr) (Expr, error) {
	if constant := right.GetConstExpr(); constant != nil {
		switch kind := constant.GetConstantKind().(type) {
		case *expr.Constant_Int64Value:
			c.Value = float64(kind.Int64Value)
		case *expr.Constant_DoubleValue:
			if math.IsNaN(kind.DoubleValue) || math.IsInf(kind.DoubleValue, 0) {
				return nil, InvalidFilter("%q is compared with a number that is too large", c.Field)
			}
			c.Value = kind.DoubleValue
		}
	}
	if c.Value == nil {
		literal, ok := textOf(right)
		if !ok {
			return nil, InvalidFilter("%q can't be compared with %s", c.Field+"."+strings.Join(c.Path, "."), describe(right))
		}
		c.Value = literal
		if right.GetIdentExpr() != nil {
			switch literal {
			case "true", "false":
				c.Value = literal == "true"
			case "null":
				return nil, InvalidFilter("compare with null by presence: %s.%s:*", c.Field, strings.Join(c.Path, "."))
			}
		}
	}
	if c.Op == Has {
		switch c.Value {
		case "*":
			c.Op, c.Value = Present, nil
		case "true", "false": // after ":" the parser doesn't tell true from "true"
			truth := c
			truth.Value = c.Value == "true"
			return Or{c, truth}, nil
		}
	}
	if _, isBool := c.Value.(bool); isBool && c.Op != Equal && c.Op != NotEqual && c.Op != Has {
		return nil, InvalidFilter("true and false have no order; use = or !=")
	}
	return c, nil
}

// textOf is the text of a literal: quoted, bare, a number, or timestamp("...").
func textOf(e *expr.Expr) (string, bool) {
	if constant := e.GetConstExpr(); constant != nil {
		switch kind := constant.GetConstantKind().(type) {
		case *expr.Constant_StringValue:
			return kind.StringValue, true
		case *expr.Constant_Int64Value:
			return strconv.FormatInt(kind.Int64Value, 10), true
		case *expr.Constant_DoubleValue:
			return strconv.FormatFloat(kind.DoubleValue, 'g', -1, 64), true
		}
		return "", false
	}
	if call := e.GetCallExpr(); call.GetFunction() == filtering.FunctionTimestamp && len(call.GetArgs()) == 1 {
		return textOf(call.GetArgs()[0])
	}
	if segments := path(e); segments != nil {
		return strings.Join(segments, "."), true
	}
	return "", false
}

// path flattens a.b.c; nil when e is something else.
func path(e *expr.Expr) []string {
	var reversed []string
	for range MaxFilterBytes {
		if ident := e.GetIdentExpr(); ident != nil {
			segments := make([]string, 0, len(reversed)+1)
			segments = append(segments, ident.GetName())
			for i := len(reversed) - 1; i >= 0; i-- {
				segments = append(segments, reversed[i])
			}
			return segments
		}
		selected := e.GetSelectExpr()
		if selected == nil {
			return nil
		}
		reversed = append(reversed, selected.GetField())
		e = selected.GetOperand()
	}
	return nil
}

func describe(e *expr.Expr) string {
	if text, ok := textOf(e); ok {
		return text
	}
	return "an expression"
}

// segmentPattern is what a path segment may be: the same in filters, orders
// and masks, and safe in every database's path syntax. Immutable.
var segmentPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,63}$`)

// CheckPath checks a path into a document.
func CheckPath(segments []string) error {
	if len(segments) == 0 {
		return fmt.Errorf("name a path in the document, such as data.title")
	}
	if len(segments) > MaxPathSegments {
		return fmt.Errorf("a path has at most %d segments", MaxPathSegments)
	}
	for _, segment := range segments {
		if !segmentPattern.MatchString(segment) {
			return fmt.Errorf("%q can't be used in a path: use letters, digits, _ and -, not starting with a digit, at most 64", segment)
		}
	}
	return nil
}
