package apply

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weir.dev/mesh/istio"
)

const (
	lookEvery = 250 * time.Millisecond
	// askWithin bounds one asking of the mesh.
	askWithin = 30 * time.Second
	// restoreWithin bounds putting everything back, and restoreWait each wait of it,
	// of which there are three at most.
	restoreWithin = 4 * time.Minute
	restoreWait   = time.Minute
)

// change makes the changes in an order in which no route is served without what
// guards it, and nothing is referred to that is not there:
//
//  1. routes that go are taken out, when the rules of extauthz change: by the new
//     ones their paths might be anybody's,
//  2. what is referred to, and the guards, until every istiod and extauthz has them, and
//     every gateway where Istio judges tokens,
//  3. Gateways and routes, until the gateways serve them and every patch took,
//  4. what is left over from before.
//
// A failure of the first three puts everything back.
func (r *run) change(ctx context.Context) {
	for _, it := range slices.Concat(r.items, r.deletions) {
		if it.action != Unchanged {
			it.action = NotApplied
		}
	}
	for _, step := range []func(context.Context) error{r.retire, r.guard, r.route} {
		if err := step(ctx); err != nil {
			r.result.Failed = append(r.result.Failed, err.Error())
			r.restore(ctx)
			return
		}
	}
	r.result.Checked = r.Mesh != nil
	if err := r.settle(ctx); err != nil {
		r.result.Failed = append(r.result.Failed, err.Error())
	}
}

// retire takes the routes out that go, from the live VirtualServices. Where Istio hands
// requests back to extauthz, routes that will lead elsewhere, or be rewritten otherwise,
// go as well: extauthz has the new rules long before the routes change, and they may be
// open for where these lead then.
func (r *run) retire(ctx context.Context) error {
	if !r.rulesChange() {
		return nil
	}
	r.request.Progress("taking out routes that go")
	had := r.serving()
	var trimmed []*item
	for _, it := range r.services() {
		rest, removed := without(it.before, it.want, r.handsBack())
		if removed == 0 {
			continue
		}
		if err := r.write(ctx, it, rest); err != nil {
			return err
		}
		trimmed = append(trimmed, it)
	}
	return r.lost(ctx, trimmed, had, r.gatewaysBefore())
}

// lost waits until the gateways have not the routes any more that were taken out of
// what they had, and those that were put back in their places. Nothing else is waited
// for: what this apply is to mend is not there yet.
func (r *run) lost(ctx context.Context, trimmed []*item, had []*unstructured.Unstructured, gateways map[string]*unstructured.Unstructured) error {
	if len(trimmed) == 0 || r.Mesh == nil {
		return nil
	}
	if err := r.known(ctx, trimmed); err != nil {
		return err
	}
	left := altered(had, r.serving(), gateways)
	if len(left) == 0 {
		return nil
	}
	return r.await(ctx, "the gateways to have lost routes that go", func(ctx context.Context) ([]string, error) {
		return r.Mesh.Unserved(ctx, nil, left)
	})
}

// guard brings what is referred to and what guards, and waits for it.
func (r *run) guard(ctx context.Context) error {
	var rules []byte
	judged := map[*item]*unstructured.Unstructured{}
	for _, it := range r.items {
		if it.id.Kind == "EnvoyFilter" {
			judged[it] = r.meanwhile(it)
		}
	}
	told, err := r.unspared(ctx)
	if err != nil {
		return err
	}
	for _, part := range r.parts() {
		for _, it := range part {
			if routing(it.id.Kind) || it.action == Unchanged {
				continue
			}
			r.request.Progress("applying " + it.id.String())
			if err := r.write(ctx, it, cmp.Or(judged[it], with(it.before, it.want))); err != nil {
				return err
			}
			if it.id.Kind != "Secret" && it.id.Kind != "ConfigMap" {
				told = append(told, it)
			}
		}
		if r.Mesh == nil {
			continue
		}
		if err := r.known(ctx, told); err != nil {
			return err
		}
		told = nil
	}
	if r.Mesh == nil {
		return nil
	}
	for _, it := range r.items {
		if it.id.Kind == "Secret" && it.id.Name == istio.RulesSecret {
			rules = content(it.want)
		}
	}
	if rules != nil {
		err := r.await(ctx, "extauthz to have the rules", func(ctx context.Context) ([]string, error) { return r.Mesh.Unruled(ctx, rules) })
		if err != nil {
			return err
		}
	}
	return r.judge(ctx)
}

// route brings Gateways and VirtualServices, and waits until they are served with
// every patch.
func (r *run) route(ctx context.Context) error {
	var told []*item
	for _, it := range r.items {
		// One that was trimmed is written even if it is to be as it was before that.
		if !routing(it.id.Kind) || it.action == Unchanged && !slices.Contains(r.written, it) {
			continue
		}
		r.request.Progress("applying " + it.id.String())
		if err := r.write(ctx, it, it.want); err != nil {
			return err
		}
		told = append(told, it)
	}
	for _, it := range r.deletions {
		if routing(it.id.Kind) && it.action != Deleted {
			if err := r.write(ctx, it, nil); err != nil {
				return err
			}
		}
	}
	if r.Mesh == nil {
		return nil
	}
	if err := r.known(ctx, told); err != nil {
		return err
	}
	var filters, before, services []*unstructured.Unstructured
	for _, it := range slices.Concat(r.items, r.deletions) {
		switch it.id.Kind {
		case "EnvoyFilter":
			if it.want != nil {
				filters = append(filters, r.asserted(it))
			}
		case "VirtualService":
			before, services = append(before, it.before), append(services, it.want)
		}
	}
	gateways := r.gateways()
	expected := reformed(routesOf(services, before, gateways), before, services, gateways)
	return r.await(ctx, "the gateways to serve it", func(ctx context.Context) ([]string, error) {
		return r.Mesh.Unserved(ctx, filters, expected)
	})
}

