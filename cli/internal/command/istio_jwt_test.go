package command

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// ordersKept is what of the policy orders Istio can't decide alike: what changes, and
// the reason that is given; one that begins with + is of another policy.
func ordersKept() map[[2]string]string {
	const way = "    - name: staff\n      jwt:\n        issuer: https://id.example.com\n        audiences: [shop]\n"
	const keys = "jwks: {configMapRef: {name: issuer, key: jwks}}\n  authorization:\n    roleClaims"
	const told = "upstream: {identityHeaders: [Authenticator]}"
	const rule = "- {name: staff, effect: Require, requireRoles: {anyOf: [clerk, manager]}}"
	const orders = "matches: [{path: {type: PathPrefix, value: /orders}}]"
	return map[[2]string]string{
		{way, strings.Replace(way, "    - name", "    - {name: key, apiKey: {}}\n    - name", 1)}:                                                                           "spec.authentication: decided by extauthz, not by Istio: authentication: there is more than one way",
		{way, strings.Replace(way, "      jwt:", "      senderConstraint: {require: DPoP}\n      jwt:", 1)}:                                                                 "senderConstraint: Istio asks for no proof of possession",
		{way, strings.Replace(way, "      jwt:", "      timeout: 3s\n      jwt:", 1)}:                                                                                       "timeout: keys are fetched by istiod",
		{way, way + "        types: [at+jwt]\n"}:                                                                                                                            "jwt.types: Istio does not look at a token's typ",
		{way, way + "        claims: {tenant: org}\n"}:                                                                                                                      "jwt.claims: a subject that is not sub",
		{way, way + "        claims: {subject: email}\n"}:                                                                                                                   "jwt.claims: a subject that is not sub",
		{way, way + "        claims: {scopes: realm.scope}\n"}:                                                                                                              `"realm.scope" is within another claim`,
		{way, strings.Replace(way, "[shop]", "[shop*]", 1)}:                                                                                                                 `"shop*" begins or ends with an asterisk`,
		{"metadata: {name: admin}", "metadata: {name: admin, annotations: {istio.weir.dev/decide: istio}}"}:                                                                 `+the way "key" is not jwt`,
		{"leeway: 60s", "leeway: 30s"}:                                                                                                                                      "spec.authentication[0].jwt.leeway: decided by extauthz, not by Istio: jwt.leeway: is 30s, and Istio's is 1m0s",
		{"algorithms: [ES256]", "algorithms: [RS256]"}:                                                                                                                      "jwt.jwks.configMapRef: no key is of an algorithm",
		{keys, strings.Replace(keys, "{configMapRef: {name: issuer, key: jwks}}", "{discovery: {}}", 1)}:                                                                    "jwt.jwks.discovery: the algorithms",
		{keys, strings.Replace(keys, "{configMapRef: {name: issuer, key: jwks}}", "{remote: {uri: 'https://id.example.com/jwks', maxStale: 168h}}", 1)}:                     "jwt.jwks.remote.cacheDuration: is 5m0s, and istiod fetches keys every 20m0s",
		{keys, strings.Replace(keys, "{configMapRef: {name: issuer, key: jwks}}", "{remote: {uri: 'https://id.example.com/jwks', cacheDuration: 20m}}", 1)}:                 "jwt.jwks.remote.maxStale: is 1h0m0s, and istiod keeps keys",
		{keys, strings.Replace(keys, "{configMapRef: {name: issuer, key: jwks}}", "{remote: {uri: 'https://id.example.com/jwks', cacheDuration: 20m, maxStale: 168h}}", 1)}: "jwt.algorithms: RS256 is not among them",
		{told, "audit: bestEffort\n  " + told}:                                                                                                                              "spec.audit: decided by extauthz, not by Istio: audit",
		{told, ""}:                                                                                                                                                          "upstream.identityHeaders: the service is told scopes",
		{told, "upstream: {identityHeaders: [Subject, Scopes]}"}:                                                                                                            "upstream.identityHeaders: the service is told scopes",
		{told, "upstream: {identityHeaders: [None], claimHeaders: [{claim: a, header: b}]}"}:                                                                                "upstream.claimHeaders",
		{told, "upstream: {identityHeaders: [None], assertion: {audiences: [a]}}"}:                                                                                          "upstream: Istio signs no assertion",
		{rule, strings.Replace(rule, "manager", "'*manager'", 1)}:                                                                                                           `"*manager" begins or ends with an asterisk`,
		{rule, rule + "\n      - {name: own, effect: Deny, when: \"identity.claims.dept == 'x'\"}"}:                                                                         `rule "own": its expression asks for more than identity.hasScope`,
		{rule, rule + "\n      - {name: paths, effect: Deny, when: request.path == '/x'}"}:                                                                                  `rule "paths": its expression asks for more`,
		{rule, rule + "\n      - {name: pattern, effect: Deny, when: identity.hasRole('a*')}"}:                                                                              `"a*" begins or ends with an asterisk`,
		{rule, rule + "\n      - {name: fresh, effect: Require, requireAuthentication: {maxAge: 1h}}"}:                                                                      `rule "fresh": Istio knows nothing of how somebody logged in`,
		{rule, rule + "\n      - {name: later, effect: Deny, when: identity.hasRole('x'), shadow: true}"}:                                                                   "it is compared with rules in the shadow",
		{"[realm.roles, groups]", "[scope]"}:                                                                                                                                `roleClaims: Istio cannot look for roles in the claim "scope"`,
		{"[realm.roles, groups]", "['a[b]']"}:                                                                                                                               `roleClaims: Istio cannot look for roles in the claim "a[b]"`,
		{orders, strings.Replace(orders, "}}]", "}, headers: [{name: v, value: a}]}]", 1)}:                                                                                  "a match by headers, query or RPC",
		{orders, "matches: [{path: {type: RegularExpression, value: '/orders/[0-9]+'}}]"}:                                                                                   "a match by an expression",
		{orders, "matches: [{path: {type: PathPrefix, value: '/orders*'}}]"}:                                                                                                "in which AuthorizationPolicy would read a pattern",
		{"{type: PathPrefix, value: /orders/admin}", "{type: RegularExpression, value: '/orders/a.*'}"}:                                                                     "stands before it and matches by an expression",
		{`"kid": "old", "use": "enc"`, `"kid": "old", "d": "AQAB"`}:                                                                                                         "jwt.jwks.configMapRef: keys[1]: is a private or symmetric key",
		{`"kid": "old", "use": "enc"`, `"kid": "old"`}:                                                                                                                      "jwt.jwks.configMapRef: keys[1]: is an RSA key of 17 bits",
		{"{type: Exact, value: /status}", "{type: Exact, value: /orders/status}"}:                                                                                           "+a match by a method, where another route",
		{"kind: Backend\nmetadata: {name: shop}\nspec: {", "kind: RateLimitPolicy\nmetadata: {name: fair}\nspec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop, sectionName: orders}]\n  limits: [{name: each, requests: 9, window: 1m, by: [{type: ClientIP}]}]\n---\napiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: shop}\nspec: {"}: "a prefix with limits or a timeout of streams",
		{"kind: Backend\nmetadata: {name: shop}\nspec: {", "kind: EdgePolicy\nmetadata: {name: names}\nspec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]\n  headers: {underscores: Allow}\n---\napiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: shop}\nspec: {"}:                                                                      "headers.underscores is Allow",
		{"hostnames: [shop.example.com]", "hostnames: ['*.example.com']"}:                   `host "*.example.com" is a wildcard`,
		{"hostnames: [shop.example.com]", "hostnames: [shop.example.com, '*.example.com']"}: `host "*.example.com" is a wildcard`,
		{"kind: Backend\nmetadata: {name: shop}\nspec: {", "kind: RateLimitPolicy\nmetadata: {name: fair}\nspec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop, sectionName: orders}]\n  limits: [{name: each, requests: 9, window: 1m, by: [{type: Tenant}]}]\n---\napiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: shop}\nspec: {"}: "a limit by who calls",
		{"kind: Backend\nmetadata: {name: shop}\nspec: {", "kind: Consumer\nmetadata: {name: acme}\nspec: {tenant: acme, tokenSubjects: [{issuer: https://id.example.com, subject: a}]}\n---\napiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: shop}\nspec: {"}:                                                                                                         "Consumer default/acme is known by tokens of this issuer",
		{"        algorithms: [ES256]\n        leeway: 60s\n        jwks: {configMapRef: {name: issuer, key: jwks}}\n  authorization: {rules", "        algorithms: [ES256, ES384]\n        claims: {scopes: scp}\n        leeway: 60s\n        jwks: {configMapRef: {name: issuer, key: jwks}}\n  authorization: {rules"}:                                                            "says other keys, algorithms or scopes of issuer",
	}
}

