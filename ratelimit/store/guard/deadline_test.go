package guard

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDeadlinesAreSharedAndNeverLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 16 * time.Millisecond
		shared := &deadlines{timeout: timeout}
		var waits sync.WaitGroup
		made := map[context.Context]bool{}
		for range 100 {
			started := time.Now()
			ctx := shared.from(started)
			made[ctx] = true
			deadline, bounded := ctx.Deadline()
			require.True(t, bounded)
			require.LessOrEqual(t, deadline.Sub(started), timeout)
			require.Greater(t, deadline.Sub(started), timeout-timeout/sharedPart)
			waits.Go(func() {
				<-ctx.Done()
				require.Equal(t, deadline, time.Now(), "it ends by itself, when it says")
				require.ErrorIs(t, ctx.Err(), context.DeadlineExceeded)
			})
			time.Sleep(100 * time.Microsecond)
		}
		waits.Wait()
		require.Len(t, made, 10, "one for each millisecond")
	})
}

func TestDeadlinesOfManyAtOnce(t *testing.T) {
	shared := &deadlines{timeout: time.Millisecond}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 2000 {
				started := time.Now()
				deadline, _ := shared.from(started).Deadline()
				if left, most := deadline.Sub(started), time.Until(deadline); left <= 0 || most > time.Millisecond {
					t.Errorf("%s are left of a millisecond, %s afterwards", left, most)
				}
			}
		})
	}
	group.Wait()
}

func BenchmarkDeadline(b *testing.B) {
	shared := &deadlines{timeout: 25 * time.Millisecond}
	b.ReportAllocs()
	for b.Loop() {
		_ = shared.from(time.Now())
	}
}
