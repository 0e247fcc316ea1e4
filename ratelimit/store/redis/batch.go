package redis

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"weir.dev/ratelimit"
)

// ErrFull is the error of a request that found the queue full.
var ErrFull = errors.New("redis: too many requests wait for the store")

// request is one request's part of a call. It holds nothing of the caller's, who
// may leave before the call ends.
type request struct {
	// group is the one that all keys are of.
	group    int
	keys     []string
	own      []ratelimit.Charge
	charges  []byte // own; see appendRequest
	deadline time.Time
	// gone says that nobody waits for the answer any more.
	gone atomic.Bool
	// done is closed after now and part, or outcome, or err, are set.
	done    chan struct{}
	now     int64
	part    string
	outcome ratelimit.Outcome
	err     error
	// few is where the parts of a request of few charges are, in one allocation.
	few struct {
		keys    [fewCharges]string
		own     [fewCharges]ratelimit.Charge
		charges [1 + chargeMost*fewCharges]byte
	}
}

// fewCharges is how many most requests have at most.
const fewCharges = 2

func (r *request) answer(now int64, part string, err error) {
	r.now, r.part, r.err = now, part, err
	close(r.done)
}

// batcher makes one call out of the requests that come while another is under
// way. A request that comes alone goes at once, with those that came at the same
// time. Safe for concurrent use.
type batcher struct {
	// call sends requests, 1 to maxBatch of them, and answers each.
	call     func([]*request)
	maxBatch int
	maxQueue int
	maxCalls int
	maxWait  time.Duration

	mu    sync.Mutex
	queue []*request
	calls int
	// beginning is how many of calls have not taken their first requests yet.
	beginning int
	timer     *time.Timer // nil until first needed
	armed     bool
}

// send queues a request or sends it at once.
func (b *batcher) send(r *request) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) >= b.maxQueue {
		return ErrFull
	}
	b.queue = append(b.queue, r)
	switch {
	case b.calls == 0, len(b.queue) >= b.maxBatch*(b.beginning+1) && b.calls < b.maxCalls:
		b.calls++
		b.beginning++
		go b.run()
	default:
		b.arm()
	}
	return nil
}

// wait waits for the answer, no longer than ctx allows. Who gives up while the
// request is queued has it dropped there.
func (r *request) wait(ctx context.Context) error {
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		r.gone.Store(true)
		return ctx.Err()
	}
}

// decided is the outcome, once wait has returned nil.
func (r *request) decided(charges []ratelimit.Charge) (ratelimit.Outcome, error) {
	if r.outcome.Results != nil {
		return r.outcome, nil
	}
	return parse(r.now, r.part, charges)
}

// run makes calls as long as there is anything to send. It is one of calls and of
// beginning already.
func (b *batcher) run() {
	for first := true; ; first = false {
		// Whoever is about to ask does so first: half as many again go in one call under
		// load, and where there is none it takes no time.
		runtime.Gosched()
		b.mu.Lock()
		if first {
			b.beginning--
		}
		batch := b.cut()
		if len(batch) == 0 && len(b.queue) == 0 {
			b.calls--
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		if len(batch) > 0 { // else nobody waits for these any more, but for later ones
			b.call(batch)
		}
	}
}

// cut takes the requests of the next call off the queue; b.mu is held.
func (b *batcher) cut() []*request {
	count := min(len(b.queue), b.maxBatch)
	batch := make([]*request, 0, count)
	for _, r := range b.queue[:count] {
		if !r.gone.Load() {
			batch = append(batch, r)
		}
	}
	rest := copy(b.queue, b.queue[count:])
	clear(b.queue[rest:])
	b.queue = b.queue[:rest]
	return batch
}

// arm makes sure that what is queued goes within maxWait, though the call under
// way hasn't ended; b.mu is held.
func (b *batcher) arm() {
	if b.armed || b.calls >= b.maxCalls {
		return
	}
	b.armed = true
	if b.timer == nil {
		b.timer = time.AfterFunc(b.maxWait, b.late)
		return
	}
	b.timer.Reset(b.maxWait)
}

func (b *batcher) late() {
	b.mu.Lock()
	b.armed = false
	if len(b.queue) == 0 || b.calls >= b.maxCalls {
		b.mu.Unlock()
		return
	}
	b.calls++
	b.beginning++
	b.mu.Unlock()
	b.run()
}
