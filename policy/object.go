package policy

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// DefaultNamespace is where an object without metadata.namespace lives.
const DefaultNamespace = "default"

// Object is one parsed document. It is immutable.
type Object struct {
	Ref  ObjectRef
	File string
	// Value is a pointer to the typed resource.
	Value metav1.Object
	// line is where the document begins, 0 when there are no lines; lines are those
	// of its values, see linesOf.
	line  int
	lines []int32
	raw   []byte
}

// JSON is the document as JSON, for keeping; callers do not change it.
func (o *Object) JSON() []byte { return o.raw }

// Origin names a field of the object, or the object itself for "".
func (o *Object) Origin(field string) Origin {
	return Origin{Object: o.Ref, Field: field, File: o.File, Line: o.lineOf(field)}
}

// same reports whether two objects say the same at the same place, as those of a
// file do in which something else changed.
func (o *Object) same(other *Object) bool {
	return o == other || o.SameContent(other) && o.File == other.File && o.line == other.line && slices.Equal(o.lines, other.lines)
}

// place is the file and, where there is one, the line.
func (o *Object) place() string {
	if o.line == 0 {
		return o.File
	}
	return o.File + ":" + strconv.Itoa(o.line)
}

// lineOf finds the line of the deepest existing part of the field's path.
func (o *Object) lineOf(field string) int {
	if field == "" || len(o.lines) == 0 {
		return o.line
	}
	return cmp.Or(lineAt(o.raw, o.lines, splitPath(field)), o.line)
}

// splitPath turns "spec.rules[0].name" into spec, rules, 0, name. Keys that
// hold dots are written ["a.b"].
func splitPath(field string) []string {
	var parts []string
	for field != "" {
		switch {
		case field[0] == '.':
			field = field[1:]
		case strings.HasPrefix(field, `["`):
			end := strings.Index(field, `"]`)
			if end < 0 {
				return parts
			}
			parts = append(parts, field[2:end])
			field = field[end+2:]
		case field[0] == '[':
			end := strings.IndexByte(field, ']')
			if end < 0 {
				return parts
			}
			parts = append(parts, field[1:end])
			field = field[end+1:]
		default:
			end := strings.IndexAny(field, ".[")
			if end < 0 {
				end = len(field)
			}
			parts = append(parts, field[:end])
			field = field[end:]
		}
	}
	return parts
}

func child(node *yaml.Node, part string) (*yaml.Node, int) {
	if node == nil {
		return nil, 0
	}
	switch node.Kind {
	case yaml.AliasNode:
		return child(node.Alias, part)
	case yaml.SequenceNode:
		i, err := strconv.Atoi(part)
		if err != nil || i < 0 || i >= len(node.Content) {
			return nil, 0
		}
		return node.Content[i], node.Content[i].Line
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == part {
				return node.Content[i+1], node.Content[i].Line
			}
		}
	}
	return nil, 0
}

// problem makes a finding of SeverityError about a field of the object.
func (o *Object) problem(code Code, field, message string) Problem {
	return Problem{Origin: o.Origin(field), Code: code, Severity: SeverityError, Message: message}
}

func (o *Object) notice(code Code, field, message string) Problem {
	p := o.problem(code, field, message)
	p.Severity = SeverityNotice
	return p
}

// kinds is every kind that a source may hold, by apiVersion and kind, with a
// maker of its empty value.
func kinds() map[[2]string]func() metav1.Object {
	const gatewayAlpha3 = "gateway.networking.k8s.io/v1alpha3"
	const gateway, gatewayBeta = "gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"
	const core, discovery, weir = "v1", "discovery.k8s.io/v1", v1alpha1.APIVersion
	return map[[2]string]func() metav1.Object{
		{gateway, "GatewayClass"}:            func() metav1.Object { return &gatewayv1.GatewayClass{} },
		{gateway, "Gateway"}:                 func() metav1.Object { return &gatewayv1.Gateway{} },
		{gateway, "ListenerSet"}:             func() metav1.Object { return &gatewayv1.ListenerSet{} },
		{gateway, "HTTPRoute"}:               func() metav1.Object { return &gatewayv1.HTTPRoute{} },
		{gateway, "TLSRoute"}:                func() metav1.Object { return &gatewayv1.TLSRoute{} },
		{gatewayAlpha3, "TLSRoute"}:          func() metav1.Object { return &gatewayv1.TLSRoute{} },
		{gateway, "GRPCRoute"}:               func() metav1.Object { return &gatewayv1.GRPCRoute{} },
		{gateway, "ReferenceGrant"}:          func() metav1.Object { return &gatewayv1.ReferenceGrant{} },
		{gatewayBeta, "ReferenceGrant"}:      func() metav1.Object { return &gatewayv1.ReferenceGrant{} },
		{core, "Secret"}:                     func() metav1.Object { return &corev1.Secret{} },
		{core, "Namespace"}:                  func() metav1.Object { return &corev1.Namespace{} },
		{weir, v1alpha1.KindTLSPolicy}:       func() metav1.Object { return &v1alpha1.TLSPolicy{} },
		{weir, v1alpha1.KindHeaderPolicy}:    func() metav1.Object { return &v1alpha1.HeaderPolicy{} },
		{weir, v1alpha1.KindEdgePolicy}:      func() metav1.Object { return &v1alpha1.EdgePolicy{} },
		{gateway, "BackendTLSPolicy"}:        func() metav1.Object { return &gatewayv1.BackendTLSPolicy{} },
		{core, "Service"}:                    func() metav1.Object { return &corev1.Service{} },
		{discovery, "EndpointSlice"}:         func() metav1.Object { return &discoveryv1.EndpointSlice{} },
		{core, "ConfigMap"}:                  func() metav1.Object { return &corev1.ConfigMap{} },
		{weir, v1alpha1.KindBackend}:         func() metav1.Object { return &v1alpha1.Backend{} },
		{weir, v1alpha1.KindConsumer}:        func() metav1.Object { return &v1alpha1.Consumer{} },
		{weir, v1alpha1.KindAuthPolicy}:      func() metav1.Object { return &v1alpha1.AuthPolicy{} },
		{weir, v1alpha1.KindExtensionPolicy}: func() metav1.Object { return &v1alpha1.ExtensionPolicy{} },
		{weir, v1alpha1.KindTrafficPolicy}:   func() metav1.Object { return &v1alpha1.TrafficPolicy{} },
		{weir, v1alpha1.KindRateLimitPolicy}: func() metav1.Object { return &v1alpha1.RateLimitPolicy{} },
	}
}
