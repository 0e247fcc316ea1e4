package authzexpr

import (
	"errors"
	"net/netip"
	"regexp"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"google.golang.org/protobuf/types/known/structpb"
)

// Closures by the type of what they give. An error is what CEL calls an error:
// && and || absorb it where the other side decides.
type (
	truth   func(*Input) (bool, error)
	word    func(*Input) (string, error)
	count   func(*Input) (int64, error)
	dynamic func(*Input) (*structpb.Value, error)
)

// fastCompiler compiles the shapes it knows; for others each of its methods
// returns false, and cel-go evaluates the whole expression.
type fastCompiler struct {
	variables *[variables]variable
	checked   *ast.AST
}

var (
	errNoSuchKey      = errors.New("no such key")
	errNoSuchOverload = errors.New("no such overload")
)

func (c *fastCompiler) truth(e ast.Expr) (truth, bool) {
	switch e.Kind() {
	case ast.LiteralKind:
		value, ok := e.AsLiteral().(types.Bool)
		return func(*Input) (bool, error) { return bool(value), nil }, ok
	case ast.SelectKind:
		if e.AsSelect().IsTestOnly() {
			return c.presence(e.AsSelect())
		}
	case ast.CallKind:
		return c.call(e.AsCall())
	}
	return nil, false
}

func (c *fastCompiler) call(call ast.CallExpr) (truth, bool) {
	args := call.Args()
	switch call.FunctionName() {
	case operators.LogicalAnd:
		return c.join(args, false)
	case operators.LogicalOr:
		return c.join(args, true)
	case operators.LogicalNot:
		inner, ok := c.truth(args[0])
		return func(in *Input) (bool, error) {
			value, err := inner(in)
			return err == nil && !value, err
		}, ok
	case operators.Equals:
		return c.equal(args[0], args[1], true)
	case operators.NotEquals:
		return c.equal(args[0], args[1], false)
	case operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
		return c.compare(call.FunctionName(), args[0], args[1])
	case operators.In:
		return c.in(args[0], args[1])
	case "startsWith":
		return c.texts(call, strings.HasPrefix)
	case "endsWith":
		return c.texts(call, strings.HasSuffix)
	case "contains":
		return c.texts(call, strings.Contains)
	case "matches":
		return c.matches(call)
	case functionHasScope:
		return c.has(call, func(in *Input) []string { return in.Identity.Scopes })
	case functionHasRole:
		return c.has(call, func(in *Input) []string { return in.Identity.Roles })
	case "containsIP":
		return c.network(call)
	}
	return nil, false
}

// join is && (decided by false) or || (decided by true) of two or more.
func (c *fastCompiler) join(args []ast.Expr, decided bool) (truth, bool) {
	parts := make([]truth, len(args))
	for i, argument := range args {
		part, ok := c.truth(argument)
		if !ok {
			return nil, false
		}
		parts[i] = part
	}
	return func(in *Input) (bool, error) {
		var failed error
		for _, part := range parts {
			value, err := part(in)
			if err == nil && value == decided {
				return decided, nil
			}
			if err != nil && failed == nil {
				failed = err
			}
		}
		if failed != nil {
			return false, failed
		}
		return !decided, nil
	}, true
}

func (c *fastCompiler) equal(left, right ast.Expr, want bool) (truth, bool) {
	if a, ok := c.word(left); ok {
		if b, ok := c.word(right); ok {
			return func(in *Input) (bool, error) {
				x, err := a(in)
				if err != nil {
					return false, err
				}
				y, err := b(in)
				return err == nil && (x == y) == want, err
			}, true
		}
	}
	if a, ok := c.count(left); ok {
		if b, ok := c.count(right); ok {
			return func(in *Input) (bool, error) {
				x, err := a(in)
				if err != nil {
					return false, err
				}
				y, err := b(in)
				return err == nil && (x == y) == want, err
			}, true
		}
	}
	if a, ok := c.truth(left); ok {
		if b, ok := c.truth(right); ok {
			return func(in *Input) (bool, error) {
				x, err := a(in)
				if err != nil {
					return false, err
				}
				y, err := b(in)
				return err == nil && (x == y) == want, err
			}, true
		}
	}
	if same, ok := c.address(left, right, want); ok {
		return same, true
	}
	value, ok := c.dynamic(left)
	literal := right
	if !ok {
		value, ok = c.dynamic(right)
		literal = left
	}
	if !ok || literal.Kind() != ast.LiteralKind {
		return nil, false
	}
	same, ok := sameAs(literal)
	return func(in *Input) (bool, error) {
		found, err := value(in)
		return err == nil && same(found) == want, err
	}, ok
}

