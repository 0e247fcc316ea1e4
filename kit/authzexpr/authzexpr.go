// Package authzexpr compiles and evaluates authorization expressions: CEL over
// the typed environment weir.rules.v1.AuthzInput. policy compiles to find
// mistakes before anything runs, extauthz evaluates; both use this package so
// that they cannot differ.
package authzexpr

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/ext"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

// MaxExpressionBytes bounds the text of one expression.
const MaxExpressionBytes = 4 << 10

// costLimit bounds one evaluation, in CEL cost units (about one per operation).
const costLimit = 100_000

// checkEvery is how many comprehension iterations pass between looks at the
// context.
const checkEvery = 100

// Environment compiles expressions. Safe for concurrent use.
type Environment struct{ env *cel.Env }

// NewEnvironment builds the typed environment: variables request, identity,
// route and source, with CEL's string, set and network-free math extensions.
func NewEnvironment() (*Environment, error) {
	env, err := cel.NewEnv(
		cel.Types(&rulesv1.AuthzInput{}),
		cel.Variable("request", cel.ObjectType("weir.rules.v1.RequestAttributes")),
		cel.Variable("identity", cel.ObjectType("weir.rules.v1.IdentityAttributes")),
		cel.Variable("route", cel.ObjectType("weir.rules.v1.RouteAttributes")),
		cel.Variable("source", cel.ObjectType("weir.rules.v1.SourceAttributes")),
		ext.Strings(ext.StringsVersion(4)),
		ext.Sets(),
	)
	if err != nil {
		return nil, fmt.Errorf("authorization environment: %w", err)
	}
	return &Environment{env: env}, nil
}

// Program is a compiled expression. Safe for concurrent use.
type Program struct {
	program    cel.Program
	references []string
}

// References lists what the expression reads, sorted and each once: "variable"
// or "variable.field" of the environment's variables, never deeper. A caller
// may leave out of the input what is not read. The caller must not change it.
func (p *Program) References() []string { return p.references }

// Compile checks an expression's syntax and types. The error is one line with
// the place of each mistake.
func (e *Environment) Compile(expression string) (*Program, error) {
	if len(expression) > MaxExpressionBytes {
		return nil, fmt.Errorf("is %d bytes long; the most is %d", len(expression), MaxExpressionBytes)
	}
	checked, issues := e.env.Compile(expression)
	if err := issues.Err(); err != nil {
		var mistakes []string
		for _, issue := range issues.Errors() {
			// A mistake at the very end has no column of its own.
			line, column := max(issue.Location.Line(), 1), max(issue.Location.Column()+1, 1)
			mistakes = append(mistakes, fmt.Sprintf("at %d:%d: %s", line, column, issue.Message))
		}
		return nil, errors.New(strings.Join(mistakes, "; "))
	}
	if checked.OutputType() != cel.BoolType {
		return nil, fmt.Errorf("is of type %s; it must be bool", checked.OutputType())
	}
	program, err := e.env.Program(checked,
		cel.EvalOptions(cel.OptOptimize),
		cel.CostLimit(costLimit),
		cel.InterruptCheckFrequency(checkEvery))
	if err != nil {
		return nil, err
	}
	return &Program{program: program, references: references(checked)}, nil
}

// references collects variables and their fields. A variable that is used whole
// is listed by its bare name as well as by the fields that are selected of it.
func references(checked *cel.Ast) []string {
	var found []string
	selected := map[int64]bool{} // operands already listed with their field
	ast.PreOrderVisit(checked.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.SelectKind:
			operand := e.AsSelect().Operand()
			if operand.Kind() == ast.IdentKind && isVariable(operand.AsIdent()) {
				selected[operand.ID()] = true
				found = append(found, operand.AsIdent()+"."+e.AsSelect().FieldName())
			}
		case ast.IdentKind:
			if isVariable(e.AsIdent()) && !selected[e.ID()] {
				found = append(found, e.AsIdent())
			}
		}
	}))
	slices.Sort(found)
	return slices.Compact(found)
}

func isVariable(name string) bool {
	switch name {
	case "request", "identity", "route", "source":
		return true
	}
	return false
}

// Eval evaluates the expression. An error (a missing key, too much work, an
// ended context) is never a decision: callers deny.
func (p *Program) Eval(ctx context.Context, input *rulesv1.AuthzInput) (bool, error) {
	out, _, err := p.program.ContextEval(ctx, map[string]any{
		"request":  orEmpty(input.GetRequest(), &rulesv1.RequestAttributes{}),
		"identity": orEmpty(input.GetIdentity(), &rulesv1.IdentityAttributes{}),
		"route":    orEmpty(input.GetRoute(), &rulesv1.RouteAttributes{}),
		"source":   orEmpty(input.GetSource(), &rulesv1.SourceAttributes{}),
	})
	if err != nil {
		return false, err
	}
	truth, ok := out.Value().(bool)
	if !ok {
		return false, fmt.Errorf("evaluated to %s, not to a bool", out.Type().TypeName())
	}
	return truth, nil
}

func orEmpty[T any](value, empty *T) *T {
	if value == nil {
		return empty
	}
	return value
}
