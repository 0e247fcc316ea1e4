package limitexpr

import (
	"errors"
	"reflect"
	"strconv"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
)

// activation gives the inputs their names in CEL.
type activation map[string]string

// ResolveName implements interpreter.Activation.
func (a activation) ResolveName(name string) (any, bool) {
	switch name {
	case "request.method":
		return a[string(Method)], true
	case "request.path":
		return a[string(Path)], true
	case "request.host":
		return a[string(Host)], true
	case "identity.tier":
		return a[string(Tier)], true
	case "identity.tenant":
		return a[string(Tenant)], true
	case "request.size":
		if size, err := strconv.ParseInt(a[string(Size)], 10, 64); err == nil && size >= 0 {
			return size, true
		}
		return int64(-1), true
	case "request":
		return texts{types.NewOpaqueType(requestType), a}, true
	case "identity":
		return texts{types.NewOpaqueType(identityType), a}, true
	case "consumer":
		return texts{types.NewOpaqueType(consumerType), a}, true
	}
	return nil, false
}

// Parent implements interpreter.Activation.
func (activation) Parent() interpreter.Activation { return nil }

// texts is a value that has nothing but functions, which find the inputs.
type texts struct {
	of     *types.Type
	inputs map[string]string
}

var errOpaque = errors.New("has functions and no value")

// ConvertToNative implements ref.Val.
func (texts) ConvertToNative(reflect.Type) (any, error) { return nil, errOpaque }

// ConvertToType implements ref.Val.
func (texts) ConvertToType(ref.Type) ref.Val { return types.NewErr("%s", errOpaque.Error()) }

// Equal implements ref.Val.
func (texts) Equal(ref.Val) ref.Val { return types.NewErr("%s", errOpaque.Error()) }

// Type implements ref.Val.
func (t texts) Type() ref.Type { return t.of }

// Value implements ref.Val.
func (t texts) Value() any { return t.inputs }
