package authzexpr

import (
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"google.golang.org/protobuf/types/known/structpb"
)

func literalText(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	text, ok := e.AsLiteral().(types.String)
	return string(text), ok
}

// field is the field that an expression such as request.path selects of a
// variable; nil when it is another expression.
func (c *fastCompiler) field(e ast.Expr) *field {
	if e.Kind() != ast.SelectKind || e.AsSelect().IsTestOnly() || e.AsSelect().Operand().Kind() != ast.IdentKind {
		return nil
	}
	name := e.AsSelect().Operand().AsIdent()
	for i := range c.variables {
		if c.variables[i].name != name || c.checked.GetType(e.AsSelect().Operand().ID()).TypeName() != c.variables[i].typeName {
			continue
		}
		for j := range c.variables[i].fields {
			if c.variables[i].fields[j].name == e.AsSelect().FieldName() {
				return &c.variables[i].fields[j]
			}
		}
	}
	return nil
}

func (c *fastCompiler) word(e ast.Expr) (word, bool) {
	if literal, ok := literalText(e); ok {
		return func(*Input) (string, error) { return literal, nil }, true
	}
	if f := c.field(e); f != nil {
		if f.text == nil {
			return nil, false
		}
		get := f.text
		return func(in *Input) (string, error) { return get(in), nil }, true
	}
	if e.Kind() != ast.CallKind || !e.AsCall().IsMemberFunction() {
		return nil, false
	}
	call := e.AsCall()
	if call.FunctionName() == "lowerAscii" {
		target, ok := c.word(call.Target())
		return func(in *Input) (string, error) {
			text, err := target(in)
			if err != nil {
				return "", err
			}
			return lowerASCII(text), nil
		}, ok
	}
	if len(call.Args()) != 1 || fieldOf(call) == "" {
		return nil, false
	}
	name, ok := literalText(call.Args()[0])
	if !ok {
		return nil, false
	}
	switch call.FunctionName() {
	case functionHeader:
		name = strings.ToLower(name)
		return func(in *Input) (string, error) { return in.header(name) }, true
	case functionParameter:
		return func(in *Input) (string, error) { return in.parameter(name) }, true
	}
	return nil, false
}

// lowerASCII allocates only when there is something to change.
func lowerASCII(text string) string {
	for i := range len(text) {
		if 'A' <= text[i] && text[i] <= 'Z' {
			lower := []byte(text)
			for ; i < len(lower); i++ {
				if 'A' <= lower[i] && lower[i] <= 'Z' {
					lower[i] += 'a' - 'A'
				}
			}
			return string(lower)
		}
	}
	return text
}

func (c *fastCompiler) count(e ast.Expr) (count, bool) {
	if e.Kind() == ast.LiteralKind {
		value, ok := e.AsLiteral().(types.Int)
		return func(*Input) (int64, error) { return int64(value), nil }, ok
	}
	if f := c.field(e); f != nil {
		get := f.number
		return func(in *Input) (int64, error) { return get(in), nil }, get != nil
	}
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != "size" {
		return nil, false
	}
	of := e.AsCall().Target()
	if !e.AsCall().IsMemberFunction() {
		of = e.AsCall().Args()[0]
	}
	if f := c.field(of); f != nil && f.texts != nil {
		get := f.texts
		return func(in *Input) (int64, error) { return int64(len(get(in))), nil }, true
	}
	text, ok := c.word(of)
	return func(in *Input) (int64, error) {
		value, err := text(in)
		return int64(utf8.RuneCountInString(value)), err
	}, ok
}

// dynamic is a JSON value: claims, metadata, a body, and what is selected of
// them.
func (c *fastCompiler) dynamic(e ast.Expr) (dynamic, bool) {
	if f := c.field(e); f != nil {
		get := f.dynamic
		return func(in *Input) (*structpb.Value, error) { return get(in), nil }, get != nil
	}
	var key string
	var operand ast.Expr
	switch e.Kind() {
	case ast.SelectKind:
		if e.AsSelect().IsTestOnly() {
			return nil, false
		}
		operand, key = e.AsSelect().Operand(), e.AsSelect().FieldName()
	case ast.CallKind:
		text, ok := "", false
		if e.AsCall().FunctionName() == operators.Index {
			text, ok = literalText(e.AsCall().Args()[1])
		}
		if !ok {
			return nil, false
		}
		operand, key = e.AsCall().Args()[0], text
	case ast.IdentKind:
		if e.AsIdent() != variableMetadata || c.checked.GetType(e.ID()).Kind() != types.MapKind {
			return nil, false
		}
		return func(in *Input) (*structpb.Value, error) { return structpb.NewStructValue(in.Metadata), nil }, true
	default:
		return nil, false
	}
	inner, ok := c.fields(operand)
	return func(in *Input) (*structpb.Value, error) {
		fields, err := inner(in)
		if err != nil {
			return nil, err
		}
		value, ok := fields[key]
		if !ok {
			return nil, errNoSuchKey
		}
		return value, nil
	}, ok
}

// fields is the content of a JSON object.
func (c *fastCompiler) fields(e ast.Expr) (func(*Input) (map[string]*structpb.Value, error), bool) {
	if root, ok := c.root(e); ok {
		return func(in *Input) (map[string]*structpb.Value, error) { return root(in), nil }, true
	}
	value, ok := c.dynamic(e)
	return func(in *Input) (map[string]*structpb.Value, error) {
		found, err := value(in)
		if err != nil {
			return nil, err
		}
		object, ok := found.GetKind().(*structpb.Value_StructValue)
		if !ok {
			return nil, errNoSuchOverload
		}
		return object.StructValue.GetFields(), nil
	}, ok
}

// presence is has(claims.a.b): whether the last name is there; a missing one
// before it and a list are errors, another value has nothing.
func (c *fastCompiler) presence(selected ast.SelectExpr) (truth, bool) {
	key := selected.FieldName()
	if root, ok := c.root(selected.Operand()); ok {
		return func(in *Input) (bool, error) {
			_, there := root(in)[key]
			return there, nil
		}, true
	}
	value, ok := c.dynamic(selected.Operand())
	return func(in *Input) (bool, error) {
		found, err := value(in)
		if err != nil {
			return false, err
		}
		if _, list := found.GetKind().(*structpb.Value_ListValue); list {
			return false, errNoSuchOverload
		}
		_, there := found.GetStructValue().GetFields()[key]
		return there, nil
	}, ok
}

// root is the content of a variable, or of a field, that is a JSON object.
func (c *fastCompiler) root(e ast.Expr) (func(*Input) map[string]*structpb.Value, bool) {
	if f := c.field(e); f != nil && f.name == "claims" {
		return func(in *Input) map[string]*structpb.Value { return in.Identity.Claims.GetFields() }, true
	}
	if e.Kind() == ast.IdentKind && e.AsIdent() == variableMetadata && c.checked.GetType(e.ID()).Kind() == types.MapKind {
		return func(in *Input) map[string]*structpb.Value { return in.Metadata.GetFields() }, true
	}
	return nil, false
}
