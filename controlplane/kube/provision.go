package kube

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/kit/certs"
	"weir.dev/policy"
)

// ProvisionConfig says how proxies are run for Gateways.
type ProvisionConfig struct {
	// Enabled runs an Envoy Deployment with a Service for each Gateway of Weir's. It
	// needs a fleet with perGateway.
	Enabled bool `yaml:"enabled"`
	// Namespace of all that is made: one that tenants cannot read Secrets in.
	// Default: $POD_NAMESPACE, else "default".
	Namespace string `yaml:"namespace"`
	// Image of Envoy. Default docker.io/envoyproxy/envoy:v1.40.0.
	Image string `yaml:"image"`
	// AgentImage has the command weir, which writes what Envoy starts with, answers
	// probes for it and drains it.
	AgentImage string `yaml:"agentImage"`
	// Replicas of each Deployment, 1 to 100. Default 2.
	Replicas int32 `yaml:"replicas"`
	// ServiceType is LoadBalancer, NodePort or ClusterIP. Default LoadBalancer.
	ServiceType string `yaml:"serviceType"`
	// AuthoritySecret holds the authority that the proxies' certificates are signed
	// by, as `weir certs` keeps it. Default weir-authority.
	AuthoritySecret string `yaml:"authoritySecret"`
	// ControlPlane is this server as proxies reach it, host:port.
	ControlPlane string `yaml:"controlPlane"`
	// CPU and Memory that each proxy asks for. Default 100m and 128Mi.
	CPU    string `yaml:"cpu"`
	Memory string `yaml:"memory"`
}

// SetDefaults fills in what is documented.
func (c *ProvisionConfig) SetDefaults() {
	c.Image, c.Replicas, c.ServiceType = "docker.io/envoyproxy/envoy:v1.40.0", 2, string(corev1.ServiceTypeLoadBalancer)
	c.AuthoritySecret, c.CPU, c.Memory = "weir-authority", "100m", "128Mi"
}

