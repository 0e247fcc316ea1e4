package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"weir.dev/mesh/mtls"
	"weir.dev/mesh/probe"
)

const (
	// fieldManager owns the fields that are applied.
	fieldManager = "weir"
	// pageSize and maxPages bound what is listed.
	pageSize, maxPages = 500, 100
	istiodPort         = 15014
	proxyPort          = 15000
)

// Cluster implements mtls.Cluster. Safe for concurrent use.
type Cluster struct {
	objects dynamic.Interface
	reach   *probe.Reach
	istiod  string

	mu   sync.Mutex
	root string
}

var _ mtls.Cluster = (*Cluster)(nil)

// New makes one of an API server, and of where istiod is; it asks nothing yet.
func New(objects dynamic.Interface, reach *probe.Reach, istiodNamespace string) *Cluster {
	return &Cluster{objects: objects, reach: reach, istiod: istiodNamespace}
}

func resource(kind string) schema.GroupVersionResource {
	switch kind {
	case "PeerAuthentication":
		return schema.GroupVersionResource{Group: "security.istio.io", Version: "v1", Resource: "peerauthentications"}
	case "EnvoyFilter":
		return schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1alpha3", Resource: "envoyfilters"}
	case "Node":
		return schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
	}
	return schema.GroupVersionResource{Version: "v1", Resource: "pods"}
}

// State implements mtls.Cluster. No namespace means all.
func (c *Cluster) State(ctx context.Context, namespace string) (mtls.State, error) {
	root, err := c.rootNamespace(ctx)
	if err != nil {
		return mtls.State{}, err
	}
	state := mtls.State{Policies: mtls.Policies{Root: root}}
	read := func(object *unstructured.Unstructured) error {
		policy, err := mtls.ReadPolicy(object)
		state.Policies.All = append(state.Policies.All, policy)
		return err
	}
	if err := c.list(ctx, "PeerAuthentication", namespace, read); err != nil {
		return mtls.State{}, err
	}
	if namespace != "" && namespace != root {
		if err := c.list(ctx, "PeerAuthentication", root, read); err != nil {
			return mtls.State{}, err
		}
	}
	err = c.list(ctx, "Pod", namespace, func(object *unstructured.Unstructured) error {
		state.Pods = append(state.Pods, readPod(object))
		return nil
	})
	return state, err
}

// Observers implements mtls.Cluster.
func (c *Cluster) Observers(ctx context.Context, namespace string) ([]mtls.Observer, error) {
	var found []mtls.Observer
	err := c.list(ctx, "EnvoyFilter", namespace, func(object *unstructured.Unstructured) error {
		if isOurs(object) {
			found = append(found, mtls.ReadObserver(object))
		}
		return nil
	})
	return found, err
}

// list calls each with every object of a kind.
func (c *Cluster) list(ctx context.Context, kind, namespace string, each func(*unstructured.Unstructured) error) error {
	options := metav1.ListOptions{Limit: pageSize}
	for range maxPages {
		page, err := c.objects.Resource(resource(kind)).Namespace(namespace).List(ctx, options)
		if err != nil {
			return fmt.Errorf("listing %ss of %s: %w", kind, said(namespace), err)
		}
		for i := range page.Items {
			if err := each(&page.Items[i]); err != nil {
				return err
			}
		}
		if options.Continue = page.GetContinue(); options.Continue == "" {
			return nil
		}
	}
	return fmt.Errorf("there are more than %d %ss in %s, which is too many to look at", pageSize*maxPages, kind, said(namespace))
}

func said(namespace string) string {
	if namespace == "" {
		return "all namespaces"
	}
	return namespace
}

// rootNamespace asks istiod for the mesh's, once.
func (c *Cluster) rootNamespace(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.root != "" {
		return c.root, nil
	}
	pods, err := c.reach.Pods(ctx, c.istiod, map[string]string{"app": "istiod"})
	if err != nil {
		return "", err
	}
	err = fmt.Errorf("no istiod runs in %s; name its namespace with --istiod-namespace", c.istiod)
	for _, pod := range pods {
		if !pod.Ready {
			continue
		}
		var content []byte
		if content, err = c.reach.Get(ctx, pod, istiodPort, "/debug/mesh"); err != nil {
			continue
		}
		var mesh struct {
			RootNamespace string `json:"rootNamespace"`
		}
		if err = json.Unmarshal(content, &mesh); err == nil && mesh.RootNamespace == "" {
			err = errors.New("istiod's mesh configuration has no rootNamespace")
		}
		if err == nil {
			c.root = mesh.RootNamespace
			return c.root, nil
		}
	}
	return "", err
}