// Each thing that Istio would answer otherwise keeps the routes of the policy with
// extauthz, and is named with its field; nothing of the policy is Istio's then.
func TestTranslateIstioKeeps(t *testing.T) {
	content, err := os.ReadFile("testdata/istio-jwt.in.yaml")
	require.NoError(t, err)
	for change, want := range ordersKept() {
		path := filepath.Join(t.TempDir(), "policy.yaml")
		changed := strings.Replace(string(content), change[0], change[1], 1)
		require.NotEqual(t, string(content), changed, change[0])
		require.NoError(t, os.WriteFile(path, []byte(changed), 0o600))
		code, out, errs := runApp(t, "translate", "--target", "istio", "-o", "json", path)
		if !strings.Contains(errs, "WEIR6001") { // Some can't be had on Istio at all.
			require.Equal(t, 0, code, "%s\n%s", change[1], errs)
		}
		require.Contains(t, errs, "WEIR6002", change[1])
		want, others := strings.CutPrefix(want, "+")
		require.Contains(t, errs, want)
		require.Contains(t, errs, path+":", "the place is named")
		if code != 0 || others {
			continue
		}
		for _, object := range refusing(t, out) {
			require.NotContains(t, object, "/orders", "%s: Istio decides about it", change[1])
		}
	}
}

