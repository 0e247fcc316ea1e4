package mtls

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weir.dev/policy"
)

// Cluster is what the machine knows of a cluster, and does to it. Its methods are
// safe for concurrent use.
type Cluster interface {
	// State reads the policies, and the pods of a namespace.
	State(ctx context.Context, namespace string) (State, error)
	// Directory reads who has which address, in the whole cluster.
	Directory(ctx context.Context) (Directory, error)
	// Apply brings an object by server-side apply as field manager weir; dry only tries
	// it. A field of another manager is an error.
	Apply(ctx context.Context, object *unstructured.Unstructured, dry bool) error
	// Observers are those of a namespace that carry our labels.
	Observers(ctx context.Context, namespace string) ([]Observer, error)
	// Delete takes away what Apply brought; what is not there, not labelled as ours, or
	// of another run is left.
	Delete(ctx context.Context, object *unstructured.Unstructured) error
	// Inbound asks a pod's sidecar how it takes connections.
	Inbound(ctx context.Context, pod Pod) (Inbound, error)
	// Follow calls line with each line that a pod's sidecar logs from now on, or from its
	// start, until the context ends or the pod is gone, which are no errors. The bytes
	// are line's until it returns.
	Follow(ctx context.Context, pod Pod, fromStart bool, line func([]byte)) error
}

// Bounds of times.
const (
	// askWithin bounds one asking of the cluster.
	askWithin = 30 * time.Second
	lookEvery = 500 * time.Millisecond
	// logsLate is how long what a sidecar logs may take: Istio has it written each second,
	// and a log that is silent is asked for anew after four.
	logsLate = 7 * time.Second
	// answerWithin bounds one attempt of them, so that there are more.
	answerWithin = 10 * time.Second
	// restoreWithin bounds putting things back.
	restoreWithin = 2 * time.Minute
)

// Request is a step that is asked for.
type Request struct {
	Scope Scope
	To    Mode
	// Observe is how long callers are looked for before STRICT, Watch how long
	// afterwards, Wait how long a change may take until every sidecar has it.
	Observe, Watch, Wait time.Duration
	// DryRun decides, with an observation, and changes no mode.
	DryRun bool
	// Progress is told what is done. Needed.
	Progress func(string)
}

// What came of a request.
const (
	Changed    = "changed"
	Unchanged  = "unchanged"
	WouldBe    = "would be changed"
	Refused    = "refused"
	RolledBack = "rolled back"
	// Cleared is that an observer was taken away which had been left, and no more.
	Cleared = "cleared"
	// Stuck is what was to be put back and could not be.
	Stuck = "not put back"
)

// Result is what came of it.
type Result struct {
	Scope  Scope  `json:"scope"`
	From   Mode   `json:"from"`
	To     Mode   `json:"to"`
	Action string `json:"action"`
	// Reasons are why not.
	Reasons []Reason `json:"reasons,omitempty"`
	// Callers are those that were seen in plaintext, or refused afterwards.
	Callers []Caller `json:"callers,omitempty"`
	Notes   []string `json:"notes,omitempty"`
	// Sidecars is how many go by the mode.
	Sidecars int `json:"sidecars"`
}

// change is one request at work.
type change struct {
	Cluster
	request  Request
	standing Standing
	result   *Result
	// observing is the observation before STRICT, and before who it found.
	observing *observation
	before    []Caller
}

