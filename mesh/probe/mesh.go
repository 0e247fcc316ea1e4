package probe

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"weir.dev/mesh/apply"
	"weir.dev/mesh/assert"
	"weir.dev/mesh/istio"
)

// Ports of Istio's pods: istiod's debug pages, and the admin server of a proxy.
const (
	istiodPort = 15014
	proxyPort  = 15000
)

// RulesAnnotation is put on extauthz's pods, with the rules' digest and a time: a
// pod that changes has what is mounted in it renewed at once, which would take the
// kubelet more than a minute otherwise.
const RulesAnnotation = "weir.dev/rules"

// nudgeEvery is how often it is put there anew.
const nudgeEvery = 5 * time.Second

// Config says where things are.
type Config struct {
	// Options are those that objects were made with.
	Options istio.Options
	// IstiodNamespace is where istiod's pods are, labelled app=istiod.
	IstiodNamespace string
	// ExtAuthzAdmin is the port of extauthz's admin server.
	ExtAuthzAdmin int
}

// Mesh is a mesh that runs. Its methods are not safe for concurrent use.
type Mesh struct {
	reach  *Reach
	config Config
	// nudged is when pods were last annotated.
	nudged time.Time
	// provider is extauthz's in the mesh's configuration, once it was read.
	provider *Provider
}

var _ apply.Mesh = (*Mesh)(nil)

// NewMesh makes one; it asks nothing yet.
func NewMesh(reach *Reach, config Config) *Mesh { return &Mesh{reach: reach, config: config} }

// Istiods are those that run.
func (m *Mesh) Istiods(ctx context.Context) ([]Pod, error) {
	pods, err := m.reach.Pods(ctx, m.config.IstiodNamespace, map[string]string{"app": "istiod"})
	return slices.DeleteFunc(pods, func(p Pod) bool { return !p.Ready }), err
}

// Gateways are the pods that the policy is for and that are sent requests.
func (m *Mesh) Gateways(ctx context.Context) ([]Pod, error) {
	pods, err := m.reach.Pods(ctx, m.config.Options.Namespace, m.config.Options.Selector)
	return slices.DeleteFunc(pods, func(p Pod) bool { return !p.Ready }), err
}

// ExtAuthz are the pods behind the provider's Service. A provider that is no Service
// of this cluster has none.
func (m *Mesh) ExtAuthz(ctx context.Context) ([]Pod, error) {
	if m.provider == nil {
		return nil, nil
	}
	name, rest, _ := strings.Cut(m.provider.Service, ".")
	namespace, suffix, _ := strings.Cut(rest, ".")
	if namespace == "" || suffix != "" && suffix != "svc" && !strings.HasPrefix(suffix, "svc.") {
		return nil, nil
	}
	services := schema.GroupVersionResource{Version: "v1", Resource: "services"}
	service, err := m.reach.objects.Resource(services).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("the Service of provider %s: %w", m.provider.Name, err)
	}
	selector, _, err := unstructured.NestedStringMap(service.Object, "spec", "selector")
	if err != nil || len(selector) == 0 {
		return nil, nil //nolint:nilerr // a Service without a selector has no pods
	}
	pods, err := m.reach.Pods(ctx, namespace, selector)
	return slices.DeleteFunc(pods, func(p Pod) bool { return !p.Ready }), err
}

// Provider is an extension provider of the mesh's configuration.
type Provider struct {
	Name    string
	Service string
	// FailOpen lets requests in that extauthz could not be asked about.
	FailOpen bool
	// GRPC says that it is of the kind envoyExtAuthzGrpc.
	GRPC bool
	// Timeout of a check.
	Timeout time.Duration
}

// Provider reads that of extauthz; nil when the mesh has none of the name.
func (m *Mesh) Provider(ctx context.Context, istiod Pod) (*Provider, error) {
	content, err := m.reach.Get(ctx, istiod, istiodPort, "/debug/mesh")
	if err != nil {
		return nil, err
	}
	found, err := findProvider(content, m.config.Options.Provider)
	if err == nil {
		m.provider = found
	}
	return found, err
}

// providerTimeout is that of a provider which says none (istio.mesh.v1alpha1).
const providerTimeout = 10 * time.Minute

