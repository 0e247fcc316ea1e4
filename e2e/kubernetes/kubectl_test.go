//go:build slow

package kubernetes_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/cluster/build"
	"weir.dev/e2e/internal/harness"
	"weir.dev/policy/policytest"
)

// kubectl is the real client.
type kubectl struct {
	t                  *testing.T
	binary, kubeconfig string
}

func newKubectl(t *testing.T, kubeconfig string) *kubectl {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	tools, err := build.Tools(ctx, filepath.Join(harness.Root(t), "e2e", "cluster", "components"), os.Stderr, build.API)
	require.NoError(t, err)
	return &kubectl{t: t, binary: filepath.Join(tools, "kubectl"), kubeconfig: kubeconfig}
}

// try runs a command; input is what it reads.
func (k *kubectl) try(input string, arguments ...string) (output string, err error) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, k.binary, append([]string{"--kubeconfig", k.kubeconfig}, arguments...)...)
	command.Stdin = strings.NewReader(input)
	command.Env = append(os.Environ(), "HOME="+k.t.TempDir()) // Its cache of kinds is not shared.
	var both bytes.Buffer
	command.Stdout, command.Stderr = &both, &both
	err = command.Run()
	return both.String(), err
}

func (k *kubectl) run(input string, arguments ...string) string {
	k.t.Helper()
	output, err := k.try(input, arguments...)
	require.NoError(k.t, err, "kubectl %s\n%s", strings.Join(arguments, " "), output)
	return output
}

// row is what kubectl prints of one object, by column.
func (k *kubectl) row(kind, name string) map[string]string {
	k.t.Helper()
	lines := strings.Split(strings.TrimSpace(k.run("", "get", kind, name)), "\n")
	require.Len(k.t, lines, 2)
	columns := regexp.MustCompile(`\S+\s*`).FindAllStringIndex(lines[0], -1)
	row := map[string]string{}
	for i, at := range columns {
		end := len(lines[1])
		if i < len(columns)-1 {
			end = min(at[1], end)
		}
		row[strings.TrimSpace(lines[0][at[0]:at[1]])] = strings.TrimSpace(lines[1][min(at[0], end):end])
	}
	return row
}

// hostAddress is an address of this machine that an EndpointSlice may hold: the
// API server refuses those of the loopback interface.
func hostAddress(t *testing.T) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, address := range addresses {
		if network, ok := address.(*net.IPNet); ok && network.IP.To4() != nil && network.IP.IsGlobalUnicast() {
			return network.IP.String()
		}
	}
	require.Fail(t, "this machine has no IPv4 address but the loopback one; give it one, such as: ip address add 198.18.255.1/32 dev lo")
	return ""
}

// What `weir validate` refuses, real kubectl does not bring in, and says where
// the mistake is.
func TestSlowKubectlRefuses(t *testing.T) {
	c := kubernetes(t)
	installCRDs(t, c, weirCRDs(t), gatewayCRDs(t))
	kubeconfig, err := c.Kubeconfig("admin", "system:masters")
	require.NoError(t, err)
	k := newKubectl(t, kubeconfig)
	content, err := os.ReadFile(filepath.Join(harness.Root(t), "policy", "testdata", "faults.yaml"))
	require.NoError(t, err)
	cases, err := policytest.Cases(content)
	require.NoError(t, err)
	good, bad := 0, 0
	for i, tc := range cases {
		isGood := !tc.Refused
		if tc.OnlyParser != "" || !isGood && i%9 != 0 { // All of them go to the API server in TestSlowCustomResources.
			continue
		}
		output, err := k.try(string(tc.Object), "apply", "--namespace", "default", "--dry-run=server", "-f", "-")
		if isGood {
			good++
			require.NoError(t, err, "%s\n%s", tc.Name, output)
			continue
		}
		bad++
		require.Error(t, err, tc.Name)
		t.Logf("%s\n%s", tc.Name, output)
		require.Regexp(t, `is invalid|strict decoding error|unknown field|failed to (create|unmarshal)|cannot unmarshal`, output, tc.Name)
	}
	require.Greater(t, good, 10)
	require.Greater(t, bad, 10)
}
