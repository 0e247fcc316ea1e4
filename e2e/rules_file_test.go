package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/e2e/internal/harness"
	"weir.dev/policy"
	"weir.dev/ratelimit/rulesfile"
)

// A ratelimitd that reads policies by itself has the rules that the control plane
// makes of them, to the byte.
func TestRulesOfFilesAreThoseOfTheControlPlane(t *testing.T) {
	compared := 0
	for _, name := range []string{"policy/testdata/plan/policies.in.yaml", "controlplane/envoy/testdata/quotas.in.yaml", "controlplane/envoy/testdata/policies.in.yaml"} {
		content, err := os.ReadFile(filepath.Join(harness.Root(t), name))
		require.NoError(t, err)
		parser, err := policy.NewParser()
		require.NoError(t, err)
		var input policy.Input
		for _, document := range parser.Parse(name, content) {
			if document.Object != nil {
				input.Objects = append(input.Objects, document.Object)
			}
		}
		plan, _ := policy.Resolve(input)
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "policy.yaml"), content, 0o600))
		read, err := rulesfile.Read(dir)
		require.NoError(t, err)
		byID := map[string]*rulesv1.RateLimitRule{}
		for _, rule := range read.Rules {
			byID[rule.GetId()] = rule
		}
		for _, want := range plan.RateLimits {
			require.True(t, proto.Equal(want, byID[want.GetId()]), "%s\n%s", want, byID[want.GetId()])
			compared++
		}
	}
	require.Greater(t, compared, 10)
}
