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
)

// Follow implements mtls.Cluster. A log that ends while the pod goes on, as by a
// restart or a proxy between, is gone on with where it ended.
func (c *Cluster) Follow(ctx context.Context, pod mtls.Pod, fromStart bool, line func([]byte)) error {
	since := probe.Since{Seconds: 1}
	if fromStart {
		since = probe.Since{}
	}
	var last time.Time
	var failure error
	for tries := 0; tries < maxTries; tries++ {
		log, found, err := c.reach.Logs(ctx, probe.Pod{Namespace: pod.Namespace, Name: pod.Name}, pod.Sidecar, since)
		if err == nil {
			var until time.Time
			until, err = read(log, last, line)
			_ = log.Close()
			if until.After(last) {
				last, tries = until, 0
				since = probe.Since{Time: last}
			}
		}
		if ctx.Err() != nil || !found {
			return nil //nolint:nilerr // neither is a failure
		}
		if ended, err := c.ended(ctx, pod); ended || ctx.Err() != nil {
			return nil //nolint:nilerr // as above
		} else if err != nil {
			failure = err
		}
		if err != nil {
			failure = err
		}
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
