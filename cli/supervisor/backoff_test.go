package supervisor_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/cli/supervisor"
)

func TestBackoffNext(t *testing.T) {
	const ms = time.Millisecond
	for name, tc := range map[string]struct{ previous, upFor, want time.Duration }{
		"first failure":          {0, 0, 100 * ms},
		"second":                 {100 * ms, 5 * ms, 200 * ms},
		"bounded":                {4 * time.Second, time.Second, 5 * time.Second},
		"stays at the bound":     {5 * time.Second, 9 * time.Second, 5 * time.Second},
		"forgotten after 10 s":   {5 * time.Second, 10 * time.Second, 100 * ms},
		"just short of 10 s":     {800 * ms, 10*time.Second - 1, 1600 * ms},
		"ran long the first run": {0, time.Hour, 100 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.want, supervisor.DefaultBackoff().Next(tc.previous, tc.upFor))
		})
	}
}

func TestJitterShortensByAtMostAFifth(t *testing.T) {
	require.Equal(t, time.Second, supervisor.Jittered(time.Second, 0))
	require.Equal(t, 900*time.Millisecond, supervisor.Jittered(time.Second, 0.5))
	require.Greater(t, supervisor.Jittered(time.Second, 0.999), 800*time.Millisecond)
}
