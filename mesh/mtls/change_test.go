package mtls

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weir.dev/policy"
)

// fake is a cluster with one workload, orders, and who calls it. Sidecars have a
// change after late.
type fake struct {
	mu       sync.Mutex
	state    State
	run      string
	observer *Observer
	late     time.Duration
	calls    func(since time.Duration) (from string, plaintext bool)
	began    time.Time
	applied  []string
	settled  Mode
	refuses  func(object *unstructured.Unstructured) error
	asking   error
	deaf     bool
	logsLost error
}

func newFake(mode Mode) *fake {
	f := &fake{began: time.Now(), settled: mode, state: State{
		Policies: Policies{Root: "istio-system"},
		Pods: []Pod{
			{Namespace: "shop", Name: "orders-1", UID: "1", Labels: map[string]string{"app": "orders"}, Workload: "Deployment orders", Sidecar: "istio-proxy", Running: true},
			{Namespace: "shop", Name: "batch-1", UID: "2", Labels: map[string]string{"app": "batch"}, Running: true},
			{Namespace: "shop", Name: "gateway-1", UID: "3", Gateway: true, Running: true},
		},
	}}
	if mode != Permissive {
		f.state.Policies.All = []Policy{{Scope: Scope{Namespace: "shop"}, Name: "weir-mtls", Created: at(0), Mode: mode, Ours: true}}
	}
	return f
}

func (f *fake) State(context.Context, string) (State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return State{Policies: f.state.Policies.with(Scope{}, Unset, at(0)), Pods: f.state.Pods}, nil
}

func (f *fake) Directory(context.Context) (Directory, error) {
	return Directory{
		Pods:    map[string]Pod{"10.0.0.9": {Namespace: "legacy", Name: "old-1", Workload: "Deployment old"}},
		Nodes:   map[string]string{"10.1.0.1": "node1"},
		Targets: map[string]string{"shop/orders-1": "Deployment orders"},
	}, nil
}

func (f *fake) Apply(_ context.Context, object *unstructured.Unstructured, dry bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuses != nil {
		if err := f.refuses(object); err != nil {
			return err
		}
	}
	if dry {
		return nil
	}
	if object.GetKind() == "EnvoyFilter" {
		f.applied = append(f.applied, "observer")
		raw, _ := json.Marshal(object)
		_, rest, _ := strings.Cut(string(raw), `"weir_mtls":"`)
		f.run, _, _ = strings.Cut(rest, `"`)
		observer := ReadObserver(object)
		f.observer = &observer
		return nil
	}
	read, err := ReadPolicy(object)
	if err != nil {
		return err
	}
	read.Created = at(1)
	f.applied = append(f.applied, string(read.Mode))
	f.state.Policies = f.state.Policies.with(read.Scope, Unset, at(0))
	f.state.Policies.All = append(f.state.Policies.All, read)
	f.settle()
	return nil
}

// settle has the sidecars take what the policies say, a while later.
func (f *fake) settle() {
	mode := f.state.Policies.Effective("shop", f.state.Pods[0].Labels).Mode
	go func() {
		time.Sleep(f.late)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.settled = mode
	}()
}

func (f *fake) Delete(_ context.Context, object *unstructured.Unstructured) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuses != nil {
		if err := f.refuses(object); err != nil {
			return err
		}
	}
	if object.GetKind() == "EnvoyFilter" {
		f.applied = append(f.applied, "no observer")
		if f.observer != nil && f.observer.Run == ReadObserver(object).Run {
			f.run, f.observer = "", nil
		}
		return nil
	}
	f.applied = append(f.applied, "deleted")
	f.state.Policies = f.state.Policies.with(Scope{Namespace: object.GetNamespace()}, Unset, at(0))
	f.settle()
	return nil
}

func (f *fake) Observers(context.Context, string) ([]Observer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.observer == nil {
		return nil, nil
	}
	return []Observer{*f.observer}, nil
}

func (f *fake) Inbound(context.Context, Pod) (Inbound, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	inbound := Inbound{Ports: map[uint32]Mode{0: f.settled, 8080: f.settled}, logs: []string{"other"}}
	if f.run != "" && !f.deaf {
		inbound.logs = []string{"other " + logName(f.run)}
	}
	return inbound, f.asking
}

func (f *fake) Follow(ctx context.Context, _ Pod, _ bool, line func([]byte)) error {
	for pause(ctx, 100*time.Millisecond) {
		f.mu.Lock()
		run, mode, lost := f.run, f.settled, f.logsLost
		f.mu.Unlock()
		if lost != nil {
			return lost
		}
		line([]byte("[2026] \"GET / HTTP/1.1\" 200"))
		if from, plain := f.calls(time.Since(f.began)); from != "" && run != "" && plain {
			what := kindRequest
			if mode == Strict {
				what = kindRefused
			}
			line(fmt.Appendf(nil, `{"weir_mtls":%q,"what":%q,"type":"DownstreamStart","connection":7,"from":"%s:40000","to":"10.0.0.1:8080"}`, run, what, from))
		}
	}
	return nil
}

func nobody(time.Duration) (string, bool) { return "", false }

