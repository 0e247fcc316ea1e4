package identity_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"

	"weir.dev/kit/identity"
)

func full() identity.Identity {
	return identity.Identity{
		Consumer: "default/shop", Subject: "main", Tenant: "acme", Tier: "gold", Authenticator: "key", Scopes: []string{"read", "write"},
	}
}

func TestRoundTrip(t *testing.T) {
	for _, id := range []identity.Identity{full(), {}, {Subject: "alice"}, {Tenant: "acme", Scopes: []string{"one"}}} {
		md := metadata.MD{}
		for _, header := range id.Headers() {
			require.True(t, strings.HasPrefix(header[0], identity.HeaderPrefix))
			require.NotEmpty(t, header[1])
			md.Append(header[0], header[1])
		}
		got, ok := identity.FromMetadata(md)
		require.True(t, ok)
		if got.Scopes != nil && len(got.Scopes) == 0 {
			got.Scopes = nil
		}
		require.Equal(t, id, got)
	}
}

func TestHeadersOrderAndCompleteness(t *testing.T) {
	var names []string
	for _, header := range full().Headers() {
		names = append(names, header[0])
	}
	require.Equal(t, []string{
		identity.HeaderConsumer, identity.HeaderSubject, identity.HeaderTenant,
		identity.HeaderTier, identity.HeaderScopes, identity.HeaderAuthenticator,
	}, names)
	require.Empty(t, identity.Identity{}.Headers())
}

func TestARepeatedHeaderIsAmbiguous(t *testing.T) {
	for _, header := range full().Headers() {
		md := metadata.Pairs(header[0], header[1], header[0], "other")
		_, ok := identity.FromMetadata(md)
		require.False(t, ok, header[0])
	}
	_, ok := identity.FromMetadata(metadata.Pairs("x-other", "a", "x-other", "b"))
	require.True(t, ok)
}

func TestContext(t *testing.T) {
	_, ok := identity.FromContext(context.Background())
	require.False(t, ok)
	got, ok := identity.FromContext(identity.NewContext(context.Background(), full()))
	require.True(t, ok)
	require.Equal(t, full(), got)
}

func TestAnonymous(t *testing.T) {
	require.True(t, identity.Identity{}.Anonymous())
	require.True(t, identity.Identity{Authenticator: "anyone"}.Anonymous())
	for _, id := range []identity.Identity{{Consumer: "c"}, {Subject: "s"}, {Tenant: "t"}} {
		require.False(t, id.Anonymous())
	}
}
