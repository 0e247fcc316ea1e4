package admin

import (
	"testing"

	"github.com/stretchr/testify/require"

	limitsv1 "weir.dev/api/gen/weir/limits/v1"
	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

func TestCountersAreNamedWhole(t *testing.T) {
	plan := &policy.Plan{Ports: []policy.Port{{Chains: []policy.Chain{{Hosts: []policy.Host{{Routes: []policy.Route{
		{}, {Limits: []policy.Limit{{Rule: "a/b/all"}, {Rule: "a/b/each", By: []v1alpha1.CountBy{
			{Type: v1alpha1.CountByConsumer}, {Type: v1alpha1.CountByClientIP}, {Type: v1alpha1.CountByHeader, Header: "X-Shop"},
		}}}},
	}}}}}}}}
	entries := func(names ...string) (all []*limitsv1.Entry) {
		for _, name := range names {
			all = append(all, &limitsv1.Entry{Name: name, Value: "x"})
		}
		return all
	}
	for name, tc := range map[string]struct {
		rule    string
		entries []*limitsv1.Entry
		missing []string
	}{
		"nothing is said":      {"a/b/each", nil, []string{"consumer", "remote_address", "header.x-shop"}},
		"some of it":           {"a/b/each", entries("remote_address"), []string{"consumer", "header.x-shop"}},
		"all of it":            {"a/b/each", entries("header.x-shop", "consumer", "remote_address", "tier"), nil},
		"a limit for all":      {"a/b/all", nil, nil},
		"a limit not in force": {"a/b/other", nil, nil},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, tc.missing, missingEntries(plan, tc.rule, tc.entries)) })
	}
}
