package command

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func runValidate(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	app := &App{Stdin: new(bytes.Buffer), Stdout: &out, Stderr: &errs, Invoked: "weir", Executable: os.Args[0], Signals: make(chan os.Signal)}
	code = app.Execute(context.Background(), append([]string{"validate"}, args...))
	return code, out.String(), errs.String()
}

const quickstart = "../../../examples/quickstart"

func TestValidateQuickstart(t *testing.T) {
	code, out, errs := runValidate(t, quickstart)
	require.Equal(t, 0, code, out+errs)
	require.Contains(t, out, "valid")
	require.NotContains(t, out, "error")
}

// Without what weir up adds, the quickstart refers to things that are not there.
func TestValidateAlone(t *testing.T) {
	code, out, _ := runValidate(t, "--alone", quickstart)
	require.Equal(t, 1, code)
	require.Contains(t, out, "there is no Backend default/user")
	require.Contains(t, out, "there is no ConfigMap default/weir-development-issuer")
}

func TestValidateNamesEveryMistake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "broken.yaml")
	require.NoError(t, os.WriteFile(path, []byte("apiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata:\n  name: b\nspec:\n  protocoll: GRPC\n  endpoints:\n    - {address: 10.0.0.1, port: 0}\n"), 0o600))
	code, out, _ := runValidate(t, path)
	require.Equal(t, 1, code)
	require.Contains(t, out, path+":6: Backend default/b: spec.protocoll: unknown field: did you mean protocol? [WEIR1004]")
	require.Contains(t, out, path+":8: Backend default/b: spec.endpoints[0].port: 0 is not a port")
	code, out, _ = runValidate(t, "-o", "json", path)
	require.Equal(t, 1, code)
	var result validation
	require.NoError(t, json.Unmarshal([]byte(out), &result))
	require.False(t, result.OK)
	require.Len(t, result.Problems, 2)
	require.Equal(t, 6, result.Problems[0].Line)
}

func TestProblemCodesAreTakenInSmallLetters(t *testing.T) {
	for _, code := range []string{"WEIR3004", "weir3004"} {
		var out bytes.Buffer
		app := &App{Stdin: new(bytes.Buffer), Stdout: &out, Stderr: &out, Invoked: "weir", Executable: os.Args[0], Signals: make(chan os.Signal)}
		require.Equal(t, 0, app.Execute(context.Background(), []string{"problems", code}), out.String())
		require.Contains(t, out.String(), "WEIR3004: Another policy is attached to the same target")
	}
}

func TestValidateBadUsage(t *testing.T) {
	code, _, errs := runValidate(t)
	require.Equal(t, 2, code)
	require.Contains(t, errs, "needs an argument")
	code, _, errs = runValidate(t, filepath.Join(t.TempDir(), "none"))
	require.Equal(t, 1, code)
	require.Contains(t, errs, "no such file")
}

func TestValidateSaysWhenThereIsNothing(t *testing.T) {
	code, out, errs := runValidate(t, t.TempDir())
	require.Equal(t, 0, code)
	require.Contains(t, out, "0 objects, 0 routes")
	require.Contains(t, errs, "nothing was checked")
	code, _, errs = runValidate(t, "-")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "standard input is not read")
}
