package mtls

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weir.dev/policy"
)

// setAt is when STRICT is set in these tests: after the observation, and what logs may
// be late.
const setAt = time.Minute + logsLate

// What happens while it is watched, or before, is not passed over in silence.
func TestStrictIsProvenAtTheEnd(t *testing.T) {
	const watching = setAt + 10*time.Second
	ours, err := PolicyObject(Scope{Namespace: "shop"}, Strict, nil)
	require.NoError(t, err)
	for _, given := range []struct {
		name    string
		after   time.Duration
		happens func(*testing.T, *fake)
		calls   func(time.Duration) (string, bool)
		late    time.Duration
		says    string
		applied []string
		stays   bool
	}{
		{
			name: "ours is deleted while it is watched", after: watching, says: "somebody changed it meanwhile: Istio's default says PERMISSIVE",
			happens: func(t *testing.T, f *fake) { t.Helper(); require.NoError(t, f.Delete(t.Context(), ours)) },
			applied: []string{"observer", "STRICT", "deleted", "deleted", "no observer"},
		},
		{
			name: "ours is deleted while it settles", after: setAt + time.Second, late: 3 * time.Second, says: "somebody changed it meanwhile: Istio's default says PERMISSIVE",
			happens: func(t *testing.T, f *fake) { t.Helper(); require.NoError(t, f.Delete(t.Context(), ours)) },
			applied: []string{"observer", "STRICT", "deleted", "deleted", "no observer"},
		},
		{
			name: "the observer goes while it is watched", after: watching, says: "the sidecar of shop/orders-1 does not tell who calls it",
			happens: func(t *testing.T, f *fake) {
				t.Helper()
				observers, err := f.Observers(t.Context(), "shop")
				require.NoError(t, err)
				require.NoError(t, f.Delete(t.Context(), ObserverObject(Scope{Namespace: "shop"}, observers[0].Run, "")))
			},
			applied: []string{"observer", "STRICT", "no observer", "deleted", "no observer"},
		},
		{
			name: "another observes while it is watched", after: watching, stays: true,
			says: "meanwhile: EnvoyFilter shop/weir-mtls-observer is of another observation, and two do not go together",
			happens: func(t *testing.T, f *fake) {
				t.Helper()
				require.NoError(t, f.Apply(t.Context(), ObserverObject(Scope{Namespace: "shop"}, "other", ""), false))
			},
			applied: []string{"observer", "STRICT", "observer", "deleted", "no observer"},
		},
		{
			name: "a pod that comes while it is watched is read", after: watching, says: "pod legacy/old-1 (Deployment old), 10.0.0.9: ",
			happens: func(t *testing.T, f *fake) {
				t.Helper()
				f.mu.Lock()
				defer f.mu.Unlock()
				pod := f.state.Pods[0]
				pod.Name, pod.UID = "orders-2", "22"
				f.state.Pods = append([]Pod{pod}, f.state.Pods...)
				f.called = pod.Name
			},
			calls:   between("10.0.0.9", watching+time.Second, time.Hour),
			applied: []string{"observer", "STRICT", "deleted", "no observer"},
		},
		{
			name: "a pod that comes at the end and is in no mode", after: watching, says: "pod shop/orders-1: other ports of it: PERMISSIVE, want STRICT",
			happens: func(t *testing.T, f *fake) {
				t.Helper()
				f.mu.Lock()
				defer f.mu.Unlock()
				f.settled = Permissive
			},
			applied: []string{"observer", "STRICT", "deleted", "no observer"},
		},
	} {
		t.Run(given.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(Permissive)
				f.late, f.calls = given.late, nobody
				if given.calls != nil {
					f.calls = given.calls
				}
				go func() {
					time.Sleep(given.after)
					given.happens(t, f)
				}()
				result, err := Set(t.Context(), f, asked(Strict))
				require.NoError(t, err)
				require.Equal(t, RolledBack, result.Action, "%+v", result)
				require.Equal(t, policy.CodeMTLSRolledBack, result.Reasons[0].Code)
				require.Contains(t, result.Reasons[0].Message, given.says)
				require.Equal(t, given.applied, f.applied)
				require.Equal(t, given.stays, f.observer != nil, "only what is of the run is taken away")
				time.Sleep(given.late)
			})
		})
	}
}

