package extauthz

import (
	"slices"
	"strings"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/httphost"
)

// Seen is one thing that was looked at for a decision.
type Seen struct {
	// Name of the authenticator or the rule.
	Name string
	// Kind of the method, such as "jwt"; of a rule, "allow" or "deny".
	Kind string
	// Outcome is one of the values that weir.decision.v1.Step lists.
	Outcome string
}

// Inspection is how a decision came about.
type Inspection struct {
	// Host, Path and Query are the canonical reading of the target. Host is empty
	// where there is none.
	Host, Path, Query string
	// Identified says that the caller was, so that rules decided.
	Identified bool
	Methods    []Seen
	Rules      []Seen
	// Reads lists what the rules of the route and of its candidates read, as
	// authzexpr.Program.References does.
	Reads []string
	// Headers are those that rules may read.
	Headers map[string][]string
}

// Inspect looks at a decision again: what was decided follows from the rules, the
// request and the outcome, so that nothing needs to be written down on the way.
// rules are those that it was decided by, and may be nil.
func Inspect(rules *Rules, request *Request, decision *Decision) Inspection {
	found := Inspection{Identified: decision.identified}
	found.Path, found.Query = splitTarget(request.Target)
	found.Host, _ = httphost.Canonical(request.Authority)
	if rules == nil {
		return found
	}
	route := rules.routes.routes[request.Route]
	if route == nil {
		return found
	}
	if decision.Reason != ReasonPathNotCanonical && decision.Reason != ReasonRequestInvalid {
		found.Methods = route.methodsSeen(decision)
	}
	found.Rules = route.rulesSeen(decision)
	found.Reads = route.allReads()
	found.Headers = (*visible)(&attempt{route: route, request: request}).All()
	return found
}

// allReads joins what rules read. Requirements read claims.
func (r *route) allReads() []string {
	var all []string
	for i := range r.rules {
		if r.rules[i].program != nil {
			all = append(all, r.rules[i].program.References()...)
		}
		if r.rules[i].requirements != nil {
			all = append(all, "identity.claims")
		}
	}
	for _, c := range r.candidates {
		all = append(all, c.allReads()...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (r *route) methodsSeen(decision *Decision) []Seen {
	seen := make([]Seen, len(r.authenticators))
	decided := false
	for i := range r.authenticators {
		authenticator := &r.authenticators[i]
		seen[i] = Seen{Name: authenticator.name, Kind: methodKind(r.source.GetAuthenticators()[i])}
		if authenticator.name == decision.Authenticator {
			seen[i].Outcome, decided = decidedOutcome(decision, authenticator.method == nil), true
			continue
		}
		if authenticator.method == nil {
			seen[i].Outcome = "not reached"
			continue
		}
		switch decision.found[i] {
		case Absent:
			seen[i].Outcome = "absent"
		case Foreign:
			seen[i].Outcome = "other"
		case Ambiguous:
			seen[i].Outcome = "ambiguous"
		default:
			// Before the one that decided it was asked in vain.
			seen[i].Outcome = "unavailable"
			if decided || !authenticator.failsOver {
				seen[i].Outcome = "not reached"
			}
		}
	}
	return seen
}

func decidedOutcome(decision *Decision, anonymous bool) string {
	switch {
	case decision.identified && anonymous:
		return "anonymous"
	case decision.identified:
		return "proved"
	case decision.Reason == ReasonCredentialAmbiguous:
		return "ambiguous"
	case decision.Reason == ReasonProviderUnavailable:
		return "unavailable"
	default:
		return "refused"
	}
}

func (r *route) rulesSeen(decision *Decision) []Seen {
	seen := make([]Seen, len(r.rules))
	decided := !decision.identified
	for i := range r.rules {
		rule := &r.rules[i]
		seen[i] = Seen{Name: rule.name, Kind: [...]string{effectDeny: "deny", effectAllow: "allow", effectRequire: "require"}[rule.effect], Outcome: "false"}
		switch {
		case decided:
			seen[i].Outcome = "not reached"
		case rule.name == decision.Rule && (decision.Reason == ReasonRuleError || decision.Reason == ReasonSourceUnavailable):
			seen[i].Outcome, decided = "error", true
		case rule.name == decision.Rule && !decision.Allowed && rule.effect != effectDeny:
			// An allow rule that was not met leaves it to those after it.
			seen[i].Outcome, decided = "not met", rule.effect == effectRequire
		case rule.name == decision.Rule:
			seen[i].Outcome, decided = "true", true
		case rule.effect == effectRequire:
			seen[i].Outcome = "met"
		}
	}
	return seen
}

// methodKind is the method's name in the rules, in the spelling of policies.
func methodKind(source *rulesv1.Authenticator) string {
	message := source.ProtoReflect()
	field := message.WhichOneof(message.Descriptor().Oneofs().ByName("method"))
	if field == nil {
		return ""
	}
	return field.JSONName()
}

// Forget blanks what may be a credential of a request that is decided, so that
// remembering the request does not keep it.
func (r *Request) Forget(decision *Decision) {
	for i := range r.Headers {
		header := &r.Headers[i]
		switch {
		case header.Name == headerAuthorization, header.Name == "proxy-authorization", header.Name == "cookie",
			slices.Contains(decision.CredentialHeaders, header.Name), strings.HasPrefix(header.Name, "dpop"):
			header.Value = ""
		}
	}
	r.Body = nil
}