// Set takes a scope one step. The error is of the asking alone; what was refused is in
// the result. Where the context ends midway, what was changed is put back.
func Set(ctx context.Context, cluster Cluster, request Request) (*Result, error) {
	c := &change{Cluster: cluster, request: request, result: &Result{Scope: request.Scope, To: request.To}}
	request.Progress("looking at " + request.Scope.String())
	state, err := c.State(ctx, request.Scope.Namespace)
	if err != nil {
		return nil, err
	}
	var reasons []Reason
	c.standing, reasons = Stand(state, request.Scope)
	c.result.From, c.result.Sidecars, c.result.Notes = c.standing.Mode, len(c.standing.Governed), c.standing.notes(request.To)
	if c.standing.Mode == request.To && len(reasons) == 0 {
		c.result.Action = Unchanged
		c.result.Notes = append(c.result.Notes, "by "+c.standing.By)
		return c.result, nil
	}
	if len(reasons) == 0 {
		reasons = mayBegin(c.standing, request.To)
	}
	if len(reasons) > 0 {
		return c.refuse(reasons), nil
	}
	former := Former{Until: time.Now().UTC().Format(time.RFC3339)}
	var history []Former
	if ours := c.standing.ours; ours != nil {
		former.Mode, history = ours.Mode, ours.History
	}
	if history = append(history, former); len(history) > maxHistory {
		history = history[len(history)-maxHistory:]
	}
	made, err := PolicyObject(request.Scope, request.To, history)
	if err != nil {
		return nil, err
	}
	if err := c.Apply(ctx, made, true); err != nil {
		return nil, err
	}
	return c.take(ctx, made)
}

func (c *change) refuse(reasons []Reason) *Result {
	c.result.Action, c.result.Reasons = Refused, reasons
	return c.result
}

// take observes where that is needed, and makes the change.
func (c *change) take(ctx context.Context, made *unstructured.Unstructured) (*Result, error) {
	if c.request.To == Strict {
		observing, err := observe(ctx, c.Cluster, c.standing, c.request)
		if observing != nil {
			defer c.endObservation(ctx, observing)
		}
		if err != nil {
			return nil, err
		}
		evidence := observing.evidence(ctx)
		if ctx.Err() != nil {
			return nil, interrupted(ctx)
		}
		if reasons := mayEnforce(evidence); len(reasons) > 0 {
			c.result.Callers = Plaintext(evidence.Callers)
			return c.refuse(reasons), nil
		}
		c.observing, c.before = observing, evidence.Callers
	}
	if c.request.DryRun {
		c.result.Action = WouldBe
		return c.result, nil
	}
	c.request.Progress("setting " + string(c.request.To))
	if err := c.Apply(ctx, made, false); err != nil {
		// It may have come although the answer did not.
		return c.restore(ctx, []Reason{{policy.CodeMTLSRolledBack, err.Error()}}), nil
	}
	if reasons := c.verify(ctx); len(reasons) > 0 {
		return c.restore(ctx, reasons), nil
	}
	c.result.Action = Changed
	return c.result, nil
}

// endObservation says what could not be taken away.
func (c *change) endObservation(ctx context.Context, observing *observation) {
	if err := observing.end(ctx); err != nil {
		observer := ReadObserver(observing.object)
		c.result.Notes = append(c.result.Notes, fmt.Sprintf("%s, which was observed by, may still be there; run %s: %v", &observer, observer.takeAway(), err))
	}
}

func interrupted(ctx context.Context) error {
	return fmt.Errorf("interrupted; no mode was changed: %w", context.Cause(ctx))
}

// verify waits until every sidecar has the mode and, after STRICT, watches whether
// somebody is harmed.
func (c *change) verify(ctx context.Context) []Reason {
	if late := c.settle(ctx, c.request.Wait); late != "" {
		return []Reason{{policy.CodeMTLSRolledBack, late}}
	}
	if c.observing == nil {
		return nil
	}
	c.request.Progress(fmt.Sprintf("watching for %s whether somebody is refused", c.request.Watch))
	for end := time.Now().Add(c.request.Watch + logsLate); ; {
		callers := harmed(c.before, c.observing.tally.callers(Directory{}))
		if len(callers) > 0 {
			return c.blame(ctx, callers)
		}
		if why := c.observing.blind(); why != "" {
			return []Reason{{policy.CodeMTLSRolledBack, why}}
		}
		if !time.Now().Before(end) {
			return nil
		}
		if !pause(ctx, lookEvery) {
			return []Reason{{policy.CodeMTLSRolledBack, "interrupted before it was known whether somebody is refused"}}
		}
	}
}

