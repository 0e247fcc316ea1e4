package mtls

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"weir.dev/policy"
)

// take is a step that has to be taken.
func (f *fake) take(t *testing.T, steps ...Mode) {
	t.Helper()
	f.calls = nobody
	for _, step := range steps {
		result, err := Set(t.Context(), f, asked(step))
		require.NoError(t, err)
		require.Equal(t, Changed, result.Action, "%+v", result)
	}
	f.applied = nil
}

// leave is what is left of a run that was killed, and that began with the policy as it
// is now.
func (f *fake) leave(t *testing.T) {
	t.Helper()
	state, err := f.State(t.Context(), "")
	require.NoError(t, err)
	ours, _ := state.Policies.same(asked(Unset).Scope)
	require.NoError(t, f.Apply(t.Context(), ObserverObject(asked(Unset).Scope, "left", ours.mark()), false))
	f.applied = nil
}

// A rollback after a kill takes the observer away first, and goes back by a mode only
// if the run that was killed had changed it.
func TestRollbackAfterAKill(t *testing.T) {
	for _, given := range []struct {
		name string
		// was is gone through before the run, of which killed says how far it came.
		was     []Mode
		killed  func(*testing.T, *fake)
		dry     bool
		action  string
		applied []string
		mode    Mode
		stays   bool
	}{
		{name: "the first of all, while it observes", action: Cleared, applied: []string{"no observer"}, mode: Permissive},
		{name: "asked what it would do", dry: true, action: WouldBe, mode: Permissive, stays: true},
		{name: "while it observes, DISABLE before", was: []Mode{Disable, Permissive}, action: Cleared, applied: []string{"no observer"}, mode: Permissive},
		{
			name: "after STRICT", was: []Mode{Disable, Permissive}, action: Changed, applied: []string{"no observer", "PERMISSIVE"}, mode: Permissive,
			killed: func(t *testing.T, f *fake) { t.Helper(); f.strict(t) },
		},
		{
			name: "after STRICT, nothing before", action: Changed, applied: []string{"no observer", "deleted"}, mode: Permissive,
			killed: func(t *testing.T, f *fake) { t.Helper(); f.strict(t) },
		},
		{
			name: "when the step back is refused", was: []Mode{Strict, Permissive}, action: Refused, applied: []string{"no observer"}, mode: Permissive,
			killed: func(t *testing.T, f *fake) { t.Helper(); f.observer.Before = "DISABLE" },
		},
		{
			name: "one that remembers nothing", was: []Mode{Disable, Permissive}, action: Cleared, applied: []string{"no observer"}, mode: Permissive,
			killed: func(t *testing.T, f *fake) { t.Helper(); f.observer.Before = "" },
		},
	} {
		t.Run(given.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(Permissive)
				f.take(t, given.was...)
				f.leave(t)
				if given.killed != nil {
					given.killed(t, f)
				}
				request := asked(Unset)
				request.DryRun = given.dry
				result, err := Rollback(t.Context(), f, request)
				require.NoError(t, err)
				synctest.Wait()
				require.Equal(t, given.action, result.Action, "%+v", result)
				require.Equal(t, given.applied, f.applied)
				require.Equal(t, given.mode, f.settled)
				require.Equal(t, given.stays, f.observer != nil)
				require.Contains(t, result.Notes[0], "EnvoyFilter shop/weir-mtls-observer, which an observation left, w")
			})
		})
	}
}

// strict is what a run applies that is killed then.
func (f *fake) strict(t *testing.T) {
	t.Helper()
	state, err := f.State(t.Context(), "")
	require.NoError(t, err)
	former, history := Former{Until: "2026-11-22T10:00:00Z"}, []Former(nil)
	if ours, _ := state.Policies.same(asked(Unset).Scope); ours != nil {
		former.Mode, history = ours.Mode, ours.History
	}
	made, err := PolicyObject(asked(Unset).Scope, Strict, append(history, former))
	require.NoError(t, err)
	require.NoError(t, f.Apply(t.Context(), made, false))
	f.applied = nil
}

// Only the observer could not be taken away: what is advised touches no mode.
func TestAnObserverThatStaysIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(Permissive)
		f.calls = nobody
		f.refuses = func(object *unstructured.Unstructured) error {
			if object.GetKind() == "EnvoyFilter" && f.state.Policies.Effective("shop", nil).Mode == Strict {
				return errors.New("away")
			}
			return nil
		}
		result, err := Set(t.Context(), f, asked(Strict))
		require.NoError(t, err)
		require.Equal(t, Changed, result.Action)
		require.Contains(t, result.Notes[1], "run kubectl delete envoyfilter -n shop weir-mtls-observer: away")
		require.NotContains(t, result.Notes[1], "rollback")
	})
}

// An API server that is away for a while does not leave callers cut off.
func TestPuttingBackIsTriedAgain(t *testing.T) {
	denied := apierrors.NewForbidden(schema.GroupResource{Resource: "peerauthentications"}, "weir-mtls", errors.New("no"))
	for name, given := range map[string]struct {
		away   time.Duration
		fails  error
		action string
		mode   Mode
		within time.Duration
	}{
		"away for a minute":      {time.Minute, errors.New("connection refused"), RolledBack, Permissive, 70 * time.Second},
		"away for longer":        {time.Hour, errors.New("connection refused"), Stuck, Strict, restoreWithin + time.Second},
		"what is always refused": {time.Hour, denied, Stuck, Strict, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(Permissive)
				f.take(t, Disable, Permissive)
				f.began = time.Now()
				f.calls = between("10.0.0.9", 75*time.Second, time.Hour)
				var since time.Time
				f.refuses = func(object *unstructured.Unstructured) error {
					if read, err := ReadPolicy(object); err != nil || read.Mode != Permissive {
						return nil
					}
					if since.IsZero() {
						since = time.Now()
					}
					if time.Since(since) < given.away {
						return given.fails
					}
					return nil
				}
				result, err := Set(t.Context(), f, asked(Strict))
				require.NoError(t, err)
				require.Equal(t, given.action, result.Action, "%+v", result)
				require.Less(t, time.Since(since), given.within)
				synctest.Wait()
				require.Equal(t, given.mode, f.settled)
				if given.action == Stuck {
					require.Equal(t, policy.CodeMTLSRolledBack, result.Reasons[1].Code)
					require.Contains(t, result.Reasons[1].Message, "where namespace shop is STRICT, run weir mesh mtls rollback -n shop; where it is PERMISSIVE, nothing is left to do")
				}
			})
		})
	}
}

// Sidecars that tell only at the last moment have told nothing of who called before.
func TestNobodyIsObservedByHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(Permissive)
		f.calls = nobody
		f.deaf = true
		request := asked(Strict)
		go func() {
			time.Sleep(request.Wait + request.Observe/2)
			f.mu.Lock()
			defer f.mu.Unlock()
			f.deaf = false
		}()
		result, err := Set(t.Context(), f, request)
		require.NoError(t, err)
		require.Equal(t, Refused, result.Action)
		require.Equal(t, policy.CodeMTLSUnknown, result.Reasons[0].Code)
		require.Contains(t, result.Reasons[0].Message, "the sidecar of shop/orders-1 does not tell who calls it")
		require.Less(t, time.Since(f.began), request.Wait+time.Second, "there is nothing to wait for")
		require.Equal(t, []string{"observer", "no observer"}, f.applied)
		time.Sleep(request.Observe)
	})
}
