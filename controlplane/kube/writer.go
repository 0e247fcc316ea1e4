package kube

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy"
)

// Bounds of writing.
const (
	// workers write at once; the client bounds requests a second.
	workers = 8
	// join is how long an outcome that is still waited for is held back: the one
	// that follows within milliseconds says it all.
	join = 100 * time.Millisecond
	// conflicts is how often one write is tried again on the object as it is now.
	conflicts = 5
	// again bounds the waits between tries of a write that fails.
	again, againMost = 200 * time.Millisecond, 30 * time.Second
	writeTimeout     = 10 * time.Second
)

// Writer writes status while its replica is the leader. Use NewWriter; Observe is
// safe for concurrent use with Run.
type Writer struct {
	source    *Source
	logger    *slog.Logger
	client    client.Client
	addresses []gatewayv1.GatewayStatusAddress
	// placed knows where each Gateway is reached that proxies are run for.
	placed func(policy.ObjectRef) (reach Reach, provisioned, known bool)
	// leader is set while this replica writes.
	leader atomic.Bool
	term   sync.Mutex

	mu      sync.Mutex
	verdict *verdict
	queue   workqueue.TypedRateLimitingInterface[policy.ObjectRef]
}

// NewWriter makes the writer of a source's objects; it is called before the
// source runs.
func NewWriter(source *Source) (*Writer, error) {
	writing, err := client.New(source.rest, client.Options{HTTPClient: source.client})
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	w := &Writer{source: source, logger: source.logger, client: writing, addresses: addressesOf(source.config.Addresses)}
	source.touched = w.touched
	return w, nil
}

func addressesOf(texts []string) []gatewayv1.GatewayStatusAddress {
	var addresses []gatewayv1.GatewayStatusAddress
	for _, text := range texts {
		kind := gatewayv1.HostnameAddressType
		if net.ParseIP(text) != nil {
			kind = gatewayv1.IPAddressType
		}
		addresses = append(addresses, gatewayv1.GatewayStatusAddress{Type: &kind, Value: text})
	}
	return addresses
}

// Leads reports whether this replica writes status.
func (w *Writer) Leads() bool { return w.leader.Load() }

// Observe takes note of an outcome; it returns at once.
func (w *Writer) Observe(outcome Outcome) {
	if outcome.Plan == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.verdict = newVerdict(outcome, w.verdict)
	if w.queue == nil {
		return
	}
	wait := time.Duration(0)
	if len(w.verdict.waiting) > 0 {
		wait = join
	}
	w.enqueueAll(wait)
}

// touched looks again at an object that changed, also if by its status alone:
// somebody else may have written there.
func (w *Writer) touched(ref policy.ObjectRef) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.queue != nil && w.verdict != nil && hasStatus(ref.Kind) {
		w.queue.AddAfter(ref, join)
	}
}

// enqueueAll has every object looked at; most need no write. Gateways come
// first. The caller holds the lock.
func (w *Writer) enqueueAll(wait time.Duration) {
	refs := w.source.objects.refs()
	for _, gateways := range []bool{true, false} {
		for _, ref := range refs {
			if hasStatus(ref.Kind) && (ref.Kind == kindGateway) == gateways {
				w.queue.AddAfter(ref, wait)
			}
		}
	}
	if len(w.verdict.waiting) > 0 {
		// By then waiting has become worth saying.
		queue := w.queue
		time.AfterFunc(keepProgrammed+join, func() { w.lookAgain(queue) })
	}
}

func (w *Writer) lookAgain(queue workqueue.TypedRateLimitingInterface[policy.ObjectRef]) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.queue != queue || len(w.verdict.waiting) == 0 || time.Since(w.verdict.outcome.Time) < keepProgrammed {
		return
	}
	for _, ref := range w.source.objects.refs() {
		if hasStatus(ref.Kind) {
			w.queue.Add(ref)
		}
	}
}

// lead writes status until ctx ends.
func (w *Writer) lead(ctx context.Context) {
	w.term.Lock() // The next term may begin before the last one's writes end.
	defer w.term.Unlock()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[policy.ObjectRef](again, againMost))
	w.mu.Lock()
	w.queue = queue
	if w.verdict != nil {
		w.enqueueAll(0)
	}
	w.mu.Unlock()
	w.leader.Store(true)
	w.logger.InfoContext(ctx, "this replica writes the status of Kubernetes objects")
	stop := context.AfterFunc(ctx, queue.ShutDown)
	defer stop()
	var working sync.WaitGroup
	for range workers {
		working.Go(func() {
			for w.work(ctx, queue) {
			}
		})
	}
	working.Wait()
	w.leader.Store(false)
	w.mu.Lock()
	w.queue = nil
	w.mu.Unlock()
}

func (w *Writer) work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[policy.ObjectRef]) bool {
	ref, shutdown := queue.Get()
	if shutdown {
		return false
	}
	defer queue.Done(ref)
	err := w.write(ctx, ref)
	switch {
	case err == nil:
		queue.Forget(ref)
	case ctx.Err() == nil:
		w.logger.WarnContext(ctx, "status not written; it is tried again", "object", ref.String(), "error", err)
		queue.AddRateLimited(ref)
	}
	return true
}

// write brings one object's status up to date, if it is not.
func (w *Writer) write(ctx context.Context, ref policy.ObjectRef) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	object, ok := w.source.objects.get(ref)
	if !ok {
		return nil
	}
	for try := 0; ; try++ {
		w.mu.Lock()
		c := composer{verdict: w.verdict, addresses: w.addresses, now: time.Now()}
		if w.placed != nil && ref.Kind == kindGateway {
			reach, provisioned, known := w.placed(ref)
			if provisioned && !known {
				w.mu.Unlock()
				return nil // It is touched once it was looked at.
			}
			if provisioned {
				c.addresses, c.placed, c.unready = reach.Addresses, true, !reach.Ready
			}
		}
		w.mu.Unlock()
		changed, err := c.compose(object)
		if c.later {
			w.lookLater(ref)
		}
		if err != nil || changed == nil {
			return err
		}
		err = w.client.Status().Update(ctx, changed)
		switch {
		case err == nil, apierrors.IsNotFound(err):
			return nil // What is gone needs no status.
		case !apierrors.IsConflict(err) || try == conflicts:
			return err
		}
		// What the watch showed is old; others' entries must not be lost.
		now := &unstructured.Unstructured{}
		now.SetGroupVersionKind(object.value.GroupVersionKind())
		err = w.client.Get(ctx, client.ObjectKeyFromObject(object.value), now)
		if err != nil {
			return client.IgnoreNotFound(err)
		}
		object.value = now
	}
}

func (w *Writer) lookLater(ref policy.ObjectRef) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.queue != nil {
		w.queue.AddAfter(ref, settled)
	}
}

// identity of this replica in the election.
func identity() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host
}
