package limitexpr

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
)

const (
	// MaxExpressionBytes bounds the text of one expression.
	MaxExpressionBytes = 1 << 10
	// MaxInputs bounds what one expression reads.
	MaxInputs = 8
	// workLimit bounds one evaluation, in CEL cost units (about one per operation).
	workLimit = 10_000
)

// Kind is where an Input comes from.
type Kind string

// Kinds of inputs.
const (
	Header    Kind = "header"
	Param     Kind = "param"
	Claim     Kind = "claim"
	Attribute Kind = "attribute"
	Tier      Kind = "tier"
	Tenant    Kind = "tenant"
	Method    Kind = "method"
	Path      Kind = "path"
	Host      Kind = "host"
	Size      Kind = "size"
)

// Input is one thing of a request that an expression reads.
type Input struct {
	Kind Kind
	// Name is the header's in lower case, the parameter's, the claim's path or the
	// attribute's; empty for the other kinds.
	Name string
}

// String is the input's form in descriptor entries, such as "header.x-tokens".
func (i Input) String() string {
	if i.Name == "" {
		return string(i.Kind)
	}
	return string(i.Kind) + "." + i.Name
}

// Environment compiles expressions. Safe for concurrent use.
type Environment struct{ env *cel.Env }

// Types of what functions are called on.
const (
	requestType  = "weir.limits.Request"
	identityType = "weir.limits.Identity"
	consumerType = "weir.limits.Consumer"
)

// receivers are those types, by variable.
func receivers() map[string]string {
	return map[string]string{"request": requestType, "identity": identityType, "consumer": consumerType}
}

// variables are the plain ones, by name.
func variables() map[string]Kind {
	return map[string]Kind{
		"request.method": Method, "request.path": Path, "request.host": Host, "identity.tier": Tier, "identity.tenant": Tenant, "request.size": Size,
	}
}

// functions are those that take the name of what they read.
func functions() map[string]Kind {
	return map[string]Kind{"header": Header, "param": Param, "claim": Claim, "attribute": Attribute}
}

// NewEnvironment builds the environment, with CEL's string and math extensions.
func NewEnvironment() (*Environment, error) {
	options := []cel.EnvOption{ext.Strings(ext.StringsVersion(5)), ext.Math()}
	for name, kind := range variables() {
		of := cel.StringType
		if kind == Size {
			of = cel.IntType
		}
		options = append(options, cel.Variable(name, of))
	}
	for name, of := range receivers() {
		options = append(options, cel.Variable(name, cel.OpaqueType(of)))
	}
	for name, receiver := range map[string]string{"header": "request", "param": "request", "claim": "identity", "attribute": "consumer"} {
		kind, of := functions()[name], receivers()[receiver]
		options = append(options, cel.Function(name, cel.MemberOverload(
			of+"."+name, []*cel.Type{cel.OpaqueType(of), cel.StringType}, cel.StringType,
			cel.BinaryBinding(func(values, name ref.Val) ref.Val {
				text, ok := name.Value().(string)
				of, known := values.(texts)
				if !ok || !known {
					return types.NewErr("not of this environment")
				}
				return types.String(of.inputs[Input{kind, text}.String()])
			}))))
	}
	env, err := cel.NewEnv(append(options, cel.ExtendedValidations())...)
	if err != nil {
		return nil, fmt.Errorf("environment of limits: %w", err)
	}
	return &Environment{env: env}, nil
}

// Program is a compiled expression. Safe for concurrent use.
type Program struct {
	program cel.Program
	inputs  []Input
}

// Inputs lists what the expression reads, sorted by String and each once. The
// caller must not change it.
func (p *Program) Inputs() []Input { return p.inputs }

