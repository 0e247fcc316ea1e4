// Package source is what all sources of policy have in common: what they say
// (Update), how several are joined, and how the last good objects are kept on
// disk over a restart. Where objects come from is in the packages folder and
// kube.
package source

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"weir.dev/policy"
)

// Update is what a source says now; it replaces what the source said before. It
// is immutable once emitted.
type Update struct {
	Input policy.Input
	// Problems of reading and parsing; references are not looked at here.
	Problems policy.Problems
}

// Source follows one place where policy is written down.
type Source interface {
	// Name says for people what it is, such as "kubernetes".
	Name() string
	// Run emits what there is, and again after every change, until ctx ends; the
	// error is ctx's then, or says why the source cannot go on. It calls emit from
	// one goroutine at a time, and says nothing before it knows all that it holds,
	// from the place itself or as kept on disk: half a policy would take away what
	// proxies serve, or leave open what is to be protected.
	Run(ctx context.Context, emit func(Update)) error
}

// sayEvery is how often it is said which source is still waited for.
const sayEvery = 30 * time.Second

// Joined is several sources as one. Objects that two of them define are told
// apart by policy.Resolve.
type Joined struct {
	Sources []Source
	Logger  *slog.Logger
}

var _ Source = Joined{}

// Name lists the names.
func (j Joined) Name() string {
	text := ""
	for i, source := range j.Sources {
		if i > 0 {
			text += ", "
		}
		text += source.Name()
	}
	return text
}

// Run runs every source and emits the whole of what they say, once each has
// said something. It ends when one of them does.
func (j Joined) Run(ctx context.Context, emit func(Update)) error {
	ctx, cancel := context.WithCancel(ctx)
	state := &joining{parts: make([]*Update, len(j.Sources)), emit: emit}
	ended := make(chan error, len(j.Sources))
	var running sync.WaitGroup
	for i, source := range j.Sources {
		running.Go(func() {
			err := source.Run(ctx, func(update Update) { state.set(i, update) })
			if err != nil && ctx.Err() == nil {
				err = fmt.Errorf("%s: %w", source.Name(), err)
			}
			ended <- err
		})
	}
	// Sources flush what they keep before they return.
	defer running.Wait()
	defer cancel()
	ticker := time.NewTicker(sayEvery)
	defer ticker.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-ticker.C:
			for _, i := range state.missing() {
				j.Logger.WarnContext(ctx, "no policy is rolled out before every source has been read", "waiting for", j.Sources[i].Name())
			}
		}
	}
}

// joining is what each source said last.
type joining struct {
	mu    sync.Mutex
	parts []*Update
	emit  func(Update)
}

func (j *joining) set(i int, update Update) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.parts[i] = &update
	var whole Update
	for _, part := range j.parts {
		if part == nil {
			return
		}
		whole.Input.Objects = append(whole.Input.Objects, part.Input.Objects...)
		whole.Input.Closings = append(whole.Input.Closings, part.Input.Closings...)
		whole.Problems = append(whole.Problems, part.Problems...)
	}
	j.emit(whole)
}

func (j *joining) missing() []int {
	j.mu.Lock()
	defer j.mu.Unlock()
	var missing []int
	for i, part := range j.parts {
		if part == nil {
			missing = append(missing, i)
		}
	}
	return missing
}
