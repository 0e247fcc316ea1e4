package rulesfile_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit/rulesfeed"
	"weir.dev/ratelimit/rulesfile"
)

const head = "apiVersion: weir.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {name: p, namespace: team}\nspec: "

func read(t testing.TB, files map[string]string) (*rulesfile.Rules, error) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	return rulesfile.Read(dir)
}

func TestRead(t *testing.T) {
	rules, err := read(t, map[string]string{
		"a.yaml":      head + "{limits: [{name: a, requests: 5, window: 1m}]}\n---\n---\nkind: Gateway\nanything: goes\n",
		"deep/b.json": `{"apiVersion": "weir.dev/v1alpha1", "kind": "RateLimitPolicy", "metadata": {"name": "q"}, "spec": {"overrides": {"limits": [{"name": "b", "windows": [{"requests": 1, "window": "90s"}, {"requests": 9, "calendar": "Day", "timeZone": "Europe/Berlin"}]}]}}}`,
		".hidden":     "{",
		"..x/c.yaml":  "{",
		"notes.txt":   "{",
	})
	require.NoError(t, err)
	require.Equal(t, 2, rules.Files)
	require.Equal(t, 1, rules.Others)
	var ids []string
	for _, rule := range rules.Rules {
		ids = append(ids, rule.GetId())
	}
	require.Equal(t, []string{"team/p/a", "default/q/b.1m30s", "default/q/b.day"}, ids)
	_, err = rulesfeed.Build(rules.Rules)
	require.NoError(t, err)
}

// A folder like a mounted ConfigMap: links to links.
func TestReadFollowsLinks(t *testing.T) {
	real := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(real, "a.yaml"), []byte(head+"{limits: [{name: a, requests: 5, window: 1m}]}"), 0o600))
	mounted := t.TempDir()
	require.NoError(t, os.Symlink(real, filepath.Join(mounted, "..data")))
	require.NoError(t, os.Symlink(filepath.Join("..data", "a.yaml"), filepath.Join(mounted, "a.yaml")))
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(mounted, link))
	rules, err := rulesfile.Read(link)
	require.NoError(t, err)
	require.Len(t, rules.Rules, 1)
}

func TestMistakes(t *testing.T) {
	for limit, want := range map[string]string{
		"{name: A, requests: 1, window: 1m}":                                                    "spec.limits[0].name:",
		"{name: a, window: 1m}":                                                                 "spec.limits[0].requests: is required",
		"{name: a, requests: 1}":                                                                "window: is 1s to 744h",
		"{name: a, requests: 1, window: 1}":                                                     "line 1: ",
		"{name: a, requests: 1, window: 1m, calendar: Day}":                                     "window: stands beside calendar",
		"{name: a, requests: 1, calendar: Year}":                                                `calendar: "Year" is not known`,
		"{name: a, requests: 1, window: 1m, algorithm: Sliding}":                                `algorithm: "Sliding" is not known`,
		"{name: a, requests: 1, window: 1m, failureMode: Maybe}":                                `failureMode: "Maybe" is not known`,
		"{name: a, requests: 1, window: 1m, headers: [Loud]}":                                   `headers: "Loud" is not known`,
		"{name: a, requests: 1, window: 1m, mode: Sometimes}":                                   `mode: "Sometimes" is not known`,
		"{name: a, requests: 1, window: 1m, by: [{type: Colour}]}":                              `by[0].type: "Colour" is not known`,
		"{name: a, requests: 1, window: 1m, wndow: 1m}":                                         "field wndow not found",
		"{name: a, requests: 1, window: 1m, cost: {max: 3}}":                                    "cost.max:",
		"{name: a, requests: 1, window: 1m, cost: {expression: '1'}}":                           "cost.max:",
		"{name: a, requests: 1, window: 1m, override: {max: 3}}":                                "override: takes",
		"{name: a, requests: 1, window: 1m, tiers: {b: {}}}":                                    `tiers["b"]: takes either`,
		"{name: a, requests: 1, windows: [{requests: 1, window: 1m}]}":                          "windows: each of them",
		"{name: a, windows: [{requests: 1, window: 1ms}]}":                                      "windows[0].window:",
		"{name: a, requests: 1, window: 1m, cost: {expression: request.x, max: 2}}":             "cost.expression: at 1:8",
		"{name: a, requests: 1, window: 1m, algorithm: GCRA, leased: true, countRefused: true}": "leased:",
		"{name: a, requests: 1, window: 1m, timeZone: UTC}":                                     "time_zone:",
		"{name: a, requests: 1, window: 1m}, {name: a, requests: 1, window: 1m}":                "is present twice",
	} {
		rules, err := read(t, map[string]string{"a.yaml": head + "{limits: [" + limit + "]}"})
		if err == nil {
			_, err = rulesfeed.Build(rules.Rules)
		}
		require.ErrorContains(t, err, want, limit)
	}
	for content, want := range map[string]string{
		"a: b: c": "a.yaml: ", "x: 1": "kind: is required", "kind: RateLimitPolicy": "apiVersion:", head + "{}": "spec.limits: is required",
		strings.Replace(head, "name: p", "name: _", 1) + "{limits: [{name: a, requests: 1, window: 1m}]}": "metadata.name:",
	} {
		_, err := read(t, map[string]string{"a.yaml": content})
		require.ErrorContains(t, err, want, content)
	}
	_, err := rulesfile.Read(filepath.Join(t.TempDir(), "nothing"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func FuzzRead(f *testing.F) {
	f.Add(head + "{limits: [{name: a, requests: 5, window: 1m, tiers: {x: {unlimited: true}}, by: [{type: Header, header: x}]}]}")
	f.Add("- a\n---\n{}")
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, content string) {
		rules, err := read(t, map[string]string{"a.yaml": content})
		if err == nil {
			_, _ = rulesfeed.Build(rules.Rules)
		}
	})
}
