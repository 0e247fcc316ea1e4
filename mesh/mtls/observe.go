package mtls

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weir.dev/policy"
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
	follows sync.WaitGroup
	// stops end the reading of logs.
	stops []context.CancelFunc

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
	request.Progress("having the sidecars tell who calls in plaintext")
	o.follow(ctx, standing.Governed, false)
	o.look(ctx)
	if err := cluster.Apply(ctx, o.object, false); err != nil {
		return o, err
	}
	for end := time.Now().Add(request.Wait); ; {
		if o.unready = o.survey(ctx).unknown; len(o.unready) == 0 {
			break
		}
		// Who calls while one does not tell would not be seen.
		if !time.Now().Before(end) || !pause(ctx, lookEvery) {
			return o, nil
		}
	}
	o.window(ctx)
	return o, nil
}

// window waits while callers are counted.
func (o *observation) window(ctx context.Context) {
	for end := time.Now().Add(o.request.Observe); ; {
		left := time.Until(end)
		if left <= 0 {
			break
		}
		o.request.Progress(fmt.Sprintf("observing for %s more: %d plaintext callers", left.Round(time.Second), len(Plaintext(o.tally.callers(Directory{})))))
		if !pause(ctx, min(relistEvery, left)) {
			return
		}
		o.join(ctx)
	}
	pause(ctx, logsLate)
}

// join follows pods that have come.
func (o *observation) join(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	state, err := o.cluster.State(asking, o.scope.Namespace)
	if err != nil {
		return // it is asked again, and counts at the end
	}
	standing, _ := Stand(state, o.scope)
	o.follow(ctx, standing.Governed, true)
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

// follow reads the logs of pods that are not read yet, until end, whatever becomes of
// the context: somebody may be harmed while things are put back.
func (o *observation) follow(ctx context.Context, pods []Pod, fromStart bool) {
	for _, pod := range pods {
		if o.followed[pod.UID] {
			continue
		}
		o.followed[pod.UID] = true
		ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
		o.stops = append(o.stops, stop)
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

// survey is how the sidecars stand that would go by the policy.
type survey struct {
	// mode is the scope's, by whom it is said.
	mode Mode
	by   string
	pods []Pod
	// unknown says of some why it is not known who calls them.
	unknown []string
	// differs is the first one that has another mode than the policies say.
	differs string
	// failed is why the cluster could not be asked at all.
	failed error
}

func (o *observation) survey(ctx context.Context) survey {
	state, others, err := o.ask(ctx)
	if err != nil {
		return survey{failed: err, unknown: []string{"the cluster cannot be asked who would be called: " + err.Error()}}
	}
	standing, reasons := Stand(state, o.scope)
	found := survey{mode: standing.Mode, by: standing.By, pods: standing.Governed}
	for _, reason := range append(reasons, others...) {
		found.unknown = append(found.unknown, "meanwhile: "+reason.Message)
	}
	differ := make([]string, len(standing.Governed))
	said := eachOf(standing.Governed, func(i int, pod Pod) string {
		inbound, err := ask(ctx, o.cluster, pod)
		if err != nil {
			return fmt.Sprintf("the sidecar of %s cannot be asked: %v", &pod, err)
		}
		differ[i] = inbound.Differs(state.Policies.Effective(pod.Namespace, pod.Labels))
		switch {
		case inbound.Rejected != "":
			return fmt.Sprintf("the sidecar of %s refuses its configuration, so who calls it is not known: %s", &pod, inbound.Rejected)
		case !inbound.Observed(logName(o.run)):
			return fmt.Sprintf("the sidecar of %s does not tell who calls it: it is not in touch with istiod, an EnvoyFilter has another say, or another observation runs", &pod)
		}
		return ""
	})
	for i, line := range said {
		if line != "" {
			found.unknown = append(found.unknown, line)
		}
		if found.differs == "" && differ[i] != "" {
			found.differs = "pod " + standing.Governed[i].String() + ": " + differ[i]
		}
	}
	return found
}

// ask is the state of the scope's namespace, and what speaks of other observations.
func (o *observation) ask(ctx context.Context) (state State, others []Reason, err error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	if state, err = o.cluster.State(ctx, o.scope.Namespace); err != nil {
		return State{}, nil, err
	}
	others, err = apart(ctx, o.cluster, o.scope, o.run)
	return state, others, err
}

// busy says which observer is there already. Two of them on one pod would both add to
// the listener's default filter chain, which a proxy refuses; one that was left keeps
// everybody from looking.
func busy(ctx context.Context, cluster Cluster, scope Scope) ([]Reason, error) {
	return apart(ctx, cluster, scope, "")
}

// apart are the observers of other runs.
func apart(ctx context.Context, cluster Cluster, scope Scope, run string) ([]Reason, error) {
	observers, err := cluster.Observers(ctx, scope.Namespace)
	if err != nil {
		return nil, err
	}
	var reasons []Reason
	for i := range observers {
		if run == "" || observers[i].Run != run {
			reasons = append(reasons, Reason{policy.CodeMTLSUnknown, fmt.Sprintf(
				"%s is of another observation, and two do not go together: wait until that has ended or, if it was killed, run %s", &observers[i], observers[i].takeAway())})
		}
	}
	return reasons, nil
}

// evidence is what was found.
func (o *observation) evidence(ctx context.Context) Evidence {
	if len(o.unready) > 0 {
		return Evidence{Callers: o.tally.callers(o.directory), Unknown: o.unready}
	}
	found := o.survey(ctx)
	unknown := found.unknown
	o.mu.Lock()
	for _, pod := range found.pods {
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
	for _, stop := range o.stops {
		stop()
	}
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
	if request.Scope.Namespace == state.Policies.Root {
		return Evidence{}, Reason{policy.CodeMTLSForeign, request.Scope.Namespace + " is the mesh's root namespace, where an EnvoyFilter is every sidecar's: observe the namespaces one after the other"}
	}
	busy, err := busy(ctx, cluster, request.Scope)
	if err != nil {
		return Evidence{}, err
	}
	if len(busy) > 0 {
		return Evidence{}, busy[0]
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
func eachOf(pods []Pod, ask func(int, Pod) string) []string {
	answers := make([]string, len(pods))
	slots := make(chan struct{}, podsAtOnce)
	var working sync.WaitGroup
	for i, pod := range pods {
		slots <- struct{}{}
		working.Go(func() {
			defer func() { <-slots }()
			answers[i] = ask(i, pod)
		})
	}
	working.Wait()
	return answers
}

// firstOf is the first of what is answered that is not empty, with whom it is about.
func firstOf(pods []Pod, ask func(Pod) string) string {
	for i, answer := range eachOf(pods, func(_ int, pod Pod) string { return ask(pod) }) {
		if answer != "" {
			return "pod " + pods[i].String() + ": " + answer
		}
	}
	return ""
}
