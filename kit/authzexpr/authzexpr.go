package authzexpr

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"
)

// MaxExpressionBytes bounds the text of one expression.
const MaxExpressionBytes = 4 << 10

// costLimit bounds one evaluation, in CEL cost units (about one per operation).
// What cannot reach it, by the bounds of an Input, is not counted while it runs.
const costLimit = 100_000

// checkEvery is how many comprehension iterations pass between looks at the
// context.
const checkEvery = 100

// Environment compiles expressions. Safe for concurrent use.
type Environment struct {
	env       *cel.Env
	variables [variables]variable
}

// NewEnvironment builds the typed environment: variables request, identity,
// consumer, route, source, time and metadata, with CEL's string, set, network
// and math-free extensions and a few functions of our own (functions.go).
func NewEnvironment() (*Environment, error) {
	e := &Environment{variables: environment()}
	options := []cel.EnvOption{
		ext.Strings(ext.StringsVersion(5)),
		ext.Sets(),
		ext.Network(),
		func(env *cel.Env) (*cel.Env, error) {
			return cel.CustomTypeProvider(newProvider(env.CELTypeProvider(), &e.variables))(env)
		},
	}
	options = append(options, declarations(&e.variables)...)
	options = append(options, functions()...)
	options = append(options, cel.ExtendedValidations())
	env, err := cel.NewEnv(options...)
	if err != nil {
		return nil, fmt.Errorf("authorization environment: %w", err)
	}
	e.env = env
	return e, nil
}

// Program is a compiled expression. Safe for concurrent use.
type Program struct {
	// fast is nil where only cel-go knows what the expression means.
	fast       truth
	program    cel.Program
	counted    bool
	references []string
}

// References lists what the expression reads, sorted and each once: "variable"
// or "variable.field" of the environment's variables, never deeper. A caller
// may leave out of the input what is not read. The caller must not change it.
func (p *Program) References() []string { return p.references }

// Reads reports whether the expression reads a field of a variable, or the
// whole variable.
func (p *Program) Reads(variable, field string) bool {
	_, whole := slices.BinarySearch(p.references, variable)
	_, part := slices.BinarySearch(p.references, variable+"."+field)
	return whole || part
}

// Compile checks an expression of type bool. The error is one line with the
// place of each mistake.
func (e *Environment) Compile(expression string) (*Program, error) {
	checked, err := e.check(expression, cel.BoolType)
	if err != nil {
		return nil, err
	}
	program, counted, err := e.program(checked)
	if err != nil {
		return nil, err
	}
	p := &Program{program: program, references: references(checked), counted: counted}
	compiler := fastCompiler{variables: &e.variables, checked: checked.NativeRep()}
	if fast, ok := compiler.truth(checked.NativeRep().Expr()); ok {
		p.fast = fast
	}
	return p, nil
}

// check parses and checks the types, the bounds and the cost.
func (e *Environment) check(expression string, want ...*types.Type) (*cel.Ast, error) {
	if len(expression) > MaxExpressionBytes {
		return nil, fmt.Errorf("is %d bytes long; the most is %d", len(expression), MaxExpressionBytes)
	}
	checked, issues := e.env.Compile(expression)
	if err := issues.Err(); err != nil {
		var mistakes []string
		for _, issue := range issues.Errors() {
			// A mistake at the very end has no column of its own.
			line, column := max(issue.Location.Line(), 1), max(issue.Location.Column()+1, 1)
			mistakes = append(mistakes, fmt.Sprintf("at %d:%d: %s%s", line, column, issue.Message, e.hint(issue.Message)))
		}
		return nil, errors.New(strings.Join(mistakes, "; "))
	}
	if !slices.ContainsFunc(want, checked.OutputType().IsExactType) {
		return nil, fmt.Errorf("is of type %s; it must be %s%s", checked.OutputType(), want[0], resultHint(checked, want[0]))
	}
	if err := checkGrowth(checked.NativeRep()); err != nil {
		return nil, err
	}
	return checked, nil
}

// program makes cel-go's program. counted is set when its work has to be bounded
// while it runs.
func (e *Environment) program(checked *cel.Ast) (program cel.Program, counted bool, err error) {
	cost, err := e.env.EstimateCost(checked, estimator{})
	if err != nil {
		return nil, false, err
	}
	if cost.Min > costLimit {
		return nil, false, fmt.Errorf("costs %d units of work at least; the most is %d: make it shorter, or loop over less", cost.Min, costLimit)
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if counted = cost.Max > costLimit; counted {
		options = append(options, cel.CostLimit(costLimit), cel.InterruptCheckFrequency(checkEvery))
	}
	program, err = e.env.Program(checked, options...)
	if err != nil {
		return nil, false, err
	}
	return program, counted, nil
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
		case ast.CallKind:
			if field := fieldOf(e.AsCall()); field != "" {
				selected[e.AsCall().Target().ID()] = true
				found = append(found, field)
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

// Eval evaluates the expression. An error (a missing key, too much work, an
// ended context) is never a decision: callers deny. A nil input is an empty one.
func (p *Program) Eval(ctx context.Context, input *Input) (bool, error) {
	if input == nil {
		input = &Input{}
	}
	if p.fast != nil {
		return p.fast(input)
	}
	return p.slow(ctx, input)
}

func (p *Program) slow(ctx context.Context, input *Input) (bool, error) {
	out, err := evaluate(ctx, p.program, p.counted, input)
	if err != nil {
		return false, err
	}
	truth, ok := out.(types.Bool)
	if !ok {
		return false, fmt.Errorf("evaluated to %T, not to a bool", out)
	}
	return bool(truth), nil
}
