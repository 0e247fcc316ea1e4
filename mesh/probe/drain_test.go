package probe

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDrains(t *testing.T) {
	const stats = `{"stats":[{"name":"listener_manager.total_filter_chains_draining","value":2},{"name":"listener_manager.total_listeners_draining","value":1}]}`
	count, err := drains([]byte(stats))
	require.NoError(t, err)
	require.Equal(t, 3, count)
	for _, unknown := range []string{`{"stats":[]}`, `{"stats":[{"name":"listener_manager.total_listeners_draining","value":0}]}`, `{"stats":[{"histograms":{}}]}`, "", "404"} {
		_, err := drains([]byte(unknown))
		require.Error(t, err, unknown)
	}
}

func TestDrainTime(t *testing.T) {
	within, err := drainTime([]byte(`{"state":"LIVE","command_line_options":{"drain_time":"45s"}}`))
	require.NoError(t, err)
	require.Equal(t, 45*time.Second, within)
	for _, unknown := range []string{"{}", "", `{"command_line_options":{"drain_time":"soon"}}`} {
		_, err := drainTime([]byte(unknown))
		require.Error(t, err, unknown)
	}
}
