package rules_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/rules"
	"weir.dev/extauthz/token"
)

func packed(t testing.TB, message proto.Message) *anypb.Any {
	t.Helper()
	resource, err := anypb.New(message)
	require.NoError(t, err)
	return resource
}

func newFeed(t testing.TB, ready func()) (*rules.Feed, *authtest.Counter) {
	t.Helper()
	verifiers, err := token.NewVerifiers(token.Options{})
	require.NoError(t, err)
	compiler, err := extauthz.NewCompiler(verifiers)
	require.NoError(t, err)
	counter := &authtest.Counter{}
	return rules.NewFeed(compiler, counter, ready), counter
}

func decide(t testing.TB, feed *rules.Feed, route string) extauthz.Reason {
	request := &extauthz.Request{Route: route, Method: "GET", Target: "/", Authority: "a", Headers: []extauthz.Header{{Name: "x-api-key", Value: authtest.GoodKey}}}
	return extauthz.Decide(t.Context(), authtest.Now(), feed.Current(), request).Reason
}

func TestReadyWhenBothHaveCome(t *testing.T) {
	ready := 0
	feed, _ := newFeed(t, func() { ready++ })
	require.Nil(t, feed.Current())
	require.NoError(t, feed.ApplyRoutes(nil))
	require.Nil(t, feed.Current())
	require.Zero(t, ready)
	require.NoError(t, feed.ApplyConsumers(nil))
	require.NotNil(t, feed.Current())
	require.NoError(t, feed.ApplyConsumers(nil))
	require.Equal(t, 1, ready)
}

func TestBadUpdateKeepsTheOldWhole(t *testing.T) {
	feed, counter := newFeed(t, nil)
	route := packed(t, authtest.Route("r", authtest.APIKey()))
	consumer := packed(t, authtest.Consumers()["default/shop"])
	require.NoError(t, feed.ApplyRoutes(map[string]*anypb.Any{"r": route}))
	require.NoError(t, feed.ApplyConsumers(map[string]*anypb.Any{"default/shop": consumer}))
	require.Equal(t, extauthz.ReasonAllowed, decide(t, feed, "r"))
	before := feed.Current()

	bad := packed(t, authtest.WithRules(authtest.Route("bad", authtest.APIKey()), authtest.Allow("a", "nonsense")))
	err := feed.ApplyRoutes(map[string]*anypb.Any{"bad": bad, "new": packed(t, authtest.Route("new"))})
	require.ErrorContains(t, err, `route "bad": rules[0].expression: at 1:1`)
	err = feed.ApplyRoutes(map[string]*anypb.Any{"r": consumer})
	require.ErrorContains(t, err, `route "r": cannot be read`)
	err = feed.ApplyConsumers(map[string]*anypb.Any{"x": consumer})
	require.ErrorContains(t, err, `consumer "x": name`)
	err = feed.ApplyConsumers(map[string]*anypb.Any{"default/shop": {TypeUrl: rules.ConsumerType, Value: []byte{0xff}}})
	require.ErrorContains(t, err, `consumer "default/shop": cannot be read`)

	require.Same(t, before, feed.Current())
	require.Equal(t, extauthz.ReasonAllowed, decide(t, feed, "r"))
	require.Equal(t, 2, counter.Of("rejected routes"))
	require.Equal(t, 2, counter.Of("rejected consumers"))
}

func TestUpdatesTakeEffect(t *testing.T) {
	feed, _ := newFeed(t, nil)
	require.NoError(t, feed.ApplyConsumers(map[string]*anypb.Any{"default/shop": packed(t, authtest.Consumers()["default/shop"])}))
	require.NoError(t, feed.ApplyRoutes(map[string]*anypb.Any{"r": packed(t, authtest.Route("r", authtest.APIKey()))}))
	require.Equal(t, extauthz.ReasonAllowed, decide(t, feed, "r"))
	changed := packed(t, authtest.WithRules(authtest.Route("r", authtest.APIKey()), authtest.Deny("d", "true")))
	require.NoError(t, feed.ApplyRoutes(map[string]*anypb.Any{"r": changed}))
	require.Equal(t, extauthz.ReasonPermissionDenied, decide(t, feed, "r"))
	require.NoError(t, feed.ApplyRoutes(map[string]*anypb.Any{}))
	require.Equal(t, extauthz.ReasonRouteUnknown, decide(t, feed, "r"), "a removed route is closed, not open")
	require.NoError(t, feed.ApplyRoutes(map[string]*anypb.Any{"r": packed(t, authtest.Route("r", authtest.APIKey()))}))
	require.NoError(t, feed.ApplyConsumers(nil))
	require.Equal(t, extauthz.ReasonAPIKeyInvalid, decide(t, feed, "r"), "a removed consumer's key is worth nothing")
}
