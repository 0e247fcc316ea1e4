package storetest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
)

// RunForget checks the optional ability ratelimit.Forgetter of a store.
func RunForget(t *testing.T, store ratelimit.Store) {
	forgetter, able := store.(ratelimit.Forgetter)
	require.True(t, able, "%T cannot forget", store)
	for _, limit := range []ratelimit.Limit{
		{Algorithm: ratelimit.FixedWindow, Requests: 2, Window: time.Hour},
		{Algorithm: ratelimit.GCRA, Requests: 2, Window: time.Hour},
	} {
		t.Run(limit.Algorithm.String(), func(t *testing.T) {
			key, other := ratelimit.NewKey("forget/"+t.Name(), limit, nil), ratelimit.NewKey("forget-other/"+t.Name(), limit, nil)
			take := func(key ratelimit.Key) bool {
				outcome, err := store.Take(t.Context(), []ratelimit.Charge{{Key: key, Limit: limit, Cost: 1, Leased: true}})
				require.NoError(t, err)
				return outcome.Admitted
			}
			for range 2 {
				require.True(t, take(key))
				require.True(t, take(other))
			}
			require.False(t, take(key))
			require.NoError(t, forgetter.Forget(t.Context(), []ratelimit.Charge{{Key: key}, {Key: "never seen"}}))
			require.True(t, take(key), "its allowance is back")
			require.True(t, take(key))
			require.False(t, take(key), "and is counted as before")
			require.False(t, take(other), "others are as they were")
		})
	}
}