// Validate reports every mistake.
func (c *ProvisionConfig) Validate() error {
	if !c.Enabled {
		return nil
	}
	var errs []error
	if bad := validation.IsDNS1123Label(c.Namespace); len(bad) > 0 {
		errs = append(errs, fmt.Errorf("namespace: %q: %s", c.Namespace, bad[0]))
	}
	for field, image := range map[string]string{"image": c.Image, "agentImage": c.AgentImage} {
		if image == "" {
			errs = append(errs, fmt.Errorf("%s: is required", field))
		}
	}
	if c.Replicas < 1 || c.Replicas > 100 {
		errs = append(errs, fmt.Errorf("replicas: %d is outside of 1 to 100", c.Replicas))
	}
	if !slices.Contains([]string{"LoadBalancer", "NodePort", "ClusterIP"}, c.ServiceType) {
		errs = append(errs, fmt.Errorf("serviceType: %q is none of LoadBalancer, NodePort and ClusterIP", c.ServiceType))
	}
	if _, _, err := net.SplitHostPort(c.ControlPlane); err != nil {
		errs = append(errs, fmt.Errorf("controlPlane: %q is not host:port", c.ControlPlane))
	}
	for field, quantity := range map[string]string{"cpu": c.CPU, "memory": c.Memory} {
		if _, err := parseQuantity(quantity); err != nil {
			errs = append(errs, fmt.Errorf("%s: %q: %w", field, quantity, err))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// Times of provisioning.
const (
	// provisionEvery is how often certificates are looked at, and applyEvery how often
	// everything is said again, for what somebody else changed.
	provisionEvery, applyEvery = 30 * time.Second, 5 * time.Minute
	// addressEvery is how often Gateways are looked at that cannot be reached yet.
	addressEvery = time.Second
	// proxyLifetime is that of a proxy's certificate.
	proxyLifetime = 7 * 24 * time.Hour
)

// Labels of what is made.
const (
	labelManaged   = "app.kubernetes.io/managed-by"
	labelGateway   = "gateway.networking.k8s.io/gateway-name"
	labelNamespace = "weir.dev/gateway-namespace"
	manager        = "weir-controlplane"
)

// Provisioner runs an Envoy Deployment with a Service for every Gateway of
// Weir's, from the replica that writes status, and knows the Services' addresses.
// Use NewProvisioner; safe for concurrent use.
type Provisioner struct {
	config ProvisionConfig
	logger *slog.Logger
	client client.Client
	leads  func() bool
	// placed is told of Gateways whose reach changed.
	placed func(policy.ObjectRef)
	wake   chan struct{}
	// applied is used by Run alone.
	applied map[policy.ObjectRef]applied

	mu     sync.Mutex
	known  bool
	wanted map[policy.ObjectRef]Placed
	// reach is nil until it was looked at.
	reach map[policy.ObjectRef]Reach
}

// Placed is a Gateway that proxies are run for.
type Placed struct {
	Gateway *gatewayv1.Gateway
	// Ports are those of all listeners that are served, ListenerSets' included, in
	// ascending order.
	Ports []int32
}

// Reach is where clients reach a Gateway that proxies are run for.
type Reach struct {
	// Addresses are its Service's, none while that has none.
	Addresses []gatewayv1.GatewayStatusAddress
	// Ready says that there is a proxy behind them that takes requests.
	Ready bool
}

func (r Reach) equal(other Reach) bool {
	return r.Ready == other.Ready && slices.EqualFunc(r.Addresses, other.Addresses, func(a, b gatewayv1.GatewayStatusAddress) bool { return a.Value == b.Value })
}

// NewProvisioner makes the provisioner beside a writer, whose statuses have the
// addresses from then on.
func NewProvisioner(config ProvisionConfig, writer *Writer) *Provisioner {
	p := &Provisioner{
		config: config, logger: writer.logger, client: writer.client, leads: writer.Leads, placed: writer.touched,
		wake: make(chan struct{}, 1), applied: map[policy.ObjectRef]applied{},
	}
	writer.placed = p.Reach
	return p
}

// Observe takes note of the Gateways there are; gateways has those of Weir's. It
// returns at once.
func (p *Provisioner) Observe(gateways map[policy.ObjectRef]Placed) {
	p.mu.Lock()
	p.known, p.wanted = true, gateways
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Reach is where clients reach a Gateway; provisioned says that it is one that
// proxies are run for, and known that it was looked at.
func (p *Provisioner) Reach(gateway policy.ObjectRef) (reach Reach, provisioned, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, provisioned = p.wanted[gateway]
	reach, known = p.reach[gateway]
	return reach, provisioned, known
}

// Run provisions until ctx ends.
func (p *Provisioner) Run(ctx context.Context) error {
	timer := time.NewTimer(provisionEvery)
	defer timer.Stop()
	said := ""
	for {
		missing, err := p.reconcile(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		wait := provisionEvery
		if missing || err != nil {
			wait = addressEvery
		}
		if text := fmt.Sprint(err); err != nil && text != said {
			p.logger.ErrorContext(ctx, "the proxies of Gateways are not all as they should be; it is tried again", "error", err)
		}
		said = fmt.Sprint(err)
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.wake:
		case <-timer.C:
		}
	}
}

// reconcile makes what is missing, mends what differs, removes what is not
// wanted any more, and sees where Gateways are reached. One Gateway's trouble does not keep
// it from the others.
func (p *Provisioner) reconcile(ctx context.Context) (missing bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	p.mu.Lock()
	wanted, known := p.wanted, p.known
	p.mu.Unlock()
	if !known || !p.leads() {
		return true, nil // Soon perhaps.
	}
	var errs []error
	mesh, err := p.authority(ctx)
	if err != nil {
		errs = append(errs, err)
	} else {
		for ref, placed := range wanted {
			if err := p.provision(ctx, mesh, placed); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", ref, err))
			}
		}
	}
	taken, err := p.prune(ctx, wanted)
	errs = append(errs, err)
	missing, err = p.readReach(ctx, wanted)
	missing = missing || taken
	slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return missing, errors.Join(append(errs, err)...)
}

func (p *Provisioner) authority(ctx context.Context) (*certs.Mesh, error) {
	var secret corev1.Secret
	if err := p.client.Get(ctx, client.ObjectKey{Namespace: p.config.Namespace, Name: p.config.AuthoritySecret}, &secret); err != nil {
		return nil, fmt.Errorf("the authority of the proxies' certificates, which `weir certs --kubernetes` makes: %w", err)
	}
	mesh, err := certs.ParseMesh(secret.Data)
	if err != nil {
		return nil, fmt.Errorf("the Secret %s/%s: %w", p.config.Namespace, p.config.AuthoritySecret, err)
	}
	return mesh, nil
}

// provision makes one Gateway's objects be as they should.
func (p *Provisioner) provision(ctx context.Context, mesh *certs.Mesh, placed Placed) error {
	set := newProxySet(&p.config, placed)
	var held corev1.Secret
	if err := client.IgnoreNotFound(p.client.Get(ctx, client.ObjectKey{Namespace: p.config.Namespace, Name: set.name}, &held)); err != nil {
		return err
	}
	bundle, why, err := mesh.Ensure(set.fleet, held.Data, proxyLifetime, time.Now())
	if err != nil {
		return err
	}
	if why != "" {
		p.logger.InfoContext(ctx, "certificate of a Gateway's proxies issued", "gateway", set.gateway.String(), "why", why)
	}
	objects := set.objects(bundle)
	digest, err := digestOf(objects)
	if err != nil {
		return err
	}
	if before := p.applied[set.gateway]; before.digest == digest && time.Since(before.at) < applyEvery {
		return nil
	}
	for _, object := range objects {
		//nolint:staticcheck // The typed apply configurations would say all of it twice.
		if err := p.client.Patch(ctx, object, client.Apply, client.FieldOwner(manager), client.ForceOwnership); err != nil {
			return fmt.Errorf("%s %s/%s: %w", object.GetObjectKind().GroupVersionKind().Kind, object.GetNamespace(), object.GetName(), err)
		}
	}
	p.applied[set.gateway] = applied{digest: digest, objects: len(objects), at: time.Now()}
	return nil
}

// applied is what was made of a Gateway last.
type applied struct {
	digest  string
	objects int
	at      time.Time
}

func digestOf(objects []client.Object) (string, error) {
	raw, err := json.Marshal(objects)
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), err
}

// prune removes what was made for Gateways that are gone, the Service first. taken
// says that somebody else has removed something, which is made again.
func (p *Provisioner) prune(ctx context.Context, wanted map[policy.ObjectRef]Placed) (taken bool, err error) {
	var errs []error
	there := map[policy.ObjectRef]int{}
	for _, list := range []client.ObjectList{&corev1.ServiceList{}, &appsv1.DeploymentList{}, &policyv1.PodDisruptionBudgetList{}, &corev1.SecretList{}, &corev1.ServiceAccountList{}} {
		if err := p.client.List(ctx, list, client.InNamespace(p.config.Namespace), client.MatchingLabels{labelManaged: manager}); err != nil {
			errs = append(errs, err)
			continue
		}
		for _, object := range items(list) {
			ref := gatewayOf(object)
			there[ref]++
			if _, ok := wanted[ref]; ok || ref.Name == "" {
				continue
			}
			delete(p.applied, ref)
			if err := p.client.Delete(ctx, object, client.PropagationPolicy(metav1.DeletePropagationBackground)); client.IgnoreNotFound(err) != nil {
				errs = append(errs, fmt.Errorf("removing what was for %s: %w", ref, err))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return false, err
	}
	for ref, made := range p.applied {
		if there[ref] < made.objects {
			delete(p.applied, ref)
			taken = true
		}
	}
	return taken, nil
}

func items(list client.ObjectList) (objects []client.Object) {
	switch list := list.(type) {
	case *corev1.ServiceList:
		objects = pointers[corev1.Service](list.Items)
	case *appsv1.DeploymentList:
		objects = pointers[appsv1.Deployment](list.Items)
	case *policyv1.PodDisruptionBudgetList:
		objects = pointers[policyv1.PodDisruptionBudget](list.Items)
	case *corev1.SecretList:
		objects = pointers[corev1.Secret](list.Items)
	case *corev1.ServiceAccountList:
		objects = pointers[corev1.ServiceAccount](list.Items)
	}
	return objects
}

func pointers[T any, P interface {
	*T
	client.Object
}](values []T) []client.Object {
	objects := make([]client.Object, len(values))
	for i := range values {
		objects[i] = P(&values[i])
	}
	return objects
}

// gatewayOf is the Gateway that an object was made for.
func gatewayOf(object client.Object) policy.ObjectRef {
	annotations := object.GetAnnotations()
	return policy.ObjectRef{Kind: kindGateway, Namespace: annotations[labelNamespace], Name: annotations[labelGateway]}
}

// readReach looks at the Services and Deployments; missing says that a Gateway has
// no address yet, or no proxy that is ready.
func (p *Provisioner) readReach(ctx context.Context, wanted map[policy.ObjectRef]Placed) (missing bool, err error) {
	var services corev1.ServiceList
	var deployments appsv1.DeploymentList
	for _, list := range []client.ObjectList{&services, &deployments} {
		if err := p.client.List(ctx, list, client.InNamespace(p.config.Namespace), client.MatchingLabels{labelManaged: manager}); err != nil {
			return true, err
		}
	}
	found := make(map[policy.ObjectRef]Reach, len(wanted))
	for ref := range wanted {
		found[ref] = Reach{}
	}
	for i := range services.Items {
		ref := gatewayOf(&services.Items[i])
		if reach, ok := found[ref]; ok {
			reach.Addresses = addressesOfService(&services.Items[i])
			found[ref] = reach
		}
	}
	for i := range deployments.Items {
		ref := gatewayOf(&deployments.Items[i])
		if reach, ok := found[ref]; ok {
			reach.Ready = deployments.Items[i].Status.ReadyReplicas > 0
			found[ref] = reach
		}
	}
	p.mu.Lock()
	before := p.reach
	p.reach = found
	p.mu.Unlock()
	for ref, now := range found {
		missing = missing || len(now.Addresses) == 0 || !now.Ready
		if then, known := before[ref]; !known || !then.equal(now) {
			p.placed(ref)
		}
	}
	return missing, nil
}

// addressesOfService are the load balancer's, or for a Service without one its
// own.
func addressesOfService(service *corev1.Service) []gatewayv1.GatewayStatusAddress {
	var texts []string
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer {
		texts = service.Spec.ClusterIPs
	}
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if address := cmp.Or(ingress.IP, ingress.Hostname); address != "" {
			texts = append(texts, address)
		}
	}
	texts = slices.DeleteFunc(texts, func(text string) bool { return strings.EqualFold(text, corev1.ClusterIPNone) })
	return addressesOf(texts[:min(len(texts), maxAddresses)])
}