// Compile checks an expression of type int, uint or double. The error is one line
// with the place of each mistake.
func (e *Environment) Compile(expression string) (*Program, error) {
	if len(expression) > MaxExpressionBytes {
		return nil, fmt.Errorf("is %d bytes long; the most is %d", len(expression), MaxExpressionBytes)
	}
	checked, issues := e.env.Compile(expression)
	if issues.Err() != nil {
		var mistakes []string
		for _, issue := range issues.Errors() {
			mistakes = append(mistakes, fmt.Sprintf("at %d:%d: %s", max(issue.Location.Line(), 1), max(issue.Location.Column()+1, 1), issue.Message))
		}
		return nil, errors.New(strings.Join(mistakes, "; ") +
			` (there are request.method, .path, .host, .size, .header("name") and .param("name"), identity.tier, .tenant and .claim("path"), and consumer.attribute("name"))`)
	}
	if kind := checked.OutputType(); kind != cel.IntType && kind != cel.UintType && kind != cel.DoubleType {
		return nil, fmt.Errorf("is of type %s; a cost is a number", kind)
	}
	inputs, err := inputsOf(checked.NativeRep().Expr())
	if err != nil {
		return nil, err
	}
	// Work depends on the lengths of texts, so it is bounded where it is done.
	program, err := e.env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(workLimit), cel.InterruptCheckFrequency(100))
	if err != nil {
		return nil, err
	}
	return &Program{program: program, inputs: inputs}, nil
}

// inputsOf finds what is read. Whole variables and computed names are refused: it
// would not be known what to send along.
func inputsOf(expression ast.Expr) (found []Input, err error) {
	targets := map[int64]bool{}
	plain, named := variables(), functions()
	ast.PreOrderVisit(expression, ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.CallKind:
			call := e.AsCall()
			kind, ok := named[call.FunctionName()]
			if !ok || !call.IsMemberFunction() || len(call.Args()) != 1 || call.Target().Kind() != ast.IdentKind {
				return
			}
			targets[call.Target().ID()] = true
			input, wrong := inputOf(kind, call.Args()[0])
			err = errors.Join(err, wrong)
			found = append(found, input)
		case ast.IdentKind:
			if kind, ok := plain[e.AsIdent()]; ok {
				found = append(found, Input{Kind: kind})
			} else if !targets[e.ID()] && receivers()[e.AsIdent()] != "" {
				err = errors.Join(err, fmt.Errorf("%s is no value by itself", e.AsIdent()))
			}
		}
	}))
	slices.SortFunc(found, func(a, b Input) int { return strings.Compare(a.String(), b.String()) })
	found = slices.Compact(found)
	if len(found) > MaxInputs {
		err = errors.Join(err, fmt.Errorf("reads %d things of the request; the most is %d", len(found), MaxInputs))
	}
	return found, err
}

func inputOf(kind Kind, argument ast.Expr) (Input, error) {
	name, ok := "", false
	if argument.Kind() == ast.LiteralKind {
		name, ok = argument.AsLiteral().Value().(string)
	}
	switch {
	case !ok:
		return Input{}, fmt.Errorf("%s(...) takes a name that is written out", kind)
	case name == "" || len(name) > 128 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }):
		return Input{}, fmt.Errorf("%s(%q): names have 1 to 128 printable ASCII characters without spaces", kind, name)
	case kind == Header && name != strings.ToLower(name):
		return Input{}, fmt.Errorf("header(%q): write header names in lower case", name)
	case kind == Header && strings.HasPrefix(name, "x-weir-"):
		return Input{}, fmt.Errorf("header(%q): is the edge's own; use identity and consumer", name)
	}
	return Input{kind, name}, nil
}

// Eval is what a request costs, given its inputs by their String; those that are
// missing were not there. What is below 0 is 0, parts count whole. An error says
// that the expression has no value for this request, such as a text that is no
// number or too much work.
func (p *Program) Eval(ctx context.Context, inputs map[string]string) (uint64, error) {
	value, _, err := p.program.ContextEval(ctx, activation(inputs))
	if err != nil {
		return 0, err
	}
	switch number := value.Value().(type) {
	case int64:
		return uint64(max(number, 0)), nil
	case uint64:
		return number, nil
	case float64:
		switch {
		case math.IsNaN(number):
			return 0, errors.New("is not a number")
		case number >= math.MaxUint32:
			return math.MaxUint32, nil
		}
		return uint64(math.Ceil(max(number, 0))), nil
	}
	return 0, fmt.Errorf("is a %T", value.Value())
}
