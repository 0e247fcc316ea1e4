package authzexpr

import (
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// Functions of our own, members of an object:
//
//	request.header(name string) string   the value; "" without one; an error if sent twice
//	request.param(name string) string    the same of the query's parameters
//	identity.hasScope(scope string) bool
//	identity.hasRole(role string) bool
const (
	functionHeader    = "header"
	functionParameter = "param"
	functionHasScope  = "hasScope"
	functionHasRole   = "hasRole"
)

func functions() []cel.EnvOption {
	requestType := cel.ObjectType("weir.rules.v1.RequestAttributes")
	identityType := cel.ObjectType("weir.rules.v1.IdentityAttributes")
	member := func(name string, object, result *cel.Type, call func(in *Input, argument string) ref.Val) cel.EnvOption {
		return cel.Function(name, cel.MemberOverload(strings.ToLower(name)+"_string", []*cel.Type{object, cel.StringType}, result,
			cel.BinaryBinding(func(target, argument ref.Val) ref.Val {
				in, ok := target.Value().(*Input)
				text, isText := argument.(types.String)
				if !ok || !isText {
					return types.MaybeNoSuchOverloadErr(target)
				}
				return call(in, string(text))
			})))
	}
	textOr := func(value string, err error) ref.Val {
		if err != nil {
			return types.WrapErr(err)
		}
		return types.String(value)
	}
	return []cel.EnvOption{
		member(functionHeader, requestType, cel.StringType, func(in *Input, name string) ref.Val {
			return textOr(in.header(strings.ToLower(name)))
		}),
		member(functionParameter, requestType, cel.StringType, func(in *Input, name string) ref.Val {
			return textOr(in.parameter(name))
		}),
		member(functionHasScope, identityType, cel.BoolType, func(in *Input, scope string) ref.Val {
			return types.Bool(slices.Contains(in.Identity.Scopes, scope))
		}),
		member(functionHasRole, identityType, cel.BoolType, func(in *Input, role string) ref.Val {
			return types.Bool(slices.Contains(in.Identity.Roles, role))
		}),
	}
}

// fieldOf is the field that a call of a function of our own reads, empty for
// other calls.
func fieldOf(call ast.CallExpr) string {
	if !call.IsMemberFunction() || call.Target().Kind() != ast.IdentKind {
		return ""
	}
	switch target := call.Target().AsIdent(); call.FunctionName() {
	case functionHeader:
		if target == "request" {
			return "request.headers"
		}
	case functionParameter:
		if target == "request" {
			return "request.query"
		}
	case functionHasScope:
		if target == "identity" {
			return "identity.scopes"
		}
	case functionHasRole:
		if target == "identity" {
			return "identity.roles"
		}
	}
	return ""
}
