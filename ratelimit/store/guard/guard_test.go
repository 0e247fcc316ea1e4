package guard_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/store/guard"
	"weir.dev/ratelimit/storetest"
)

// scripted answers with err, after waiting for release if there is one.
type scripted struct {
	mu      sync.Mutex
	err     error
	calls   int
	entered chan struct{}
	release chan struct{}
}

func (s *scripted) Take(ctx context.Context, _ []ratelimit.Charge) (ratelimit.Outcome, error) {
	s.mu.Lock()
	s.calls++
	err, release := s.err, s.release
	s.mu.Unlock()
	if release != nil {
		s.entered <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
			return ratelimit.Outcome{}, ctx.Err()
		}
	}
	return ratelimit.Outcome{Admitted: err == nil}, err
}

func (s *scripted) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

type log struct {
	mu      sync.Mutex
	changes []error
	calls   int
}

func (l *log) StoreCalled(time.Duration, error) { l.mu.Lock(); l.calls++; l.mu.Unlock() }
func (l *log) BreakerChanged(cause error) {
	l.mu.Lock()
	l.changes = append(l.changes, cause)
	l.mu.Unlock()
}

var errDown = errors.New("down")

func take(g *guard.Guard) error {
	_, err := g.Take(context.Background(), nil)
	return err
}

func TestBreakerOpensProbesAndCloses(t *testing.T) {
	clock, store, seen := storetest.NewClock(), &scripted{err: errDown}, &log{}
	g := guard.New(store, guard.Options{Failures: 3, FirstPause: 100 * time.Millisecond, MaxPause: 400 * time.Millisecond, Clock: clock.Now, Observer: seen})
	for range 3 {
		require.ErrorIs(t, take(g), errDown)
	}
	require.True(t, g.Open())
	for range 100 {
		require.ErrorIs(t, take(g), guard.ErrOpen)
	}
	require.Equal(t, 3, store.calls, "an open breaker asks nothing")
	for _, pause := range []time.Duration{100, 200, 400, 400} {
		clock.Advance(pause * time.Millisecond * 79 / 100)
		require.ErrorIs(t, take(g), guard.ErrOpen, "before four fifths of the pause")
		clock.Advance(pause * time.Millisecond * 21 / 100)
		require.ErrorIs(t, take(g), errDown, "one probe after the pause of %dms", pause)
		require.ErrorIs(t, take(g), guard.ErrOpen)
	}
	store.set(nil)
	clock.Advance(400 * time.Millisecond)
	require.NoError(t, take(g))
	require.False(t, g.Open())
	require.NoError(t, take(g))
	require.Len(t, seen.changes, 2, "one line per episode and its end")
	require.ErrorIs(t, seen.changes[0], errDown)
	require.NoError(t, seen.changes[1])
}

func TestASuccessForgivesFailures(t *testing.T) {
	store := &scripted{}
	g := guard.New(store, guard.Options{Failures: 2})
	for range 10 {
		store.set(errDown)
		require.ErrorIs(t, take(g), errDown)
		store.set(nil)
		require.NoError(t, take(g))
	}
}

func TestOnlyOneProbeAndBoundedWaiting(t *testing.T) {
	store := &scripted{entered: make(chan struct{}, 10), release: make(chan struct{})}
	g := guard.New(store, guard.Options{Timeout: time.Minute, MaxInFlight: 2, Failures: 1})
	results := make(chan error, 2)
	for range 2 {
		go func() { results <- take(g) }()
		<-store.entered
	}
	require.ErrorIs(t, take(g), guard.ErrBusy, "a third call does not wait")
	require.False(t, g.Open(), "being busy is not failing")
	close(store.release)
	require.NoError(t, <-results)
	require.NoError(t, <-results)

	clock := storetest.NewClock()
	store = &scripted{err: errDown}
	g = guard.New(store, guard.Options{Timeout: time.Minute, Failures: 1, FirstPause: time.Second, Clock: clock.Now})
	require.ErrorIs(t, take(g), errDown)
	store.entered, store.release = make(chan struct{}, 10), make(chan struct{})
	store.set(nil)
	clock.Advance(time.Second)
	go func() { results <- take(g) }()
	<-store.entered
	require.ErrorIs(t, take(g), guard.ErrOpen, "while the probe is under way")
	close(store.release)
	require.NoError(t, <-results)
	require.NoError(t, take(g))
}

