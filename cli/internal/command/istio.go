package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"weir.dev/controlplane/envoy"
	"weir.dev/extauthz/jose"
	"weir.dev/mesh/istio"
	"weir.dev/policy"
)

// Targets that a policy is compiled for.
const (
	targetEnvoy = "envoy"
	targetIstio = "istio"
)

// istioOptions say where Istio's gateway and Weir's servers are.
type istioOptions struct {
	target    string
	namespace string
	selector  map[string]string
	provider  string
	rateLimit string
	timeout   time.Duration
	rules     string
}

func (o *istioOptions) flags(c *cobra.Command) {
	standard := istio.DefaultOptions()
	c.Flags().StringVar(&o.target, "target", targetEnvoy, "what to make: `envoy` (Weir's own proxies) or istio")
	c.Flags().StringVar(&o.namespace, "istio-namespace", standard.Namespace, "`namespace` of Istio's gateway, where objects are put")
	c.Flags().StringToStringVar(&o.selector, "istio-selector", standard.Selector, "`labels` of the gateway's pods")
	c.Flags().StringVar(&o.provider, "istio-provider", standard.Provider, "`name` of extauthz among the mesh's extension providers")
	c.Flags().StringVar(&o.rateLimit, "istio-ratelimit", net.JoinHostPort(standard.RateLimit.Host, strconv.Itoa(int(standard.RateLimit.Port))), "`host:port` of ratelimitd in the mesh")
	c.Flags().DurationVar(&o.timeout, "istio-ratelimit-timeout", envoy.DefaultRateLimitTimeout, "how long a request waits for ratelimitd, 10ms to 10s")
	c.Flags().StringVar(&o.rules, "istio-rules-namespace", standard.RulesNamespace, "`namespace` in which extauthz and ratelimitd read their rules")
}

func (o *istioOptions) validate() error {
	if o.target != targetEnvoy && o.target != targetIstio {
		return usageError{fmt.Errorf("--target %q is not known; use envoy or istio", o.target)}
	}
	if len(o.selector) == 0 {
		return usageError{errors.New("--istio-selector: name a label at least; none would be every pod's")}
	}
	return nil
}

func (o *istioOptions) compile() (istio.Options, error) {
	host, text, err := net.SplitHostPort(o.rateLimit)
	port, parseErr := strconv.ParseUint(text, 10, 16)
	if err != nil || parseErr != nil || port == 0 || host == "" {
		return istio.Options{}, usageError{fmt.Errorf("--istio-ratelimit %q is not host:port", o.rateLimit)}
	}
	if o.timeout < 10*time.Millisecond || o.timeout > 10*time.Second {
		return istio.Options{}, usageError{fmt.Errorf("--istio-ratelimit-timeout %s is outside 10ms to 10s", o.timeout)}
	}
	return istio.Options{
		Namespace: o.namespace, Selector: o.selector, Provider: o.provider, RulesNamespace: o.rules,
		RateLimit: istio.Service{Host: host, Port: uint32(port)},
		CheckKeys: func(jwks []byte) error {
			_, err := jose.ParseKeySet(jwks)
			return err
		},
	}, nil
}

// forIstio is a policy with what Istio is given for it.
type forIstio struct {
	*loaded
	made []istio.Object
	// found are the problems of the policy and those of the target.
	found policy.Problems
}

// loadForIstio compiles paths for Istio.
func (a *App) loadForIstio(paths []string, o istioOptions) (*forIstio, error) {
	options, err := o.compile()
	if err != nil {
		return nil, err
	}
	found, err := load(paths, true) // development keys are nothing for a cluster
	if err != nil {
		return nil, err
	}
	input := istio.Input{Plan: found.plan}
	for _, object := range found.objects {
		switch object.Ref.Kind {
		case "RateLimitPolicy":
			input.LimitPolicies = append(input.LimitPolicies, object)
		case "AuthPolicy":
			input.AuthPolicies = append(input.AuthPolicies, object)
		}
	}
	for _, fleet := range fleetsOf(found.plan) {
		options := offlineOptions(fleet)
		options.ShardAbove, options.RateLimitTimeout = -1, o.timeout
		set, err := envoy.CompileFleet(found.plan, options)
		if err != nil {
			return nil, err
		}
		listeners, err := unpack[listenerv3.Listener](set[envoy.TypeListener])
		if err != nil {
			return nil, err
		}
		routes, err := unpack[routev3.RouteConfiguration](set[envoy.TypeRoute])
		if err != nil {
			return nil, err
		}
		input.Listeners, input.Routes = append(input.Listeners, listeners...), append(input.Routes, routes...)
	}
	made, problems := istio.Compile(input, options)
	all := slices.Concat(found.problems, problems)
	all.Sort()
	return &forIstio{loaded: found, made: made, found: all}, nil
}

// message is a pointer to M that is a proto.
type message[M any] interface {
	*M
	proto.Message
}

// unpack reads resources of one type, in any order.
func unpack[M any, P message[M]](resources map[string]envoy.Resource) ([]P, error) {
	read := make([]P, 0, len(resources))
	for _, resource := range resources {
		one := P(new(M))
		if err := resource.Body.UnmarshalTo(one); err != nil {
			return nil, err
		}
		read = append(read, one)
	}
	return read, nil
}

// translateIstio writes the objects as kubectl takes them. Secrets are hidden
// unless they are asked for.
func (a *App) translateIstio(paths []string, o translateOptions) error {
	found, err := a.loadForIstio(paths, o.istioOptions)
	if err != nil {
		return err
	}
	if len(found.found) > 0 {
		printProblems(a.Stderr, "problems", found.found)
	}
	if len(found.found.Errors()) > 0 {
		return silentError{} // What is written may be piped to who applies it.
	}
	shown := make([]map[string]any, 0, len(found.made))
	for i := range found.made {
		object := &found.made[i]
		if !o.shows(object) {
			continue
		}
		if o.secrets {
			shown = append(shown, object.Unstructured().Object)
		} else {
			shown = append(shown, object.Shown())
		}
	}
	if *o.format == formatJSON {
		return write(a.Stdout, formatJSON, map[string]any{"apiVersion": "v1", "kind": "List", "items": shown}, nil)
	}
	return writeDocuments(a.Stdout, shown)
}

// shows reports whether an object is among the names and kinds that are asked for.
func (o *translateOptions) shows(object *istio.Object) bool {
	return (len(o.names) == 0 || slices.Contains(o.names, object.Name)) &&
		(len(o.types) == 0 || slices.ContainsFunc(o.types, func(kind string) bool { return strings.EqualFold(kind, object.Kind) }))
}

func writeDocuments(w io.Writer, documents []map[string]any) error {
	for _, document := range documents {
		raw, err := json.Marshal(document)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(w, "---\n"); err != nil {
			return err
		}
		if err := writeYAML(w, raw); err != nil {
			return err
		}
	}
	return nil
}
