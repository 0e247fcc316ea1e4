package kubeapply

import (
	"fmt"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// requestTimeout bounds one request to the API server.
const requestTimeout = 30 * time.Second

// Config says which API server is meant, as kubectl's flags of these names do.
type Config struct {
	// Kubeconfig is a file; empty means $KUBECONFIG, else ~/.kube/config.
	Kubeconfig string
	// Context of the kubeconfig; empty means its current one.
	Context string
	// Namespace of objects that name none; empty means the context's.
	Namespace string
	Getenv    func(string) string
}

// Cluster is an API server. Its Apply is not safe for concurrent use.
type Cluster struct {
	dynamic dynamic.Interface
	kinds   discovery.DiscoveryInterface
	// mapper is set by discover.
	mapper    meta.RESTMapper
	namespace string
	// Host is the server's URL, for messages.
	Host string
}

// Connect reads the kubeconfig. It does not talk to the server.
func Connect(config Config) (*Cluster, error) {
	restConfig, namespace, err := Load(config)
	if err != nil {
		return nil, err
	}
	httpClient, err := rest.HTTPClientFor(restConfig)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	kinds, err := discovery.NewDiscoveryClientForConfigAndClient(restConfig, httpClient)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	objects, err := dynamic.NewForConfigAndClient(restConfig, httpClient)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	return &Cluster{
		dynamic: objects, kinds: kinds, namespace: namespace, Host: restConfig.Host,
	}, nil
}

// Load reads the kubeconfig: how the server is reached, and the namespace of objects
// that name none.
func Load(config Config) (restConfig *rest.Config, namespace string, err error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: config.Kubeconfig}
	switch list := config.Getenv("KUBECONFIG"); {
	case config.Kubeconfig != "":
	case list != "":
		rules.Precedence = filepath.SplitList(list)
	default:
		rules.Precedence = []string{filepath.Join(config.Getenv("HOME"), clientcmd.RecommendedHomeDir, clientcmd.RecommendedFileName)}
	}
	overrides := &clientcmd.ConfigOverrides{CurrentContext: config.Context}
	overrides.Context.Namespace = config.Namespace
	loaded := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	restConfig, err = loaded.ClientConfig()
	if err != nil {
		// The library's errors name files and contexts, not what they hold.
		return nil, "", fmt.Errorf("which Kubernetes API to apply to is not known: %w; name a file with --kubeconfig or $KUBECONFIG", err)
	}
	namespace, _, err = loaded.Namespace()
	if err != nil {
		return nil, "", fmt.Errorf("kubeconfig: %w", err)
	}
	restConfig.Timeout = requestTimeout
	restConfig.QPS = -1 // The API server bounds its clients itself (priority and fairness).
	restConfig.UserAgent = FieldManager + " " + rest.DefaultKubernetesUserAgent()
	return restConfig, namespace, nil
}

// discover asks which kinds there are. Groups that do not answer, which are
// others' (aggregated APIs), are taken as absent.
func (c *Cluster) discover() error {
	groups, err := restmapper.GetAPIGroupResources(c.kinds)
	if err != nil {
		return c.failed(err)
	}
	c.mapper = restmapper.NewDiscoveryRESTMapper(groups)
	return nil
}

// failed says which server an error is of.
func (c *Cluster) failed(err error) error {
	return fmt.Errorf("the Kubernetes API at %s: %w", c.Host, err)
}
