package authzexpr

import (
	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"
	"google.golang.org/protobuf/types/known/structpb"
)

// Variables that are objects, in the order of Input.objects.
const (
	request = iota
	identity
	consumer
	route
	source
	variables
)

// variable is one object of the environment.
type variable struct {
	name, typeName string
	fields         []field
}

// field is one field of an object. One of the getters besides value is set where
// the fast path can read the field.
type field struct {
	name    string
	celType *types.Type
	value   func(*Input) (any, error)
	text    func(*Input) string
	texts   func(*Input) []string
	number  func(*Input) int64
	// dynamic is nil-safe: nothing is the empty map, or null for a value.
	dynamic func(*Input) *structpb.Value
	// size bounds the field for the estimate of costs; 0 means MaxTextBytes.
	size uint64
}

func text(name string, get func(*Input) string) field {
	return field{name: name, celType: types.StringType, text: get, value: func(in *Input) (any, error) { return get(in), nil }}
}

func texts(name string, get func(*Input) []string) field {
	return field{name: name, celType: types.NewListType(types.StringType), texts: get, size: maxElements, value: func(in *Input) (any, error) { return get(in), nil }}
}

func number(name string, get func(*Input) int64) field {
	return field{name: name, celType: types.IntType, number: get, value: func(in *Input) (any, error) { return get(in), nil }}
}

func structure(name string, get func(*Input) *structpb.Struct) field {
	return field{
		name: name, celType: types.NewMapType(types.StringType, types.DynType), size: maxElements,
		value: func(in *Input) (any, error) {
			if s := get(in); s != nil {
				return s, nil
			}
			return &structpb.Struct{}, nil
		},
		dynamic: func(in *Input) *structpb.Value { return structpb.NewStructValue(get(in)) },
	}
}

func multimap(name string, get func(*Input) (map[string][]string, error)) field {
	return field{
		name: name, celType: types.NewMapType(types.StringType, types.NewListType(types.StringType)), size: MaxValues,
		value: func(in *Input) (any, error) { return get(in) },
	}
}

// environment is every object with every field. A test compares it to the
// message weir.rules.v1.AuthzInput, which documents it and is what a decision
// record keeps.
func environment() [variables]variable {
	return [variables]variable{
		request: {"request", "weir.rules.v1.RequestAttributes", []field{
			text("method", func(in *Input) string { return in.Request.Method }),
			text("path", func(in *Input) string { return in.Request.Path }),
			text("raw_query", func(in *Input) string { return in.Request.RawQuery }),
			multimap("query", (*Input).parameters),
			text("host", func(in *Input) string { return in.Request.Host }),
			multimap("headers", func(in *Input) (map[string][]string, error) { return in.allHeaders(), nil }),
			text("protocol", func(in *Input) string { return in.Request.Protocol }),
			number("size", func(in *Input) int64 { return in.Request.Size }),
			{
				name: "body", celType: types.DynType, size: maxElements,
				value: func(in *Input) (any, error) {
					if in.Request.Body == nil {
						return structpb.NewNullValue(), nil
					}
					return in.Request.Body, nil
				},
				dynamic: func(in *Input) *structpb.Value { return in.Request.Body },
			},
		}},
		identity: {"identity", "weir.rules.v1.IdentityAttributes", []field{
			text("consumer", func(in *Input) string { return in.Identity.Consumer }),
			text("subject", func(in *Input) string { return in.Identity.Subject }),
			text("tenant", func(in *Input) string { return in.Identity.Tenant }),
			text("tier", func(in *Input) string { return in.Identity.Tier }),
			texts("scopes", func(in *Input) []string { return in.Identity.Scopes }),
			text("authenticator", func(in *Input) string { return in.Identity.Authenticator }),
			text("issuer", func(in *Input) string { return in.Identity.Issuer }),
			structure("claims", func(in *Input) *structpb.Struct { return in.Identity.Claims }),
			structure("certificate", func(in *Input) *structpb.Struct { return in.Identity.Certificate }),
			texts("roles", func(in *Input) []string { return in.Identity.Roles }),
		}},
		consumer: {"consumer", "weir.rules.v1.ConsumerAttributes", []field{
			text("name", func(in *Input) string { return in.Consumer.Name }),
			text("tenant", func(in *Input) string { return in.Consumer.Tenant }),
			text("tier", func(in *Input) string { return in.Consumer.Tier }),
		}},
		route: {"route", "weir.rules.v1.RouteAttributes", []field{
			text("id", func(in *Input) string { return in.Route.ID }),
			text("kind", func(in *Input) string { return in.Route.Kind }),
			text("namespace", func(in *Input) string { return in.Route.Namespace }),
			text("name", func(in *Input) string { return in.Route.Name }),
			texts("hostnames", func(in *Input) []string { return in.Route.Hostnames }),
		}},
		source: {"source", "weir.rules.v1.SourceAttributes", []field{
			{name: "address", celType: ext.IPType, size: 64, value: func(in *Input) (any, error) { return in.ip() }},
			number("port", func(in *Input) int64 { return in.Source.Port }),
			text("principal", func(in *Input) string { return in.Source.Principal }),
		}},
	}
}

// isVariable reports whether an expression can read name.
func isVariable(name string) bool {
	switch name {
	case "request", "identity", "consumer", "route", "source", variableTime, variableMetadata:
		return true
	}
	return false
}

// Variables that are not objects.
const (
	variableTime     = "time"
	variableMetadata = "metadata"
)

func declarations(environment *[variables]variable) []cel.EnvOption {
	options := []cel.EnvOption{
		cel.Variable(variableTime, cel.TimestampType),
		cel.Variable(variableMetadata, cel.MapType(cel.StringType, cel.DynType)),
	}
	for i := range environment {
		options = append(options, cel.Variable(environment[i].name, cel.ObjectType(environment[i].typeName)))
	}
	return options
}