// settle takes away what only the change itself needed, and what the set does not
// hold any more.
func (r *run) settle(ctx context.Context) error {
	r.request.Progress("deleting what is not there any more")
	// Who is not refused any more is told before tokens are not judged any more.
	var told []*item
	for _, kind := range []string{"AuthorizationPolicy", "RequestAuthentication", "EnvoyFilter", "DestinationRule"} {
		for _, it := range r.items {
			if it.id.Kind != kind || !slices.Contains(r.written, it) || r.meanwhile(it) == it.want {
				continue
			}
			if err := r.write(ctx, it, it.want); err != nil {
				return err
			}
			told = append(told, it)
		}
		for _, it := range r.deletions {
			if it.id.Kind == kind {
				if err := r.drop(ctx, it); err != nil {
					return err
				}
			}
		}
		if kind == "AuthorizationPolicy" && r.Mesh != nil && r.judges() {
			if err := r.known(ctx, told); err != nil {
				return err
			}
			told = nil
		}
	}
	for _, it := range r.deletions {
		if err := r.drop(ctx, it); err != nil {
			return err
		}
	}
	if r.Mesh == nil || !r.judges() {
		return nil
	}
	return r.known(ctx, told)
}

// drop deletes what the set does not hold any more.
func (r *run) drop(ctx context.Context, it *item) error {
	if it.action == Deleted { // what brings requests in is gone before
		return nil
	}
	if err := it.delete(ctx, it.before, false); err != nil {
		return fmt.Errorf("%s is not deleted: %w; what is served is new already, so apply again", it.id, err)
	}
	it.action = Deleted
	return nil
}

// write applies one object; nil deletes it.
func (r *run) write(ctx context.Context, it *item, value *unstructured.Unstructured) error {
	if !slices.Contains(r.written, it) {
		r.written = append(r.written, it)
	}
	if value == nil {
		if err := it.delete(ctx, it.before, false); err != nil {
			return fmt.Errorf("%s is not deleted: %w", it.id, err)
		}
		it.action, it.after = Deleted, nil
		return nil
	}
	after, err := it.apply(ctx, value, r.request.Force, false)
	if err != nil {
		return fmt.Errorf("%s is not applied: %w", it.id, err)
	}
	it.after, it.action = after, Changed
	if it.before == nil {
		it.action = Created
	}
	return nil
}

// known waits until every istiod has these versions.
func (r *run) known(ctx context.Context, items []*item) error {
	var versions []*unstructured.Unstructured
	for _, it := range items {
		if it.after != nil {
			versions = append(versions, it.after)
		}
	}
	if len(versions) == 0 {
		return nil
	}
	return r.await(ctx, "istiod to have the objects", func(ctx context.Context) ([]string, error) { return r.Mesh.Missing(ctx, versions) })
}

// await asks until nothing is left, or time is over; the error has what was left.
func (r *run) await(whole context.Context, what string, ask func(context.Context) ([]string, error)) error {
	ctx, cancel := context.WithTimeout(whole, r.request.Wait)
	defer cancel()
	var left []string
	var failed error
	for {
		asking, done := context.WithTimeout(ctx, askWithin)
		now, err := ask(asking)
		done()
		if err == nil && len(now) == 0 {
			return nil
		}
		if err == nil || ctx.Err() == nil { // not for an asking that was cut off
			left, failed = now, err
		}
		switch {
		case failed != nil:
			r.request.Progress("waiting for " + what + ": " + failed.Error())
		case len(left) > 0:
			r.request.Progress("waiting for " + what + ": " + left[0])
		}
		select {
		case <-ctx.Done():
			if whole.Err() != nil {
				return fmt.Errorf("ended while waiting for %s: %w", what, whole.Err())
			}
			return unmetError{what: what, within: r.request.Wait, left: left, failed: failed}
		case <-time.After(lookEvery):
		}
	}
}

// unmetError is what was waited for in vain.
type unmetError struct {
	what   string
	within time.Duration
	left   []string
	failed error
}

// maxLeft bounds what is listed of it.
const maxLeft = 10

func (e unmetError) Error() string {
	text := fmt.Sprintf("waited %s for %s in vain", e.within, e.what)
	if e.failed != nil {
		return text + ": " + e.failed.Error()
	}
	for i, line := range e.left {
		if i == maxLeft {
			return fmt.Sprintf("%s\n    and %d more", text, len(e.left)-i)
		}
		text += "\n    " + line
	}
	return text
}

func (e unmetError) Unwrap() error { return e.failed }