// Directory implements mtls.Cluster. Without the permission to list nodes they have no
// names.
func (c *Cluster) Directory(ctx context.Context) (mtls.Directory, error) {
	found := mtls.Directory{Pods: map[string]mtls.Pod{}, Nodes: map[string]string{}, Targets: map[string]string{}}
	nodes := func(object *unstructured.Unstructured) error {
		addresses, _, _ := unstructured.NestedSlice(object.Object, "status", "addresses")
		for _, value := range addresses {
			if address, ok := value.(map[string]any); ok {
				if text, ok := address["address"].(string); ok {
					found.Nodes[text] = object.GetName()
				}
			}
		}
		return nil
	}
	if err := c.list(ctx, "Node", "", nodes); err != nil && !apierrors.IsForbidden(errors.Unwrap(err)) {
		return found, err
	}
	err := c.list(ctx, "Pod", "", func(object *unstructured.Unstructured) error {
		pod := readPod(object)
		found.Targets[pod.String()] = pod.Workload
		for _, address := range pod.Addresses {
			if pod.Node {
				if host, _, _ := unstructured.NestedString(object.Object, "spec", "nodeName"); found.Nodes[address] == "" {
					found.Nodes[address] = host
				}
			} else if other, there := found.Pods[address]; !there || pod.Running || !other.Running {
				found.Pods[address] = pod
			}
		}
		return nil
	})
	return found, err
}

// Apply implements mtls.Cluster.
func (c *Cluster) Apply(ctx context.Context, object *unstructured.Unstructured, dry bool) error {
	if _, err := c.ours(ctx, object); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	options := metav1.ApplyOptions{FieldManager: fieldManager}
	if dry {
		options.DryRun = []string{metav1.DryRunAll}
	}
	_, err := c.objects.Resource(resource(object.GetKind())).Namespace(object.GetNamespace()).Apply(ctx, object.GetName(), object, options)
	if err != nil {
		return fmt.Errorf("%s: %w", ref(object), err)
	}
	return nil
}

func ref(object *unstructured.Unstructured) string {
	return object.GetKind() + " " + object.GetNamespace() + "/" + object.GetName()
}

func isOurs(object *unstructured.Unstructured) bool {
	return object.GetLabels()[mtls.LabelOwner] == mtls.OwnerValue && object.GetLabels()[mtls.LabelMTLS] != ""
}

// ours is the object as it is, an error when it is another's.
func (c *Cluster) ours(ctx context.Context, object *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	live, err := c.objects.Resource(resource(object.GetKind())).Namespace(object.GetNamespace()).Get(ctx, object.GetName(), metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if !isOurs(live) {
		return nil, fmt.Errorf("%s is not Weir's, by its labels, and is left alone: rename or delete it", ref(object))
	}
	return live, nil
}

// Delete implements mtls.Cluster.
func (c *Cluster) Delete(ctx context.Context, object *unstructured.Unstructured) error {
	live, err := c.ours(ctx, object)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if run := object.GetAnnotations()[mtls.AnnotationRun]; run != "" && run != live.GetAnnotations()[mtls.AnnotationRun] {
		return nil
	}
	uid := live.GetUID()
	err = c.objects.Resource(resource(object.GetKind())).Namespace(object.GetNamespace()).Delete(ctx, object.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting %s: %w", ref(object), err)
	}
	return nil
}

// Inbound implements mtls.Cluster.
func (c *Cluster) Inbound(ctx context.Context, pod mtls.Pod) (mtls.Inbound, error) {
	dump, err := c.reach.Get(ctx, probe.Pod{Namespace: pod.Namespace, Name: pod.Name}, proxyPort, "/config_dump?resource=dynamic_listeners")
	if err != nil {
		return mtls.Inbound{}, err
	}
	return mtls.ReadInbound(dump)
}
