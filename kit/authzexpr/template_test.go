package authzexpr_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/kit/authzexpr"
)

func TestTemplate(t *testing.T) {
	for template, want := range map[string]string{
		"":                                   "",
		"plain":                              "plain",
		"{{}}":                               "{}",
		"user:{identity.tenant}":             "user:acme",
		"{identity.tenant}{route.name}":      "acmeshop",
		`{request.path.split("/")[2]}/x`:     "users/x",
		`{identity.claims.org.id}`:           "o1",
		`{{{ {"a": "}"}["a"] }}}`:            "{}}",
		`{string(request.size)}-{'it\'s {'}`: "12-it's {",
		`{request.param("page")}`:            "2",
	} {
		compiled, err := newEnvironment(t).CompileTemplate(template)
		require.NoError(t, err, template)
		got, err := compiled.Expand(t.Context(), input(t), nil)
		require.NoError(t, err, template)
		require.Equal(t, want, got, template)
	}
}

func TestTemplateEscapesValuesOnly(t *testing.T) {
	compiled, err := newEnvironment(t).CompileTemplate("/a/{request.path}")
	require.NoError(t, err)
	got, err := compiled.Expand(t.Context(), input(t), func(s string) (string, error) { return url.PathEscape(s), nil })
	require.NoError(t, err)
	require.Equal(t, "/a/%2Fv1%2Fusers", got)
	require.Equal(t, []string{"request.path"}, compiled.References())
	_, err = compiled.Expand(t.Context(), input(t), func(string) (string, error) { return "", errors.New("no") })
	require.ErrorContains(t, err, "{request.path}: no")
	_, literal := compiled.Literal()
	require.False(t, literal)
}

func TestTemplateRefuses(t *testing.T) {
	for template, says := range map[string]string{
		"{": "at 1:1: an opening brace", "a}": "a closing brace", "{}": "without an expression", "{ }": "without an expression",
		"{identity.tenent}": "did you mean identity.tenant?", "{request.size}": "it must be string", "{'}": "an opening brace",
		strings.Repeat("a", authzexpr.MaxTemplateBytes+1): "the most is",
	} {
		_, err := newEnvironment(t).CompileTemplate(template)
		require.ErrorContains(t, err, says, template)
	}
	for template, says := range map[string]string{
		"{identity.tier}": "is empty", "{identity.claims.level}": "not a text", "{identity.claims.none}": "no such key",
	} {
		compiled, err := newEnvironment(t).CompileTemplate(template)
		require.NoError(t, err)
		_, err = compiled.Expand(t.Context(), input(t), nil)
		require.ErrorContains(t, err, says, template)
	}
}

func FuzzCompileTemplate(f *testing.F) {
	for _, seed := range []string{"", "a{identity.tenant}b", "{{", "{'}'}", "{\"\\\"}\"}", "}}{"} {
		f.Add(seed)
	}
	env := newEnvironment(f)
	f.Fuzz(func(t *testing.T, template string) {
		compiled, err := env.CompileTemplate(template)
		if err != nil {
			require.Nil(t, compiled)
			return
		}
		_, _ = compiled.Expand(t.Context(), &authzexpr.Input{}, nil)
	})
}