// findProvider looks for a provider in a mesh's configuration, a JSON of
// istio.mesh.v1alpha1.MeshConfig.
func findProvider(content []byte, name string) (*Provider, error) {
	type server struct {
		Service  string `json:"service"`
		FailOpen bool   `json:"failOpen"`
		Timeout  string `json:"timeout"`
	}
	var config struct {
		ExtensionProviders []struct {
			Name string  `json:"name"`
			GRPC *server `json:"envoyExtAuthzGrpc"`
			HTTP *server `json:"envoyExtAuthzHttp"`
		} `json:"extensionProviders"`
	}
	if err := json.Unmarshal(content, &config); err != nil {
		return nil, fmt.Errorf("istiod's mesh configuration: %w", err)
	}
	for _, provider := range config.ExtensionProviders {
		if provider.Name != name {
			continue
		}
		made := &Provider{Name: name, GRPC: provider.GRPC != nil, Timeout: providerTimeout}
		if said := cmp.Or(provider.GRPC, provider.HTTP); said != nil {
			made.Service, made.FailOpen = said.Service, said.FailOpen
			if timeout, err := time.ParseDuration(said.Timeout); err == nil {
				made.Timeout = timeout
			}
		}
		_, after, namespaced := strings.Cut(made.Service, "/") // [namespace/]host
		if namespaced {
			made.Service = after
		}
		return made, nil
	}
	return nil, nil
}

// Ready implements apply.Mesh.
func (m *Mesh) Ready(ctx context.Context, check time.Duration) (hindrances, notes []string, err error) {
	istiods, err := m.Istiods(ctx)
	if err != nil {
		return nil, nil, err
	}
	if len(istiods) == 0 {
		return []string{fmt.Sprintf("no istiod is ready in %s; name its namespace with --istiod-namespace", m.config.IstiodNamespace)}, nil, nil
	}
	provider, err := m.Provider(ctx, istiods[0])
	if err != nil {
		return nil, nil, err
	}
	switch name := m.config.Options.Provider; {
	case provider == nil:
		hindrances = append(hindrances, fmt.Sprintf("the mesh has no extension provider %q: add extauthz to meshConfig.extensionProviders", name))
	case !provider.GRPC:
		hindrances = append(hindrances, fmt.Sprintf("the extension provider %q is not of envoyExtAuthzGrpc, which extauthz speaks", name))
	case provider.FailOpen:
		hindrances = append(hindrances, fmt.Sprintf("the extension provider %q has failOpen: true: without extauthz everybody would be let in; set it to false", name))
	default:
		if provider.Timeout < check {
			notes = append(notes, fmt.Sprintf("the extension provider %q gives a check %s, and those of this policy may take %s with whom they ask: a request that takes longer is refused; set its timeout to %s", name, provider.Timeout, check, check))
		}
		pods, err := m.ExtAuthz(ctx)
		if err != nil {
			notes = append(notes, err.Error()+"; every request is refused until extauthz is there")
		} else if len(pods) == 0 {
			notes = append(notes, "no pod of extauthz is ready: every request is refused until there is one")
		}
	}
	gateways, err := m.Gateways(ctx)
	if err == nil && len(gateways) == 0 {
		hindrances = append(hindrances, fmt.Sprintf("no pod of the gateway is ready in %s with the labels of --istio-selector: nothing could be checked", m.config.Options.Namespace))
	}
	return hindrances, notes, err
}

// Missing implements apply.Mesh. An istiod has an object once it has its content's
// hash and generation.
func (m *Mesh) Missing(ctx context.Context, objects []*unstructured.Unstructured) ([]string, error) {
	istiods, err := m.Istiods(ctx)
	if err != nil {
		return nil, err
	}
	if len(istiods) == 0 {
		return []string{"no istiod is ready in " + m.config.IstiodNamespace}, nil
	}
	return eachPod(istiods, func(pod Pod) ([]string, error) {
		content, err := m.reach.Get(ctx, pod, istiodPort, "/debug/configz")
		if err != nil {
			return nil, err
		}
		return missing(content, objects, pod.String())
	})
}

