package mtls

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	// relistEvery is how often pods that have come are looked for.
	relistEvery = 2 * time.Second
	// podsAtOnce bounds the sidecars that are asked together.
	podsAtOnce = 8
)

// observation has sidecars tell who calls them in plaintext. evidence is called once,
// end at last; neither by two at once.
type observation struct {
	cluster Cluster
	scope   Scope
	request Request
	run     string
	object  *unstructured.Unstructured
	tally   *tally
	stop    context.CancelFunc
	follows sync.WaitGroup

	directory Directory
	// followed are pods whose log is read, by UID.
	followed map[string]bool

	mu sync.Mutex
	// lost says of pods why their log is read no more, by UID.
	lost map[string]string
	// unready says why it did not begin.
	unready []string
}

// observe begins one. What it answers has to be ended, with an error, too.
func observe(ctx context.Context, cluster Cluster, standing Standing, request Request) (*observation, error) {
	run, scope := newRun(), request.Scope
	o := &observation{
		cluster: cluster, scope: scope, request: request, run: run, tally: newTally(run),
		object:   ObserverObject(scope, run, standing.ours.mark()),
		followed: map[string]bool{}, lost: map[string]string{},
	}
	// Logs are read until end, whatever becomes of the context: somebody may be harmed
	// while things are put back.
	var following context.Context
	following, o.stop = context.WithCancel(context.WithoutCancel(ctx))
	request.Progress("having the sidecars tell who calls in plaintext")
	o.follow(following, standing.Governed, false)
	o.look(ctx)
	if err := cluster.Apply(ctx, o.object, false); err != nil {
		return o, err
	}
	for end := time.Now().Add(request.Wait); ; {
		if _, o.unready = o.sidecars(ctx); len(o.unready) == 0 {
			break
		}
		// Who calls while one does not tell would not be seen.
		if !time.Now().Before(end) || !pause(ctx, lookEvery) {
			return o, nil
		}
	}
	o.window(ctx, following)
	return o, nil
}

// window waits while callers are counted.
func (o *observation) window(ctx, following context.Context) {
	for end := time.Now().Add(o.request.Observe); ; {
		left := time.Until(end)
		if left <= 0 {
			break
		}
		o.request.Progress(fmt.Sprintf("observing for %s more: %d plaintext callers", left.Round(time.Second), len(Plaintext(o.tally.callers(Directory{})))))
		if !pause(ctx, min(relistEvery, left)) {
			return
		}
		o.join(ctx, following)
	}
	pause(ctx, logsLate)
}

// join follows pods that have come.
func (o *observation) join(ctx, following context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	state, err := o.cluster.State(ctx, o.scope.Namespace)
	if err != nil {
		return // it is asked again, and counts at the end
	}
	standing, _ := Stand(state, o.scope)
	o.follow(following, standing.Governed, true)
	for i := range standing.Governed {
		if !o.known(standing.Governed[i]) {
			o.look(ctx)
			return
		}
	}
}

// known reports whether a pod's address has a name.
func (o *observation) known(pod Pod) bool {
	_, there := o.directory.Targets[pod.String()]
	return there
}

// follow reads the logs of pods that are not read yet.
func (o *observation) follow(ctx context.Context, pods []Pod, fromStart bool) {
	for _, pod := range pods {
		if o.followed[pod.UID] {
			continue
		}
		o.followed[pod.UID] = true
		o.follows.Go(func() {
			err := o.cluster.Follow(ctx, pod, fromStart, func(text []byte) { o.tally.line(pod.String(), text) })
			if err != nil && !gone(err) {
				o.mu.Lock()
				o.lost[pod.UID] = fmt.Sprintf("the log of the sidecar of %s cannot be read: %v; try again when it can", &pod, err)
				o.mu.Unlock()
			}
		})
	}
}

// look reads who has which address, and keeps who had one before.
func (o *observation) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWithin)
	defer cancel()
	if directory, err := o.cluster.Directory(ctx); err == nil {
		o.directory.add(directory)
	}
}