// address is source.address == ip("literal").
func (c *fastCompiler) address(left, right ast.Expr, want bool) (truth, bool) {
	if c.isAddress(right) {
		left, right = right, left
	}
	if !c.isAddress(left) || right.Kind() != ast.CallKind || right.AsCall().FunctionName() != "ip" || right.AsCall().IsMemberFunction() {
		return nil, false
	}
	text, ok := literalText(right.AsCall().Args()[0])
	if !ok {
		return nil, false
	}
	other, err := netip.ParseAddr(text)
	return func(in *Input) (bool, error) {
		address, err := in.ip()
		return err == nil && (address == other) == want, err
	}, err == nil
}

// sameAs compares a JSON value to a literal: values of different types are not
// equal, numbers of different types may be.
func sameAs(literal ast.Expr) (func(*structpb.Value) bool, bool) {
	switch want := literal.AsLiteral().(type) {
	case types.String:
		return func(v *structpb.Value) bool {
			text, ok := v.GetKind().(*structpb.Value_StringValue)
			return ok && text.StringValue == string(want)
		}, true
	case types.Null:
		return func(v *structpb.Value) bool {
			_, null := v.GetKind().(*structpb.Value_NullValue)
			return null || v.GetKind() == nil
		}, true
	case types.Bool:
		return func(v *structpb.Value) bool {
			value, ok := v.GetKind().(*structpb.Value_BoolValue)
			return ok && value.BoolValue == bool(want)
		}, true
	case types.Int:
		if want > 1<<53 || want < -1<<53 {
			return nil, false
		}
		return func(v *structpb.Value) bool {
			number, ok := v.GetKind().(*structpb.Value_NumberValue)
			return ok && number.NumberValue == float64(want)
		}, true
	case types.Double:
		return func(v *structpb.Value) bool {
			number, ok := v.GetKind().(*structpb.Value_NumberValue)
			return ok && number.NumberValue == float64(want)
		}, true
	}
	return nil, false
}

func (c *fastCompiler) compare(operator string, left, right ast.Expr) (truth, bool) {
	a, ok := c.count(left)
	if !ok {
		return nil, false
	}
	b, ok := c.count(right)
	if !ok {
		return nil, false
	}
	return func(in *Input) (bool, error) {
		x, err := a(in)
		if err != nil {
			return false, err
		}
		y, err := b(in)
		if err != nil {
			return false, err
		}
		switch operator {
		case operators.Less:
			return x < y, nil
		case operators.LessEquals:
			return x <= y, nil
		case operators.Greater:
			return x > y, nil
		default:
			return x >= y, nil
		}
	}, true
}

func (c *fastCompiler) in(element, list ast.Expr) (truth, bool) {
	wanted, ok := c.word(element)
	if !ok {
		return nil, false
	}
	if holds, ok := c.holder(list); ok {
		return func(in *Input) (bool, error) {
			want, err := wanted(in)
			if err != nil {
				return false, err
			}
			return holds(in, want)
		}, true
	}
	value, ok := c.dynamic(list)
	if !ok {
		return nil, false
	}
	return func(in *Input) (bool, error) {
		want, err := wanted(in)
		if err != nil {
			return false, err
		}
		found, err := value(in)
		if err != nil {
			return false, err
		}
		return holdsText(found, want)
	}, true
}

