package extauthz_test

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
)

// FuzzRuleInputs has rules read what a caller can write: whatever that is, nothing
// breaks, what the rules say of a header, a path and a claim is what Go says of them,
// and an expression that has no value denies.
func FuzzRuleInputs(f *testing.F) {
	ring := authtest.NewRing(f)
	jwt := authtest.JWT("jwt", authtest.Provider(authtest.KeySet(f, ring.EC)))
	rule := func(id, expression string) *rulesv1.AuthRoute {
		return authtest.WithRules(authtest.Route(id, jwt), authtest.Allow("a", expression))
	}
	routes := map[string]*rulesv1.AuthRoute{}
	for id, expression := range map[string]string{
		"header": `"x-a" in request.headers && request.headers["x-a"].exists(v, v == "allow")`,
		"path":   `request.path.split("/").exists(part, part == "allow")`,
		"claim":  `has(identity.claims.role) && identity.claims.role == "allow"`,
		"loose":  `identity.claims.role == "allow"`,
		"text":   `request.headers["x-a"][0].lowerAscii().replace("a", "b").trim().size() > 3 || request.raw_query.contains("x")`,
		"sets":   `sets.intersects(request.headers["x-a"], ["allow"]) && cidr("10.0.0.0/8").containsIP(source.address)`,
		"number": `int(identity.claims.role) > 1 && timestamp(identity.claims.role) < time`,
	} {
		routes[id] = rule(id, expression)
	}
	sources := make([]*rulesv1.AuthRoute, 0, len(routes))
	for id := range routes {
		sources = append(sources, routes[id])
	}
	rules := rulesOf(f, sources...)
	for _, seed := range [][3]string{
		{"allow", "/allow", `"allow"`}, {"deny", "/a/b?x=1", `{"a":[1,null]}`}, {"", "/", `1e300`}, {"\xff", "/%", `"2026-01-01T00:00:00Z"`}, {"ALLOW", "/allow/..", `-1`},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, header, target, role string) {
		claims := `{"iss":"` + authtest.Issuer + `","aud":"weir","sub":"alice","exp":1772370000,"role":` + role + `}`
		bearer := "authorization: Bearer " + ring.EC.Sign(t, `{"alg":"ES256","kid":"ec"}`, claims)
		got := map[string]extauthz.Decision{}
		for id := range routes {
			r := request(bearer, "x-a: "+header)
			r.Route, r.Target = id, target
			got[id] = decide(t, rules, r)
			if got[id].Allowed != (got[id].Reason == extauthz.ReasonAllowed) || got[id].Allowed && got[id].Cause != nil {
				t.Fatalf("%s: allowed %t for %s, %v", id, got[id].Allowed, got[id].Reason, got[id].Cause)
			}
		}
		proved := got["header"].Identity.Subject == "alice"
		path, _, _ := strings.Cut(target, "?")
		wantClaim := proved && got["claim"].Identity.Claims.GetFields()["role"].GetKind() != nil && isAllow(got["claim"].Identity.Claims.GetFields()["role"])
		for id, want := range map[string]bool{
			"header": proved && header == "allow", "path": proved && slices.Contains(strings.Split(path, "/"), "allow"), "claim": wantClaim, "loose": wantClaim,
			"sets": proved && header == "allow",
		} {
			if got[id].Allowed != want {
				t.Fatalf("%s: allowed %t, want %t (%s: %v)", id, got[id].Allowed, want, got[id].Reason, got[id].Cause)
			}
		}
	})
}

func isAllow(value *structpb.Value) bool {
	text, ok := value.GetKind().(*structpb.Value_StringValue)
	return ok && text.StringValue == "allow"
}
