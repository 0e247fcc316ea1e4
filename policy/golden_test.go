package policy_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"weir.dev/policy"
)

var update = flag.Bool("update", false, "write the golden files")

func parser(t testing.TB) *policy.Parser {
	t.Helper()
	p, err := policy.NewParser()
	require.NoError(t, err)
	return p
}

// resolveFile parses and resolves one file, as a source with no history would.
func resolveFile(t testing.TB, name string, content []byte) (*policy.Plan, policy.Problems) {
	t.Helper()
	var input policy.Input
	var problems policy.Problems
	for _, document := range parser(t).Parse(name, content) {
		problems = append(problems, document.Problems...)
		if document.Object != nil {
			input.Objects = append(input.Objects, document.Object)
		}
		if document.Closing != nil {
			input.Closings = append(input.Closings, *document.Closing)
		}
	}
	plan, more := policy.Resolve(input)
	return plan, append(problems, more...)
}

// render writes a plan and its problems for people to review in a diff.
func render(t testing.TB, plan *policy.Plan, problems policy.Problems) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, problem := range problems {
		out.WriteString(string(problem.Severity) + ": " + problem.Error() + "\n")
	}
	encoder := json.NewEncoder(&out)
	encoder.SetIndent("", "  ")
	require.NoError(t, encoder.Encode(map[string]any{"ports": plan.Ports, "backends": plan.Backends}))
	dump := func(message proto.Message) {
		raw, err := protojson.Marshal(message)
		require.NoError(t, err)
		var compact bytes.Buffer // protojson varies its spaces on purpose
		require.NoError(t, json.Compact(&compact, raw))
		out.Write(compact.Bytes())
		out.WriteByte('\n')
	}
	for _, message := range plan.AuthRoutes {
		dump(message)
	}
	for _, message := range plan.Consumers {
		dump(message)
	}
	for _, message := range plan.RateLimits {
		dump(message)
	}
	return out.Bytes()
}

func TestPlans(t *testing.T) {
	files, err := filepath.Glob("testdata/plan/*.in.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, in := range files {
		name := filepath.Base(in)
		t.Run(strings.TrimSuffix(name, ".in.yaml"), func(t *testing.T) {
			content, err := os.ReadFile(in)
			require.NoError(t, err)
			plan, problems := resolveFile(t, name, content)
			compare(t, strings.Replace(in, ".in.yaml", ".out.txt", 1), render(t, plan, problems))
		})
	}
}

// Each file holds one object that is wrong in one way or several; the golden
// lists what is said about it.
func TestBrokenObjects(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, in := range files {
		name := filepath.Base(in)
		t.Run(strings.TrimSuffix(name, ".yaml"), func(t *testing.T) {
			content, err := os.ReadFile(in)
			require.NoError(t, err)
			var out bytes.Buffer
			for _, document := range parser(t).Parse(name, content) {
				require.NotEmpty(t, document.Problems.Errors(), "nothing is said about a broken object")
				require.Nil(t, document.Object, "a broken object is not used")
				for _, problem := range document.Problems {
					require.NotZero(t, problem.Line, "%v has no line", problem)
					out.WriteString(problem.Error() + "\n")
				}
				if document.Closing != nil {
					out.WriteString("closes what it protects\n")
				}
			}
			compare(t, strings.Replace(in, ".yaml", ".out.txt", 1), out.Bytes())
		})
	}
}

func compare(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run go test ./policy -update and review the new golden")
	require.Equal(t, string(want), string(got))
}
