package policy

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// targetKey is what a policy is attached to.
type targetKey struct {
	kind, namespace, name, section string
}

// target is what is attached to one place.
type target struct {
	id int32
	// standing are the policies of each kind that are in force there, the oldest
	// first, and out those that are not.
	standing [policyKindCount][]*statement
	out      [policyKindCount][]tie
	// shadows are the AuthPolicies that stand in the shadow there, the oldest first.
	shadows []*statement
}

// tie is a policy that lost a whole target to another one on it.
type tie struct {
	target targetKey
	loser  *statement
	by     *statement
}

// policyIndex holds the policies by what they are attached to, and what they came
// to by the places that were asked for.
type policyIndex struct {
	targets    map[targetKey]*target
	statements [policyKindCount][]*statement
	sets       map[stack]*policySet
}

// indexPolicies attaches the policies of all kinds.
func (r *resolver) indexPolicies() {
	r.limitRules = map[string]*limitRule{}
	r.policies = policyIndex{targets: map[targetKey]*target{}, sets: map[stack]*policySet{}}
	for i, kind := range policyKinds() {
		var statements []*statement
		for _, object := range r.objects {
			if object.Ref.Kind != kind.name {
				continue
			}
			if s := kind.read(object, kind); s != nil {
				statements = append(statements, s)
			}
		}
		slices.SortStableFunc(statements, comparePrecedenceOf)
		r.policies.statements[i] = statements
		switch i {
		case kindAuth:
			statements = r.withClosings(r.apartShadows(statements))
		case kindTLS:
			statements = r.withTLSClosings(statements)
		}
		r.attachStatements(i, statements)
	}
}

// withClosings puts what is known of broken AuthPolicies among the good ones, and
// notes what good ones with missing targets may have been meant for.
func (r *resolver) withClosings(statements []*statement) []*statement {
	for _, s := range statements {
		for _, target := range s.targets {
			if !r.targetExists(keyOf(s.object.Ref.Namespace, target)) {
				r.closeMissing(s, target)
			}
		}
	}
	all := slices.Clone(statements)
	for i := range r.closings {
		if closing := &r.closings[i]; closing.Targets != nil {
			all = append(all, closing.statement())
		}
	}
	slices.SortStableFunc(all, comparePrecedenceOf)
	return all
}

// attachStatements gives each target to the policies that stand there, and tells
// the others who won (GEP-713, conflict resolution): the oldest says whether
// there are others at all.
func (r *resolver) attachStatements(kind int, statements []*statement) {
	for _, s := range statements {
		for i, ref := range s.targets {
			key := keyOf(s.namespace(), ref)
			if !r.targetExists(key) {
				s.missing = append(s.missing, key)
				if s.object != nil {
					text := "there is no " + describeTarget(key)
					if kind := r.otherKind(key); kind != "" {
						text += fmt.Sprintf("; there is %s %s/%s: is that the kind that is meant?", kind, key.namespace, key.name)
					}
					r.report(s.object.problem(CodeRefNotFound, fmt.Sprintf("spec.targetRefs[%d]", i), text))
				}
				continue
			}
			place := r.policies.at(key)
			standing := place.standing[kind]
			if slices.Contains(standing, s) {
				continue
			}
			if at := slices.IndexFunc(standing, func(other *statement) bool { return other.atomic }); at >= 0 {
				lost := tie{key, s, standing[at]}
				place.out[kind], s.ties = append(place.out[kind], lost), append(s.ties, lost)
				if s.object != nil {
					r.report(s.object.problem(CodeOverridden, fmt.Sprintf("spec.targetRefs[%d]", i), fmt.Sprintf("%s is already governed by %s, %s: this policy does not apply there",
						describeTarget(key), lost.by.origin.Object, lost.why())))
				}
				continue
			}
			place.standing[kind] = append(standing, s)
			s.attachedTo = append(s.attachedTo, key)
		}
	}
}

func (s *statement) namespace() string { return s.origin.Object.Namespace }