// holder answers whether a list of texts, or a map by text, holds one.
func (c *fastCompiler) holder(list ast.Expr) (func(in *Input, want string) (bool, error), bool) {
	if list.Kind() == ast.ListKind {
		literals := map[string]bool{}
		for _, element := range list.AsList().Elements() {
			text, ok := literalText(element)
			if !ok {
				return nil, false
			}
			literals[text] = true
		}
		return func(_ *Input, want string) (bool, error) { return literals[want], nil }, len(literals) > 0
	}
	f := c.field(list)
	switch {
	case f == nil:
		return nil, false
	case f.texts != nil:
		return func(in *Input, want string) (bool, error) { return contains(f.texts(in), want), nil }, true
	case f.name == "headers":
		return func(in *Input, want string) (bool, error) {
			if in.Request.Headers == nil {
				return false, nil
			}
			_, n := in.Request.Headers.Lookup(want)
			return n > 0, nil
		}, true
	case f.name == "query":
		return func(in *Input, want string) (bool, error) {
			all, err := in.parameters()
			_, ok := all[want]
			return ok, err
		}, true
	}
	return nil, false
}

func contains(list []string, want string) bool {
	for _, element := range list {
		if element == want {
			return true
		}
	}
	return false
}

func holdsText(container *structpb.Value, want string) (bool, error) {
	switch kind := container.GetKind().(type) {
	case *structpb.Value_ListValue:
		for _, element := range kind.ListValue.GetValues() {
			if text, ok := element.GetKind().(*structpb.Value_StringValue); ok && text.StringValue == want {
				return true, nil
			}
		}
		return false, nil
	case *structpb.Value_StructValue:
		_, ok := kind.StructValue.GetFields()[want]
		return ok, nil
	}
	return false, errNoSuchOverload
}

func (c *fastCompiler) texts(call ast.CallExpr, compare func(text, part string) bool) (truth, bool) {
	if !call.IsMemberFunction() || len(call.Args()) != 1 {
		return nil, false
	}
	target, ok := c.word(call.Target())
	if !ok {
		return nil, false
	}
	if literal, ok := literalText(call.Args()[0]); ok {
		return func(in *Input) (bool, error) {
			text, err := target(in)
			return err == nil && compare(text, literal), err
		}, true
	}
	part, ok := c.word(call.Args()[0])
	return func(in *Input) (bool, error) {
		text, err := target(in)
		if err != nil {
			return false, err
		}
		other, err := part(in)
		return err == nil && compare(text, other), err
	}, ok
}

func (c *fastCompiler) matches(call ast.CallExpr) (truth, bool) {
	if !call.IsMemberFunction() || len(call.Args()) != 1 {
		return nil, false
	}
	target, ok := c.word(call.Target())
	if !ok {
		return nil, false
	}
	pattern, ok := literalText(call.Args()[0])
	if !ok {
		return nil, false
	}
	compiled, err := regexp.Compile(pattern)
	return func(in *Input) (bool, error) {
		text, err := target(in)
		return err == nil && compiled.MatchString(text), err
	}, err == nil
}

func (c *fastCompiler) has(call ast.CallExpr, list func(*Input) []string) (truth, bool) {
	if !call.IsMemberFunction() || call.Target().Kind() != ast.IdentKind || call.Target().AsIdent() != "identity" {
		return nil, false
	}
	wanted, ok := c.word(call.Args()[0])
	return func(in *Input) (bool, error) {
		want, err := wanted(in)
		return err == nil && contains(list(in), want), err
	}, ok
}

// network is cidr("literal").containsIP(source.address).
func (c *fastCompiler) network(call ast.CallExpr) (truth, bool) {
	if !call.IsMemberFunction() || call.Target().Kind() != ast.CallKind || !c.isAddress(call.Args()[0]) {
		return nil, false
	}
	made := call.Target().AsCall()
	if made.FunctionName() != "cidr" || made.IsMemberFunction() {
		return nil, false
	}
	text, ok := literalText(made.Args()[0])
	if !ok {
		return nil, false
	}
	prefix, err := netip.ParsePrefix(text)
	return func(in *Input) (bool, error) {
		address, err := in.ip()
		return err == nil && prefix.Contains(address), err
	}, err == nil
}

func (c *fastCompiler) isAddress(e ast.Expr) bool {
	f := c.field(e)
	return f != nil && f.name == "address"
}
