package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Infrastructure is what a Gateway wants of the resources that are made for it. A
// target that makes none leaves it alone.
type Infrastructure struct {
	// Gateway is where it is written.
	Gateway Origin
	// Labels and Annotations of everything that is made.
	Labels, Annotations map[string]string
	// Parameters is the ConfigMap that says more; nil for none.
	Parameters *ObjectRef
}

// infrastructure checks spec.infrastructure.
func (c *checker) infrastructure(spec *gatewayv1.GatewayInfrastructure) {
	if spec == nil {
		return
	}
	const field = "spec.infrastructure"
	c.count(field+".labels", len(spec.Labels), 0, 8)
	for _, key := range slices.Sorted(maps.Keys(spec.Labels)) {
		at := fmt.Sprintf("%s.labels[%q]", field, string(key))
		for _, message := range slices.Concat(validation.IsQualifiedName(string(key)), validation.IsValidLabelValue(string(spec.Labels[key]))) {
			c.fail(CodeInvalid, at, "%s", message)
		}
	}
	c.count(field+".annotations", len(spec.Annotations), 0, 8)
	for _, key := range slices.Sorted(maps.Keys(spec.Annotations)) {
		at := fmt.Sprintf("%s.annotations[%q]", field, string(key))
		for _, message := range validation.IsQualifiedName(string(key)) {
			c.fail(CodeInvalid, at, "%s", message)
		}
		c.text(at, string(spec.Annotations[key]), false, 4096)
	}
	if ref := spec.ParametersRef; ref != nil {
		c.text(field+".parametersRef.name", ref.Name, true, 253)
		c.text(field+".parametersRef.kind", string(ref.Kind), true, 63)
	}
}

// infrastructures are those of all Gateways of Weir's, by Gateway.
func (r *resolver) infrastructures() []Infrastructure {
	var all []Infrastructure
	for _, gateway := range ofType[*gatewayv1.Gateway](r) {
		spec := gateway.value.Spec.Infrastructure
		if spec == nil || !r.gateways[gateway.object.Ref] || r.unusables[gateway.object.Ref].fault != "" {
			continue
		}
		made := Infrastructure{Gateway: gateway.object.Origin("spec.infrastructure")}
		if len(spec.Labels) > 0 {
			made.Labels = map[string]string{}
		}
		for key, value := range spec.Labels {
			made.Labels[string(key)] = string(value)
		}
		if len(spec.Annotations) > 0 {
			made.Annotations = map[string]string{}
		}
		for key, value := range spec.Annotations {
			made.Annotations[string(key)] = string(value)
		}
		if ref := spec.ParametersRef; ref != nil {
			made.Parameters = &ObjectRef{Kind: "ConfigMap", Namespace: gateway.object.Ref.Namespace, Name: ref.Name}
		}
		all = append(all, made)
		if r.provisioned {
			continue
		}
		r.report(gateway.object.notice(CodeNotProvisioned, "spec.infrastructure",
			"nothing is made for this Gateway: the proxies that serve it are started by whoever runs them, and do not get these labels, annotations and parameters"))
	}
	slices.SortFunc(all, func(a, b Infrastructure) int { return compareRefs(a.Gateway.Object, b.Gateway.Object) })
	return all
}

// parameters reports whether a Gateway's parametersRef can be followed; where it
// can't, the Gateway is not accepted (GatewayInfrastructure.parametersRef).
func (r *resolver) parameters(gateway *Object, spec *gatewayv1.GatewaySpec) (fault string) {
	if spec.Infrastructure == nil || spec.Infrastructure.ParametersRef == nil {
		return ""
	}
	ref := spec.Infrastructure.ParametersRef
	to := ObjectRef{Kind: "ConfigMap", Namespace: gateway.Ref.Namespace, Name: ref.Name}
	switch {
	case ref.Group != "" || ref.Kind != "ConfigMap":
		fault = fmt.Sprintf("parameters are ConfigMaps, not %s of group %q", string(ref.Kind), string(ref.Group))
	case r.byRef[to] == nil:
		fault = fmt.Sprintf("there is no %s", to)
	default:
		return ""
	}
	r.report(gateway.problem(CodeRefNotFound, "spec.infrastructure.parametersRef", fault))
	status := r.status(gateway)
	SetCondition(&status.Conditions, condition(gatewayv1.GatewayConditionAccepted, false, gatewayv1.GatewayReasonInvalidParameters, fault))
	SetCondition(&status.Conditions, condition(gatewayv1.GatewayConditionProgrammed, false, gatewayv1.GatewayReasonInvalid, fault))
	return fault
}

// unusable is why nothing of a Gateway is served, whatever its listeners say.
func (r *resolver) unusable(gateway *Object, spec *gatewayv1.GatewaySpec) (bind []string, fault string) {
	at := r.addressing(gateway, spec)
	return at.bind, cmp.Or(r.parameters(gateway, spec), at.fault)
}

// unusable is what is known of a Gateway before its listeners are looked at.
type unusable struct {
	bind  []string
	fault string
}
