package mtls

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// The dumps are of sidecars on Istio 1.31, with what does not matter here left out.
func TestReadInbound(t *testing.T) {
	for _, given := range []struct {
		file     string
		want     map[uint32]Mode
		observed bool
	}{
		{"permissive", map[uint32]Mode{0: Permissive, 8080: Permissive, 9000: Permissive}, false},
		{"observed", map[uint32]Mode{0: Permissive, 8080: Permissive, 9000: Permissive}, true},
		{"strict", map[uint32]Mode{0: Strict, 8080: Strict, 9000: Strict}, true},
		{"disable", map[uint32]Mode{0: Disable, 8080: Disable, 9000: Disable}, false},
	} {
		t.Run(given.file, func(t *testing.T) {
			dump, err := os.ReadFile("testdata/" + given.file + ".json")
			require.NoError(t, err)
			inbound, err := ReadInbound(dump)
			require.NoError(t, err)
			require.Equal(t, given.want, inbound.Ports)
			require.Equal(t, given.observed, inbound.Observed("weir.mtls.run"))
			require.False(t, inbound.Observed("weir.mtls.another"))
			require.Empty(t, inbound.Differs(Setting{Mode: given.want[0]}))
			require.NotEmpty(t, inbound.Differs(Setting{Mode: given.want[0], Ports: map[uint32]Mode{8080: "another"}}))
		})
	}
	for _, broken := range []string{"", "{}", `{"configs": []}`, `{"configs": [{"active_state": {"listener": {"traffic_direction": "OUTBOUND"}}}]}`} {
		_, err := ReadInbound([]byte(broken))
		require.Error(t, err, broken)
	}
	rejected, err := ReadInbound([]byte(`{"configs": [{"active_state": {"listener": {"traffic_direction": "INBOUND"}}, "error_state": {"details": "no"}}]}`))
	require.NoError(t, err)
	require.Equal(t, "no", rejected.Rejected)
}
