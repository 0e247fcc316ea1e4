package policy

import (
	"testing"

	"github.com/stretchr/testify/require"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

func TestNearest(t *testing.T) {
	names := []string{"requests", "window", "burst", "by"}
	for written, want := range map[string]string{
		"request": "requests", "reqeusts": "requests", "Requests": "requests", "windwo": "window", "brust": "burst",
		"bx": "", "": "", "rate": "", "requestsPerUnit": "",
	} {
		require.Equal(t, want, nearest(written, names), written)
	}
	require.Equal(t, 1, distance("ab", "ba"), "swapped")
	require.Equal(t, 3, distance("", "abc"))
	require.Equal(t, 3, distance("kitten", "sitting"))
}

func TestAFieldThatIsMeant(t *testing.T) {
	for _, one := range []struct {
		value       any
		field, want string
	}{
		{&v1alpha1.RateLimitPolicy{}, "spec.limits[0].request", "requests"},
		{&v1alpha1.RateLimitPolicy{}, "spec.limit", "limits"},
		{&v1alpha1.RateLimitPolicy{}, "spec.targetRef", "targetRefs"},
		{&v1alpha1.RateLimitPolicy{}, "metadata.nmae", "name"},
		{&v1alpha1.RateLimitPolicy{}, `spec.limits[0].tiers[gold].reqests`, "requests"},
		{&gatewayv1.HTTPRoute{}, "spec.rules[0].backendRefs[0].prot", "port"},
		{&gatewayv1.HTTPRoute{}, "spec.parentRef", "parentRefs"}, // of an embedded struct
		{&gatewayv1.HTTPRoute{}, "spec.colour", ""},
		{&gatewayv1.HTTPRoute{}, "nothing.here", ""},
		{&gatewayv1.HTTPRoute{}, "", ""},
	} {
		want := one.want
		if want != "" {
			want = ": did you mean " + want + "?"
		}
		require.Equal(t, want, meant(one.value, one.field), one.field)
	}
}