// missing are the objects that a list of istiod's, as /debug/configz answers, lacks.
func missing(content []byte, objects []*unstructured.Unstructured, istiod string) ([]string, error) {
	type stored struct {
		Kind     string            `json:"kind"`
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	if _, err := decoder.Token(); err != nil { // the list's bracket
		return nil, fmt.Errorf("istiod %s lists its objects in no way that is known: %w", istiod, err)
	}
	has := map[string]metav1.ObjectMeta{}
	for decoder.More() {
		var one stored
		if err := decoder.Decode(&one); err != nil {
			return nil, fmt.Errorf("istiod %s lists its objects in no way that is known: %w", istiod, err)
		}
		has[one.Kind+" "+one.Metadata.Namespace+"/"+one.Metadata.Name] = one.Metadata
	}
	var lacking []string
	for _, object := range objects {
		name := object.GetKind() + " " + object.GetNamespace() + "/" + object.GetName()
		got, there := has[name]
		switch {
		case !there:
			lacking = append(lacking, "istiod "+istiod+" does not have "+name)
		case got.Generation < object.GetGeneration() || got.Annotations[istio.AnnotationHash] != object.GetAnnotations()[istio.AnnotationHash]:
			lacking = append(lacking, "istiod "+istiod+" has an older "+name)
		}
	}
	return lacking, nil
}

// Unruled implements apply.Mesh. It has the mounts of those pods renewed.
func (m *Mesh) Unruled(ctx context.Context, rules []byte) ([]string, error) {
	lines, late, err := m.late(ctx, rules)
	if err == nil && len(late) > 0 {
		m.nudge(ctx, late, digestOf(rules))
	}
	return lines, err
}

// Stale is Unruled without changing anything.
func (m *Mesh) Stale(ctx context.Context, rules []byte) ([]string, error) {
	lines, _, err := m.late(ctx, rules)
	return lines, err
}

func digestOf(rules []byte) string {
	sum := sha256.Sum256(rules)
	return hex.EncodeToString(sum[:])
}

// late are extauthz's pods that decide by other rules.
func (m *Mesh) late(ctx context.Context, rules []byte) ([]string, []Pod, error) {
	pods, err := m.ExtAuthz(ctx)
	if err != nil {
		return nil, nil, err
	}
	want := digestOf(rules)
	var mu sync.Mutex
	var late []Pod
	lines, err := eachPod(pods, func(pod Pod) ([]string, error) {
		digest, err := m.rules(ctx, pod)
		if err != nil || digest == want {
			return nil, err
		}
		mu.Lock()
		late = append(late, pod)
		mu.Unlock()
		return []string{fmt.Sprintf("extauthz %s decides by other rules (sha256 %.8s…, want %.8s…)", pod, digest, want)}, nil
	})
	return lines, late, err
}

// rules is the digest of those that a pod decides by.
func (m *Mesh) rules(ctx context.Context, pod Pod) (string, error) {
	content, err := m.reach.Get(ctx, pod, m.config.ExtAuthzAdmin, "/rules")
	var answer statusError
	if errors.As(err, &answer) && answer.status == http.StatusNotFound {
		return "", fmt.Errorf("extauthz %s does not tell its rules: it is too old, or not one with a file of rules", pod)
	}
	if err != nil {
		return "", err
	}
	var said struct {
		SHA256 string `json:"sha256"`
	}
	if err := json.Unmarshal(content, &said); err != nil {
		return "", fmt.Errorf("extauthz %s: its rules: %w", pod, err)
	}
	return said.SHA256, nil
}

// nudge has pods' mounts renewed. Without the permission it takes longer, so it is no
// failure.
func (m *Mesh) nudge(ctx context.Context, late []Pod, digest string) {
	if time.Since(m.nudged) < nudgeEvery {
		return
	}
	m.nudged = time.Now()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{
		RulesAnnotation: digest[:16] + " " + m.nudged.UTC().Format(time.RFC3339),
	}}})
	if err != nil {
		return
	}
	for _, pod := range late {
		_, _ = m.reach.objects.Resource(pods()).Namespace(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: apply.FieldManager})
	}
}

// Unserved implements apply.Mesh.
func (m *Mesh) Unserved(ctx context.Context, filters []*unstructured.Unstructured, routes []apply.Routes) ([]string, error) {
	gateways, err := m.Gateways(ctx)
	if err != nil {
		return nil, err
	}
	if len(gateways) == 0 {
		return []string{"no pod of the gateway is ready in " + m.config.Options.Namespace}, nil
	}
	return eachPod(gateways, func(pod Pod) ([]string, error) {
		dump, err := m.Dump(ctx, pod)
		if err != nil {
			return nil, err
		}
		proxy, err := assert.Read(dump)
		if err != nil {
			return nil, fmt.Errorf("gateway %s: %w", pod, err)
		}
		findings, err := proxy.Filters(filters)
		if err != nil {
			return nil, fmt.Errorf("gateway %s: %w", pod, err)
		}
		var lines []string
		for _, finding := range findings {
			lines = append(lines, fmt.Sprintf("gateway %s: %s", pod, finding))
		}
		for _, port := range routes {
			for _, line := range append(proxy.Routes(port.Port, port.Count), proxy.Forms(port.Port, port.Forms)...) {
				lines = append(lines, fmt.Sprintf("gateway %s: %s", pod, line))
			}
		}
		return lines, nil
	})
}

