package supervisor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"weir.dev/cli/process"
)

// probeTimeout bounds one look at a child's readiness.
const probeTimeout = 3 * time.Second

// child keeps one spec running.
type child struct {
	spec    Spec
	options Options
	changed func()

	// firstReady is closed at the first readiness; startFailed gets an error
	// when the child ended too often before that.
	firstReady  chan struct{}
	startFailed chan error
	once        sync.Once

	// stopping is closed when the child is to end for good, with stopContext
	// set before; stopped when it has.
	stopping    chan struct{}
	stopContext context.Context //nolint:containedctx // Handed from stop to run, once.
	stopped     chan struct{}

	// started is used by Run's goroutine alone.
	started bool

	mu     sync.Mutex
	status Status
}

func newChild(spec Spec, options Options, changed func()) *child {
	return &child{
		spec: spec, options: options, changed: changed,
		firstReady: make(chan struct{}), startFailed: make(chan error, 1),
		stopping: make(chan struct{}), stopped: make(chan struct{}),
		status: Status{Name: spec.Name, State: StateStopped, Address: spec.Address},
	}
}

func (c *child) snapshot() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// update changes the status and tells about it if anything did change.
func (c *child) update(change func(*Status)) {
	c.mu.Lock()
	before := c.status
	change(&c.status)
	same := before.State == c.status.State && before.Process == c.status.Process &&
		before.Restarts == c.status.Restarts && sameText(before.Err, c.status.Err)
	c.mu.Unlock()
	if !same {
		c.changed()
	}
}

func sameText(a, b error) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Error() == b.Error()
}

func (c *child) overdue(limit time.Duration) error {
	if err := c.snapshot().Err; err != nil {
		return fmt.Errorf("waited %s: %w", limit, err)
	}
	return fmt.Errorf("waited %s", limit)
}

// run starts the child again and again until it is to stop.
func (c *child) run() {
	defer close(c.stopped)
	defer c.update(func(s *Status) { s.State, s.Process, s.Err = StateStopped, process.ID{}, nil })
	var delay time.Duration
	for attempt := 1; !c.isStopping(); attempt++ {
		began := c.options.Clock.Now()
		err := c.runOnce()
		if c.isStopping() {
			return
		}
		delay = c.options.Backoff.Next(delay, c.options.Clock.Now().Sub(began))
		wait := Jittered(delay, c.options.Random())
		c.update(func(s *Status) {
			s.State, s.Process, s.Err = StateRestarting, process.ID{}, err
			s.Restarts++
		})
		c.options.Logger.Warn("ended unexpectedly; restarting", "child", c.spec.Name, "error", err, "in", wait.String())
		if attempt >= c.options.StartAttempts && !c.wasReady() {
			select {
			case c.startFailed <- err:
			default: // Told already.
			}
		}
		select {
		case <-c.options.Clock.After(wait):
		case <-c.stopping:
			return
		}
	}
}

func (c *child) isStopping() bool {
	select {
	case <-c.stopping:
		return true
	default:
		return false
	}
}

func (c *child) wasReady() bool {
	select {
	case <-c.firstReady:
		return true
	default:
		return false
	}
}

// runOnce returns when the process has ended, with the reason.
func (c *child) runOnce() error {
	running, err := start(c.spec)
	if err != nil {
		return err
	}
	c.update(func(s *Status) { s.State, s.Process, s.Err = StateStarting, running.id, nil })
	c.options.Logger.Info("started", "child", c.spec.Name, "pid", running.id.PID)
	ctx, cancel := context.WithCancel(context.Background())
	var probing sync.WaitGroup
	probing.Go(func() { c.probe(ctx) })
	defer probing.Wait()
	defer cancel()
	select {
	case <-running.ended:
	case <-c.stopping:
		cancel()
		probing.Wait()
		c.end(running)
	}
	return running.reason()
}

// probe keeps the status in step with the child's readiness until ctx ends.
func (c *child) probe(ctx context.Context) {
	for {
		err := c.ready(ctx)
		if ctx.Err() != nil {
			return
		}
		every := c.options.ProbeEvery
		switch {
		case err == nil:
			c.update(func(s *Status) { s.State, s.Err = StateReady, nil })
			c.once.Do(func() { close(c.firstReady) })
		case c.snapshot().State == StateStarting:
			every /= 10
			c.update(func(s *Status) { s.Err = err })
		default:
			c.update(func(s *Status) { s.State, s.Err = StateNotReady, err })
		}
		select {
		case <-c.options.Clock.After(every):
		case <-ctx.Done():
			return
		}
	}
}

func (c *child) ready(ctx context.Context) error {
	if c.spec.Ready == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	return c.spec.Ready(ctx)
}

// end drains and ends the process, and kills it when the stop's time is over.
func (c *child) end(running *running) {
	c.update(func(s *Status) { s.State, s.Err = StateStopping, nil })
	ctx, cancel := context.WithCancel(c.stopContext)
	defer cancel()
	go func() {
		select {
		case <-running.ended: // Nothing left to drain.
			cancel()
		case <-ctx.Done():
		}
	}()
	if c.spec.Drain != nil {
		if err := c.spec.Drain(ctx); err != nil && !errors.Is(err, context.Canceled) {
			c.options.Logger.Warn("not drained", "child", c.spec.Name, "error", err)
		}
	}
	running.signal(syscall.SIGTERM)
	select {
	case <-running.ended:
	case <-c.stopContext.Done():
		c.options.Logger.Warn("did not end in time; killing it", "child", c.spec.Name)
		running.signal(syscall.SIGKILL)
		<-running.ended
	}
}

// stop ends the child for good and returns when it has ended. ctx bounds the
// orderly part. Call it once.
func (c *child) stop(ctx context.Context) {
	if !c.started {
		return
	}
	c.stopContext = ctx
	close(c.stopping)
	<-c.stopped
}
