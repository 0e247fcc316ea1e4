package probe

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"k8s.io/client-go/rest"
)

// Since says from where a log is read; the zero value is its start.
type Since struct {
	// Seconds before now; 0 means that Time counts.
	Seconds int
	// Time is rounded down to a second by the API server.
	Time time.Time
}

// Logs follows what a container logs, each line with the time that the kubelet had it
// before it (RFC 3339 with nanoseconds, and a space). The reader ends with the
// container or the context, and has to be closed. found is false when there is no
// such pod any more. It needs `get pods/log`.
func (r *Reach) Logs(ctx context.Context, pod Pod, container string, since Since) (log io.ReadCloser, found bool, err error) {
	config := rest.CopyConfig(r.config)
	config.Timeout = 0 // of the whole log
	server, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, true, err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, true, err
	}
	query := url.Values{"container": {container}, "follow": {"true"}, "timestamps": {"true"}}
	switch {
	case since.Seconds > 0:
		query.Set("sinceSeconds", strconv.Itoa(since.Seconds))
	case !since.Time.IsZero():
		query.Set("sinceTime", since.Time.UTC().Format(time.RFC3339))
	}
	target := server.JoinPath("api", "v1", "namespaces", pod.Namespace, "pods", pod.Name, "log")
	target.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, true, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, true, fmt.Errorf("log of pod %s: %w", pod, err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer.Body, true, nil
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	said, _ := io.ReadAll(io.LimitReader(answer.Body, 500))
	return nil, answer.StatusCode != http.StatusNotFound, fmt.Errorf("log of pod %s: the API server answers %d: %.500q", pod, answer.StatusCode, said)
}
