package extauthz_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz/internal/authtest"
)

func TestBadRouteIsNamedWithItsField(t *testing.T) {
	route := func(change func(r *rulesv1.AuthRoute)) *rulesv1.AuthRoute {
		r := authtest.WithRules(authtest.Route("r", authtest.APIKey(), authtest.Anonymous()), authtest.Allow("a", "true"), authtest.Deny("b", "true"))
		change(r)
		return r
	}
	for name, test := range map[string]struct {
		change func(r *rulesv1.AuthRoute)
		says   string
	}{
		"other id":         {func(r *rulesv1.AuthRoute) { r.RouteId = "x" }, `route_id: is "x"`},
		"syntax":           {func(r *rulesv1.AuthRoute) { r.Rules[1].Expression = "tru" }, `rules[1].expression: at 1:1`},
		"no effect":        {func(r *rulesv1.AuthRoute) { r.Rules[0].Effect = 0 }, `rules[0].effect`},
		"unknown effect":   {func(r *rulesv1.AuthRoute) { r.Rules[0].Effect = 9 }, `rules[0].effect`},
		"rule twice":       {func(r *rulesv1.AuthRoute) { r.Rules[1].Name = "a" }, `rules[1].name: "a" is used twice`},
		"rule unnamed":     {func(r *rulesv1.AuthRoute) { r.Rules[1].Name = "" }, `rules[1].name: is required`},
		"no method":        {func(r *rulesv1.AuthRoute) { r.Authenticators[1].Method = nil }, `authenticators[1]: names no method`},
		"header case":      {func(r *rulesv1.AuthRoute) { r.Authenticators[0].GetApiKey().Header = "X-API-Key" }, `authenticators[0].api_key.header: "X-API-Key"`},
		"header empty":     {func(r *rulesv1.AuthRoute) { r.Authenticators[0].GetApiKey().Header = "" }, `authenticators[0].api_key.header`},
		"header taken":     {func(r *rulesv1.AuthRoute) { r.Authenticators[0].GetApiKey().Header = "authorization" }, `is reserved`},
		"header ours":      {func(r *rulesv1.AuthRoute) { r.Authenticators[0].GetApiKey().Header = "x-weir-tenant" }, `is reserved`},
		"header pseudo":    {func(r *rulesv1.AuthRoute) { r.Authenticators[0].GetApiKey().Header = ":path" }, `is not a lower-case header name`},
		"underscore":       {func(r *rulesv1.AuthRoute) { r.Authenticators[0].GetApiKey().Header = "x_api_key" }, `is not a lower-case header name`},
		"provider":         {func(r *rulesv1.AuthRoute) { r.Authenticators[1] = authtest.JWT("j", &rulesv1.JwtAuthenticator{}) }, `authenticators[1].jwt.issuer: is required`},
		"name unprintable": {func(r *rulesv1.AuthRoute) { r.Authenticators[0].Name = "a\nb" }, `authenticators[0].name`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := compiler(t).Routes(nil, map[string]*rulesv1.AuthRoute{"r": route(test.change), "good": authtest.Route("good")})
			require.ErrorContains(t, err, `route "r": `)
			require.ErrorContains(t, err, test.says)
			require.NotContains(t, err.Error(), `"good"`)
		})
	}
	_, err := compiler(t).Routes(nil, map[string]*rulesv1.AuthRoute{"r": route(func(*rulesv1.AuthRoute) {})})
	require.NoError(t, err, "negative control: unchanged it is good")
	_, err = compiler(t).Routes(nil, map[string]*rulesv1.AuthRoute{"": {}})
	require.ErrorContains(t, err, "route_id: is required")
}

func TestBadConsumerIsNamedWithItsField(t *testing.T) {
	for name, test := range map[string]struct {
		change func(c *rulesv1.Consumer)
		says   string
	}{
		"other name":    {func(c *rulesv1.Consumer) { c.Name = "x" }, `name: is "x"`},
		"short digest":  {func(c *rulesv1.Consumer) { c.ApiKeys[1].Sha256 = []byte("x") }, `api_keys[1].sha256: is 1 bytes`},
		"no digest":     {func(c *rulesv1.Consumer) { c.ApiKeys[1].Sha256 = nil }, `api_keys[1].sha256: is 0 bytes`},
		"same digest":   {func(c *rulesv1.Consumer) { c.ApiKeys[1].Sha256 = c.ApiKeys[0].Sha256 }, `a key has one owner`},
		"key twice":     {func(c *rulesv1.Consumer) { c.ApiKeys[1].Name = "main" }, `api_keys[1].name: "main" is used twice`},
		"bad time":      {func(c *rulesv1.Consumer) { c.ApiKeys[0].ExpireTime = &timestamppb.Timestamp{Seconds: -1 << 60} }, `api_keys[0].expire_time`},
		"bad scope":     {func(c *rulesv1.Consumer) { c.ApiKeys[0].Scopes = []string{"a b"} }, `api_keys[0].scopes`},
		"bad tenant":    {func(c *rulesv1.Consumer) { c.Tenant = "a\r\n" }, `tenant: `},
		"empty subject": {func(c *rulesv1.Consumer) { c.TokenSubjects[0].Subject = "" }, `token_subjects[0]`},
		"subject twice": {func(c *rulesv1.Consumer) { c.TokenSubjects = append(c.TokenSubjects, c.TokenSubjects[0]) }, `token_subjects[1]: issuer and subject already belong`},
	} {
		t.Run(name, func(t *testing.T) {
			consumers := authtest.Consumers()
			test.change(consumers["default/shop"])
			_, err := compiler(t).Consumers(consumers)
			require.ErrorContains(t, err, `consumer "default/shop": `)
			require.ErrorContains(t, err, test.says)
		})
	}
}

func TestManyMistakesAreBounded(t *testing.T) {
	routes := map[string]*rulesv1.AuthRoute{}
	for i := range 1000 {
		routes[fmt.Sprint(i)] = &rulesv1.AuthRoute{}
	}
	_, err := compiler(t).Routes(nil, routes)
	require.LessOrEqual(t, strings.Count(err.Error(), "\n"), 20)
}

func TestUnchangedRoutesAreTakenOver(t *testing.T) {
	c := compiler(t)
	sources := map[string]*rulesv1.AuthRoute{}
	for i := range 2000 {
		id := fmt.Sprint("r", i)
		sources[id] = authtest.WithRules(authtest.Route(id, authtest.APIKey()), authtest.Allow("a", fmt.Sprintf(`request.path == "/%d"`, i)))
	}
	first, err := c.Routes(nil, sources)
	require.NoError(t, err)
	allocations := testing.AllocsPerRun(1, func() {
		second, err := c.Routes(first, sources)
		require.NoError(t, err)
		require.Equal(t, 2000, second.Len())
	})
	require.Less(t, allocations, 2000.0, "nothing is compiled again")
}

// manyKeys is n consumers with one key each.
func manyKeys(n int) map[string]*rulesv1.Consumer {
	consumers := authtest.Consumers()
	for i := range n {
		name := fmt.Sprintf("default/c%d", i)
		digest := sha256.Sum256([]byte(name))
		consumers[name] = &rulesv1.Consumer{Name: name, Tenant: "acme", ApiKeys: []*rulesv1.ApiKey{{Name: "k", Sha256: digest[:]}}}
	}
	return consumers
}
