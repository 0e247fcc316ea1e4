package audit

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkAppend is how long a record of 800 bytes waits for the disk at 10,000
// a second, as requests with audit required do.
func BenchmarkAppend(b *testing.B) {
	f := open(b, b.TempDir(), keyOf(b), nil)
	record := []byte(`{"text":"` + strings.Repeat("x", 800) + `"}`)
	const every = time.Second / 10_000
	var mu sync.Mutex
	var waits []time.Duration
	var group sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	started := time.Now()
	for i := range b.N {
		due := started.Add(time.Duration(i) * every)
		if wait := time.Until(due); wait > 200*time.Microsecond {
			time.Sleep(wait)
		}
		group.Go(func() {
			err := f.Append(b.Context(), record)
			took := time.Since(due)
			mu.Lock()
			waits = append(waits, took)
			mu.Unlock()
			if err != nil {
				b.Error(err)
			}
		})
	}
	group.Wait()
	b.StopTimer()
	slices.Sort(waits)
	b.ReportMetric(float64(b.N)/time.Since(started).Seconds(), "records/s")
	b.ReportMetric(float64(waits[len(waits)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(waits[len(waits)*99/100].Microseconds()), "p99-µs")
	f.Close()
	require.Empty(b, verify(b, f.dir, f.key).Findings)
}

func BenchmarkTreeAdd(b *testing.B) {
	t := newTree()
	line := []byte(strings.Repeat("x", 800))
	b.ReportAllocs()
	for b.Loop() {
		if err := t.add(line); err != nil {
			b.Fatal(err)
		}
	}
}
