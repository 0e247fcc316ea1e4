package policy

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// grantKey is one pair of a ReferenceGrant's from and to. An empty name stands
// for every object of the kind.
type grantKey struct {
	fromNamespace string
	fromKind      groupKind
	toNamespace   string
	toKind        groupKind
	toName        string
}

type groupKind struct{ group, kind string }

// groupOf is the API group of a kind that Weir reads; no two groups share one.
func groupOf(kind string) string {
	switch kind {
	case "ConfigMap", "Namespace", "Secret", "Service":
		return ""
	case "EndpointSlice":
		return "discovery.k8s.io"
	case "BackendTLSPolicy", kindGateway, "GatewayClass", "GRPCRoute", "HTTPRoute", kindListenerSet, "ReferenceGrant", "TLSRoute":
		return gatewayv1.GroupName
	default:
		return v1alpha1.Group
	}
}

func kindOfRef(ref ObjectRef) groupKind { return groupKind{groupOf(ref.Kind), ref.Kind} }

// indexGrants reads the ReferenceGrants. All of them count: a reference needs
// one that permits it (ReferenceGrantSpec, "entries MUST be combined using OR").
func (r *resolver) indexGrants() {
	r.grants = map[grantKey]bool{}
	for _, grant := range ofType[*gatewayv1.ReferenceGrant](r) {
		for _, from := range grant.value.Spec.From {
			for _, to := range grant.value.Spec.To {
				key := grantKey{
					fromNamespace: string(from.Namespace), fromKind: groupKind{string(from.Group), string(from.Kind)},
					toNamespace: grant.object.Ref.Namespace, toKind: groupKind{string(to.Group), string(to.Kind)},
				}
				if to.Name != nil {
					key.toName = string(*to.Name)
				}
				r.grants[key] = true
			}
		}
	}
}

// granted reports whether one object may refer to another: always within a
// namespace, and across namespaces where a ReferenceGrant beside the object
// referred to permits it.
func (r *resolver) granted(from, to ObjectRef) bool {
	if from.Namespace == to.Namespace {
		return true
	}
	key := grantKey{
		fromNamespace: from.Namespace, fromKind: kindOfRef(from),
		toNamespace: to.Namespace, toKind: kindOfRef(to), toName: to.Name,
	}
	if r.grants[key] {
		return true
	}
	key.toName = ""
	return r.grants[key]
}

// notGranted is the problem of a reference that granted refuses. It reads the
// same whether or not the object exists, so that it tells nothing about another
// namespace.
func notGranted(object *Object, field string, to ObjectRef) Problem {
	return object.problem(CodeRefNotPermitted, field, fmt.Sprintf(
		"no ReferenceGrant in namespace %q permits %ss of namespace %q to refer to the %s %q",
		to.Namespace, object.Ref.Kind, object.Ref.Namespace, to.Kind, to.Name))
}

func (c *checker) referenceGrant(spec *gatewayv1.ReferenceGrantSpec) {
	c.count("spec.from", len(spec.From), 1, 16)
	for i, from := range spec.From {
		field := fmt.Sprintf("spec.from[%d]", i)
		c.text(field+".group", string(from.Group), false, 253)
		c.text(field+".kind", string(from.Kind), true, 63)
		c.namespace(field+".namespace", string(from.Namespace))
	}
	c.count("spec.to", len(spec.To), 1, 16)
	for i, to := range spec.To {
		field := fmt.Sprintf("spec.to[%d]", i)
		c.text(field+".group", string(to.Group), false, 253)
		c.text(field+".kind", string(to.Kind), true, 63)
		if to.Name != nil {
			c.text(field+".name", string(*to.Name), true, 253)
		}
	}
}

func (c *checker) namespace(field, name string) {
	if name == "" {
		c.required(field)
	} else if errs := validation.IsDNS1123Label(name); len(errs) > 0 {
		c.fail(CodeInvalid, field, "%q: %s", name, errs[0])
	}
}
