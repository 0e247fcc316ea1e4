package command

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/policy"
)

var update = flag.Bool("update", false, "write the golden files")

// runApp runs a command line that needs nothing of the machine.
func runApp(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	app := &App{
		Stdin: new(bytes.Buffer), Stdout: &out, Stderr: &errs, Invoked: "weir", Executable: os.Args[0],
		Signals: make(chan os.Signal), Env: []string{"WEIR_STATE_DIR=" + filepath.Join(t.TempDir(), "state")},
	}
	code = app.Execute(context.Background(), args)
	return code, out.String(), errs.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run go test with -update and review the new golden")
	require.Equal(t, string(want), got)
}

const samples = "../../../policy/testdata"

func TestExplainOffline(t *testing.T) {
	policyFile := samples + "/explain/policy.yaml"
	code, out, errs := runApp(t, "explain", "--alone", "POST http://api.example.com:8080/v1/users?dry=1", "-H", "x-version: 2", policyFile)
	require.Equal(t, 0, code, errs)
	golden(t, "explain.txt", out)

	code, out, _ = runApp(t, "explain", "http://api.example.com:8080/v2", policyFile)
	require.Equal(t, 1, code, "nothing answers")
	require.Contains(t, out, "answered with 404: none of the")

	code, out, _ = runApp(t, "explain", "-o", "json", "GET http://api.example.com/old/x", policyFile)
	require.Equal(t, 0, code)
	var explanation policy.Explanation
	require.NoError(t, json.Unmarshal([]byte(out), &explanation))
	require.Equal(t, "https://api.example.com/v1/x", explanation.Destination.Location)

	code, out, _ = runApp(t, "explain", "-o", "yaml", "/v1/users", "-H", "Host: api.example.com", policyFile)
	require.Equal(t, 0, code)
	require.Contains(t, out, "route: httproute/default/api/users@default/edge/http\n")
}

func TestExplainBadUsage(t *testing.T) {
	policyFile := samples + "/explain/policy.yaml"
	for want, args := range map[string][]string{
		"needs an argument":           {},
		"is not a request":            {"users", policyFile},
		"is not http or https":        {"GET ftp://host/", policyFile},
		"names no host":               {"GET http:///x", policyFile},
		"is not name: value":          {"-H", "nothing", "http://host/", policyFile},
		`--output "xml" is not known`: {"-o", "xml", "http://host/", policyFile},
		"more than":                   {"http://host/" + strings.Repeat("x", 70_000), policyFile},
	} {
		code, _, errs := runApp(t, append([]string{"explain"}, args...)...)
		require.Equal(t, 2, code, "%v: %s", args, errs)
		require.Contains(t, errs, want)
	}
	code, _, errs := runApp(t, "explain", "http://host/", filepath.Join(t.TempDir(), "none"))
	require.Equal(t, 1, code)
	require.Contains(t, errs, "no such file")
}

func TestDiffAndPlanOffline(t *testing.T) {
	before, after := samples+"/diff/everything.old.yaml", samples+"/diff/everything.new.yaml"
	code, out, errs := runApp(t, "diff", "--alone", before, after)
	require.Equal(t, 2, code, errs)
	golden(t, "diff.txt", out)
	require.NotContains(t, out, "c2VjcmV0")

	code, out, _ = runApp(t, "diff", "--alone", "--resources", before, after)
	require.Equal(t, 2, code)
	require.Contains(t, out, "/older")
	require.Contains(t, out, "@@ -")
	require.NotContains(t, out, "5e884898", "a key's hash is shown")

	code, out, _ = runApp(t, "diff", before, before)
	require.Equal(t, 0, code)
	require.Equal(t, "nothing differs\n", out)

	code, out, errs = runApp(t, "plan", "--alone", "--against", before, after)
	require.Equal(t, 1, code, "the proposed policy has errors")
	require.Contains(t, out, "8082")
	require.Contains(t, errs, "the proposed policy has 2 errors")

	var found difference
	code, out, _ = runApp(t, "plan", "-o", "json", "--against", quickstart, quickstart)
	require.Equal(t, 0, code)
	require.NoError(t, json.Unmarshal([]byte(out), &found))
	require.Equal(t, found.OldPlan, found.NewPlan)
}

// Wrong usage is not to be taken for a difference.
func TestDiffBadUsageIsNotADifference(t *testing.T) {
	for want, args := range map[string][]string{
		"needs an argument": {"diff"},
		"is not running":    {"diff", quickstart},
		"unknown flag":      {"diff", "--nothing", quickstart, quickstart},
		"no such file":      {"diff", quickstart, filepath.Join(t.TempDir(), "none")},
		"is not known":      {"plan", "-o", "xml", "--against", quickstart, quickstart},
	} {
		code, _, errs := runApp(t, args...)
		require.Equal(t, 1, code, "%v", args)
		require.Contains(t, errs, want)
	}
}

func TestTranslate(t *testing.T) {
	code, out, errs := runApp(t, "translate", quickstart, "--type", "rds,limits", "-o", "json")
	require.Equal(t, 0, code, errs)
	var found translation
	require.NoError(t, json.Unmarshal([]byte(out), &found))
	kinds := map[string]int{}
	for _, resource := range found.Resources {
		kinds[resource.Type]++
	}
	require.Equal(t, map[string]int{"rds": 1, "limits": 1}, kinds)

	code, out, _ = runApp(t, "translate", quickstart, "--to", "rules")
	require.Equal(t, 0, code)
	require.Contains(t, out, "type: auth")
	require.Contains(t, out, "type: consumers")
	require.NotContains(t, out, "type: lds")
	require.NotContains(t, out, "sha256: \"", "hashes of keys are hidden")

	code, _, errs = runApp(t, "translate", "--alone", quickstart)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "left out of the above")
	for _, args := range [][]string{{"--type", "xds", quickstart}, {"--to", "istio", quickstart}, {"-o", "text", quickstart}, {}} {
		code, _, _ = runApp(t, append([]string{"translate"}, args...)...)
		require.Equal(t, 2, code)
	}
}

func TestValidateThreshold(t *testing.T) {
	for threshold, want := range map[string]int{"error": 1, "notice": 1, "never": 0, "sometimes": 2} {
		code, _, _ := runApp(t, "validate", "--alone", "--fail-on", threshold, quickstart)
		require.Equal(t, want, code, threshold)
	}
}
