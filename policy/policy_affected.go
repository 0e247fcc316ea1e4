package policy

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// Conditions of what policies are attached to (GEP-713, "Target object status").
const (
	// AffectedSuffix ends the condition of a kind of policy, which AffectedDomain
	// begins: "weir.dev/AuthPolicyAffected".
	AffectedSuffix = "Affected"
	AffectedDomain = v1alpha1.Group + "/"
	ReasonAffected = "PolicyAffected"
)

// maxConditions is the standard's bound of a list of conditions, one of which is
// Programmed, that is added later.
const maxConditions = 8

// affected are the policies on one target, by kind.
type affected map[string][]string

// policyTargets tells each target which policies are attached to it. What reaches
// it from the objects above is not repeated there: one edit would change the status
// of thousands (GEP-713, "Fanout status update problems").
func (r *resolver) policyTargets() {
	found := map[targetKey]affected{}
	add := func(key targetKey, kind, text string) {
		if found[key] == nil {
			found[key] = affected{}
		}
		found[key][kind] = append(found[key][kind], text)
	}
	for i, kind := range policyKinds() {
		for _, s := range r.policies.statements[i] {
			for _, key := range s.attachedTo {
				text := s.object.Ref.Namespace + "/" + s.object.Ref.Name
				if s.shadow {
					text += " (in the shadow)"
				}
				if isRoute(key.kind) && key.section != "" {
					text += " on rule " + key.section
				}
				add(key, kind.name, text)
			}
		}
	}
	whole := map[ObjectRef]affected{}
	for _, key := range slices.SortedFunc(maps.Keys(found), func(a, b targetKey) int { return compareAncestors(ancestor(a), ancestor(b)) }) {
		ref := ObjectRef{Kind: key.kind, Namespace: key.namespace, Name: key.name}
		switch status := r.statuses[ref]; {
		case isRoute(key.kind): // Rules have no conditions of their own.
			if whole[ref] == nil {
				whole[ref] = affected{}
			}
			for kind, names := range found[key] {
				whole[ref][kind] = append(whole[ref][kind], names...)
			}
		case status == nil || !r.gateways[ref]:
		case key.section == "":
			status.Conditions = found[key].conditions(status.Conditions)
		default:
			for i := range status.Listeners {
				if listener := &status.Listeners[i]; listener.Name == key.section {
					listener.Conditions = found[key].conditions(listener.Conditions)
				}
			}
		}
	}
	for ref, policies := range whole {
		if status := r.statuses[ref]; status != nil {
			for i := range status.Parents {
				status.Parents[i].Conditions = policies.conditions(status.Parents[i].Conditions)
			}
		}
	}
	r.securedBackends()
}

// securedBackends tells Backends which BackendTLSPolicies are attached to them.
func (r *resolver) securedBackends() {
	secured := map[*Object]affected{}
	for _, policy := range r.allTLSPolicies {
		value, ok := policy.object.Value.(*gatewayv1.BackendTLSPolicy)
		if !ok || policy.lostTo != "" && !policy.inEffect {
			continue
		}
		for _, target := range value.Spec.TargetRefs {
			object, there := r.byRef[ObjectRef{Kind: string(target.Kind), Namespace: policy.object.Ref.Namespace, Name: string(target.Name)}]
			if !there || target.Kind != v1alpha1.KindBackend {
				continue
			}
			if secured[object] == nil {
				secured[object] = affected{}
			}
			secured[object][kindBackendTLSPolicy] = append(secured[object][kindBackendTLSPolicy], policy.object.Ref.Namespace+"/"+policy.object.Ref.Name)
		}
	}
	for object, policies := range secured {
		status := r.status(object)
		status.Conditions = policies.conditions(status.Conditions)
	}
}

// conditions adds one for each kind or, where there is no room for all, one for
// all of them.
func (a affected) conditions(to []Condition) []Condition {
	room := maxConditions - len(to)
	if !slices.ContainsFunc(to, func(c Condition) bool { return c.Type == string(gatewayv1.GatewayConditionProgrammed) }) {
		room--
	}
	kinds := slices.SortedFunc(maps.Keys(a), cmp.Compare[string])
	if len(kinds) <= room {
		for _, kind := range kinds {
			SetCondition(&to, condition(AffectedDomain+kind+AffectedSuffix, true, ReasonAffected, kind+" "+a.text(kind)))
		}
		return to
	}
	texts := make([]string, len(kinds))
	for i, kind := range kinds {
		texts[i] = kind + " " + a.text(kind)
	}
	SetCondition(&to, condition(AffectedDomain+"Policy"+AffectedSuffix, true, ReasonAffected, strings.Join(texts, "; ")))
	return to
}

func (a affected) text(kind string) string {
	names := slices.Clone(a[kind])
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}
