package guard_test

import (
	"context"
	"errors"
	"sync"
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

// Callers that find no room must not take any from those that would find some.
func TestAsManyAsThereIsRoomForAreLetIn(t *testing.T) {
	const room = 4
	store := &scripted{entered: make(chan struct{}, room), release: make(chan struct{})}
	g := guard.New(store, guard.Options{Timeout: time.Minute, MaxInFlight: room})
	var held, refused sync.WaitGroup
	for range 3 {
		for range room {
			held.Go(func() {
				if err := take(g); err != nil {
					t.Errorf("there is room: %v", err)
				}
			})
			<-store.entered
		}
		for range 16 {
			refused.Go(func() {
				for range 100 {
					if err := take(g); !errors.Is(err, guard.ErrBusy) {
						t.Errorf("there is no room: %v", err)
					}
				}
			})
		}
		refused.Wait()
		for range room {
			store.release <- struct{}{}
		}
		held.Wait()
	}
	require.False(t, g.Open())
}

// A failure among successes counts, whichever end at the same time; five in a row
// open the breaker and one success closes it, whoever asks meanwhile.
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
