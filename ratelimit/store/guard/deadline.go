package guard

import (
	"context"
	"sync/atomic"
	"time"
)

// sharedPart is the part of a timeout in which calls that begin have one deadline.
const sharedPart = 16

// deadlines makes contexts for calls that may take at most timeout each. A timer
// for each call costs a busy server a twenty-fifth of its time, so calls that begin
// shortly after one another share one: the first has the whole timeout, and the
// last a sixteenth less. Safe for concurrent use.
type deadlines struct {
	timeout time.Duration
	latest  atomic.Pointer[sharedDeadline]
}

type sharedDeadline struct {
	ctx   context.Context //nolint:containedctx // It is that of many calls.
	until time.Time
}

// from is a context for a call that begins now. It ends by itself.
func (d *deadlines) from(now time.Time) context.Context {
	if latest := d.latest.Load(); latest != nil && now.Before(latest.until) {
		return latest.ctx
	}
	ctx, cancel := context.WithDeadline(context.Background(), now.Add(d.timeout))
	context.AfterFunc(ctx, cancel) // Nobody knows sooner when the last of its calls is over.
	d.latest.Store(&sharedDeadline{ctx: ctx, until: now.Add(d.timeout / sharedPart)})
	return ctx
}