func between(from string, begin, end time.Duration) func(time.Duration) (string, bool) {
	return func(since time.Duration) (string, bool) { return from, since >= begin && since < end }
}

func asked(to Mode) Request {
	return Request{Scope: Scope{Namespace: "shop"}, To: to, Observe: time.Minute, Watch: 30 * time.Second, Wait: 20 * time.Second, Progress: func(string) {}}
}

func TestSet(t *testing.T) {
	always := between("10.0.0.9", 0, time.Hour)
	foreignPolicy := func(f *fake) {
		f.state.Policies.All = append(f.state.Policies.All, Policy{Scope: Scope{Namespace: "shop"}, Name: "default", Created: at(0), Mode: Permissive})
	}
	for _, given := range []struct {
		name   string
		from   Mode
		to     Mode
		calls  func(time.Duration) (string, bool)
		change func(*fake)
		action string
		code   policy.Code
		says   string
		// applied are the changes, in order.
		applied []string
	}{
		{name: "nobody calls in plaintext", from: Permissive, to: Strict, calls: nobody, action: Changed, applied: []string{"observer", "STRICT", "no observer"}},
		{
			name: "a caller in plaintext is named", from: Permissive, to: Strict, calls: always, action: Refused, code: policy.CodeMTLSPlaintext,
			says: "pod legacy/old-1 (Deployment old), 10.0.0.9: 6", applied: []string{"observer", "no observer"},
		},
		{
			name: "one who called once", from: Permissive, to: Strict, calls: between("10.1.0.1", 30*time.Second, 30*time.Second+150*time.Millisecond), action: Refused,
			code: policy.CodeMTLSPlaintext, says: "node node1, 10.1.0.1: ", applied: []string{"observer", "no observer"},
		},
		{
			name: "one that nobody knows", from: Permissive, to: Strict, calls: between("192.0.2.1", 0, time.Hour), action: Refused,
			code: policy.CodeMTLSPlaintext, says: "unknown, 192.0.2.1: ", applied: []string{"observer", "no observer"},
		},
		{
			name: "one who comes afterwards", from: Permissive, to: Strict, calls: between("10.0.0.9", 75*time.Second, time.Hour), action: RolledBack,
			code: policy.CodeMTLSRolledBack, says: "pod legacy/old-1 (Deployment old), 10.0.0.9: ",
			applied: []string{"observer", "STRICT", "deleted", "no observer"},
		},
		{
			name: "a sidecar that cannot be asked", from: Permissive, to: Strict, calls: nobody, action: Refused, code: policy.CodeMTLSUnknown,
			change: func(f *fake) { f.asking = errors.New("no route") }, says: "the sidecar of shop/orders-1 cannot be asked: no route", applied: []string{"observer", "no observer"},
		},
		{
			name: "a sidecar that does not tell", from: Permissive, to: Strict, calls: nobody, action: Refused, code: policy.CodeMTLSUnknown,
			change: func(f *fake) { f.deaf = true }, says: "the sidecar of shop/orders-1 does not tell who calls it", applied: []string{"observer", "no observer"},
		},
		{
			name: "a log that cannot be read", from: Permissive, to: Strict, calls: nobody, action: Refused, code: policy.CodeMTLSUnknown,
			change: func(f *fake) { f.logsLost = errors.New("gone") }, says: "the log of the sidecar of shop/orders-1 cannot be read: gone", applied: []string{"observer", "no observer"},
		},
		{
			name: "sidecars that do not take it", from: Permissive, to: Strict, calls: nobody, action: RolledBack, code: policy.CodeMTLSRolledBack,
			change: func(f *fake) { f.late = time.Hour }, says: "waited 20s for the sidecars in vain: pod shop/orders-1: other ports of it: PERMISSIVE, want STRICT",
			applied: []string{"observer", "STRICT", "deleted", "no observer"},
		},
		{name: "two steps", from: Disable, to: Strict, calls: nobody, action: Refused, code: policy.CodeMTLSStep, says: "set PERMISSIVE first"},
		{name: "two steps back", from: Strict, to: Disable, calls: nobody, action: Refused, code: policy.CodeMTLSStep, says: "set PERMISSIVE first"},
		{name: "a step that nobody need be observed for", from: Disable, to: Permissive, calls: always, action: Changed, applied: []string{"PERMISSIVE"}},
		{name: "a step back", from: Strict, to: Permissive, calls: always, action: Changed, applied: []string{"PERMISSIVE"}},
		{name: "no step", from: Strict, to: Strict, calls: always, action: Unchanged},
		{name: "another's policy", from: Permissive, to: Strict, calls: nobody, change: foreignPolicy, action: Refused, code: policy.CodeMTLSForeign, says: "PeerAuthentication shop/default is of the same scope"},
		{name: "another's policy, of the same mode", from: Permissive, to: Permissive, calls: nobody, change: foreignPolicy, action: Refused, code: policy.CodeMTLSForeign, says: "shop/default"},
		{
			name: "no sidecar at all", from: Permissive, to: Strict, calls: nobody, change: func(f *fake) { f.state.Pods[0].Sidecar = "" },
			action: Refused, code: policy.CodeMTLSUnknown, says: "no pod of namespace shop has a sidecar",
		},
		{
			name: "an ambient mesh", from: Permissive, to: Strict, calls: nobody, change: func(f *fake) { f.state.Pods[1].Ambient = true },
			action: Refused, code: policy.CodeMTLSUnknown, says: "pod shop/batch-1 is in an ambient mesh",
		},
		{
			name: "the root namespace", from: Permissive, to: Strict, calls: nobody, change: func(f *fake) { f.state.Policies.Root = "shop" },
			action: Refused, code: policy.CodeMTLSForeign, says: "root namespace",
		},
	} {
		t.Run(given.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(given.from)
				f.calls = given.calls
				if given.change != nil {
					given.change(f)
				}
				result, err := Set(t.Context(), f, asked(given.to))
				require.NoError(t, err)
				time.Sleep(f.late)
				require.Equal(t, given.action, result.Action, "%+v", result)
				require.Equal(t, given.from, result.From)
				require.Equal(t, given.applied, f.applied)
				if given.code == "" {
					require.Empty(t, result.Reasons)
				} else {
					require.Equal(t, given.code, result.Reasons[0].Code)
					require.Contains(t, result.Reasons[0].Message, given.says)
				}
			})
		})
	}
}

