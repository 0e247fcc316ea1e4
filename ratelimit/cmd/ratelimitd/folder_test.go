package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/require"
)

const folderPolicy = `apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: p}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}]
  limits: [{name: l, requests: %d, window: 24h, by: [{type: Consumer}], mode: Quota}]
`

// write replaces a file as an editor does.
func write(t *testing.T, dir, name, content string) {
	t.Helper()
	hidden := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(hidden, []byte(content), 0o600))
	require.NoError(t, os.Rename(hidden, filepath.Join(dir, name)))
}

// Without a control plane the rules are those of a folder; what is wrong there
// keeps those of before.
func TestRulesOfAFolder(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "limits.yaml", fmt.Sprintf(folderPolicy, 5))
	f := start(t, "rules: {dir: "+dir+"}\n")
	allowed := func() int {
		t.Helper()
		count := 0
		for range 10 {
			response, err := f.ask(t, "default/p/l", "a")
			require.NoError(t, err)
			if response.GetOverallCode() == rlsv3.RateLimitResponse_OK {
				count++
			}
		}
		return count
	}
	require.Equal(t, 5, allowed())
	status, _ := f.get(t, "/readyz")
	require.Equal(t, 200, status)

	write(t, dir, "limits.yaml", fmt.Sprintf(folderPolicy, -1))
	require.Eventually(t, func() bool { return bytes.Contains([]byte(f.log.String()), []byte("the folder of rules is wrong")) }, time.Minute, 20*time.Millisecond)
	require.Zero(t, allowed(), "the rules of before are in effect")
	write(t, dir, "limits.yaml", fmt.Sprintf(folderPolicy, 8))
	require.Eventually(t, func() bool { return allowed() == 3 }, time.Minute, 50*time.Millisecond)
}

func TestCheckRules(t *testing.T) {
	dir := t.TempDir()
	check := func(args ...string) (int, string) {
		var out, errs bytes.Buffer
		code := checkRules(args, &out, &errs)
		return code, out.String() + errs.String()
	}
	code, text := check(dir)
	require.Equal(t, exitBad, code)
	require.Contains(t, text, "holds no YAML files")
	write(t, dir, "a.yaml", fmt.Sprintf(folderPolicy, 5)+"---\nkind: HTTPRoute\n")
	code, text = check(dir)
	require.Equal(t, exitGood, code, text)
	require.Equal(t, "files: 1, limits: 1, objects of other kinds: 1; all good\n", text)
	write(t, dir, "b.yaml", fmt.Sprintf(folderPolicy, 6))
	code, text = check(dir)
	require.Equal(t, exitBad, code)
	require.Contains(t, text, `"default/p/l": is present twice`)
	code, _ = check()
	require.Equal(t, exitUsage, code)
	code, _ = check("-h")
	require.Equal(t, exitGood, code)
}