// blame names who was harmed; who it is may have come after the observation.
func (c *change) blame(ctx context.Context, callers []Caller) []Reason {
	c.observing.look(ctx)
	var reasons []Reason
	for i := range callers {
		c.observing.directory.name(&callers[i])
		reasons = append(reasons, Reason{policy.CodeMTLSRolledBack, fmt.Sprintf("%s: %s", &callers[i], remedy(&callers[i]))})
	}
	c.result.Callers = callers
	return reasons
}

// settle waits until every sidecar of the scope has the modes that the policies say;
// what is missing is answered when it is in vain.
func (c *change) settle(ctx context.Context, within time.Duration) string {
	c.request.Progress("waiting for the sidecars to have it")
	for end := time.Now().Add(within); ; {
		state, err := c.State(ctx, c.request.Scope.Namespace)
		var late string
		if err == nil {
			standing, _ := Stand(state, c.request.Scope)
			late = firstOf(standing.Governed, func(pod Pod) string {
				inbound, err := c.ask(ctx, pod)
				if err != nil {
					return err.Error()
				}
				if inbound.Rejected != "" {
					return "its proxy refuses its configuration: " + inbound.Rejected
				}
				return inbound.Differs(state.Policies.Effective(pod.Namespace, pod.Labels))
			})
		} else {
			late = err.Error()
		}
		switch {
		case late == "":
			return ""
		case !time.Now().Before(end):
			return fmt.Sprintf("waited %s for the sidecars in vain: %s", within, late)
		case !pause(ctx, lookEvery):
			return "interrupted before every sidecar had it"
		}
	}
}

func (c *change) ask(ctx context.Context, pod Pod) (Inbound, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	return c.Inbound(ctx, pod)
}

// restore puts the policy back as it was; an ended context does not keep it from that.
func (c *change) restore(ctx context.Context, reasons []Reason) *Result {
	c.result.Action, c.result.Reasons = RolledBack, reasons
	c.request.Progress("putting it back")
	ctx = context.WithoutCancel(ctx)
	within, cancel := context.WithTimeout(ctx, restoreWithin)
	defer cancel()
	if err := putBack(within, c.Cluster, c.request.Scope, c.standing.ours); err != nil {
		scope := c.request.Scope
		c.result.Action = Stuck
		c.result.Reasons = append(c.result.Reasons, Reason{policy.CodeMTLSRolledBack, fmt.Sprintf(
			"could not be put back: %v; once the API server answers, see weir mesh mtls status -n %s: where %s is %s, run weir mesh mtls rollback %s; where it is %s, nothing is left to do",
			err, scope.Namespace, scope, c.request.To, scope.flags(), c.standing.Mode)})
		return c.result
	}
	if late := c.settle(ctx, min(c.request.Wait, restoreWithin)); late != "" {
		c.result.Notes = append(c.result.Notes, "the policy is as it was; "+late)
	}
	return c.result
}

// putBack brings the policy of before, or takes ours away where there was none. It tries
// until the context ends, since callers may be cut off as long, but a few times only what
// the API server refuses.
func putBack(ctx context.Context, cluster Cluster, scope Scope, former *Policy) error {
	mode, history := Permissive, []Former(nil)
	if former != nil {
		mode, history = former.Mode, former.History
	}
	made, err := PolicyObject(scope, mode, history)
	if err != nil {
		return err
	}
	attempt := func() error {
		ctx, cancel := context.WithTimeout(ctx, answerWithin)
		defer cancel()
		if former == nil {
			return cluster.Delete(ctx, made)
		}
		return cluster.Apply(ctx, made, false)
	}
	for refused := 0; ; {
		err := attempt()
		if err == nil {
			return nil
		}
		if apierrors.IsConflict(err) || apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
			refused++
		}
		if refused == 4 || !pause(ctx, lookEvery) {
			return err
		}
	}
}

// newRun is the name of an observation.
func newRun() string {
	var raw [5]byte
	_, _ = rand.Read(raw[:]) // it never fails
	return hex.EncodeToString(raw[:])
}

// pause reports false when the context has ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// gone reports whether an error is of the context's end.
func gone(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
