package mtls

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
)

// Names of objects; those of workloads have a hash of the selector behind.
const (
	policyBase   = "weir-mtls"
	observerBase = "weir-mtls-observer"
	// chainName is that of the way that connections take which no other takes.
	chainName = "weir-mtls-refused"
)

func named(base string, scope Scope) string {
	if len(scope.Selector) == 0 {
		return base
	}
	sum := sha256.Sum256([]byte(labels.Set(scope.Selector).String()))
	return base + "-" + hex.EncodeToString(sum[:5])
}

func policyName(scope Scope) string { return named(policyBase, scope) }

func object(apiVersion, kind, name string, scope Scope, spec map[string]any) *unstructured.Unstructured {
	made := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	made.SetAPIVersion(apiVersion)
	made.SetKind(kind)
	made.SetNamespace(scope.Namespace)
	made.SetName(name)
	made.SetLabels(map[string]string{LabelOwner: OwnerValue, LabelMTLS: "true"})
	return made
}

// selected is a selector as objects have it.
func selected(scope Scope) map[string]any {
	values := map[string]any{}
	for key, value := range scope.Selector {
		values[key] = value
	}
	return values
}

// PolicyObject is the PeerAuthentication of a scope, with its history.
func PolicyObject(scope Scope, mode Mode, history []Former) (*unstructured.Unstructured, error) {
	spec := map[string]any{"mtls": map[string]any{"mode": string(mode)}}
	if len(scope.Selector) > 0 {
		spec["selector"] = map[string]any{"matchLabels": selected(scope)}
	}
	made := object("security.istio.io/v1", "PeerAuthentication", policyName(scope), scope, spec)
	text, err := json.Marshal(history)
	if err != nil {
		return nil, err
	}
	made.SetAnnotations(map[string]string{AnnotationHistory: string(text)})
	return made, nil
}

// logName is the name of the access logs of one observation.
func logName(run string) string { return "weir.mtls." + run }

// ObserverObject is an EnvoyFilter that has the sidecars of a scope log who calls in
// plaintext, as it begins, and who finds no way in. The ways of mutual TLS stay what
// they are but for those of TCP, whose log is quiet. before is the mark of our policy
// as it began.
func ObserverObject(scope Scope, run, before string) *unstructured.Unstructured {
	const (
		manager = "envoy.filters.network.http_connection_manager"
		proxy   = "envoy.filters.network.tcp_proxy"
		proto   = "type.googleapis.com/envoy.extensions.filters.network."
	)
	settings := func(kind, what string, options map[string]any) map[string]any {
		value := map[string]any{"@type": proto + kind, "access_log": []any{accessLog(run, what)}}
		if options != nil {
			value["access_log_options"] = options
		}
		return map[string]any{"typed_config": value}
	}
	merge := func(applyTo string, listener, value map[string]any) map[string]any {
		match := map[string]any{"context": "SIDECAR_INBOUND"}
		if listener != nil {
			match["listener"] = listener
		}
		return map[string]any{"applyTo": applyTo, "match": match, "patch": map[string]any{"operation": "MERGE", "value": value}}
	}
	on := func(transport, filter string) map[string]any {
		return map[string]any{"filterChain": map[string]any{"transportProtocol": transport, "filter": map[string]any{"name": filter}}}
	}
	const http, tcp = "http_connection_manager.v3.HttpConnectionManager", "tcp_proxy.v3.TcpProxy"
	closing := settings(tcp, kindRefused, nil)
	closing["name"] = proxy
	body, _ := closing["typed_config"].(map[string]any)
	maps.Copy(body, map[string]any{"stat_prefix": "weir_mtls_refused", "cluster": "BlackHoleCluster"})
	spec := map[string]any{"configPatches": []any{
		merge("NETWORK_FILTER", on("raw_buffer", manager), settings(http, kindRequest, map[string]any{"flush_access_log_on_new_request": true})),
		merge("NETWORK_FILTER", on("raw_buffer", proxy), settings(tcp, kindConnection, map[string]any{"flush_access_log_on_connected": true})),
		// TLS that is the application's own goes on as plaintext does. As a connection is
		// made, whether it will be mutual TLS is not known yet.
		merge("NETWORK_FILTER", on("tls", proxy), settings(tcp, kindTLS, map[string]any{"access_log_flush_interval": tlsTold})),
		merge("LISTENER", nil, map[string]any{"default_filter_chain": map[string]any{"name": chainName, "filters": []any{closing}}}),
	}}
	if len(scope.Selector) > 0 {
		spec["workloadSelector"] = map[string]any{"labels": selected(scope)}
	}
	made := object("networking.istio.io/v1alpha3", "EnvoyFilter", named(observerBase, scope), scope, spec)
	made.SetAnnotations(map[string]string{AnnotationRun: run, AnnotationBefore: before})
	return made
}

// Observer is an EnvoyFilter of ObserverObject that is in a cluster.
type Observer struct {
	Namespace, Name string
	// Run is the observation that it is of, Before the mark of our policy as that began.
	Run, Before string
}

// ReadObserver reads one.
func ReadObserver(object *unstructured.Unstructured) Observer {
	said := object.GetAnnotations()
	return Observer{Namespace: object.GetNamespace(), Name: object.GetName(), Run: said[AnnotationRun], Before: said[AnnotationBefore]}
}

func (o *Observer) String() string { return "EnvoyFilter " + o.Namespace + "/" + o.Name }

// takeAway is the command that does.
func (o *Observer) takeAway() string {
	return "kubectl delete envoyfilter -n " + o.Namespace + " " + o.Name
}

// tlsTold is how often a connection in TLS is told of: shorter than logsLate.
const tlsTold = "5s"

// accessLog writes one JSON line to the sidecar's output. That of TLS says nothing of
// mutual TLS.
func accessLog(run, what string) map[string]any {
	log := map[string]any{
		"name": logName(run),
		"typed_config": map[string]any{
			"@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
			"log_format": map[string]any{"json_format": map[string]any{
				marker: run, "what": what, "type": "%ACCESS_LOG_TYPE%", "connection": "%CONNECTION_ID%",
				"from": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "to": "%DOWNSTREAM_LOCAL_ADDRESS%", "received": "%BYTES_RECEIVED%",
			}},
		},
	}
	if what == kindTLS {
		log["filter"] = map[string]any{"extension_filter": map[string]any{
			"name": "envoy.access_loggers.extension_filters.cel",
			"typed_config": map[string]any{
				"@type":      "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
				"expression": "!connection.mtls",
			},
		}}
	}
	return log
}
