package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/authzexpr"
)

// ruleVerdict is what one rule says of a recorded request.
type ruleVerdict uint8

const (
	verdictUnknown ruleVerdict = iota
	// verdictPasses leaves it to the rules that follow.
	verdictPasses
	verdictDecides
	verdictLacks
	verdictError
)

// removedText stands in records in the place of what may be a secret
// (weir.decision.v1).
const removedText = "(removed)"

// maxLoginSkew is how far in the future extauthz lets a login seem to be.
const maxLoginSkew = time.Minute

// unchangedRules are the recorded outcomes, by name, of rules that are proposed
// as they were when the request was decided: they say of it what they said then,
// whatever they read.
func (r *Replay) unchangedRules(d *RecordedDecision, next *authRoute) map[string]string {
	var old *authRoute
	for id, route := range r.old {
		if name, _, _ := strings.Cut(id, "~"); name == d.Route && d.Digest != "" && route.GetDigest() == d.Digest {
			old = route
		}
	}
	if old == nil || !sameInputs(old, next) {
		return nil
	}
	unchanged := map[string]string{}
	for _, rule := range next.GetRules() {
		if slices.ContainsFunc(old.GetRules(), func(was *rulesv1.AuthorizationRule) bool { return proto.Equal(was, rule) }) {
			unchanged[rule.GetName()] = d.Outcomes[rule.GetName()]
		}
	}
	return unchanged
}

// sameInputs reports whether two sets of rules read the same beside the request.
func sameInputs(old, next *authRoute) bool {
	return proto.Equal(old.GetSettings(), next.GetSettings()) && proto.Equal(old.GetBody(), next.GetBody()) &&
		slices.EqualFunc(old.GetMetadata(), next.GetMetadata(), func(a, b *rulesv1.MetadataSource) bool { return proto.Equal(a, b) })
}

// recordedVerdict is a rule's verdict as it is recorded, unknown for a rule that
// was not reached. Why a caller did not meet it is not recorded.
func recordedVerdict(outcome string) (v ruleVerdict, lacking string) {
	switch outcome {
	case "true":
		return verdictDecides, ""
	case "met":
		return verdictPasses, ""
	case "false":
		// Of an allow rule: it did not hold, or its requirements were not met.
		return verdictPasses, ""
	case "not met":
		return verdictLacks, "as recorded"
	case "error":
		return verdictError, ""
	}
	return verdictUnknown, ""
}

// recordedRoles are the caller's as a record tells them; unknown names the claim
// that it does not have.
type recordedRoles struct {
	list    []string
	unknown string
}

func rolesOf(d *RecordedDecision, caller *authzexpr.Identity, paths []string) recordedRoles {
	if len(paths) == 0 {
		paths = []string{"roles"}
	}
	var found recordedRoles
	for _, path := range paths {
		value, known := recordedClaim(d, caller, path)
		if !known {
			return recordedRoles{unknown: "the claim " + path}
		}
		switch kind := value.GetKind().(type) {
		case *structpb.Value_StringValue:
			found.list = append(found.list, kind.StringValue)
		case *structpb.Value_ListValue:
			for _, element := range kind.ListValue.GetValues() {
				if text, ok := element.GetKind().(*structpb.Value_StringValue); ok {
					found.list = append(found.list, text.StringValue)
				}
			}
		}
	}
	return found
}

// recordedClaim finds a claim as extauthz does; known is false for one that was
// not recorded, or not whole. The names of claims are recorded where claims are.
func recordedClaim(d *RecordedDecision, caller *authzexpr.Identity, path string) (value *structpb.Value, known bool) {
	if caller.Claims == nil {
		return nil, !slices.Contains(d.Missing, "identity.claims")
	}
	fields := caller.Claims.GetFields()
	if value, ok := fields[path]; ok {
		return value, whole(value)
	}
	for {
		name, rest, nested := strings.Cut(path, ".")
		value := fields[name]
		if !nested || value == nil {
			return value, whole(value)
		}
		if value.GetStringValue() == removedText {
			return nil, false
		}
		fields, path = value.GetStructValue().GetFields(), rest
	}
}

// whole reports whether nothing of a text or of a list of texts was removed.
func whole(value *structpb.Value) bool {
	removed := func(value *structpb.Value) bool { return value.GetStringValue() == removedText }
	return !removed(value) && !slices.ContainsFunc(value.GetListValue().GetValues(), removed)
}

// lacksRecorded is the reason for which a caller does not meet what a rule
// requires, cheap ones first as in extauthz; empty when it does. unknown says
// what the record would have to tell.
func lacksRecorded(rule *rulesv1.AuthorizationRule, d *RecordedDecision, caller *authzexpr.Identity, roles recordedRoles) (reason, unknown string) {
	needs := rule.GetRequirements()
	if needs == nil {
		return "", ""
	}
	if !meets(needs.GetScopes(), caller.Scopes) {
		return "INSUFFICIENT_SCOPE", ""
	}
	if needs.GetRoles() != nil {
		if roles.unknown != "" {
			return "", fmt.Sprintf("rule %q requires roles, and %s is not recorded", rule.GetName(), roles.unknown)
		}
		if !meets(needs.GetRoles(), roles.list) {
			return "PERMISSION_DENIED", ""
		}
	}
	enough, lacking := loggedIn(needs.GetAuthentication(), d, caller)
	switch {
	case lacking != "":
		return "", fmt.Sprintf("rule %q requires a login, and the claim %s is not recorded", rule.GetName(), lacking)
	case !enough:
		return "INSUFFICIENT_AUTHENTICATION", ""
	case needs.GetRelationship() != nil:
		return "", fmt.Sprintf("rule %q requires a relationship, which the store was not asked for this request; the rule has to be as it was for the recorded answer to count", rule.GetName())
	}
	return "", ""
}

func meets(needs *rulesv1.TextRequirement, has []string) bool {
	lacks := func(word string) bool { return !slices.Contains(has, word) }
	return !slices.ContainsFunc(needs.GetAllOf(), lacks) &&
		(len(needs.GetAnyOf()) == 0 || slices.ContainsFunc(needs.GetAnyOf(), func(word string) bool { return !lacks(word) }))
}

// loggedIn reports whether the recorded login is of a kind and an age that is
// required (RFC 9470 section 4), at the time of the request.
func loggedIn(needs *rulesv1.AuthenticationRequirement, d *RecordedDecision, caller *authzexpr.Identity) (enough bool, lacking string) {
	if values := needs.GetAcrValues(); len(values) > 0 {
		value, known := recordedClaim(d, caller, "acr")
		if !known {
			return false, "acr"
		}
		if !slices.Contains(values, value.GetStringValue()) {
			return false, ""
		}
	}
	most := needs.GetMaxAge().AsDuration()
	if most == 0 {
		return true, ""
	}
	value, known := recordedClaim(d, caller, "auth_time")
	if !known {
		return false, "auth_time"
	}
	at := value.GetNumberValue()
	age := float64(d.Time.Unix()) - at
	return at > 0 && age <= most.Seconds() && age >= -maxLoginSkew.Seconds(), ""
}
