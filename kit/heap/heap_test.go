package heap

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var sink []byte

// collections is how often the collector runs while so much garbage is made.
func collections(bytes int) uint32 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range bytes / 1024 {
		sink = make([]byte, 1024)
	}
	runtime.ReadMemStats(&after)
	return after.NumGC - before.NumGC
}

func TestFloorMakesCollectionsRare(t *testing.T) {
	t.Setenv("GOGC", "")
	const garbage = 512 << 20
	without := collections(garbage)
	floor := NewFloor()
	with := collections(garbage)
	floor.Release()
	require.LessOrEqual(t, with, uint32(garbage/most+1))
	require.Greater(t, without, 4*with, "it is the floor that does it")
}

func TestFloorTakesNoMemory(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("/proc/self/statm is Linux's")
	}
	t.Setenv("GOGC", "")
	resident := func() int {
		text, err := os.ReadFile("/proc/self/statm")
		require.NoError(t, err)
		pages, err := strconv.Atoi(strings.Fields(string(text))[1])
		require.NoError(t, err)
		return pages * os.Getpagesize()
	}
	debug.FreeOSMemory() // so that it isn't made of what was used before
	before := resident()
	floor := NewFloor()
	runtime.GC()
	require.Less(t, resident()-before, most/4)
	floor.Release()
}

func TestOperatorsDecideAboutCollections(t *testing.T) {
	t.Setenv("GOGC", "50")
	require.Empty(t, NewFloor().untouched)
	t.Setenv("GOGC", "")
	require.Len(t, NewFloor().untouched, most)
	before := debug.SetMemoryLimit(128 << 20)
	defer debug.SetMemoryLimit(before)
	require.Len(t, NewFloor().untouched, 16<<20, "below a small limit the floor is small, too")
}

func TestFloorFor(t *testing.T) {
	for limit, want := range map[int64]int64{
		math.MaxInt64: most, 512 << 20: most, 511 << 20: 511 << 17, 64 << 20: 8 << 20, 0: 0, -1: 0,
	} {
		require.Equal(t, want, floorFor(limit), "limit %d", limit)
	}
}