// comparePrecedenceOf is comparePrecedence with overrides before defaults, which
// they are stronger than at any age, and for closings too. One whose age is not
// known counts as the oldest; but a good policy on the same target stays in effect
// beside a broken one that would only have given defaults.
func comparePrecedenceOf(a, b *statement) int {
	last := func(s *statement) int {
		if s.closing != nil && !s.overrides && s.atomic {
			return 1
		}
		return 0
	}
	defaults := func(s *statement) int {
		if s.overrides {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(last(a), last(b)),
		cmp.Compare(defaults(a), defaults(b)),
		a.created().Compare(b.created()),
		cmp.Compare(a.origin.Object.Namespace, b.origin.Object.Namespace),
		cmp.Compare(a.origin.Object.Name, b.origin.Object.Name),
		cmp.Compare(a.origin.String(), b.origin.String()))
}

func (s *statement) created() time.Time {
	if s.object == nil {
		return s.closing.Created.Time
	}
	return s.object.Value.GetCreationTimestamp().Time
}

// statement is the place of a broken AuthPolicy among the others: what it holds,
// being unknown, is refused wherever the policy would have been in effect.
func (c *Closing) statement() *statement {
	return &statement{
		targets: c.Targets, overrides: c.Overrides, atomic: !c.Merge, origin: c.Origin, closing: c,
		pieces: []piece{{key: "closing/" + c.Origin.String(), origin: c.Origin}}, reach: map[ancestor]*reach{},
	}
}

// closeMissing closes what an AuthPolicy with a target that is not there may have
// been meant to protect: the object, when only the section is missing, or else every
// route of the namespace that nothing else protects; and the route of the name, when
// there is one of another kind.
func (r *resolver) closeMissing(policy *statement, target v1alpha1.TargetRef) {
	closing := Closing{Origin: policy.object.Origin(""), Namespace: policy.namespace(), Created: metav1.NewTime(policy.created())}
	whole := target
	whole.SectionName = nil
	targeted := closing
	targeted.Overrides, targeted.Merge = policy.overrides, !policy.atomic
	if target.SectionName != nil && r.targetExists(keyOf(policy.namespace(), whole)) {
		targeted.Targets = []v1alpha1.TargetRef{whole}
		r.closings = append(r.closings, targeted)
		return
	}
	r.closings = append(r.closings, closing)
	if kind := r.otherKind(keyOf(policy.namespace(), whole)); kind != "" {
		whole.Kind = gatewayv1.Kind(kind)
		targeted.Targets = []v1alpha1.TargetRef{whole}
		r.closings = append(r.closings, targeted)
	}
}

// otherKind is the kind of a route that has the name of one of another kind, which is
// not there; empty for none.
func (r *resolver) otherKind(key targetKey) string {
	kinds := []string{"HTTPRoute", "GRPCRoute"}
	if !slices.Contains(kinds, key.kind) {
		return ""
	}
	for _, kind := range kinds {
		if kind != key.kind && r.targetExists(targetKey{kind: kind, namespace: key.namespace, name: key.name}) {
			return kind
		}
	}
	return ""
}

func keyOf(namespace string, target v1alpha1.TargetRef) targetKey {
	key := targetKey{kind: string(target.Kind), namespace: namespace, name: string(target.Name)}
	if target.SectionName != nil {
		key.section = string(*target.SectionName)
	}
	return key
}

func describeTarget(key targetKey) string {
	text := fmt.Sprintf("%s %s/%s", key.kind, key.namespace, key.name)
	if key.section != "" {
		text += fmt.Sprintf(" with a section named %q", key.section)
	}
	return text
}

func (r *resolver) targetExists(key targetKey) bool {
	object, ok := r.byRef[ObjectRef{Kind: key.kind, Namespace: key.namespace, Name: key.name}]
	if !ok || key.section == "" {
		return ok
	}
	named := func(name *gatewayv1.SectionName) bool { return name != nil && string(*name) == key.section }
	switch value := object.Value.(type) {
	case *gatewayv1.Gateway:
		return slices.ContainsFunc(value.Spec.Listeners, func(l gatewayv1.Listener) bool { return string(l.Name) == key.section })
	case *gatewayv1.ListenerSet:
		return slices.ContainsFunc(value.Spec.Listeners, func(l gatewayv1.ListenerEntry) bool { return string(l.Name) == key.section })
	case *gatewayv1.HTTPRoute:
		return slices.ContainsFunc(value.Spec.Rules, func(rule gatewayv1.HTTPRouteRule) bool { return named(rule.Name) })
	case *gatewayv1.GRPCRoute:
		return slices.ContainsFunc(value.Spec.Rules, func(rule gatewayv1.GRPCRouteRule) bool { return named(rule.Name) })
	default:
		return false
	}
}
