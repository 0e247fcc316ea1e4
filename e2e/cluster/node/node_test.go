package node

import (
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

func newTestNode(t *testing.T) *Node {
	t.Helper()
	return &Node{Options: Options{Dir: filepath.Join(t.TempDir(), "state"), Run: filepath.Join(t.TempDir(), "run"), Progress: t.Output()}, tools: "/tools"}
}

func TestConfigurationNamesTheStateOfThisNode(t *testing.T) {
	n := newTestNode(t)
	require.NoError(t, n.configure())
	for _, place := range places() {
		content, err := os.ReadFile(n.in(place))
		require.NoError(t, err)
		require.NotContains(t, string(content), "{{")
	}
	kubelet, err := os.ReadFile(n.in("kubelet.yaml"))
	require.NoError(t, err)
	var parsed map[string]any
	require.NoError(t, yaml.UnmarshalStrict(kubelet, &parsed))
	require.Equal(t, "unix://"+n.Run+"/containerd.sock", parsed["containerRuntimeEndpoint"])
}

func TestCertificatesAndKubeconfigs(t *testing.T) {
	n := newTestNode(t)
	require.NoError(t, n.certificates())
	config, err := clientcmd.LoadFromFile(n.Kubeconfig())
	require.NoError(t, err)
	require.Equal(t, "https://"+n.Address()+":6443", config.Clusters["weir"].Server)
	require.NoError(t, filepath.WalkDir(n.in("pki"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		require.Zero(t, info.Mode().Perm()&0o077, "%s is for its owner alone", path)
		return err
	}))
}

// What runs in a namespace that is not the node's is left alone.
func TestOnlyProcessesOfTheNodeAreKilled(t *testing.T) {
	n := newTestNode(t)
	dir := filepath.Join(n.Run, "io.containerd.grpc.v1.cri", "netns")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	sleeper := exec.CommandContext(t.Context(), "sleep", "60")
	require.NoError(t, sleeper.Start())
	t.Cleanup(func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() })
	require.False(t, slices.Contains(n.members(), sleeper.Process.Pid))

	// Seen as a pod's: it is in the namespace that a file of the node stands for.
	require.NoError(t, os.Symlink("/proc/self/ns/net", filepath.Join(dir, "cni-1")))
	require.True(t, slices.Contains(n.members(), sleeper.Process.Pid), "the control: this namespace is the node's now")
	require.False(t, slices.Contains(n.members(), os.Getpid()), "never the caller itself")
	require.NoError(t, syscall.Unlink(filepath.Join(dir, "cni-1")))
}

func TestSlotsShareNothing(t *testing.T) {
	seen := map[string]int{}
	for slot := range MaxSlot + 1 {
		o := Options{Slot: slot}
		for _, name := range []string{o.namespace(), o.device(), o.cgroup(), o.Address(), o.outside(), o.apiIP(), o.services(), o.pods()} {
			require.NotContains(t, seen, name)
			seen[name] = slot
		}
		services, pods := netip.MustParsePrefix(o.services()), netip.MustParsePrefix(o.pods())
		require.Equal(t, services, services.Masked())
		require.Equal(t, pods, pods.Masked())
		require.True(t, services.Contains(netip.MustParseAddr(o.apiIP())))
	}
	_, err := New(t.Context(), Options{Slot: MaxSlot + 1})
	require.ErrorContains(t, err, "slot 4")
	t.Setenv(SlotVariable, "x")
	_, err = SlotFromEnvironment()
	require.ErrorContains(t, err, SlotVariable)
}

// What is installed for autoscalers has the configurations that it was given, and
// refers to nothing that is not there.
func TestMonitoringHasItsConfigurations(t *testing.T) {
	objects, err := monitoringObjects([]byte("scrape_configs: []\n"), []byte("rules: []\n"))
	require.NoError(t, err)
	said, mounted, accounts, used := map[string]map[string]any{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for document := range strings.SplitSeq(string(objects), "---\n") {
		var object struct {
			Kind     string
			Metadata struct{ Name, Namespace string }
			Data     map[string]any
			Spec     struct {
				Template struct {
					Spec struct {
						ServiceAccountName string
						Volumes            []struct{ ConfigMap struct{ Name string } }
					}
				}
			}
		}
		require.NoError(t, yaml.Unmarshal([]byte(document), &object))
		switch object.Kind {
		case "ConfigMap":
			said[object.Metadata.Name] = object.Data
		case "ServiceAccount":
			accounts[object.Metadata.Name] = true
		case "Deployment":
			require.Equal(t, "monitoring", object.Metadata.Namespace)
			used[object.Spec.Template.Spec.ServiceAccountName] = true
			mounted[object.Spec.Template.Spec.Volumes[0].ConfigMap.Name] = true
		}
	}
	require.Equal(t, map[string]map[string]any{"prometheus": {"prometheus.yml": "scrape_configs: []\n"}, "prometheus-adapter": {"config.yaml": "rules: []\n"}}, said)
	require.Equal(t, map[string]bool{"prometheus": true, "prometheus-adapter": true}, mounted)
	require.Equal(t, accounts, used)
}
