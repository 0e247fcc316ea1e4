package policy_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy"
)

func TestWithoutSecrets(t *testing.T) {
	route := &rulesv1.AuthRoute{
		RouteId:  "r",
		Settings: &rulesv1.AuthorizationSettings{Relationships: &rulesv1.RelationshipStore{Url: "https://fga.example", Token: "s3cret"}},
		Metadata: []*rulesv1.MetadataSource{{Name: "plan", Headers: map[string]string{"authorization": "Bearer s3cret"}}},
		Upstream: &rulesv1.Upstream{Exchange: &rulesv1.TokenExchange{ClientId: "c", ClientSecret: "s3cret"}},
	}
	whole := proto.Clone(route)
	shown := policy.WithoutSecrets(route)
	require.NotContains(t, prototext.Format(shown), "s3cret")
	require.Contains(t, prototext.Format(shown), "fga.example")
	require.True(t, proto.Equal(whole, route), "the original changed")
	bare := &rulesv1.AuthRoute{RouteId: "r"}
	require.Same(t, bare, policy.WithoutSecrets(bare))
}
