package mtls

import (
	"context"
	"fmt"
	"slices"

	"weir.dev/policy"
)

// Rollback takes a scope back to the mode that it had before ours was last set, or
// takes our policy away where there was none. It never goes to a stricter mode: for
// that somebody has to look who would be cut off. Where an observation was ended midway,
// without a change, what it left is taken away instead, and nothing else.
func Rollback(ctx context.Context, cluster Cluster, request Request) (*Result, error) {
	request.Progress("looking at " + request.Scope.String())
	state, err := cluster.State(ctx, request.Scope.Namespace)
	if err != nil {
		return nil, err
	}
	standing, reasons := Stand(state, request.Scope)
	c := &change{Cluster: cluster, request: request, standing: standing, result: &Result{
		Scope: request.Scope, From: standing.Mode, To: standing.Mode, Sidecars: len(standing.Governed),
	}}
	// What is left of an observation goes first, whatever becomes of the rest.
	if done, err := c.clear(ctx); done || err != nil {
		return c.result, err
	}
	ours := standing.ours
	if ours == nil {
		if len(reasons) == 0 {
			reasons = []Reason{{policy.CodeMTLSForeign, fmt.Sprintf(
				"%s has no PeerAuthentication that Weir set; it is %s by %s, which is changed where it comes from", request.Scope, standing.Mode, standing.By)}}
		}
		return c.refuse(reasons), nil
	}
	var former *Policy
	if last := len(ours.History) - 1; last >= 0 && ours.History[last].Mode != Unset {
		before := *ours
		before.Mode, before.History = ours.History[last].Mode, ours.History[:last]
		former = &before
	}
	mode := Unset
	if former != nil {
		mode = former.Mode
	}
	after := state.Policies.with(request.Scope, mode, latest(state.Policies))
	c.result.To = after.Effective(request.Scope.Namespace, request.Scope.Selector).Mode
	if c.result.To.stricter(standing.Mode) {
		return c.refuse([]Reason{{policy.CodeMTLSStep, fmt.Sprintf(
			"%s would become STRICT again, and who calls it is not known: use weir mesh mtls set STRICT, which looks", request.Scope)}}), nil
	}
	if request.DryRun {
		c.result.Action = WouldBe
		return c.result, nil
	}
	within, cancel := context.WithTimeout(ctx, restoreWithin)
	defer cancel()
	if err := putBack(within, cluster, request.Scope, former); err != nil {
		return nil, err
	}
	c.result.Action = Changed
	if late := c.settle(ctx, request.Wait); late != "" {
		c.result.Notes = append(c.result.Notes, late)
	}
	return c.result, nil
}

// clear takes an observer of the scope away that was left. done says that this is all:
// our policy is as it was when the observation began, so that no change was left, and
// the mode before it is not the one that was interrupted.
func (c *change) clear(ctx context.Context) (done bool, err error) {
	observers, err := c.Observers(ctx, c.request.Scope.Namespace)
	if err != nil {
		return false, err
	}
	name := named(observerBase, c.request.Scope)
	at := slices.IndexFunc(observers, func(o Observer) bool { return o.Name == name })
	if at < 0 {
		return false, nil
	}
	left, mark := &observers[at], c.standing.ours.mark()
	// One that remembers nothing does not say that anything was changed.
	done = c.standing.ours == nil || left.Before == "" || left.Before == mark
	if c.request.DryRun {
		c.result.Action = WouldBe
		c.result.Notes = append(c.result.Notes, left.String()+", which an observation left, would be taken away")
		return done, nil
	}
	if err := c.Delete(ctx, ObserverObject(c.request.Scope, left.Run, "")); err != nil {
		return false, fmt.Errorf("%s, which an observation left, has to go first: %w", left, err)
	}
	c.result.Action = Cleared
	c.result.Notes = append(c.result.Notes, left.String()+", which an observation left, was taken away")
	if done && c.standing.ours != nil {
		c.result.Notes = append(c.result.Notes, "no mode was changed by that observation; to go back by one nevertheless, run it again")
	}
	return done, nil
}