// A pod that comes with the watch's end has a while to be told.
func TestAPodThatComesIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(Permissive)
		f.calls = nobody
		go func() {
			time.Sleep(setAt + 35*time.Second)
			f.mu.Lock()
			f.settled = Permissive
			f.mu.Unlock()
			time.Sleep(10 * time.Second)
			f.mu.Lock()
			f.settled = Strict
			f.mu.Unlock()
		}()
		result, err := Set(t.Context(), f, asked(Strict))
		require.NoError(t, err)
		require.Equal(t, Changed, result.Action, "%+v", result)
	})
}

// Who is harmed is seen while it settles, and the policy is put back before anybody is
// named.
func TestHarmIsSeenWhileItSettles(t *testing.T) {
	for name, slow := range map[string]time.Duration{"sidecars that answer": 0, "sidecars that do not": 25 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(Permissive)
				f.late = time.Hour
				f.calls = between("10.0.0.9", setAt+2*time.Second, time.Hour)
				var back time.Duration
				f.refuses = func(object *unstructured.Unstructured) error {
					if object.GetKind() == "PeerAuthentication" && len(f.applied) == 1 {
						f.slow = slow
					}
					return nil
				}
				f.looked = func() {
					f.mu.Lock()
					defer f.mu.Unlock()
					if len(f.applied) > 1 {
						back = time.Since(f.began)
						require.Equal(t, []string{"observer", "STRICT", "deleted"}, f.applied)
					}
				}
				result, err := Set(t.Context(), f, asked(Strict))
				require.NoError(t, err)
				require.Equal(t, RolledBack, result.Action)
				require.Contains(t, result.Reasons[0].Message, "pod legacy/old-1 (Deployment old), 10.0.0.9: ")
				require.Len(t, result.Callers, 1)
				require.NotZero(t, back)
				require.Less(t, back, setAt+4*time.Second)
				time.Sleep(f.late)
			})
		})
	}
}

// Sidecars that do not answer cost no more than the wait.
func TestARoundIsBoundedByTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(Disable)
		f.calls = nobody
		f.slow = time.Hour
		request := asked(Permissive)
		request.Wait = 10 * time.Second
		var back time.Duration
		f.refuses = func(object *unstructured.Unstructured) error {
			if len(f.applied) == 1 {
				back = time.Since(f.began)
			}
			return nil
		}
		result, err := Set(t.Context(), f, request)
		require.NoError(t, err)
		require.Equal(t, RolledBack, result.Action)
		require.Equal(t, []string{"PERMISSIVE", "DISABLE"}, f.applied)
		require.LessOrEqual(t, back, request.Wait+roundLeast+lookEvery)
	})
}

// Each sidecar has its own time to answer: many are no reason to know nothing.
func TestManySidecars(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(Permissive)
		f.calls = nobody
		for i := range 40 {
			pod := f.state.Pods[0]
			pod.Name, pod.UID = fmt.Sprintf("orders-1%d", i), fmt.Sprintf("1%d", i)
			f.state.Pods = append(f.state.Pods, pod)
		}
		f.slow = 10 * time.Second
		request := asked(Strict)
		request.Wait = 3 * time.Minute
		result, err := Set(t.Context(), f, request)
		require.NoError(t, err)
		require.Equal(t, Changed, result.Action, "%+v", result.Reasons)
		require.Equal(t, 41, result.Sidecars)
	})
}

// Two observers would break each other's listeners.
func TestOnlyOneObserves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(Permissive)
		f.calls = nobody
		f.observer = &Observer{Namespace: "shop", Name: "weir-mtls-observer-12ab", Run: "other"}
		const says = "EnvoyFilter shop/weir-mtls-observer-12ab is of another observation, and two do not go together: " +
			"wait until that has ended or, if it was killed, run kubectl delete envoyfilter -n shop weir-mtls-observer-12ab"
		result, err := Set(t.Context(), f, asked(Strict))
		require.NoError(t, err)
		require.Equal(t, Refused, result.Action)
		require.Equal(t, []Reason{{policy.CodeMTLSUnknown, says}}, result.Reasons)
		_, err = Watch(t.Context(), f, asked(Strict))
		require.ErrorContains(t, err, says)
		require.Empty(t, f.applied)
		result, err = Set(t.Context(), f, asked(Disable))
		require.NoError(t, err)
		require.Equal(t, Changed, result.Action, "for that nobody is observed")
	})
}

func TestTheRootNamespaceIsNotObserved(t *testing.T) {
	f := newFake(Permissive)
	f.state.Policies.Root = "shop"
	_, err := Watch(t.Context(), f, asked(Strict))
	require.ErrorContains(t, err, "where an EnvoyFilter is every sidecar's")
	require.Empty(t, f.applied)
}
