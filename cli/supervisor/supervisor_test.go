package supervisor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/cli/process"
	"weir.dev/cli/supervisor"
)

// runs a supervisor until the test cancels it; result gets Run's error.
func runInBackground(t *testing.T, s *supervisor.Supervisor) (cancel func(), ready <-chan struct{}, result <-chan error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	isReady, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.Run(ctx, nil, func() { close(isReady) }) }()
	t.Cleanup(stop)
	return stop, isReady, done
}

func await[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case value := <-c:
		return value
	case <-time.After(time.Minute):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func TestStartsAndStopsInOrder(t *testing.T) {
	r := listen(t)
	var drained atomic.Bool
	first := childSpec("first", "run", r.address)
	second := childSpec("second", "run", r.address)
	first.StartStage, first.StopStage = 0, 2
	second.StartStage, second.StopStage = 1, 1
	second.Drain = func(context.Context) error { drained.Store(true); return nil }
	// What children report comes over a connection each, and says nothing about
	// the order between them; so the order is looked at where it is made.
	var secondProcess process.ID
	var firstStopping, secondOutlived bool
	s := supervisor.New([]supervisor.Spec{first, second}, supervisor.Options{Changed: func(statuses []supervisor.Status) {
		if statuses[1].Process.PID != 0 {
			secondProcess = statuses[1].Process
		}
		if statuses[0].State == supervisor.StateStopping && !firstStopping {
			firstStopping, secondOutlived = true, secondProcess.Alive()
		}
	}})
	stop, ready, result := runInBackground(t, s)
	started := await(t, r.lines) + "; " + await(t, r.lines)
	require.Contains(t, started, "first started")
	require.Contains(t, started, "second started")
	await(t, ready)
	for _, status := range s.Statuses() {
		require.Equal(t, supervisor.StateReady, status.State)
		require.True(t, status.Process.Alive())
	}
	stop()
	require.NoError(t, await(t, result))
	var order []string
	for len(order) < 4 {
		order = append(order, await(t, r.lines))
	}
	require.ElementsMatch(t, []string{"second told", "second gone", "first told", "first gone"}, order)
	require.True(t, firstStopping)
	require.NotZero(t, secondProcess.PID)
	require.False(t, secondOutlived, "first was told to end while second still ran")
	require.True(t, drained.Load())
	for _, status := range s.Statuses() {
		require.Equal(t, supervisor.StateStopped, status.State)
	}
}

func TestLaterStageWaitsForReadiness(t *testing.T) {
	r := listen(t)
	gate := make(chan struct{})
	first := childSpec("first", "run", r.address)
	first.Ready = func(context.Context) error {
		select {
		case <-gate:
			return nil
		default:
			return errors.New("no rules yet")
		}
	}
	second := childSpec("second", "run", r.address)
	second.StartStage = 1
	sawReason := make(chan struct{})
	var once sync.Once
	s := supervisor.New([]supervisor.Spec{first, second}, supervisor.Options{
		ProbeEvery: 50 * time.Millisecond,
		Changed: func(statuses []supervisor.Status) {
			if statuses[0].Err != nil && statuses[0].Err.Error() == "no rules yet" {
				once.Do(func() { close(sawReason) })
			}
		},
	})
	_, ready, _ := runInBackground(t, s)
	await(t, sawReason)
	require.Equal(t, supervisor.StateStopped, s.Statuses()[1].State, "second must not have been started")
	close(gate)
	await(t, ready)
}

func TestRestartsAndCounts(t *testing.T) {
	r := listen(t)
	s := supervisor.New([]supervisor.Spec{childSpec("one", "run", r.address)}, supervisor.Options{})
	stop, ready, result := runInBackground(t, s)
	await(t, ready)
	var pid int
	_, err := fmt.Sscanf(r.await(t, "one started"), "one started %d", &pid)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	r.await(t, "one gone")
	r.await(t, "one started")
	require.Eventually(t, func() bool {
		status := s.Statuses()[0]
		return status.State == supervisor.StateReady && status.Restarts == 1 && status.Process.PID != pid
	}, time.Minute, 5*time.Millisecond)
	stop()
	require.NoError(t, await(t, result))
}

func TestBacksOffOnAFakeClock(t *testing.T) {
	clock := newFakeClock()
	r := listen(t)
	crashing := childSpec("one", "crash", r.address)
	crashing.Ready = func(context.Context) error { return errors.New("not up") }
	s := supervisor.New([]supervisor.Spec{crashing}, supervisor.Options{
		Clock: clock, Random: func() float64 { return 0 }, StartAttempts: 1000, StartTimeout: 77 * time.Hour,
		Backoff: supervisor.Backoff{First: 100 * time.Second, Max: 500 * time.Second, ResetAfter: time.Hour},
	})
	stop, _, result := runInBackground(t, s)
	var delays []time.Duration
	for len(delays) < 5 {
		wait := await(t, clock.waits)
		if wait.for_ < 100*time.Second || wait.for_ == 77*time.Hour { // Probes, the start's timeout.
			continue
		}
		delays = append(delays, wait.for_)
		clock.advance(wait.for_)
		wait.fire <- clock.Now()
	}
	require.Equal(t, []time.Duration{100e9, 200e9, 400e9, 500e9, 500e9}, delays)
	stop()
	require.NoError(t, await(t, result))
}

func TestFailedStartNamesTheChildAndStopsTheOthers(t *testing.T) {
	r := listen(t)
	good, bad := childSpec("good", "run", r.address), childSpec("bad", "crash", r.address)
	bad.StartStage = 1
	bad.Ready = func(context.Context) error { return errors.New("not up") }
	var output lockedBuffer
	bad.Output = &output
	err := supervisor.New([]supervisor.Spec{good, bad}, supervisor.Options{
		Backoff: supervisor.Backoff{First: time.Millisecond, Max: time.Millisecond, ResetAfter: time.Hour},
	}).Run(context.Background(), nil, func() { t.Error("must not be ready") })
	var startError *supervisor.StartError
	require.ErrorAs(t, err, &startError)
	require.Equal(t, "bad", startError.Name)
	require.ErrorContains(t, err, "exit status 7")
	require.Equal(t, 3, strings.Count(output.String(), "a line of output of bad"))
	r.await(t, "good told")
	r.await(t, "good gone")
}

func TestOverdueStartTellsWhatItWaitedFor(t *testing.T) {
	r := listen(t)
	slow := childSpec("slow", "run", r.address)
	slow.Ready = func(context.Context) error { return errors.New("rules: none received") }
	err := supervisor.New([]supervisor.Spec{slow}, supervisor.Options{StartTimeout: 2 * time.Second, ProbeEvery: 50 * time.Millisecond}).
		Run(context.Background(), nil, func() {})
	require.EqualError(t, err, "slow did not become ready: waited 2s: rules: none received")
}

func TestMissingExecutable(t *testing.T) {
	err := supervisor.New([]supervisor.Spec{{Name: "ghost", Path: "/nonexistent/ghost"}}, supervisor.Options{
		Backoff: supervisor.Backoff{First: time.Millisecond, Max: time.Millisecond, ResetAfter: time.Hour},
	}).Run(context.Background(), nil, func() {})
	require.ErrorContains(t, err, "cannot start /nonexistent/ghost")
}

func TestStubbornChildIsKilledAtTheEndOfTheDrain(t *testing.T) {
	r := listen(t)
	s := supervisor.New([]supervisor.Spec{childSpec("one", "stubborn", r.address)}, supervisor.Options{DrainTimeout: 300 * time.Millisecond})
	stop, ready, result := runInBackground(t, s)
	await(t, ready)
	r.await(t, "one started")
	stop()
	r.await(t, "one told")
	r.await(t, "one gone")
	require.NoError(t, await(t, result))
}

func TestKillDoesNotWaitForTheDrain(t *testing.T) {
	r := listen(t)
	one := childSpec("one", "stubborn", r.address)
	draining := make(chan struct{})
	one.Drain = func(ctx context.Context) error { close(draining); <-ctx.Done(); return ctx.Err() }
	s := supervisor.New([]supervisor.Spec{one}, supervisor.Options{DrainTimeout: time.Hour})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	kill, ready, result := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() { result <- s.Run(ctx, kill, func() { close(ready) }) }()
	await(t, ready)
	r.await(t, "one started")
	cancel()
	await(t, draining)
	close(kill)
	require.NoError(t, await(t, result))
	r.await(t, "one gone")
}

func TestStopDuringStartStartsNothingMore(t *testing.T) {
	r := listen(t)
	first, second := childSpec("first", "run", r.address), childSpec("second", "run", r.address)
	first.Ready = func(context.Context) error { return errors.New("never") }
	second.StartStage = 1
	s := supervisor.New([]supervisor.Spec{first, second}, supervisor.Options{})
	stop, _, result := runInBackground(t, s)
	r.await(t, "first started")
	stop()
	require.NoError(t, await(t, result))
	r.await(t, "first gone")
	require.Empty(t, r.lines)
}

func TestKilledSupervisorLeavesNoChild(t *testing.T) {
	r := listen(t)
	self, err := os.Executable()
	require.NoError(t, err)
	parent := exec.Command(self)
	parent.Env = []string{envRole + "=supervisor", envReport + "=" + r.address}
	parent.Stderr = os.Stderr
	require.NoError(t, parent.Start())
	var pid int
	_, err = fmt.Sscanf(r.await(t, "grandchild started"), "grandchild started %d", &pid)
	require.NoError(t, err)
	grandchild := process.Identify(pid)
	require.True(t, grandchild.Alive())
	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait()
	r.await(t, "grandchild gone")
	require.True(t, grandchild.AwaitEnd(time.Minute))
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}
