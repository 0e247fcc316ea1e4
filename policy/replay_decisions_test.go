package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"google.golang.org/protobuf/types/known/structpb"

	"weir.dev/kit/authzexpr"
	"weir.dev/policy"
)

const replayedPolicy = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: api}
spec: {parentRefs: [{name: edge}], rules: [{name: all, backendRefs: [{name: web, port: 80}]}]}
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: who}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: api}]
`

func TestReplayOfDecisions(t *testing.T) {
	plan := func(rest string) *policy.Plan {
		plan, problems := resolveFile(t, "policy.yaml", []byte(replayedPolicy+rest))
		require.Empty(t, problems.Errors())
		return plan
	}
	const ways = "  authentication: [{name: key, apiKey: {}}, {name: anyone, anonymous: {}}]\n"
	rules := func(list string) string { return "  authorization: {rules: [" + list + "]}\n" }
	store := func(list string) string {
		return "  authorization: {relationships: {url: \"https://fga.example\", storeId: s1}, rules: [" + list + "]}\n"
	}
	before := plan(ways)
	route := before.Ports[0].Chains[0].Hosts[0].Routes[0].ID
	decision := func(d policy.RecordedDecision) *policy.RecordedDecision {
		d.Route, d.Time = route, time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		d.Request = authzexpr.Request{Method: "GET", Host: "api.example", Path: "/v1"}
		return &d
	}
	acme := decision(policy.RecordedDecision{
		Allowed: true, Reason: "ALLOWED", Authenticator: "key", Missing: []string{"request.headers"},
		Caller: &authzexpr.Identity{Consumer: "default/shop", Subject: "main", Tenant: "acme", Scopes: []string{"read"}},
	})
	anyone := decision(policy.RecordedDecision{Allowed: true, Reason: "ALLOWED", Authenticator: "anyone", Caller: &authzexpr.Identity{}})
	wrong := decision(policy.RecordedDecision{Reason: "API_KEY_INVALID", Authenticator: "key"})
	claims, err := structpb.NewStruct(map[string]any{
		"roles": []any{"admin"}, "realm": map[string]any{"roles": "ops"}, "hidden": "(removed)", "acr": "mfa", "auth_time": float64(acme.Time.Add(-5 * time.Minute).Unix()),
	})
	require.NoError(t, err)
	person := decision(policy.RecordedDecision{
		Allowed: true, Reason: "ALLOWED", Authenticator: "key", Missing: []string{"identity.claims"}, Caller: &authzexpr.Identity{Subject: "alice", Issuer: "i", Claims: claims},
	})
	claimless := decision(policy.RecordedDecision{
		Allowed: true, Reason: "ALLOWED", Authenticator: "key", Missing: []string{"identity.claims"}, Caller: &authzexpr.Identity{Subject: "alice", Issuer: "i"},
	})
	cases := []struct {
		name     string
		policy   string
		decision *policy.RecordedDecision
		kind     string
		contains string
	}{
		{"as before", ways, acme, "", ""},
		{"a rule that it passes", ways + rules(`{name: a, effect: Allow, when: identity.tenant == "acme"}`), acme, "", ""},
		{"a rule that refuses", ways + rules(`{name: d, effect: Deny, when: 'consumer.name == "default/shop"'}`), acme, policy.FlipDecision, `refused by rule "d"`},
		{"no rule that allows", ways + rules(`{name: a, effect: Allow, when: identity.tenant == "other"}`), acme, policy.FlipDecision, "refused, PERMISSION_DENIED"},
		{"a rule that fails", ways + rules(`{name: a, effect: Allow, when: identity.claims.x == "1"}`), acme, policy.FlipDecision, `refused by rule "a"`},
		{"what is not recorded", ways + rules(`{name: a, effect: Allow, when: request.header("x") == "1"}`), acme, policy.FlipUnknown, "request.headers"},
		{"a scope that it has", ways + rules(`{name: s, effect: Require, requireScopes: {allOf: [read]}}`), acme, "", ""},
		{"a scope that it lacks", ways + rules(`{name: s, effect: Require, requireScopes: {allOf: [write]}}`), acme, policy.FlipDecision, `refused by rule "s"`},
		{"a role, where keys have none", ways + rules(`{name: s, effect: Require, requireRoles: {allOf: [admin]}}`), acme, policy.FlipDecision, `refused by rule "s"`},
		{"a role, with claims not recorded", ways + rules(`{name: s, effect: Require, requireRoles: {allOf: [admin]}}`), claimless, policy.FlipUnknown, `rule "s" requires roles, and the claim roles is not recorded`},
		{"a role that it has", ways + rules(`{name: s, effect: Require, requireRoles: {allOf: [admin]}}`), person, "", ""},
		{"a role of another claim", ways + "  authorization: {roleClaims: [realm.roles], rules: [{name: s, effect: Require, requireRoles: {anyOf: [ops]}}]}\n", person, "", ""},
		{"a role that was removed", ways + "  authorization: {roleClaims: [hidden], rules: [{name: s, effect: Require, requireRoles: {anyOf: [ops]}}]}\n", person, policy.FlipUnknown, "the claim hidden"},
		{"below what was removed", ways + "  authorization: {roleClaims: [hidden.roles], rules: [{name: s, effect: Require, requireRoles: {anyOf: [ops]}}]}\n", person, policy.FlipUnknown, "the claim hidden.roles"},
		{"a role that it lacks", ways + rules(`{name: s, effect: Require, requireRoles: {allOf: [root]}}`), person, policy.FlipDecision, `refused by rule "s"`},
		{"a role in an expression", ways + rules(`{name: s, effect: Allow, when: identity.hasRole("admin")}`), person, "", ""},
		{"a role in an expression, not recorded", ways + rules(`{name: s, effect: Allow, when: identity.hasRole("admin")}`), claimless, policy.FlipUnknown, "the claim roles"},
		{"a login that is young enough", ways + rules(`{name: s, effect: Require, requireAuthentication: {acrValues: [mfa], maxAge: 10m}}`), person, "", ""},
		{"a login that is too old", ways + rules(`{name: s, effect: Require, requireAuthentication: {maxAge: 1m}}`), person, policy.FlipDecision, `refused by rule "s"`},
		{"a login of another kind", ways + rules(`{name: s, effect: Require, requireAuthentication: {acrValues: [gold]}}`), person, policy.FlipDecision, `refused by rule "s"`},
		{"a login that is not recorded", ways + rules(`{name: s, effect: Require, requireAuthentication: {maxAge: 1m}}`), claimless, policy.FlipUnknown, "the claim auth_time"},
		{"a relationship that nobody asked for", ways + store(`{name: s, effect: Require, requireRelationship: {user: "user:{identity.subject}", relation: viewer, object: "doc:1"}}`), person, policy.FlipUnknown, "the store was not asked"},
		{"hostnames of the route", ways + rules(`{name: s, effect: Deny, when: "route.hostnames.size() == 0"}`), acme, policy.FlipDecision, `refused by rule "s"`},
		{"another way", "  authentication: [{name: key, apiKey: {header: X-Other}}]\n", acme, policy.FlipUnknown, "another way"},
		{"nobody without credentials", "  authentication: [{name: key, apiKey: {}}]\n", anyone, policy.FlipDecision, "CREDENTIALS_MISSING"},
		{"still a wrong key", ways, wrong, "", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			flips := policy.NewReplay(before, plan(c.policy)).Decision(c.decision)
			if c.kind == "" {
				require.Empty(t, flips)
				return
			}
			require.Len(t, flips, 1)
			require.Equal(t, c.kind, flips[0].Kind, flips)
			require.Contains(t, flips[0].New, c.contains)
		})
	}
}

// What a rule said when the request was decided it says again, if it is as it was:
// of what it read, nothing has to be recorded.
func TestReplayOfUnchangedRules(t *testing.T) {
	const ways = "  authentication: [{name: key, apiKey: {}}]\n"
	related := `{name: related, effect: Require, requireRelationship: {user: "user:{identity.subject}", relation: viewer, object: "doc:1"}}`
	rules := func(storeID, list string) string {
		return ways + "  authorization: {relationships: {url: \"https://fga.example\", storeId: " + storeID + "}, rules: [" + list + "]}\n"
	}
	plan := func(rest string) *policy.Plan {
		plan, problems := resolveFile(t, "policy.yaml", []byte(replayedPolicy+rest))
		require.Empty(t, problems.Errors())
		return plan
	}
	before := plan(rules("s1", related))
	route := before.Ports[0].Chains[0].Hosts[0].Routes[0]
	recorded := func(outcome string, allowed bool) *policy.RecordedDecision {
		return &policy.RecordedDecision{
			Route: route.ID, Authenticator: "key", Allowed: allowed, Reason: "ALLOWED", Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
			Request: authzexpr.Request{Method: "GET", Host: "api.example", Path: "/v1"},
			Caller:  &authzexpr.Identity{Subject: "alice", Tenant: "acme"},
			Digest:  before.AuthRoutes[0].GetDigest(), Outcomes: map[string]string{"related": outcome},
		}
	}
	deny := `, {name: d, effect: Deny, when: identity.tenant == "acme"}`
	stale := recorded("met", true)
	stale.Digest = "of other rules"
	for name, c := range map[string]struct {
		policy   string
		decision *policy.RecordedDecision
		kind     string
		contains string
	}{
		"the same":                   {rules("s1", related), recorded("met", true), "", ""},
		"another rule beside it":     {rules("s1", related+deny), recorded("met", true), policy.FlipDecision, `refused by rule "d"`},
		"not met then, not met now":  {rules("s1", related+deny), recorded("not met", false), "", ""},
		"its source failed then":     {rules("s1", related), recorded("error", false), "", ""},
		"not reached then":           {rules("s1", related), recorded("not reached", true), policy.FlipUnknown, "the store was not asked"},
		"asked of another store":     {rules("s2", related), recorded("met", true), policy.FlipUnknown, "the store was not asked"},
		"changed":                    {rules("s1", strings.ReplaceAll(related, "viewer", "owner")), recorded("met", true), policy.FlipUnknown, "the store was not asked"},
		"decided by rules of before": {rules("s1", related), stale, policy.FlipUnknown, "the store was not asked"},
	} {
		t.Run(name, func(t *testing.T) {
			flips := policy.NewReplay(before, plan(c.policy)).Decision(c.decision)
			if c.kind == "" {
				require.Empty(t, flips)
				return
			}
			require.Len(t, flips, 1)
			require.Equal(t, c.kind, flips[0].Kind, flips)
			require.Contains(t, flips[0].New, c.contains)
		})
	}
}
