package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/klog/v2"
)

const (
	// maxAnswer bounds what a pod answers: configuration dumps are the largest.
	maxAnswer = 256 << 20
	// askTimeout bounds one question to a pod.
	askTimeout = 20 * time.Second
	// maxPods bounds how many pods of a kind are asked.
	maxPods = 500
)

// Reach speaks with pods. Safe for concurrent use.
type Reach struct {
	config  *rest.Config
	objects dynamic.Interface
}

// NewReach makes one of how an API server is reached. It does not talk to it.
func NewReach(config *rest.Config) (*Reach, error) {
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	return &Reach{config: config, objects: objects}, nil
}

// Pod is one that runs.
type Pod struct {
	Namespace, Name string
	// Ready says that it is sent requests.
	Ready       bool
	annotations map[string]string
}

func (p Pod) String() string { return p.Namespace + "/" + p.Name }

func pods() schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: "pods"}
}

// Pods are those with the labels that run and are not about to end, sorted by name.
func (r *Reach) Pods(ctx context.Context, namespace string, selector map[string]string) ([]Pod, error) {
	list, err := r.objects.Resource(pods()).Namespace(namespace).List(ctx, metav1.ListOptions{
		LabelSelector: labels.SelectorFromSet(selector).String(), Limit: maxPods + 1,
	})
	if err != nil {
		return nil, fmt.Errorf("pods of %s: %w", namespace, err)
	}
	if len(list.Items) > maxPods {
		return nil, fmt.Errorf("there are more than %d pods with %s in %s: select fewer", maxPods, labels.SelectorFromSet(selector), namespace)
	}
	var found []Pod
	for i := range list.Items {
		pod := &list.Items[i]
		phase, _, _ := unstructured.NestedString(pod.Object, "status", "phase")
		if phase != "Running" || pod.GetDeletionTimestamp() != nil {
			continue
		}
		found = append(found, Pod{Namespace: namespace, Name: pod.GetName(), Ready: ready(pod), annotations: pod.GetAnnotations()})
	}
	slices.SortFunc(found, func(a, b Pod) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

func ready(pod *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(pod.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(value any) bool {
		condition, _ := value.(map[string]any)
		return condition["type"] == "Ready" && condition["status"] == "True"
	})
}

// Get asks a pod's HTTP server, which may listen on its loopback alone. The path may
// have a query.
func (r *Reach) Get(ctx context.Context, pod Pod, port int, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	address, stop, err := r.forward(ctx, pod, port)
	if err != nil {
		return nil, fmt.Errorf("pod %s, port %d: %w", pod, port, err)
	}
	defer stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("pod %s, port %d: %w", pod, port, err)
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	content, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("pod %s, port %d%s: %w", pod, port, path, err)
	case answer.StatusCode != http.StatusOK:
		return nil, statusError{pod: pod, port: port, path: path, status: answer.StatusCode}
	case len(content) > maxAnswer:
		return nil, fmt.Errorf("pod %s, port %d%s: more than %d bytes", pod, port, path, maxAnswer)
	}
	return content, nil
}

// statusError is an answer other than 200.
type statusError struct {
	pod    Pod
	port   int
	path   string
	status int
}

func (e statusError) Error() string {
	return fmt.Sprintf("pod %s, port %d%s answers %d", e.pod, e.port, e.path, e.status)
}

// forward opens a way to a port of a pod; stop closes it.
func (r *Reach) forward(ctx context.Context, pod Pod, port int) (address string, stop func(), err error) {
	// The library's own log is nothing for a terminal: its errors come back, too.
	ctx, stop = context.WithCancel(klog.NewContext(ctx, klog.Logger{}))
	opened := make(chan struct{})
	forwarder, err := r.forwarder(ctx, pod, port, opened)
	if err != nil {
		stop()
		return "", nil, err
	}
	failed := make(chan error, 1)
	go func() { failed <- forwarder.ForwardPorts() }()
	select {
	case <-opened:
	case err := <-failed:
		stop()
		return "", nil, cmp.Or(err, errors.New("port forwarding ended at once"))
	case <-ctx.Done():
		stop()
		return "", nil, ctx.Err()
	}
	ports, err := forwarder.GetPorts()
	if err != nil || len(ports) != 1 {
		stop()
		return "", nil, fmt.Errorf("port forwarding: %w", err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local), stop, nil
}

// forwarder speaks WebSocket, or SPDY with API servers before Kubernetes 1.30.
func (r *Reach) forwarder(ctx context.Context, pod Pod, port int, opened chan struct{}) (*portforward.PortForwarder, error) {
	config := rest.CopyConfig(r.config)
	config.Timeout = 0 // of the whole connection
	server, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	target := server.JoinPath("api", "v1", "namespaces", pod.Namespace, "pods", pod.Name, "portforward")
	logger := klog.FromContext(ctx)
	tunnel, err := portforward.NewSPDYOverWebsocketDialerForStreamingWithLogger(logger, target, config)
	if err != nil {
		return nil, err
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	older := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, target)
	both := portforward.NewFallbackDialerForStreaming(tunnel, older, func(error) bool { return true })
	return portforward.NewOnAddressesForStreamingWithContext(ctx, both, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, opened, io.Discard, io.Discard)
}
