package meshcerts

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"weir.dev/kit/certs"
)

// fieldManager owns the Secrets' data.
const fieldManager = "weir-certs"

// requestTimeout bounds one request to the API server.
const requestTimeout = 15 * time.Second

// Secrets keeps bundles in Kubernetes Secrets of type kubernetes.io/tls. It gets
// and applies them by name and does nothing else, so that a Role may name them
// (verbs get, create and patch): a Secret is created by applying it, too, for
// which the API server checks the name, as it cannot when one is posted.
type Secrets struct {
	secrets   dynamic.ResourceInterface
	namespace string
	name      func(string) string
}

// SecretsConfig says where the Secrets are.
type SecretsConfig struct {
	// Kubeconfig is a file; empty is kubectl's own, or the service account of the
	// pod. Context is one of it; empty is its current one.
	Kubeconfig, Context string
	// Namespace of the Secrets; empty is the context's, or the pod's.
	Namespace string
	// Prefix begins their names: PREFIX-authority and PREFIX-PART-tls.
	Prefix string
}

// SecretName is what the Secret of a bundle is called.
func SecretName(prefix, name string) string {
	if name == Authority {
		return prefix + "-" + name
	}
	return prefix + "-" + name + "-tls"
}

// NewSecrets reads the kubeconfig. It does not talk to the server.
func NewSecrets(config SecretsConfig) (*Secrets, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = config.Kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: config.Context}
	overrides.Context.Namespace = config.Namespace
	loaded := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	restConfig, err := loaded.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("which Kubernetes API to use is not known: %w; name a file with --kubeconfig or $KUBECONFIG, or run in a pod with a service account", err)
	}
	namespace, _, err := loaded.Namespace()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	restConfig.Timeout = requestTimeout
	restConfig.UserAgent = fieldManager + " " + rest.DefaultKubernetesUserAgent()
	client, err := dynamic.NewForConfig(restConfig)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	return &Secrets{
		secrets:   client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}).Namespace(namespace),
		namespace: namespace,
		name:      func(name string) string { return SecretName(config.Prefix, name) },
	}, nil
}

// Name is what the Secret of a bundle is called, with its namespace.
func (s *Secrets) Name(name string) string { return s.namespace + "/" + s.name(name) }

// Read implements Store.
func (s *Secrets) Read(ctx context.Context, name string) (certs.Bundle, string, error) {
	secret, err := s.secrets.Get(ctx, s.name(name), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("secret %s: %w", s.Name(name), err)
	}
	data, _, err := unstructured.NestedStringMap(secret.Object, "data")
	if err != nil {
		return nil, "", fmt.Errorf("secret %s: %w", s.Name(name), err)
	}
	bundle := certs.Bundle{}
	for key, value := range data {
		if bundle[key], err = base64.StdEncoding.DecodeString(value); err != nil {
			return nil, "", fmt.Errorf("secret %s: data[%q] is not base64", s.Name(name), key)
		}
	}
	return bundle, secret.GetResourceVersion(), nil
}

// Write implements Store. One that is not there is applied without force, under a
// name of its own: of two that do so at once, the second conflicts.
func (s *Secrets) Write(ctx context.Context, name, version string, bundle certs.Bundle) error {
	data := map[string]any{}
	for key, value := range bundle {
		data[key] = base64.StdEncoding.EncodeToString(value)
	}
	secret := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": data,
		"metadata": map[string]any{
			"name":   s.name(name),
			"labels": map[string]any{"app.kubernetes.io/managed-by": fieldManager, "app.kubernetes.io/part-of": "weir"},
		},
	}}
	options := metav1.ApplyOptions{FieldManager: fieldManager + "-" + rand.Text()[:8]}
	if version != "" {
		secret.SetResourceVersion(version)
		options = metav1.ApplyOptions{FieldManager: fieldManager, Force: true}
	}
	_, err := s.secrets.Apply(ctx, s.name(name), secret, options)
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("secret %s: %w", s.Name(name), errors.Join(ErrChanged, err))
	}
	if err != nil {
		return fmt.Errorf("secret %s: %w", s.Name(name), err)
	}
	return nil
}
