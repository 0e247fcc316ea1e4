package supervisor

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"weir.dev/cli/process"
)

// Spec is one child.
type Spec struct {
	Name string
	// Path is the executable; Args excludes its name.
	Path string
	Args []string
	// Env is the whole environment of the child.
	Env []string
	// Address is for display.
	Address string
	// StartStage and StopStage order the children: a lower stage goes first, and
	// those of one stage go together.
	StartStage, StopStage int
	// Ready reports nil once the child can do its work. Nil means that a started
	// child is ready. Called from one goroutine at a time.
	Ready func(context.Context) error
	// Drain, when not nil, is called before the child is told to end, so that it
	// can finish what it is doing. Its error is logged.
	Drain func(context.Context) error
	// Output receives both output streams; writes to it are serial.
	Output io.Writer
}

// State is where a child is in its life.
type State string

// States of a child.
const (
	StateStopped    State = "stopped"
	StateStarting   State = "starting"
	StateReady      State = "ready"
	StateNotReady   State = "not-ready"
	StateRestarting State = "restarting"
	StateStopping   State = "stopping"
)

// Status is what is known of one child.
type Status struct {
	Name    string
	State   State
	Address string
	// Process is the zero value while there is none.
	Process  process.ID
	Restarts int
	// Err is why the child is not ready, nil otherwise.
	Err error
}

// Clock is the part of time that the supervisor uses.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

// Options of a Supervisor; the zero value of each field means its default.
type Options struct {
	// Clock defaults to the machine's.
	Clock Clock
	// Random returns numbers in [0, 1) for jitter.
	Random func() float64
	// Backoff defaults to DefaultBackoff.
	Backoff Backoff
	// StartTimeout bounds how long one child may take to its first readiness.
	// Default 30 s.
	StartTimeout time.Duration
	// StartAttempts is how often a child may end before its first readiness.
	// Default 3.
	StartAttempts int
	// DrainTimeout bounds the whole stop, after which children are killed.
	// Default 15 s.
	DrainTimeout time.Duration
	// ProbeEvery is how often readiness is looked at after the first time, and
	// a tenth of it before. Default 500 ms.
	ProbeEvery time.Duration
	Logger     *slog.Logger
	// Changed is told of every change, one call at a time, with the state of all
	// children in the order of their specs.
	Changed func([]Status)
}

func (o Options) withDefaults() Options {
	if o.Clock == nil {
		o.Clock = systemClock{}
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	if o.Backoff == (Backoff{}) {
		o.Backoff = DefaultBackoff()
	}
	o.StartTimeout = cmp.Or(o.StartTimeout, 30*time.Second)
	o.StartAttempts = cmp.Or(o.StartAttempts, 3)
	o.DrainTimeout = cmp.Or(o.DrainTimeout, 15*time.Second)
	o.ProbeEvery = cmp.Or(o.ProbeEvery, 500*time.Millisecond)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func([]Status) {}
	}
	return o
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// StartError says which child did not become ready, and why.
type StartError struct {
	Name string
	Err  error
}

func (e *StartError) Error() string { return fmt.Sprintf("%s did not become ready: %v", e.Name, e.Err) }
func (e *StartError) Unwrap() error { return e.Err }

// Supervisor runs a fixed set of children, once.
type Supervisor struct {
	options  Options
	children []*child
	// notifying makes calls of options.Changed serial and in order.
	notifying sync.Mutex
}

// New prepares a supervisor; nothing is started before Run.
func New(specs []Spec, options Options) *Supervisor {
	s := &Supervisor{options: options.withDefaults()}
	for _, spec := range specs {
		s.children = append(s.children, newChild(spec, s.options, s.notify))
	}
	return s
}

// Statuses lists the children in the order of their specs. Safe for concurrent
// use.
func (s *Supervisor) Statuses() []Status {
	statuses := make([]Status, 0, len(s.children))
	for _, c := range s.children {
		statuses = append(statuses, c.snapshot())
	}
	return statuses
}

func (s *Supervisor) notify() {
	s.notifying.Lock()
	defer s.notifying.Unlock()
	s.options.Changed(s.Statuses())
}

// Run starts everything, calls ready once everything is, and goes on until ctx
// ends; then it stops everything, in order, within the drain timeout. When kill
// is closed, what is left is killed at once. It returns a *StartError when a
// child does not become ready, after stopping the others. When Run returns, no
// child runs any more.
func (s *Supervisor) Run(ctx context.Context, kill <-chan struct{}, ready func()) error {
	var running sync.WaitGroup
	defer running.Wait()
	err := s.startAll(ctx, &running)
	if err == nil && ctx.Err() == nil {
		ready()
		select {
		case <-ctx.Done():
		case <-kill:
		}
	}
	s.stopAll(kill)
	return err
}

// startAll starts stage after stage; it returns nil early when ctx ends.
func (s *Supervisor) startAll(ctx context.Context, running *sync.WaitGroup) error {
	for _, stage := range byStage(s.children, func(c *child) int { return c.spec.StartStage }) {
		for _, c := range stage {
			c.started = true
			running.Go(c.run)
		}
		timeout := s.options.Clock.After(s.options.StartTimeout)
		for _, c := range stage {
			select {
			case <-ctx.Done():
				return nil
			case <-c.firstReady:
			case err := <-c.startFailed:
				return &StartError{Name: c.spec.Name, Err: err}
			case <-timeout:
				return &StartError{Name: c.spec.Name, Err: c.overdue(s.options.StartTimeout)}
			}
		}
	}
	return nil
}

func (s *Supervisor) stopAll(kill <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), s.options.DrainTimeout)
	defer cancel()
	go func() {
		select {
		case <-kill:
			cancel()
		case <-ctx.Done():
		}
	}()
	for _, stage := range byStage(s.children, func(c *child) int { return c.spec.StopStage }) {
		var stopping sync.WaitGroup
		for _, c := range stage {
			stopping.Go(func() { c.stop(ctx) })
		}
		stopping.Wait()
	}
}

func byStage(children []*child, stageOf func(*child) int) [][]*child {
	stages := map[int][]*child{}
	var order []int
	for _, c := range children {
		stage := stageOf(c)
		if stages[stage] == nil {
			order = append(order, stage)
		}
		stages[stage] = append(stages[stage], c)
	}
	slices.Sort(order)
	sorted := make([][]*child, 0, len(order))
	for _, stage := range order {
		sorted = append(sorted, stages[stage])
	}
	return sorted
}