// sidecars are those that would go by the policy, and why it is not known of some who
// calls them.
func (o *observation) sidecars(ctx context.Context) (pods []Pod, unknown []string) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	state, err := o.cluster.State(ctx, o.scope.Namespace)
	if err != nil {
		return nil, []string{"the cluster cannot be asked who would be called: " + err.Error()}
	}
	standing, reasons := Stand(state, o.scope)
	for _, reason := range reasons {
		unknown = append(unknown, "meanwhile: "+reason.Message)
	}
	said := eachOf(standing.Governed, func(pod Pod) string {
		inbound, err := o.cluster.Inbound(ctx, pod)
		switch {
		case err != nil:
			return fmt.Sprintf("the sidecar of %s cannot be asked: %v", &pod, err)
		case inbound.Rejected != "":
			return fmt.Sprintf("the sidecar of %s refuses its configuration, so who calls it is not known: %s", &pod, inbound.Rejected)
		case !inbound.Observed(logName(o.run)):
			return fmt.Sprintf("the sidecar of %s does not tell who calls it: it is not in touch with istiod, an EnvoyFilter has another say, or another observation runs", &pod)
		}
		return ""
	})
	for _, line := range said {
		if line != "" {
			unknown = append(unknown, line)
		}
	}
	return standing.Governed, unknown
}

// evidence is what was found.
func (o *observation) evidence(ctx context.Context) Evidence {
	if len(o.unready) > 0 {
		return Evidence{Callers: o.tally.callers(o.directory), Unknown: o.unready}
	}
	pods, unknown := o.sidecars(ctx)
	o.mu.Lock()
	for _, pod := range pods {
		if why := o.lost[pod.UID]; why != "" {
			unknown = append(unknown, why)
		} else if !o.followed[pod.UID] {
			unknown = append(unknown, fmt.Sprintf("pod %s has come at the end of the observation; try again", &pod))
		}
	}
	o.mu.Unlock()
	if strange := o.strange(); strange != "" {
		unknown = append(unknown, strange)
	}
	o.look(ctx)
	return Evidence{Callers: o.tally.callers(o.directory), Unknown: unknown}
}

func (o *observation) strange() string {
	o.tally.mu.Lock()
	defer o.tally.mu.Unlock()
	if o.tally.strange == "" {
		return ""
	}
	return "a line of the observation cannot be read: " + o.tally.strange
}

// blind says why it is not known any more who calls; "" when it is.
func (o *observation) blind() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, why := range o.lost {
		return why
	}
	return ""
}

// end takes the observer away again, if it is still ours.
func (o *observation) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWithin)
	defer cancel()
	err := o.cluster.Delete(ctx, o.object)
	o.stop()
	o.follows.Wait()
	return err
}

// Watch looks for callers of a scope in plaintext, as Set does before STRICT, and
// changes no mode.
func Watch(ctx context.Context, cluster Cluster, request Request) (evidence Evidence, err error) {
	state, err := cluster.State(ctx, request.Scope.Namespace)
	if err != nil {
		return Evidence{}, err
	}
	standing, reasons := Stand(state, request.Scope)
	for _, reason := range reasons {
		if reason.Code != "" && len(standing.Governed) == 0 {
			return Evidence{}, reason
		}
	}
	observing, err := observe(ctx, cluster, standing, request)
	defer func() { err = cmp.Or(err, errors.Join(observing.end(ctx))) }()
	if err != nil {
		return Evidence{}, err
	}
	evidence = observing.evidence(ctx)
	if ctx.Err() != nil {
		return Evidence{}, interrupted(ctx)
	}
	return evidence, nil
}

// eachOf asks of pods, some at once, and puts what is answered in their order.
func eachOf(pods []Pod, ask func(Pod) string) []string {
	answers := make([]string, len(pods))
	slots := make(chan struct{}, podsAtOnce)
	var working sync.WaitGroup
	for i, pod := range pods {
		slots <- struct{}{}
		working.Go(func() {
			defer func() { <-slots }()
			answers[i] = ask(pod)
		})
	}
	working.Wait()
	return answers
}

// firstOf is the first of what is answered that is not empty, with whom it is about.
func firstOf(pods []Pod, ask func(Pod) string) string {
	for i, answer := range eachOf(pods, ask) {
		if answer != "" {
			return "pod " + pods[i].String() + ": " + answer
		}
	}
	return ""
}
