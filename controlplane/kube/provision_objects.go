package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/kit/certs"
	"weir.dev/policy"
)

// Where things are in a proxy's pod.
const (
	proxyCertDir   = "/etc/weir/tls"
	proxyConfigDir = "/etc/weir/envoy"
	proxyAgentPort = 9902
	// proxyUser is nobody in particular.
	proxyUser = 65532
	// proxyDelay is how long a proxy that is to end goes on at least, proxyDrain at
	// most: load balancers have taken it out by then.
	proxyDelay, proxyDrain = "15s", "5m"
	proxyGraceSeconds      = 330
)

func parseQuantity(text string) (resource.Quantity, error) { return resource.ParseQuantity(text) }

// proxySet is the objects of one Gateway.
type proxySet struct {
	config  *ProvisionConfig
	gateway policy.ObjectRef
	spec    *gatewayv1.Gateway
	numbers []int32
	// fleet is the name of the fleet, and the component that the certificate is for.
	fleet string
	// name is that of every object.
	name string
}

func newProxySet(config *ProvisionConfig, placed Placed) *proxySet {
	gateway := placed.Gateway
	ref := policy.ObjectRef{Kind: kindGateway, Namespace: gateway.Namespace, Name: gateway.Name}
	id := gateway.Namespace + "/" + gateway.Name
	sum := sha256.Sum256([]byte(id))
	// Names of Services are of at most 63 characters; two Gateways whose names are
	// the same in front differ by the hash.
	name := "gateway-" + gateway.Name[:min(len(gateway.Name), 40)]
	for name[len(name)-1] == '.' || name[len(name)-1] == '-' {
		name = name[:len(name)-1]
	}
	return &proxySet{config: config, gateway: ref, spec: gateway, numbers: placed.Ports, fleet: "gateway/" + id, name: dotless(name) + "-" + hex.EncodeToString(sum[:4])}
}

// dotless makes a Gateway's name, which may have dots, one of a Service.
func dotless(name string) string {
	out := []byte(name)
	for i, c := range out {
		if c == '.' {
			out[i] = '-'
		}
	}
	return string(out)
}

// labels are everybody's, with those of spec.infrastructure.
func (s *proxySet) labels() map[string]string {
	labels := map[string]string{}
	if s.spec.Spec.Infrastructure != nil {
		for key, value := range s.spec.Spec.Infrastructure.Labels {
			labels[string(key)] = string(value)
		}
	}
	maps.Copy(labels, s.selector())
	// The network policies of Weir's charts let these in and out.
	labels["app.kubernetes.io/name"], labels["app.kubernetes.io/part-of"] = "ingress", "weir"
	labels[labelManaged] = manager
	if len(s.gateway.Name) <= 63 {
		labels[labelGateway] = s.gateway.Name
	}
	return labels
}

func (s *proxySet) selector() map[string]string {
	return map[string]string{"app.kubernetes.io/instance": s.name}
}

func (s *proxySet) annotations() map[string]string {
	annotations := map[string]string{}
	if s.spec.Spec.Infrastructure != nil {
		for key, value := range s.spec.Spec.Infrastructure.Annotations {
			annotations[string(key)] = string(value)
		}
	}
	annotations[labelNamespace], annotations[labelGateway] = s.gateway.Namespace, s.gateway.Name
	return annotations
}

func (s *proxySet) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: s.config.Namespace, Name: s.name, Labels: s.labels(), Annotations: s.annotations()}
}

func kindOf(group, version, kind string) metav1.TypeMeta {
	if group != "" {
		version = group + "/" + version
	}
	return metav1.TypeMeta{APIVersion: version, Kind: kind}
}

// objects are what is to be there, in the order in which it is needed.
func (s *proxySet) objects(bundle certs.Bundle) []client.Object {
	objects := []client.Object{
		&corev1.ServiceAccount{TypeMeta: kindOf("", "v1", "ServiceAccount"), ObjectMeta: s.meta(), AutomountServiceAccountToken: new(bool)},
		&corev1.Secret{TypeMeta: kindOf("", "v1", "Secret"), ObjectMeta: s.meta(), Type: corev1.SecretTypeOpaque, Data: bundle},
		s.deployment(),
	}
	if s.config.Replicas > 1 {
		most := intstr.FromInt32(1)
		objects = append(objects, &policyv1.PodDisruptionBudget{
			TypeMeta: kindOf("policy", "v1", "PodDisruptionBudget"), ObjectMeta: s.meta(),
			Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &most, Selector: &metav1.LabelSelector{MatchLabels: s.selector()}},
		})
	}
	if ports := s.ports(); len(ports) > 0 { // A Service without any is refused.
		objects = append(objects, s.service(ports))
	}
	return objects
}

func (s *proxySet) ports() []corev1.ServicePort {
	ports := make([]corev1.ServicePort, 0, len(s.numbers))
	for _, number := range s.numbers {
		ports = append(ports, corev1.ServicePort{
			Name: "tcp-" + strconv.Itoa(int(number)), Port: number, TargetPort: intstr.FromInt32(number), Protocol: corev1.ProtocolTCP,
		})
	}
	return ports
}

