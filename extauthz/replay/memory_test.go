package replay_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz/replay"
	"weir.dev/extauthz/replay/replaytest"
)

func TestMemory(t *testing.T) {
	replaytest.Run(t, func(*testing.T) replay.Store { return replay.NewMemory(0) })
}

func TestMemoryForgetsWhatHasEnded(t *testing.T) {
	store, now := replay.NewMemory(0), time.Now()
	use := func(id string, now time.Time) bool {
		first, err := store.First(t.Context(), replay.NewID(id), now, time.Minute)
		require.NoError(t, err)
		return first
	}
	for i := range 1000 {
		require.True(t, use(strconv.Itoa(i), now))
	}
	require.False(t, use("0", now.Add(time.Minute)))
	require.True(t, use("0", now.Add(61*time.Second)))
	for i := range 1000 {
		use("later "+strconv.Itoa(i), now.Add(62*time.Second))
	}
	require.LessOrEqual(t, store.Len(), 1001)
}

// What is full refuses rather than forgets: what it forgot could be used again.
func TestMemoryIsBounded(t *testing.T) {
	const most = 640
	store, now := replay.NewMemory(most), time.Now()
	taken := 0
	for i := range 10 * most {
		first, err := store.First(t.Context(), replay.NewID(strconv.Itoa(i)), now, time.Minute)
		if err != nil {
			require.ErrorIs(t, err, replay.ErrFull)
			require.False(t, first)
			continue
		}
		taken++
	}
	require.Equal(t, most, taken)
	require.Equal(t, most, store.Len())
	first, err := store.First(t.Context(), replay.NewID("0"), now, time.Minute)
	require.NoError(t, err)
	require.False(t, first, "what was used stays used")
	_, err = store.First(t.Context(), replay.NewID("new"), now.Add(2*time.Minute), time.Minute)
	require.NoError(t, err, "room comes back")
}

func BenchmarkMemory(b *testing.B) {
	store, now := replay.NewMemory(0), time.Now()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		_, _ = store.First(b.Context(), replay.NewID("thumbprint", strconv.Itoa(i)), now.Add(time.Duration(i)*time.Microsecond), time.Second)
	}
}
