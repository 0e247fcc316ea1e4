// Package guard stands between the limiter and a store on the network: it gives
// each call a deadline, bounds the calls in flight, and stops asking a store
// that keeps failing. It decides nothing about requests: what a failure means
// is each rule's failure mode.
package guard

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"weir.dev/ratelimit"
)

// Errors of calls that never reached the store.
var (
	ErrOpen = errors.New("the store keeps failing and is not asked for the moment")
	ErrBusy = errors.New("too many calls to the store are waiting")
)

// Options of a Guard; zero values take the defaults.
type Options struct {
	// Timeout bounds one call, which has at least 15/16 of it. Default 25ms.
	Timeout time.Duration
	// MaxInFlight bounds the calls that wait at once. Default 512.
	MaxInFlight int
	// Failures in a row open the breaker. Default 5.
	Failures int
	// FirstPause and MaxPause bound how long it stays open before one call is
	// let through as a probe; each failed probe doubles the pause. Defaults
	// 100ms and 1s.
	FirstPause time.Duration
	MaxPause   time.Duration
	// Clock is what the breaker's pauses go by; time.Now if nil.
	Clock func() time.Time
	// Observer may be nil.
	Observer Observer
}

// Observer learns of calls and of the breaker. It must not block.
type Observer interface {
	// StoreCalled is called once per call, also for those that were not let
	// through, whose duration is 0.
	StoreCalled(duration time.Duration, err error)
	// BreakerChanged is called when the breaker opens, with the error that
	// opened it, and when it closes, with nil.
	BreakerChanged(cause error)
}

// Guard is a ratelimit.Store around another. It is safe for concurrent use.
type Guard struct {
	next     ratelimit.Store
	options  Options
	inFlight atomic.Int64

	deadlines deadlines

	// well says that the breaker is closed and the last call succeeded, so that a
	// success changes nothing, unless it is a probe's.
	well atomic.Bool

	mu       sync.Mutex
	failures int
	open     bool
	probing  bool
	retryAt  time.Time
	pause    time.Duration
}

// New wraps next.
func New(next ratelimit.Store, options Options) *Guard {
	setDefault(&options.Timeout, 25*time.Millisecond)
	setDefault(&options.MaxInFlight, 512)
	setDefault(&options.Failures, 5)
	setDefault(&options.FirstPause, 100*time.Millisecond)
	setDefault(&options.MaxPause, time.Second)
	if options.Clock == nil {
		options.Clock = time.Now
	}
	guard := &Guard{next: next, options: options, pause: options.FirstPause, deadlines: deadlines{timeout: options.Timeout}}
	guard.well.Store(true)
	return guard
}

func setDefault[T time.Duration | int](value *T, fallback T) {
	if *value <= 0 {
		*value = fallback
	}
}

// Open reports whether calls are being refused without asking the store.
func (g *Guard) Open() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// Take implements ratelimit.Store. The call goes on to its own deadline when
// the caller gives up, so that callers with less patience than the store has
// latency do not break its connections or hide its slowness from the breaker. What
// the caller's context holds is left behind.
func (g *Guard) Take(_ context.Context, charges []ratelimit.Charge) (ratelimit.Outcome, error) {
	probe, err := g.enter()
	if err != nil {
		g.observe(0, err)
		return ratelimit.Outcome{}, err
	}
	if !g.begin() {
		g.leave(probe, ErrBusy)
		g.observe(0, ErrBusy)
		return ratelimit.Outcome{}, ErrBusy
	}
	defer g.inFlight.Add(-1)
	started := time.Now()
	outcome, err := g.next.Take(g.deadlines.from(started), charges)
	g.leave(probe, err)
	g.observe(time.Since(started), err)
	return outcome, err
}

// begin takes one of the places of calls in flight, unless all are taken. Whoever gets
// none takes none for a moment either, which somebody else would be refused for.
func (g *Guard) begin() bool {
	for {
		taken := g.inFlight.Load()
		if taken >= int64(g.options.MaxInFlight) {
			return false
		}
		if g.inFlight.CompareAndSwap(taken, taken+1) {
			return true
		}
	}
}

// enter says whether a call may go through, and whether it is the probe.
func (g *Guard) enter() (probe bool, err error) {
	if g.well.Load() {
		return false, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open {
		return false, nil
	}
	if g.probing || g.options.Clock().Before(g.retryAt) {
		return false, ErrOpen
	}
	g.probing = true
	return true, nil
}

// leave counts the end of a call. Calls that began before the breaker opened
// and end after it say nothing new when they fail.
func (g *Guard) leave(probe bool, err error) {
	opened, closed := g.record(probe, err)
	if g.options.Observer == nil {
		return
	}
	if opened {
		g.options.Observer.BreakerChanged(fmt.Errorf("%d calls in a row failed, the last with: %w", g.options.Failures, err))
	}
	if closed {
		g.options.Observer.BreakerChanged(nil)
	}
}

func (g *Guard) record(probe bool, err error) (opened, closed bool) {
	if err == nil && !probe && g.well.Load() {
		return false, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	defer func() { g.well.Store(!g.open && g.failures == 0) }()
	if probe {
		g.probing = false
	}
	switch {
	case err == nil:
		closed = g.open
		g.failures, g.open, g.pause = 0, false, g.options.FirstPause
	case errors.Is(err, ErrBusy):
		// The calls that fill the slots will tell.
	case g.open && probe:
		g.pause = min(2*g.pause, g.options.MaxPause)
		g.retryAt = g.afterPause()
	case !g.open:
		g.failures++
		if g.failures >= g.options.Failures {
			opened, g.open = true, true
			g.retryAt = g.afterPause()
		}
	}
	return opened, closed
}

// afterPause spreads the probes of many replicas over the last fifth.
func (g *Guard) afterPause() time.Time {
	pause := g.pause - rand.N(g.pause/5+1) //nolint:gosec // jitter needs no secrecy
	return g.options.Clock().Add(pause)
}

func (g *Guard) observe(duration time.Duration, err error) {
	if g.options.Observer != nil {
		g.options.Observer.StoreCalled(duration, err)
	}
}
