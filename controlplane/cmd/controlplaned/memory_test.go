package main

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// A small heap has room, and a large one is never collected all the time: the
// limit is always well above what is in use.
func TestLimitFollowsWhatIsInUse(t *testing.T) {
	for live, want := range map[uint64]int64{
		0: leastLimit, 55 << 20: leastLimit, 85 << 20: leastLimit, 86 << 20: 144 << 20, 300 << 20: 464 << 20, math.MaxUint64: 3 << 49,
	} {
		got := limitFor(live)
		require.Equal(t, want, got, live)
		require.GreaterOrEqual(t, got, int64(min(live, 1<<50))/2*3)
		require.Zero(t, got%(16<<20))
	}
}

// Memory is given back once after a while without changes, and only when it is
// worth it.
func TestGivesBackWhenQuiet(t *testing.T) {
	for name, tc := range map[string]struct {
		allocates, heap uint64
		want            []int
	}{
		"quiet":             {1 << 10, 80 << 20, []int{quietFor}},
		"changes all along": {1 << 20, 80 << 20, nil},
		"nothing to be had": {1 << 10, 60 << 20, nil},
		"little to be had":  {1 << 10, 50<<20 + worthBytes, nil},
		"just worth it":     {quietBytes, 50<<20 + worthBytes + 1, []int{quietFor}},
		"just no longer":    {quietBytes + 1, 80 << 20, nil},
	} {
		t.Run(name, func(t *testing.T) {
			k, now := keeper{}, usage{live: 50 << 20, heap: tc.heap, allocated: 100 << 20}
			k.look(now) // The first has nothing to compare with.
			var given []int
			for i := range 4 * quietFor {
				now.allocated += tc.allocates
				if _, give := k.look(now); give {
					given = append(given, i+1)
				}
			}
			require.Equal(t, tc.want, given)
		})
	}
}
