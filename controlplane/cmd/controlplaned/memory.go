package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// gcPercent trades memory for time: a change makes a few MiB, and to collect them
	// goes through all that stays. At 5,000 routes 200 takes 40 MiB more than 50 does,
	// and half the CPU time of a change.
	gcPercent = 200
	// leastLimit is what the heap may grow to, with all else that Go maps, before it
	// is collected sooner than gcPercent says, in bytes.
	leastLimit = 128 << 20
	// lookEvery is how often the limit follows what is in use.
	lookEvery = time.Second
	// quietFor is how many looks there must have been next to no allocation before
	// what is not in use is given back to the system: while changes come, it would be
	// asked for again.
	quietFor = 5
	// quietBytes are next to no allocation between two looks, and worthBytes what
	// is worth giving back.
	quietBytes, worthBytes = 512 << 10, 24 << 20
)

// usage is what Go says of its memory, in bytes.
type usage struct {
	// live is what the last collection left, heap what is held now, used or not, and
	// allocated all that ever was.
	live, heap, allocated uint64
}

func readUsage() usage {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/gc/heap/allocs:bytes"},
	}
	metrics.Read(samples)
	at := func(i int) uint64 { return samples[i].Value.Uint64() }
	return usage{live: at(0), heap: at(1) + at(2) + at(3), allocated: at(4)}
}

// keepSmall sets when garbage is collected, unless the environment does: rarely, as
// long as the process is small. It returns at once; the limit follows until ctx ends.
func keepSmall(ctx context.Context) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(leastLimit)
	go func() {
		ticker := time.NewTicker(lookEvery)
		defer ticker.Stop()
		var k keeper
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			limit, give := k.look(readUsage())
			debug.SetMemoryLimit(limit)
			if give {
				debug.FreeOSMemory()
			}
		}
	}()
}

// keeper decides; the zero value is ready.
type keeper struct {
	last  usage
	quiet int
}

// look says what the limit is now, and whether to give back what is not in use.
func (k *keeper) look(now usage) (limit int64, give bool) {
	if now.allocated-k.last.allocated > quietBytes {
		k.quiet = 0
	} else {
		k.quiet++
	}
	k.last = now
	return limitFor(now.live), k.quiet == quietFor && now.heap > now.live+worthBytes
}

// limitFor is the limit for what is in use, in whole steps so that it seldom
// changes: half as much again, so that a large policy is not collected all the time.
func limitFor(live uint64) int64 {
	const step = 16 << 20
	wanted := int64(min(live, 1<<50)) / 2 * 3 //nolint:gosec // bounded
	return max(leastLimit, (wanted+step-1)/step*step)
}
