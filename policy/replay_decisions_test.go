package policy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
		{"a role, which is not recorded", ways + rules(`{name: s, effect: Require, requireRoles: {allOf: [admin]}}`), acme, policy.FlipUnknown, "requires"},
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
