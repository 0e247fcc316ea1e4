package offenders_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/offenders"
)

type counts map[string]int

func (c counts) NearLimit(rule string) { c[rule]++ }

type fixture struct {
	*offenders.Watch
	now  time.Time
	log  bytes.Buffer
	near counts
}

func newFixture() *fixture {
	f := &fixture{now: time.Unix(1_800_000_000, 0), near: counts{}}
	f.Watch = offenders.New(slog.New(slog.NewTextHandler(&f.log, nil)), f.near, func() time.Time { return f.now })
	return f
}

func by(consumer string) []ratelimit.Entry {
	return []ratelimit.Entry{{Name: "consumer", Value: consumer}}
}

func status(rule string, event ratelimit.Event, remaining uint32) *ratelimit.Status {
	return &ratelimit.Status{
		Rule: &ratelimit.Rule{ID: rule}, Limit: ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 10, Window: time.Minute},
		Event: event, Decision: ratelimit.Decision{Remaining: remaining},
	}
}

func (f *fixture) refuse(rule, consumer string, times int) {
	for range times {
		f.Watched(by(consumer), status(rule, ratelimit.Refused, 0))
	}
}

// Whoever is refused more than a twentieth of all is found, whatever the noise;
// counts are never too low, and too high by their error at most.
func TestHeavyKeysAreFoundInTheNoise(t *testing.T) {
	f := newFixture()
	real := map[string]uint64{}
	for i := range 20_000 {
		consumer := fmt.Sprintf("noise-%d", i)
		switch {
		case i%5 == 0:
			consumer = "heavy"
		case i%9 == 0:
			consumer = "second"
		}
		real[consumer]++
		f.refuse("r", consumer, 1)
	}
	top := f.Top("r")
	require.Len(t, top, offenders.Keys)
	require.Equal(t, by("heavy"), top[0].Entries)
	require.Equal(t, by("second"), top[1].Entries)
	for _, offender := range top {
		count := real[offender.Entries[0].Value]
		require.GreaterOrEqual(t, offender.Refused, count)
		require.LessOrEqual(t, offender.Refused-offender.Error, count)
	}
}

func TestCountsFade(t *testing.T) {
	f := newFixture()
	f.refuse("r", "a", 9)
	f.refuse("r", "b", 1)
	f.now = f.now.Add(31 * time.Minute)
	top := f.Top("r")
	require.Len(t, top, 1, "the lighter one is gone")
	require.EqualValues(t, 4, top[0].Refused)
	f.now = f.now.Add(1000 * time.Hour)
	require.Empty(t, f.Top("r"))
}

func TestWhatIsRemembered(t *testing.T) {
	f := newFixture()
	f.refuse("r", "a", 2)
	f.Watched(by("b"), status("r", ratelimit.ShadowRefused, 0))
	for _, event := range []ratelimit.Event{ratelimit.Spared, ratelimit.FailedOpen, ratelimit.FailedClosed} {
		f.Watched(by("c"), status("r", event, 0))
	}
	require.Len(t, f.Top("r"), 2)
	require.Empty(t, f.near)
	f.Forget("r", by("a"))
	f.Forget("other", by("a"))
	require.Len(t, f.Top("r"), 1)
	table, err := ratelimit.NewTable(nil)
	require.NoError(t, err)
	f.Keep(table)
	require.Empty(t, f.Top("r"))
}

// What a request says of itself, such as its cost, tells no keys apart.
func TestAKeyIsWhatIsCountedBy(t *testing.T) {
	f := newFixture()
	for _, cost := range []string{"1", "2", "3"} {
		f.Watched(append(by("a"), ratelimit.Entry{Name: "weir.cost", Value: cost}), status("r", ratelimit.Refused, 0))
	}
	top := f.Top("r")
	require.Len(t, top, 1)
	require.EqualValues(t, 3, top[0].Refused)
	require.Equal(t, by("a"), top[0].Entries)
}

func TestNearLimitIsCountedAndLoggedOnceAMinute(t *testing.T) {
	f := newFixture()
	f.Watched(by("secret-client"), status("r", ratelimit.Admitted, 2))
	require.Empty(t, f.near, "a fifth is left")
	for range 5 {
		f.Watched(by("secret-client"), status("r", ratelimit.Admitted, 1))
	}
	require.Equal(t, counts{"r": 5}, f.near)
	require.Equal(t, 1, strings.Count(f.log.String(), "nearly used up"))
	f.now = f.now.Add(time.Minute)
	f.Watched(by("secret-client"), status("r", ratelimit.Admitted, 0))
	require.Equal(t, 2, strings.Count(f.log.String(), "nearly used up"))
	require.NotContains(t, f.log.String(), "secret-client", "keys can hold addresses")
}

func TestBounds(t *testing.T) {
	f := newFixture()
	f.refuse("r", strings.Repeat("x", 10_000)+"a", 1)
	f.refuse("r", "\xff", 1)
	for _, offender := range f.Top("r") {
		require.Less(t, len(offender.Entries[0].Value), 300)
		require.True(t, strings.ToValidUTF8(offender.Entries[0].Value, "") == offender.Entries[0].Value)
	}
	for i := range offenders.MaxRules + 10 {
		f.refuse(fmt.Sprint(i), "a", 1)
	}
	none := fmt.Sprint(offenders.MaxRules + 9)
	require.Empty(t, f.Top(none), "no room")
	f.Watched(by("a"), status(none, ratelimit.Admitted, 0))
	require.Equal(t, counts{none: 1}, f.near, "counted all the same")
}

func TestConcurrentUse(t *testing.T) {
	w := offenders.New(slog.New(slog.DiscardHandler), nil, nil)
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			for i := range 500 {
				w.Watched(by(fmt.Sprint(g, i%30)), status(fmt.Sprint(i%3), ratelimit.Refused, 0))
				w.Top("1")
			}
		})
	}
	group.Wait()
}

func BenchmarkRefused(b *testing.B) {
	f := newFixture()
	entries, refused := by("default/shop"), status("r", ratelimit.Refused, 0)
	b.ReportAllocs()
	for b.Loop() {
		f.Watched(entries, refused)
	}
}
