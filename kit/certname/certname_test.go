package certname

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPatterns(t *testing.T) {
	for name, test := range map[string]struct {
		kind    Kind
		pattern string
		matches []string
		not     []string
	}{
		"exact SPIFFE ID": {
			SPIFFE, "spiffe://td/ns/a",
			[]string{"spiffe://td/ns/a"},
			[]string{"spiffe://td/ns/a/b", "spiffe://td/ns", "spiffe://TD/ns/a", "spiffe://td/ns/aa", "spiffe://td.evil/ns/a", "xspiffe://td/ns/a"},
		},
		"one segment": {
			SPIFFE, "spiffe://td/ns/*/sa/web",
			[]string{"spiffe://td/ns/prod/sa/web"},
			[]string{"spiffe://td/ns/prod/x/sa/web", "spiffe://td/ns/sa/web", "spiffe://td/ns//sa/web", "spiffe://td/ns/prod/sa/web/x", "spiffe://td/ns/prod/sa/webx", "spiffe://evil/ns/prod/sa/web"},
		},
		"the rest": {
			SPIFFE, "spiffe://td/ns/**",
			[]string{"spiffe://td/ns/a", "spiffe://td/ns/a/b/c"},
			[]string{"spiffe://td/ns", "spiffe://td/nsx/a", "spiffe://td", "spiffe://tdx/ns/a"},
		},
		"a regular expression's characters": {SPIFFE, "spiffe://t.d/a.b", []string{"spiffe://t.d/a.b"}, []string{"spiffe://txd/a.b", "spiffe://t.d/axb"}},
		"trust domain alone":                {SPIFFE, "spiffe://td", []string{"spiffe://td"}, []string{"spiffe://td/a"}},
		"exact DNS name":                    {DNS, "A.example", []string{"a.example"}, []string{"b.a.example", "a.example.evil", "a.exampl"}},
		"one label": {
			DNS, "*.example.com",
			[]string{"a.example.com"},
			[]string{"example.com", "a.b.example.com", ".example.com", "aexample.com", "*.example.com"},
		},
		"exact address": {Email, "a@example.com", []string{"a@example.com"}, []string{"A@example.com", "b@example.com", "a@example.com.evil"}},
		"every mailbox": {Email, "*@example.com", []string{"a@example.com", "b@EXAMPLE.com"}, []string{"@example.com", "a@b.example.com", "a@example.com@evil"}},
		"common name":   {CommonName, "a.*", []string{"a.*"}, []string{"a.b", "a.", "A.*"}},
		"any":           {CommonName, "*", []string{"a", "b c"}, nil},
		"subject":       {Subject, "CN=a,O=b", []string{"CN=a,O=b"}, []string{"CN=a", "O=b,CN=a", "CN=a,O=b,C=x"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Parse(test.kind, test.pattern)
			require.NoError(t, err)
			for _, text := range test.matches {
				require.True(t, p.Matches(text), text)
			}
			for _, text := range test.not {
				require.False(t, p.Matches(text), text)
			}
		})
	}
}

func TestPatternsThatAreNone(t *testing.T) {
	for kind, patterns := range map[Kind][]string{
		SPIFFE: {
			"", "*", "**", "spiffe://*", "spiffe://*/a", "spiffe://td*/a", "spiffe://td/a*", "spiffe://td/**/a", "spiffe://td//a", "spiffe://td/",
			"spiffe://td/../a", "https://td/a", "spiffe://TD/a", "spiffe://td/%41", "spiffe://td:80/a", "spiffe://u@td/a", "spiffe://td/a?b", "spiffe://td/a#b",
			"spiffe://td/" + strings.Repeat("a", 2048),
		},
		DNS:   {"a.*.example", "a*.example", "*.*.example", "a.example."},
		Email: {"a*@b", "example.com", "a@b@c", "*@*"},
	} {
		for _, text := range patterns {
			_, err := Parse(kind, text)
			require.Error(t, err, "%d %q", kind, text)
		}
	}
}
