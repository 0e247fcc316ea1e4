package policy_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
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
	out := map[string]any{}
	add := func(name string, value any, raw []byte, err error) {
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(raw, &value))
		switch value := withoutZeros(value).(type) {
		case nil:
		case []any:
			out[name] = value
		default:
			list, _ := out[name].([]any)
			out[name] = append(list, value)
		}
	}
	for _, problem := range problems {
		list, _ := out["problems"].([]any)
		out["problems"] = append(list, string(problem.Severity)+": "+problem.Error())
	}
	for name, part := range map[string]any{"ports": plan.Ports, "backends": plan.Backends, "secrets": plan.Secrets, "infrastructure": plan.Infrastructure, "statuses": plan.Statuses} {
		raw, err := json.Marshal(part)
		add(name, nil, raw, err)
	}
	messages := func(name string, count int, get func(int) proto.Message) {
		for i := range count {
			raw, err := protojson.Marshal(get(i))
			add(name, nil, raw, err)
		}
	}
	messages("authRoutes", len(plan.AuthRoutes), func(i int) proto.Message { return plan.AuthRoutes[i] })
	messages("consumers", len(plan.Consumers), func(i int) proto.Message { return plan.Consumers[i] })
	messages("rateLimits", len(plan.RateLimits), func(i int) proto.Message { return plan.RateLimits[i] })
	raw, err := yaml.Marshal(out)
	require.NoError(t, err)
	return raw
}

// originText is an Origin on one line.
func originText(value map[string]any) (string, bool) {
	_, object := value["object"].(map[string]any)
	for key := range value {
		object = object && slices.Contains([]string{"object", "field", "file", "line"}, key)
	}
	if !object {
		return "", false
	}
	raw, err := json.Marshal(value)
	var origin policy.Origin
	if err != nil || json.Unmarshal(raw, &origin) != nil {
		return "", false
	}
	if origin == (policy.Origin{}) || origin.File == "" {
		return "", false
	}
	return origin.String(), true
}

// statusText is a condition or a kind of route on one line.
func statusText(value map[string]any) (string, bool) {
	text := func(key string) string { part, _ := value[key].(string); return part }
	switch {
	case text("type") != "" && text("status") != "" && text("reason") != "":
		line := text("type") + "=" + text("status") + " " + text("reason")
		if text("message") != "" {
			line += ": " + text("message")
		}
		return line, true
	case len(value) == 2 && text("group") != "" && text("kind") != "":
		return text("kind"), true
	default:
		return "", false
	}
}

// withoutZeros leaves out what says nothing, so that a field which is new to the
// Plan does not change the goldens that do not set it.
func withoutZeros(value any) any {
	switch value := value.(type) {
	case map[string]any:
		if origin, ok := originText(value); ok {
			return origin
		}
		if line, ok := statusText(value); ok {
			return line
		}
		for key, part := range value {
			value[key] = withoutZeros(part)
			if value[key] == nil {
				delete(value, key)
			}
		}
		if len(value) == 0 {
			return nil
		}
	case []any:
		for i := range value {
			value[i] = withoutZeros(value[i])
		}
		if len(value) == 0 {
			return nil
		}
	case string:
		if value == "" {
			return nil
		}
	case float64:
		if value == 0 {
			return nil
		}
		if whole := int64(value); float64(whole) == value {
			return whole
		}
	case bool:
		if !value {
			return nil
		}
	}
	return value
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
			compare(t, strings.Replace(in, ".in.yaml", ".out.yaml", 1), render(t, plan, problems))
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