// refusing are the AuthorizationPolicies by which Istio refuses, as JSON.
func refusing(t *testing.T, out string) (found []string) {
	t.Helper()
	var list struct {
		Items []struct {
			Kind string
			Spec json.RawMessage
		}
	}
	require.NoError(t, json.Unmarshal([]byte(out), &list))
	for _, item := range list.Items {
		if item.Kind == "AuthorizationPolicy" && strings.Contains(string(item.Spec), `"DENY"`) {
			found = append(found, string(item.Spec))
		}
	}
	return found
}

// Without the annotation, or with it saying so, extauthz decides; another value is a
// mistake.
func TestTranslateIstioDecides(t *testing.T) {
	content, err := os.ReadFile("testdata/istio-jwt.in.yaml")
	require.NoError(t, err)
	for annotation, want := range map[string]int{", annotations: {istio.weir.dev/decide: istio}": 6, "": 0, ", annotations: {istio.weir.dev/decide: extauthz}": 0} {
		path := filepath.Join(t.TempDir(), "policy.yaml")
		require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(content), ", annotations: {istio.weir.dev/decide: istio}", annotation)), 0o600))
		code, out, errs := runApp(t, "translate", "--target", "istio", "-o", "json", path)
		require.Equal(t, 0, code, errs)
		require.NotContains(t, errs, "WEIR6002")
		require.Len(t, refusing(t, out), want)
		require.Equal(t, want > 0, strings.Contains(out, `"RequestAuthentication"`))
	}
	path := filepath.Join(t.TempDir(), "policy.yaml")
	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(string(content), "decide: istio", "decide: envoy", 1)), 0o600))
	code, _, errs := runApp(t, "translate", "--target", "istio", path)
	require.Equal(t, 1, code)
	require.Contains(t, errs, `istio.weir.dev/decide is "envoy"; it is extauthz or istio`)
}
