package authzexpr

import (
	"errors"
	"fmt"
	"reflect"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"google.golang.org/protobuf/types/known/structpb"
)

// object is a variable's value: the input, seen as one of its objects.
type object struct {
	input    *Input
	typeName string
}

var errNotConvertible = errors.New("an object of the environment cannot be converted")

// ConvertToNative implements ref.Val.
func (o *object) ConvertToNative(reflect.Type) (any, error) { return nil, errNotConvertible }

// ConvertToType implements ref.Val.
func (o *object) ConvertToType(typeVal ref.Type) ref.Val {
	if typeVal == types.TypeType {
		return types.NewObjectType(o.typeName)
	}
	return types.NewErr("no such overload")
}

// Equal implements ref.Val.
func (o *object) Equal(other ref.Val) ref.Val {
	second, ok := other.(*object)
	return types.Bool(ok && second.input == o.input && second.typeName == o.typeName)
}

// Type implements ref.Val.
func (o *object) Type() ref.Type { return types.NewObjectType(o.typeName) }

// Value implements ref.Val.
func (o *object) Value() any { return o.input }

// activation gives the variables of an input.
type activation Input

// ResolveName implements cel.Activation.
func (a *activation) ResolveName(name string) (any, bool) {
	in := (*Input)(a)
	var index int
	var typeName string
	switch name {
	case "request":
		index, typeName = request, "weir.rules.v1.RequestAttributes"
	case "identity":
		index, typeName = identity, "weir.rules.v1.IdentityAttributes"
	case "consumer":
		index, typeName = consumer, "weir.rules.v1.ConsumerAttributes"
	case "route":
		index, typeName = route, "weir.rules.v1.RouteAttributes"
	case "source":
		index, typeName = source, "weir.rules.v1.SourceAttributes"
	case variableTime:
		return in.Time.UTC(), true
	case variableMetadata:
		if in.Metadata == nil {
			return &structpb.Struct{}, true
		}
		return in.Metadata, true
	default:
		return nil, false
	}
	in.objects[index] = object{input: in, typeName: typeName}
	return &in.objects[index], true
}

// Parent implements cel.Activation.
func (a *activation) Parent() cel.Activation { return nil }

// provider adds the objects of the environment to the types that CEL knows.
type provider struct {
	types.Provider
	fields map[string]map[string]*types.FieldType
	names  map[string][]string
}

func newProvider(base types.Provider, environment *[variables]variable) *provider {
	p := &provider{Provider: base, fields: map[string]map[string]*types.FieldType{}, names: map[string][]string{}}
	for i := range environment {
		variable := &environment[i]
		fields := map[string]*types.FieldType{}
		for _, field := range variable.fields {
			get := field.value
			fields[field.name] = &types.FieldType{
				Type: field.celType,
				// As of a message without presence: has() asks whether it is empty.
				IsSet: func(target any) bool {
					in, ok := target.(*Input)
					if !ok {
						return false
					}
					value, err := get(in)
					return err == nil && !empty(value)
				},
				GetFrom: func(target any) (any, error) {
					in, ok := target.(*Input)
					if !ok {
						return nil, fmt.Errorf("%T is not the input", target)
					}
					return get(in)
				},
			}
			p.names[variable.typeName] = append(p.names[variable.typeName], field.name)
		}
		p.fields[variable.typeName] = fields
	}
	return p
}

func empty(value any) bool {
	switch value := value.(type) {
	case string:
		return value == ""
	case int64:
		return value == 0
	case []string:
		return len(value) == 0
	case map[string][]string:
		return len(value) == 0
	case *structpb.Struct:
		return len(value.GetFields()) == 0
	case *structpb.Value:
		_, null := value.GetKind().(*structpb.Value_NullValue)
		return null
	default:
		return false
	}
}

// FindStructType implements types.Provider.
func (p *provider) FindStructType(name string) (*types.Type, bool) {
	if _, ok := p.fields[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Provider.FindStructType(name)
}

// FindStructFieldNames implements types.Provider.
func (p *provider) FindStructFieldNames(name string) ([]string, bool) {
	if names, ok := p.names[name]; ok {
		return names, true
	}
	return p.Provider.FindStructFieldNames(name)
}

// FindStructFieldType implements types.Provider.
func (p *provider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	if fields, ok := p.fields[name]; ok {
		found, ok := fields[field]
		return found, ok
	}
	return p.Provider.FindStructFieldType(name, field)
}

// NewValue implements types.Provider: nothing makes objects of the environment.
func (p *provider) NewValue(name string, fields map[string]ref.Val) ref.Val {
	if _, ok := p.fields[name]; ok {
		return types.NewErr("%s cannot be made by an expression", name)
	}
	return p.Provider.NewValue(name, fields)
}