func TestTheDeadlineIsTheGuardsOwn(t *testing.T) {
	store := &scripted{entered: make(chan struct{}, 10), release: make(chan struct{})}
	g := guard.New(store, guard.Options{Timeout: 20 * time.Millisecond})
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := g.Take(impatient, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded, "not Canceled: the caller's impatience is not the store's failure")
}

// each is a store that answers every call by itself.
type each func() error

func (e each) Take(context.Context, []ratelimit.Charge) (ratelimit.Outcome, error) {
	err := e()
	return ratelimit.Outcome{Admitted: err == nil}, err
}

// A slow call that began before the breaker opened succeeds while the probe is under
// way, which succeeds then, too. The next outage must have probes again.
func TestAProbeAfterALateSuccess(t *testing.T) {
	var next atomic.Pointer[func() error]
	set := func(f func() error) { next.Store(&f) }
	clock := storetest.NewClock()
	g := guard.New(each(func() error { return (*next.Load())() }), guard.Options{Timeout: time.Minute, Failures: 2, FirstPause: time.Second, MaxPause: time.Second, Clock: clock.Now})
	entered, results := make(chan struct{}), make(chan error, 2)
	under := func() (end chan struct{}) { // way
		end = make(chan struct{})
		set(func() error { entered <- struct{}{}; <-end; return nil })
		go func() { results <- take(g) }()
		<-entered
		return end
	}
	down := func() {
		set(func() error { return errDown })
		for range 2 {
			require.ErrorIs(t, take(g), errDown)
		}
		require.True(t, g.Open())
		clock.Advance(time.Second)
	}
	slow := under()
	down()
	probe := under()
	close(slow)
	require.NoError(t, <-results)
	require.False(t, g.Open())
	close(probe)
	require.NoError(t, <-results)

	down()
	set(func() error { return nil })
	require.NoError(t, take(g), "a probe")
	require.False(t, g.Open())
}

// Nobody is refused while there is room, however many others are: as many calls as
// there is room for must have been let in and under way at some moment of the refused one.
func TestWhoIsRefusedFoundNoRoom(t *testing.T) {
	const room, askers, calls = 3, 16, 5000
	g := guard.New(each(func() error { runtime.Gosched(); return nil }), guard.Options{Timeout: time.Minute, MaxInFlight: room})
	type call struct {
		begin, end int64
		busy       bool
	}
	var clock atomic.Int64
	made := make([][]call, askers)
	var group sync.WaitGroup
	for asker := range askers {
		group.Go(func() {
			for range calls {
				begin := clock.Add(1)
				err := take(g)
				made[asker] = append(made[asker], call{begin, clock.Add(1), errors.Is(err, guard.ErrBusy)})
				if asker%2 == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	group.Wait()
	all := slices.Concat(made...)
	inside := make([]int, clock.Load()+2) // changes, then how many
	for _, c := range all {
		if !c.busy {
			inside[c.begin]++
			inside[c.end]--
		}
	}
	for i := range inside[1:] {
		inside[i+1] += inside[i]
	}
	refused := 0
	for _, c := range all {
		if c.busy {
			refused++
			require.GreaterOrEqual(t, slices.Max(inside[c.begin:c.end+1]), room)
		}
	}
	require.Positive(t, refused)
	require.False(t, g.Open())
}

// Failures of many callers open the breaker, and their successes close it.
func TestTheBreakerAmongManyCallers(t *testing.T) {
	store := &scripted{}
	g := guard.New(store, guard.Options{FirstPause: time.Microsecond, MaxPause: time.Microsecond, Failures: 5})
	for range 50 {
		for _, err := range []error{errDown, nil} {
			store.set(err)
			var group sync.WaitGroup
			for range 8 {
				group.Go(func() {
					for range 20 {
						_ = take(g)
						time.Sleep(time.Microsecond)
					}
				})
			}
			group.Wait()
			require.Equal(t, err != nil, g.Open())
		}
	}
}
