package live

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weir.dev/mesh/mtls"
	"weir.dev/mesh/probe"
)

const (
	// maxLine bounds a line that is looked at; the rest of it is passed over.
	maxLine = 64 << 10
	// maxTries bounds the attempts to go on with a log that ended, without a line.
	maxTries = 10
	tryEvery = time.Second
	// silence is how long a log may have nothing to tell until it is asked for anew.
	silence = 4 * time.Second
)

// Follow implements mtls.Cluster. A log that ends while the pod goes on, as by a
// restart or a proxy between, is gone on with where it ended. So is one that is
// silent for a while: when a kubelet rotates a log, it sometimes sends nothing more to
// who follows it, and says nothing. A log that is not found is no sign of a pod that is
// gone: a kubelet that starts anew answers so for pods that run.
func (c *Cluster) Follow(ctx context.Context, pod mtls.Pod, fromStart bool, line func([]byte)) error {
	began := time.Now()
	var last time.Time
	var failure error
	for tries := 0; tries < maxTries; tries++ {
		since := probe.Since{Time: last}
		if last.IsZero() && !fromStart {
			since = probe.Since{Seconds: int(time.Since(began)/time.Second) + 2}
		}
		until, found, err := c.attempt(ctx, pod, since, last, line)
		if until.After(last) {
			last, tries = until, 0
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // no failure
		}
		if found && errors.Is(err, errSilent) {
			tries = 0
			continue
		}
		ended, gone := c.ended(ctx, pod)
		if ended || ctx.Err() != nil {
			return nil //nolint:nilerr // as above
		}
		failure = errors.Join(err, gone)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tryEvery):
		}
	}
	if failure == nil {
		failure = errors.New("it ends again and again")
	}
	return failure
}

// errSilent says that a log was silent.
var errSilent = errors.New("silent")

// attempt reads a log until it ends, or is silent.
func (c *Cluster) attempt(ctx context.Context, pod mtls.Pod, since probe.Since, after time.Time, line func([]byte)) (until time.Time, found bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer silent.Stop()
	opened, found, err := c.reach.Logs(ctx, probe.Pod{Namespace: pod.Namespace, Name: pod.Name}, pod.Sidecar, since)
	if err != nil {
		if errors.Is(context.Cause(ctx), errSilent) {
			err = errors.New("the API server does not answer")
		}
		return time.Time{}, found, err
	}
	defer opened.Close() //nolint:errcheck // only read
	until, err = read(opened, after, func(text []byte) {
		silent.Reset(silence)
		line(text)
	})
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
		err = cause
	}
	return until, true, err
}

// ended reports whether a pod is no more, or about to be.
func (c *Cluster) ended(ctx context.Context, pod mtls.Pod) (bool, error) {
	live, err := c.objects.Resource(resource("Pod")).Namespace(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return string(live.GetUID()) != pod.UID || !readPod(live).Running, nil
}

// read passes lines on that are later than one that was passed on before. until is the
// time of the last one.
func read(log io.Reader, after time.Time, line func([]byte)) (until time.Time, err error) {
	reader := bufio.NewReaderSize(log, maxLine)
	for rest := false; ; {
		text, more, err := reader.ReadLine()
		if errors.Is(err, io.EOF) {
			return until, nil
		}
		if err != nil {
			return until, fmt.Errorf("its log: %w", err)
		}
		skip := rest
		if rest = more; skip {
			continue
		}
		stamp, said, _ := bytes.Cut(text, []byte(" "))
		at, err := time.Parse(time.RFC3339Nano, string(stamp))
		if err != nil || !at.After(after) {
			continue
		}
		until = at
		line(said)
	}
}
