package e2e

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// Behind other proxies rules read the client's address as HeaderPolicy finds it;
// what a client claims beyond that counts for nothing.
func TestRulesReadTheClientsAddress(t *testing.T) {
	const trusting = `---
apiVersion: weir.dev/v1alpha1
kind: HeaderPolicy
metadata: {name: behind}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: quickstart}]
  clientAddress: {trustedHops: 1}
`
	const office = `---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: office}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: closed}]
  authentication: [{name: anyone, anonymous: {}}]
  authorization:
    rules: [{name: office, effect: Allow, when: 'cidr("203.0.113.0/24").containsIP(source.address)'}]
`
	s, _ := edge(t, trusting+office)
	for name, test := range map[string]struct {
		headers []string
		status  int
	}{
		"from the office":           {[]string{"X-Forwarded-For", "203.0.113.9"}, 200},
		"from elsewhere":            {[]string{"X-Forwarded-For", "198.51.100.9"}, 403},
		"claimed beyond the hop":    {[]string{"X-Forwarded-For", "203.0.113.9, 198.51.100.9"}, 403},
		"the edge's header claimed": {[]string{"X-Forwarded-For", "198.51.100.9", "X-Weir-Client-Address", "203.0.113.9"}, 403},
		"nothing said":              {nil, 403},
	} {
		require.Equal(t, test.status, s.Do(http.MethodGet, "/closed", "", test.headers...).Status, name)
	}
	direct, _ := edge(t, office)
	for _, headers := range [][]string{{"X-Forwarded-For", "203.0.113.9"}, {"X-Weir-Client-Address", "203.0.113.9"}} {
		require.Equal(t, 403, direct.Do(http.MethodGet, "/closed", "", headers...).Status, "without a HeaderPolicy it is who connects")
	}
}