// Dump is the configuration of a gateway's proxy, as its /config_dump answers.
func (m *Mesh) Dump(ctx context.Context, pod Pod) ([]byte, error) {
	return m.reach.Get(ctx, pod, proxyPort, "/config_dump")
}

// Guards says of each gateway what its ports do about authorization; those that the
// policy is about and that are not guarded, or not for sure, one line each.
func (m *Mesh) Guards(ctx context.Context, ports []int32) ([]string, error) {
	return m.eachGateway(ctx, func(pod Pod, proxy *assert.Proxy) []string {
		return unguarded(pod, proxy.Ports(), ports)
	})
}

// Judges says of each gateway what its ports lack of the objects by which Istio
// decides by itself; see assert.Proxy.
func (m *Mesh) Judges(ctx context.Context, ports []int32, objects []*unstructured.Unstructured) ([]string, error) {
	return m.eachPort(ctx, ports, func(proxy *assert.Proxy, port int32) []string { return proxy.Judges(port, objects) })
}

// Rivals says of each gateway of which issuers others give keys, too; see assert.Proxy.
func (m *Mesh) Rivals(ctx context.Context, ports []int32, objects []*unstructured.Unstructured) ([]string, error) {
	return m.eachPort(ctx, ports, func(proxy *assert.Proxy, port int32) []string { return proxy.Rivals(port, objects) })
}

// eachPort are the lines that are said of each gateway's ports.
func (m *Mesh) eachPort(ctx context.Context, ports []int32, say func(*assert.Proxy, int32) []string) ([]string, error) {
	return m.eachGateway(ctx, func(pod Pod, proxy *assert.Proxy) []string {
		var lines []string
		for _, port := range ports {
			for _, line := range say(proxy, port) {
				lines = append(lines, fmt.Sprintf("gateway %s: %s", pod, line))
			}
		}
		return lines
	})
}

// eachGateway are the lines that are said of what each gateway's proxy runs with.
func (m *Mesh) eachGateway(ctx context.Context, say func(Pod, *assert.Proxy) []string) ([]string, error) {
	gateways, err := m.Gateways(ctx)
	if err != nil {
		return nil, err
	}
	return eachPod(gateways, func(pod Pod) ([]string, error) {
		dump, err := m.Dump(ctx, pod)
		if err != nil {
			return nil, err
		}
		proxy, err := assert.Read(dump)
		if err != nil {
			return nil, fmt.Errorf("gateway %s: %w", pod, err)
		}
		return say(pod, proxy), nil
	})
}

// unguarded are the ports of a gateway that are not guarded, or not for sure: of
// one that it does not serve nothing can be said.
func unguarded(pod Pod, found map[int32]assert.Guard, ports []int32) []string {
	var lines []string
	for _, port := range ports {
		guard, served := found[port]
		switch {
		case !served:
			lines = append(lines, fmt.Sprintf("gateway %s serves nothing on port %d, so nothing is known of its guard: its Service and Gateway must have the port", pod, port))
		case !guard.Asked:
			lines = append(lines, fmt.Sprintf("gateway %s does not ask extauthz on port %d: everybody is let in", pod, port))
		case guard.Open:
			lines = append(lines, fmt.Sprintf("gateway %s lets everybody in on port %d when extauthz does not answer (failure_mode_allow)", pod, port))
		}
	}
	return lines
}

// podsAtOnce bounds the pods that are asked together.
const podsAtOnce = 8

// eachPod asks pods, some at once, and puts their answers together in order.
func eachPod(pods []Pod, ask func(Pod) ([]string, error)) ([]string, error) {
	answers, errs := make([][]string, len(pods)), make([]error, len(pods))
	slots := make(chan struct{}, podsAtOnce)
	var working sync.WaitGroup
	for i, pod := range pods {
		slots <- struct{}{}
		working.Go(func() {
			defer func() { <-slots }()
			answers[i], errs[i] = ask(pod)
		})
	}
	working.Wait()
	return slices.Concat(answers...), errors.Join(errs...)
}
