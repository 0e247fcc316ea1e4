package command

import (
	"bytes"
	"io/fs"
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKindNames(t *testing.T) {
	names, err := newKindNames()
	require.NoError(t, err)
	for given, want := range map[string]string{
		"HTTPRoute": "httproute", "httproutes": "httproute", "gateways": "gateway", "gw": "gateway", "GatewayClasses": "gatewayclass",
		"authpolicies": "authpolicy", "wauth": "authpolicy", "backendtlspolicies": "backendtlspolicy", "secrets": "secret",
	} {
		kind, err := names.find(given)
		require.NoError(t, err, given)
		require.Equal(t, want, kind, given)
	}
	_, err = names.find("HTTPRoute/web")
	require.ErrorContains(t, err, "weir describe HTTPRoute/web")
	for _, given := range []string{"", "route", "httproutess", "objects"} {
		_, err := names.find(given)
		require.ErrorContains(t, err, "is no kind of object; there are ", given)
		require.ErrorContains(t, err, "httproute", given)
	}
}

// What kubectl takes for a Weir kind, weir takes.
func TestKindNamesAreThoseOfTheDefinitions(t *testing.T) {
	names, err := newKindNames()
	require.NoError(t, err)
	dir := os.DirFS("../../../charts/crds")
	files, err := fs.Glob(dir, "weir.dev_*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	pattern := regexp.MustCompile(`(?s)\n    plural: (\S+)\n    shortNames:\n    - (\S+)\n    singular: (\S+)\n`)
	for _, file := range files {
		raw, err := fs.ReadFile(dir, file)
		require.NoError(t, err)
		found := pattern.FindSubmatch(bytes.ReplaceAll(raw, []byte("\r"), nil))
		require.Len(t, found, 4, file)
		for _, given := range found[1:] {
			kind, err := names.find(string(given))
			require.NoError(t, err, file)
			require.Equal(t, string(found[3]), kind, file)
		}
	}
}

func TestPlural(t *testing.T) {
	for want, given := range map[string]struct {
		count int
		noun  string
	}{
		"0 recoveries": {0, "recovery"}, "1 recovery": {1, "recovery"}, "2 keys": {2, "key"}, "2 times": {2, "time"},
	} {
		require.Equal(t, want, plural(given.count, given.noun))
	}
}
