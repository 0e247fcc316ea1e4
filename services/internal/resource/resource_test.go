package resource_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/kit/fault"
	"weir.dev/kit/identity"
	"weir.dev/services/internal/resource"
)

func TestTenant(t *testing.T) {
	for tenant, reason := range map[string]string{
		"": "TENANT_REQUIRED", "acme": "", "a/b c ☃": "", strings.Repeat("x", 257): "TENANT_INVALID", "a\x00b": "TENANT_INVALID", "\xff": "TENANT_INVALID",
	} {
		got, err := resource.Tenant(identity.NewContext(context.Background(), identity.Identity{Tenant: tenant}))
		if reason == "" {
			require.NoError(t, err)
			require.Equal(t, tenant, got)
			continue
		}
		require.Equal(t, reason, fault.From(err).Reason, "%q", tenant)
	}
	_, err := resource.Tenant(context.Background())
	require.Equal(t, "TENANT_REQUIRED", fault.From(err).Reason)
}

func TestIDs(t *testing.T) {
	for _, good := range []string{"a", "a1", "a-b", strings.Repeat("a", 63)} {
		require.True(t, resource.ValidID(good), good)
	}
	for _, bad := range []string{"", "1a", "A", "a_b", "a-", "-a", "a.b", "a b", "a/b", "ä", "a\n", strings.Repeat("a", 64)} {
		require.False(t, resource.ValidID(bad), bad)
	}
	now := time.Now()
	first, second := resource.NewID(now), resource.NewID(now.Add(time.Millisecond))
	require.True(t, resource.ValidID(first))
	require.Less(t, first, second, "ids sort by time")
	require.NotEqual(t, resource.NewID(now), first)
}

func TestParseName(t *testing.T) {
	ids, err := resource.ParseName("collections/c/records/r", "collections/*/records/*", "name")
	require.NoError(t, err)
	require.Equal(t, []string{"c", "r"}, ids)
	for _, bad := range []string{"", "collections/c", "collections/c/records/", "collections//records/r", "/collections/c/records/r", "collections/c/records/r/", "collections/C/records/r", "x/c/records/r"} {
		_, err := resource.ParseName(bad, "collections/*/records/*", "name")
		require.Equal(t, "INVALID_ARGUMENT", fault.From(err).Reason, bad)
	}
}

func TestMask(t *testing.T) {
	known, populated := []string{"a", "b"}, []string{"b"}
	for _, test := range []struct{ paths, want []string }{
		{nil, populated}, {[]string{"*"}, known}, {[]string{"a"}, []string{"a"}}, {[]string{"a.x", "b"}, []string{"a.x", "b"}},
	} {
		got, err := resource.Mask(test.paths, known, populated)
		require.NoError(t, err)
		require.Equal(t, test.want, got)
	}
	for _, bad := range [][]string{{"c"}, {"*", "a"}, {""}, {".a"}, make([]string, 101)} {
		_, err := resource.Mask(bad, known, populated)
		require.Equal(t, "INVALID_ARGUMENT", fault.From(err).Reason, "%q", bad)
	}
}

func TestCheckText(t *testing.T) {
	for _, test := range []struct {
		text     string
		required bool
		want     string
	}{
		{"", false, ""}, {"", true, "is required"}, {"ok ☃", true, ""}, {"  ", false, "is blank"},
		{"a\u0000", false, "contains control characters"}, {"\xff", false, "is not UTF-8"}, {"ääääää", false, "has more than 5 characters"},
	} {
		require.Equal(t, test.want, resource.CheckText(test.text, test.required, 5), "%q", test.text)
	}
}

func TestEtag(t *testing.T) {
	at := time.Now()
	current := resource.Etag(at, 1)
	require.NotEqual(t, current, resource.Etag(at, 2))
	require.NotEqual(t, current, resource.Etag(at.Add(time.Microsecond), 1))
	for _, given := range []string{"", current, `"` + current + `"`, `W/"` + current + `"`} {
		require.NoError(t, resource.CheckEtag(given, current, "x"))
	}
	require.Equal(t, "ETAG_MISMATCH", fault.From(resource.CheckEtag("other", current, "x")).Reason)
}
