package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Version is the Kubernetes release that is built; components/kube/go.mod pins
// it.
const Version = "v1.36.3"

// Sets of tools, for Tools.
const (
	API   = "api"   // etcd, kube-apiserver and kubectl: what a test of the API needs.
	Node  = "node"  // API, and everything that runs containers on one node.
	Helm  = "helm"  // The client that installs charts.
	Istio = "istio" // istiod, its agent and its client.
	// Conformance is the Gateway API's own suite, and the server that it asks.
	Conformance = "conformance"
	// Metrics tells what pods use, which autoscalers go by.
	Metrics = "metrics"
	// Monitoring is Prometheus, and what gives its answers to autoscalers.
	Monitoring = "monitoring"
	// OpenFGA is the relationship store that extauthz asks.
	OpenFGA = "openfga"
)

// component is one binary, and what it is called.
type component struct {
	// module is a folder below components/; pkg is what is built in it.
	module, pkg string
	tags        string
	// suite is set where pkg is compiled to the binary of its tests.
	suite bool
	// variables are set by the linker, as release builds do.
	variables map[string]string
	// names are what the binary is called by; the first is its own.
	names []string
	// takes is how long its build took on two cores, to say what to expect.
	takes string
}

const (
	containerd = "github.com/containerd/containerd/v2/cmd/"
	plugins    = "github.com/containernetworking/plugins/plugins/"
)

func components(set string) []component {
	switch set {
	case API:
		return []component{
			{module: "etcd", pkg: ".", names: []string{"etcd"}, takes: "one minute"},
			{module: "kube", pkg: ".", names: []string{"kube", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet", "kubectl", "load-balancer"}, takes: "nine minutes", variables: versions()},
		}
	case Node:
		set := components(API)
		for _, name := range []string{"containerd", "containerd-shim-runc-v2", "ctr"} {
			set = append(set, component{module: "node", pkg: containerd + name, tags: "no_btrfs", names: []string{name}, takes: "a minute"})
		}
		for _, plugin := range []string{"main/ptp", "main/loopback", "ipam/host-local", "meta/portmap"} {
			set = append(set, component{module: "node", pkg: plugins + plugin, names: []string{filepath.Base(plugin)}, takes: "some seconds"})
		}
		return append(set, component{module: "coredns", pkg: ".", names: []string{"coredns"}, takes: "a minute"})
	case Helm:
		return []component{{module: "helm", pkg: "helm.sh/helm/v4/cmd/helm", names: []string{"helm"}, takes: "a minute"}}
	case Metrics:
		return []component{{module: "metrics", pkg: "sigs.k8s.io/metrics-server/cmd/metrics-server", names: []string{"metrics-server"}, takes: "five minutes"}}
	case Monitoring:
		return []component{
			// Of the ways to find what it scrapes, Kubernetes' alone: others bring their clouds' libraries.
			{module: "metrics", pkg: "github.com/prometheus/prometheus/cmd/prometheus", tags: "remove_all_sd,enable_kubernetes_sd", names: []string{"prometheus"}, takes: "two minutes"},
			{module: "metrics", pkg: "./prometheus-adapter", names: []string{"prometheus-adapter"}, takes: "half a minute"},
		}
	case OpenFGA:
		return []component{{module: "openfga", pkg: ".", names: []string{"openfga"}, takes: "two minutes"}}
	case Conformance:
		const suite = "sigs.k8s.io/gateway-api/conformance"
		return []component{
			{module: "conformance", pkg: suite + "/echo-basic", names: []string{"echo-basic"}, takes: "half a minute"},
			{module: "conformance", pkg: suite, suite: true, names: []string{"conformance.test"}, takes: "two minutes"},
		}
	case Istio:
		var set []component
		for _, name := range []string{"pilot-discovery", "pilot-agent", "istioctl"} {
			// The tags are those of Istio's own release build.
			set = append(set, component{module: "istio", pkg: "./" + name, tags: "vtprotobuf,disable_pgv", names: []string{name}, takes: "two minutes"})
		}
		return set
	}
	return nil
}

// versions have Kubernetes say what it is: charts ask for that.
func versions() map[string]string {
	number := strings.Split(strings.TrimPrefix(Version, "v"), ".")
	variables := map[string]string{}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		variables[pkg+".gitVersion"], variables[pkg+".gitMajor"], variables[pkg+".gitMinor"] = Version, number[0], number[1]
	}
	return variables
}

// Tools compiles the components of these sets, unless the cache holds them, and
// returns a folder with all of them under their own names. sources is the folder
// components beside package cluster. Calls from several processes at once build
// one time. What it does, and how long that may take, is said on progress.
func Tools(ctx context.Context, sources string, progress io.Writer, sets ...string) (dir string, err error) {
	var wanted []component
	for _, set := range sets {
		found := components(set)
		if found == nil {
			return "", fmt.Errorf("there is no set of tools %q: have %s", set, strings.Join([]string{API, Node, Helm, Istio, Conformance, Metrics, Monitoring, OpenFGA}, ", "))
		}
		wanted = append(wanted, found...)
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("the cache cannot be used (choose another with WEIR_CACHE_DIR): %w", err)
	}
	links := map[string]string{}
	for _, c := range wanted {
		path, err := buildOne(ctx, sources, cache, c, progress)
		if err != nil {
			return "", err
		}
		for _, name := range c.names {
			links[name] = path
		}
	}
	return link(cache, links)
}

// link makes a folder of links, named by what they lead to: one that was made is
// never changed, so that what runs from it keeps its binaries.
func link(cache string, links map[string]string) (string, error) {
	hash := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(links)) {
		fmt.Fprintln(hash, name, links[name])
	}
	dir := filepath.Join(cache, "bin-"+hex.EncodeToString(hash.Sum(nil))[:12])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	work, err := os.MkdirTemp(cache, "bin-new-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(work, 0o755); err != nil { //nolint:gosec // programs, for everybody to run
		return "", err
	}
	for name, path := range links {
		if err := os.Symlink(path, filepath.Join(work, name)); err != nil {
			return "", err
		}
	}
	err = os.Rename(work, dir)
	if _, there := os.Stat(dir); err != nil && there == nil { // Another process was faster.
		return dir, os.RemoveAll(work)
	}
	return dir, err
}
