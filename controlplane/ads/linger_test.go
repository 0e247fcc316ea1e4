package ads_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/controlplane/envoy"
)

// What a request in flight may still need stays for a while after the switch, and
// then goes; consumers go at once.
func TestWhatIsUnusedLingers(t *testing.T) {
	for _, lingering := range []bool{true, false} {
		f := newFixture(t)
		f.ads.SetLinger(0)
		if lingering {
			f.ads.SetLinger(3 * time.Second) // no rollout takes as long
		}
		group := f.ads.Group("")
		before := envoy.Set{
			envoy.TypeCluster: {"old": {Name: "old", Version: "1"}}, envoy.TypeEndpoint: {"old": {Name: "old", Version: "1"}},
			envoy.TypeAuthRoute: {"route~1": {Name: "route~1", Version: "1"}}, envoy.TypeConsumer: {"revoked": {Name: "revoked", Version: "1"}},
		}
		after := envoy.Set{envoy.TypeCluster: {"new": {Name: "new", Version: "1"}}, envoy.TypeEndpoint: {}, envoy.TypeAuthRoute: {}, envoy.TypeConsumer: {}}
		require.NoError(t, group.Rollout(t.Context(), before))
		require.NoError(t, group.Rollout(t.Context(), after))
		target := group.Target()
		require.NotContains(t, target[envoy.TypeConsumer], "revoked")
		for _, typeURL := range []string{envoy.TypeCluster, envoy.TypeEndpoint, envoy.TypeAuthRoute} {
			require.Equal(t, lingering, len(target[typeURL]["old"].Name)+len(target[typeURL]["route~1"].Name) > 0, typeURL)
		}
		require.Contains(t, target[envoy.TypeCluster], "new")
		require.Eventually(t, func() bool {
			return len(group.Target()[envoy.TypeCluster]) == 1 && len(group.Target()[envoy.TypeAuthRoute]) == 0
		},
			patience, 10*time.Millisecond)
		require.Contains(t, group.Target()[envoy.TypeCluster], "new")
	}
}