// The negative control of all evidence: with none of it the step is taken, and who
// calls is cut off. Nothing but the evidence keeps the machine from it.
func TestSetGoesByTheEvidence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(Permissive)
		f.calls = between("10.0.0.9", 0, 61*time.Second)
		observing, err := observe(t.Context(), f, Standing{Governed: f.state.Pods[:1]}, asked(Strict))
		require.NoError(t, err)
		evidence := observing.evidence(t.Context())
		require.NoError(t, observing.end(t.Context()))
		require.Len(t, mayEnforce(evidence), 1)
		require.Empty(t, mayEnforce(Evidence{}), "nobody seen, and nothing unknown")
		require.Empty(t, mayEnforce(Evidence{Callers: []Caller{{Refused: 3}}}), "who is refused already is not cut off by it")
	})
}

// An interruption leaves nothing behind.
func TestSetIsInterrupted(t *testing.T) {
	for name, given := range map[string]struct {
		after   time.Duration
		applied []string
	}{
		"while it observes": {30 * time.Second, []string{"observer", "no observer"}},
		"while it watches":  {70 * time.Second, []string{"observer", "STRICT", "deleted", "no observer"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(Permissive)
				f.calls = nobody
				ctx, cancel := context.WithTimeout(t.Context(), given.after)
				defer cancel()
				result, err := Set(ctx, f, asked(Strict))
				if err == nil {
					require.Equal(t, RolledBack, result.Action)
					require.Contains(t, result.Reasons[0].Message, "interrupted")
				} else {
					require.ErrorContains(t, err, "interrupted; no mode was changed")
				}
				require.Equal(t, given.applied, f.applied)
				synctest.Wait()
				require.Equal(t, Permissive, f.settled)
			})
		})
	}
}

func TestDryRunChangesNoMode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(Permissive)
		f.calls = nobody
		request := asked(Strict)
		request.DryRun = true
		result, err := Set(t.Context(), f, request)
		require.NoError(t, err)
		require.Equal(t, WouldBe, result.Action)
		require.Equal(t, []string{"observer", "no observer"}, f.applied)
		require.Equal(t, []string{"without a sidecar, where STRICT does nothing: shop/batch-1"}, result.Notes)
		f.refuses = func(*unstructured.Unstructured) error { return errors.New("no permission") }
		_, err = Set(t.Context(), f, request)
		require.ErrorContains(t, err, "no permission")
	})
}

func TestRollback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(Permissive)
		f.calls = nobody
		ctx := t.Context()
		for _, step := range []Mode{Disable, Permissive, Strict, Permissive} {
			result, err := Set(ctx, f, asked(step))
			require.NoError(t, err)
			require.Equal(t, Changed, result.Action, "%s: %+v", step, result.Reasons)
		}
		request := asked(Unset)
		result, err := Rollback(ctx, f, request)
		require.NoError(t, err)
		require.Equal(t, Refused, result.Action, "it does not go to STRICT unseen")
		require.Equal(t, policy.CodeMTLSStep, result.Reasons[0].Code)
		_, err = Set(ctx, f, asked(Strict))
		require.NoError(t, err)
		result, err = Rollback(ctx, f, request)
		require.NoError(t, err)
		require.Equal(t, Changed, result.Action)
		require.Equal(t, Permissive, f.settled)
		ours, _ := f.state.Policies.same(request.Scope)
		require.Len(t, ours.History, 4)

		ours.History = []Former{{Mode: Unset}}
		result, err = Rollback(ctx, f, request)
		require.NoError(t, err)
		require.Equal(t, Changed, result.Action)
		require.Empty(t, f.state.Policies.All, "there was none before ours")
		result, err = Rollback(ctx, f, request)
		require.NoError(t, err)
		require.Equal(t, Refused, result.Action)
		require.Contains(t, result.Reasons[0].Message, "has no PeerAuthentication that Weir set")
	})
}