func (s *proxySet) service(ports []corev1.ServicePort) *corev1.Service {
	spec := corev1.ServiceSpec{Type: corev1.ServiceType(s.config.ServiceType), Selector: s.selector(), Ports: ports}
	if spec.Type != corev1.ServiceTypeClusterIP {
		// The node that a client's connection comes to serves it, so that the client's
		// address is seen.
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	for _, address := range s.spec.Spec.Addresses {
		// Deprecated, and what load balancers go by all the same.
		if spec.Type == corev1.ServiceTypeLoadBalancer && net.ParseIP(address.Value) != nil {
			spec.LoadBalancerIP = address.Value
			break
		}
	}
	return &corev1.Service{TypeMeta: kindOf("", "v1", "Service"), ObjectMeta: s.meta(), Spec: spec}
}

func (s *proxySet) deployment() *appsv1.Deployment {
	labels := s.labels()
	// A sidecar would stand between Envoy and its clients.
	labels["sidecar.istio.io/inject"] = "false"
	none, one := intstr.FromInt32(0), intstr.FromInt32(1)
	return &appsv1.Deployment{
		TypeMeta: kindOf("apps", "v1", "Deployment"), ObjectMeta: s.meta(),
		Spec: appsv1.DeploymentSpec{
			Replicas: &s.config.Replicas, Selector: &metav1.LabelSelector{MatchLabels: s.selector()},
			Strategy: appsv1.DeploymentStrategy{
				Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: &none, MaxSurge: &one},
			},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: s.annotations()}, Spec: s.pod()},
		},
	}
}

func (s *proxySet) pod() corev1.PodSpec {
	yes, grace, mode := true, int64(proxyGraceSeconds), int32(0o440)
	user := int64(proxyUser)
	spread := func(key string) corev1.TopologySpreadConstraint {
		return corev1.TopologySpreadConstraint{
			MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{MatchLabels: s.selector()},
		}
	}
	empty := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
	return corev1.PodSpec{
		ServiceAccountName: s.name, AutomountServiceAccountToken: new(bool), TerminationGracePeriodSeconds: &grace,
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: &yes, RunAsUser: &user, RunAsGroup: &user, FSGroup: &user,
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			// One of the sysctls that Kubernetes counts as safe: listeners have the ports
			// that their Gateway says, without any capability.
			Sysctls: []corev1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "0"}},
		},
		TopologySpreadConstraints: []corev1.TopologySpreadConstraint{spread(corev1.LabelTopologyZone), spread(corev1.LabelHostname)},
		InitContainers:            []corev1.Container{s.bootstrap(), s.agent()},
		Containers:                []corev1.Container{s.envoy()},
		Volumes: []corev1.Volume{
			{Name: "config", VolumeSource: empty},
			{Name: "tls", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: s.name, DefaultMode: &mode}}},
			{Name: "tmp", VolumeSource: empty},
		},
	}
}

func podName() []corev1.EnvVar {
	return []corev1.EnvVar{{Name: "POD_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.name"}}}}
}

// confined is what every container is run with.
func confined(c corev1.Container) corev1.Container {
	yes := true
	c.ImagePullPolicy = corev1.PullIfNotPresent
	c.SecurityContext = &corev1.SecurityContext{
		AllowPrivilegeEscalation: new(bool), ReadOnlyRootFilesystem: &yes, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	return c
}

// bootstrap writes what Envoy starts with.
func (s *proxySet) bootstrap() corev1.Container {
	return confined(corev1.Container{
		Name: "bootstrap", Image: s.config.AgentImage, Env: podName(),
		Args: []string{
			"envoy", "bootstrap", "--node-id", "$(POD_NAME)", "--control-plane", s.config.ControlPlane,
			"--cert-dir", proxyCertDir, "--output", proxyConfigDir + "/envoy.json",
		},
		Resources:    resources("10m", "32Mi"),
		VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: proxyConfigDir}},
	})
}

// agent answers probes and drains. As an init container that is restarted it is
// there before Envoy and ends after it.
func (s *proxySet) agent() corev1.Container {
	always := corev1.ContainerRestartPolicyAlways
	return confined(corev1.Container{
		Name: "agent", Image: s.config.AgentImage, RestartPolicy: &always,
		Args:      []string{"envoy", "agent", "--delay", proxyDelay, "--timeout", proxyDrain},
		Ports:     []corev1.ContainerPort{{Name: "agent", ContainerPort: proxyAgentPort, Protocol: corev1.ProtocolTCP}},
		Resources: resources("10m", "32Mi"),
	})
}

func (s *proxySet) envoy() corev1.Container {
	ask := func(path string) corev1.ProbeHandler {
		return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(proxyAgentPort)}}
	}
	return confined(corev1.Container{
		Name: "envoy", Image: s.config.Image, Command: []string{"/usr/local/bin/envoy"},
		Args:           []string{"--config-path", proxyConfigDir + "/envoy.json", "--log-level", "warn", "--disable-hot-restart"},
		Resources:      resources(s.config.CPU, s.config.Memory),
		StartupProbe:   &corev1.Probe{ProbeHandler: ask("/live"), PeriodSeconds: 1, FailureThreshold: 60},
		ReadinessProbe: &corev1.Probe{ProbeHandler: ask("/ready"), PeriodSeconds: 2, FailureThreshold: 2},
		LivenessProbe:  &corev1.Probe{ProbeHandler: ask("/live"), PeriodSeconds: 10, FailureThreshold: 6},
		// Its end waits for that of draining, which the pod's end began.
		Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{HTTPGet: ask("/drained").HTTPGet}},
		VolumeMounts: []corev1.VolumeMount{
			{Name: "config", MountPath: proxyConfigDir, ReadOnly: true},
			{Name: "tls", MountPath: proxyCertDir, ReadOnly: true},
			{Name: "tmp", MountPath: "/tmp"},
		},
	})
}

// resources that were validated.
func resources(cpu, memory string) corev1.ResourceRequirements {
	requests := corev1.ResourceList{}
	for name, text := range map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory} {
		if quantity, err := parseQuantity(text); err == nil {
			requests[name] = quantity
		}
	}
	return corev1.ResourceRequirements{Requests: requests}
}
