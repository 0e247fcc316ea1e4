package envoyrls

import (
	"testing"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
)

// TestHostsAreCountedWithoutTheirPort: a client that writes another port, or other
// letters, does not get another counter.
func TestHostsAreCountedWithoutTheirPort(t *testing.T) {
	for _, name := range []string{"header.host", "weir.in.host", "weir.in.header.host"} {
		for value, want := range map[string]string{
			"a.example": "a.example", "A.Example": "a.example", "a.example:8443": "a.example", "a.example.:1": "a.example",
			"[2001:DB8::1]:443": "2001:db8::1", "[2001:db8::1]": "2001:db8::1",
			// Envoy takes whatever follows the colon for a port, and serves the host.
			"a.example:000000080": "a.example", "a.example:": "a.example", "a.example:x": "a.example", "a.example:+80": "a.example",
		} {
			require.Equal(t, want, counted(t, name, value), "%s: %q", name, value)
		}
		for _, value := range []string{"a b", "", ":", "a/b:1"} { // no host, and no counter of its own
			want := "invalid"
			if name != "header.host" {
				want = "none" // Without it the cost is the most.
			}
			require.Equal(t, want, counted(t, name, value), "%s: %q", name, value)
		}
	}
	// Others are counted as they are.
	require.Equal(t, "a.example:80", counted(t, "header.x-host", "a.example:80"))
}

func counted(t *testing.T, name, value string) string {
	t.Helper()
	descriptors, err := New(nil, "d", nil).Descriptors(&rlsv3.RateLimitRequest{Domain: "d", Descriptors: []*ratelimitv3.RateLimitDescriptor{{
		Entries: []*ratelimitv3.RateLimitDescriptor_Entry{{Key: LimitKey, Value: "r"}, {Key: name, Value: value}},
	}}})
	require.NoError(t, err)
	if len(descriptors[0].Entries) == 0 {
		return "none"
	}
	require.Equal(t, []ratelimit.Entry{{Name: name, Value: descriptors[0].Entries[0].Value}}, descriptors[0].Entries)
	return descriptors[0].Entries[0].Value
}
