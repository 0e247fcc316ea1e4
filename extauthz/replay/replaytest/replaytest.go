// Package replaytest is the suite that every replay.Store passes.
package replaytest

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz/replay"
)

// Run runs the suite; make makes an empty store.
func Run(t *testing.T, make func(t *testing.T) replay.Store) {
	t.Run("once", func(t *testing.T) {
		store, now := make(t), time.Now()
		for i, want := range []bool{true, false, false} {
			first, err := store.First(t.Context(), replay.NewID("a", "b"), now, time.Minute)
			require.NoError(t, err)
			require.Equal(t, want, first, i)
		}
	})
	t.Run("parts are apart", func(t *testing.T) {
		store, now := make(t), time.Now()
		for _, id := range []replay.ID{replay.NewID("ab", "c"), replay.NewID("a", "bc"), replay.NewID("abc"), replay.NewID("abc", "")} {
			first, err := store.First(t.Context(), id, now, time.Minute)
			require.NoError(t, err)
			require.True(t, first)
		}
	})
	t.Run("one of many at once", func(t *testing.T) {
		store, now := make(t), time.Now()
		for round := range 20 {
			var firsts, failures atomic.Int32
			var all sync.WaitGroup
			for range 16 {
				all.Go(func() {
					first, err := store.First(t.Context(), replay.NewID(strconv.Itoa(round)), now, time.Minute)
					if err != nil {
						failures.Add(1)
					}
					if first {
						firsts.Add(1)
					}
				})
			}
			all.Wait()
			require.Zero(t, failures.Load())
			require.EqualValues(t, 1, firsts.Load())
		}
	})
}
