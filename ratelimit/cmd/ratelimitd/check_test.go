package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit/erconfig"
)

func TestCheckConfig(t *testing.T) {
	good, bad, empty := t.TempDir(), t.TempDir(), t.TempDir()
	write := func(dir, name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write(good, "a.yaml", "domain: a\ndescriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: 1}}]")
	write(good, "b.yaml", "domain: b")
	write(bad, "a.yaml", "domain: a\ndescriptors: [{key: k, rate_limit: {unit: fortnight}}, {}]")
	write(bad, "b.yaml", "domain: a")
	root := t.TempDir()
	below := filepath.Join(root, "ratelimit", "config")
	require.NoError(t, os.MkdirAll(below, 0o700))
	write(below, "a.yaml", "domain: a")
	tab, none := t.TempDir(), filepath.Join(good, "none")
	write(tab, "a.yaml", "domain: a\n\tdescriptors: []")
	write(tab, "long.yaml", strings.Repeat("#", erconfig.MaxFileBytes+1))
	for name, test := range map[string]struct {
		args []string
		code int
		out  []string
		err  string
	}{
		"good":         {[]string{good}, exitGood, []string{"files: 2, domains: 2, limits: 1; all good\n"}, ""},
		"good as JSON": {[]string{"-o", "json", good}, exitGood, []string{`{"files":2,"domains":2,"limits":1,"problems":[]}`}, ""},
		"bad": {[]string{bad}, exitBad, []string{
			"error: " + filepath.Join(bad, "a.yaml") + `:2: descriptors[0].rate_limit.unit: "fortnight" is none of`,
			"descriptors[1].key: is required", "b.yaml:1: domain: \"a\" is configured in", "files: 2, errors: 3\n",
		}, ""},
		"bad, merged":     {[]string{"-merge-domains", bad}, exitBad, []string{"files: 2, errors: 2\n"}, ""},
		"bad as JSON":     {[]string{"-o", "json", bad}, exitBad, []string{`"line":2,"field":"descriptors[1].key"`}, ""},
		"empty":           {[]string{empty}, exitBad, []string{"holds no files", "files: 0, errors: 1\n"}, ""},
		"empty as JSON":   {[]string{"-o", "json", empty}, exitBad, []string{`"file":"` + empty + `","message":"the folder holds no files; `}, ""},
		"nothing":         {[]string{none}, exitBad, []string{"error: " + none + ": cannot be read: no such file or directory\nfiles: 0, errors: 1\n"}, ""},
		"nothing as JSON": {[]string{"-o", "json", none}, exitBad, []string{`{"files":0,"domains":0,"limits":0,"problems":[{"file":"` + none + `","message":"cannot be read: no such file or directory"}]}`}, ""},
		"above":           {[]string{root}, exitBad, []string{"the folder holds no files, but " + below + " does; "}, ""},
		"right above":     {[]string{filepath.Dir(below)}, exitBad, []string{"the folder holds no files, but " + below + " does; "}, ""},
		"tab as JSON":     {[]string{"-o", "json", tab}, exitBad, []string{`a.yaml","line":2,"message":"not YAML: a tab in the indentation; write spaces"}`, `long.yaml","message":"is 16777217 bytes long`}, ""},
		"no folder":       {nil, exitUsage, nil, "there is no DIR\n\nusage: ratelimitd check-config"},
		"bad format":      {[]string{"-o", "xml", good}, exitUsage, nil, "-o xml: must be text or json\n\nusage: "},
		"flag after":      {[]string{good, "-o", "json"}, exitUsage, nil, `["-o" "json"]; flags come before it`},
		"bad flag":        {[]string{"-x"}, exitUsage, nil, "not defined: -x"},
		"help":            {[]string{"-h"}, exitGood, nil, "MERGE_DOMAIN_CONFIG"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errors bytes.Buffer
			require.Equal(t, test.code, checkConfig(test.args, &out, &errors))
			for _, want := range test.out {
				require.Contains(t, out.String(), want)
			}
			require.Contains(t, errors.String(), test.err)
		})
	}
}
