package envoyauth

import (
	"context"
	"sync/atomic"
	"time"

	"weir.dev/extauthz"
)

// Limits bound the checks under way, so that an overload is answered before it
// takes the memory that answering needs.
type Limits struct {
	// InFlight is how many checks run at once; zero means 2048.
	InFlight int
	// Queue is how many more may wait for one of them to end; zero means 2048.
	Queue int
	// Wait is how long one waits at most; zero means 100 ms.
	Wait time.Duration
	// Deadline bounds a check whose caller gives none; zero means 1 s. Envoy gives
	// its own (the timeout of the filter's gRPC service).
	Deadline time.Duration
}

func (l *Limits) setDefaults() {
	if l.InFlight == 0 {
		l.InFlight = 2048
	}
	if l.Queue == 0 {
		l.Queue = 2048
	}
	if l.Wait == 0 {
		l.Wait = 100 * time.Millisecond
	}
	if l.Deadline == 0 {
		l.Deadline = time.Second
	}
}

// Limited is a server with a bound on the checks under way. Safe for concurrent
// use.
type Limited struct {
	Checker
	limits  Limits
	slots   chan struct{}
	waiting atomic.Int64
}

// Limit bounds the checks of inner. What is beyond is refused as OVERLOADED, and
// so is a check whose caller has given up while it waited.
func Limit(inner Checker, limits Limits) *Limited {
	limits.setDefaults()
	return &Limited{Checker: inner, limits: limits, slots: make(chan struct{}, limits.InFlight)}
}

// InFlight is how many checks run.
func (l *Limited) InFlight() int { return len(l.slots) }

// Waiting is how many checks wait to run.
func (l *Limited) Waiting() int { return int(l.waiting.Load()) }

// Answer implements Checker.
func (l *Limited) Answer(ctx context.Context, request *extauthz.Request) *Answer {
	if !l.enter(ctx) {
		return l.Refuse(ctx, request, extauthz.ReasonOverloaded)
	}
	defer func() { <-l.slots }()
	if _, bounded := ctx.Deadline(); !bounded {
		limited, cancel := context.WithTimeout(ctx, l.limits.Deadline)
		defer cancel()
		ctx = limited
	}
	return l.Checker.Answer(ctx, request)
}

// enter takes a slot; false means that the check is not to be begun.
func (l *Limited) enter(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	select {
	case l.slots <- struct{}{}:
		return true
	default:
	}
	if l.waiting.Add(1) > int64(l.limits.Queue) {
		l.waiting.Add(-1)
		return false
	}
	defer l.waiting.Add(-1)
	patience := time.NewTimer(l.limits.Wait)
	defer patience.Stop()
	select {
	case l.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	case <-patience.C:
		return false
	}
}
