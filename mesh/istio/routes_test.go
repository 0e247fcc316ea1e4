package istio

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/policy"
)

// A prefix of segments is two matches of Istio's, which has prefixes of characters.
func TestPrefixesAreOfSegments(t *testing.T) {
	made := matches(&policy.Match{Path: policy.PathMatch{Kind: policy.PathPrefix, Value: "/api/"}, Method: "POST"}, true)
	require.Len(t, made, 2)
	require.Equal(t, "/api", made[0].GetUri().GetExact())
	require.Equal(t, "/api/", made[1].GetUri().GetPrefix())
	for _, match := range made {
		require.Equal(t, "POST", match.GetMethod().GetExact())
		require.Equal(t, "application/grpc", match.GetHeaders()["content-type"].GetPrefix())
	}
	require.Len(t, matches(&policy.Match{Path: policy.PathMatch{Kind: policy.PathPrefix, Value: "/"}}, false), 1)
}

// Both targets rewrite alike: whole segments, never "//" and never nothing.
func TestReplacePath(t *testing.T) {
	for _, c := range []struct{ match, by, path, want string }{
		{"/v1", "/v2", "/v1", "/v2"},
		{"/v1", "/v2", "/v1/users", "/v2/users"},
		{"/v1/", "/v2/", "/v1/users", "/v2/users"},
		{"/v1", "/", "/v1/users", "/users"},
		{"/v1", "/", "/v1", "/"},
		{"/v1", "", "/v1//x", "/x"},
		{"/", "/v2", "/users", "/v2/users"},
		{"/", "/v2", "/", "/v2/"},
		{"/a.b", "/c", "/a.b/x", "/c/x"},
	} {
		made := replacePath(policy.PathMatch{Kind: policy.PathPrefix, Value: c.match}, &policy.PathChange{IsPrefix: true, Prefix: c.by})
		got := regexp.MustCompile(made.GetMatch()).ReplaceAllString(c.path, made.GetRewrite())
		require.Equal(t, c.want, got, "%+v", c)
	}
	full := replacePath(policy.PathMatch{}, &policy.PathChange{Full: `/a\1`})
	require.Equal(t, `/a\\1`, full.GetRewrite(), "no reference to a group")
}

func TestOverlap(t *testing.T) {
	exact := func(path string) policy.PathMatch { return policy.PathMatch{Kind: policy.PathExact, Value: path} }
	prefix := func(path string) policy.PathMatch { return policy.PathMatch{Kind: policy.PathPrefix, Value: path} }
	for _, c := range []struct {
		a, b policy.PathMatch
		want bool
	}{
		{exact("/a"), exact("/a"), true},
		{exact("/a"), exact("/b"), false},
		{exact("/a/b"), prefix("/a"), true},
		{exact("/ab"), prefix("/a"), false},
		{prefix("/a"), prefix("/a/b"), true},
		{prefix("/a"), prefix("/ab"), false},
		{prefix("/"), exact("/x"), true},
		{prefix("/"), prefix("/x/"), true},
		{policy.PathMatch{Kind: policy.PathRegex, Value: "/x"}, exact("/y"), true},
	} {
		require.Equal(t, c.want, overlap(c.a, c.b), "%v %v", c.a, c.b)
		require.Equal(t, c.want, overlap(c.b, c.a), "%v %v", c.b, c.a)
	}
}

func TestSlugsDiffer(t *testing.T) {
	seen := map[string]string{}
	for _, text := range []string{"api", "a.b", "a-b", "A-b", "*.a.b", "-", "*", "", "x.very.long.name.of.a.host.that.goes.on.and.on.example.com"} {
		made := slug(text)
		require.Regexp(t, "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$|^$", made)
		require.LessOrEqual(t, len(made), 49)
		require.Empty(t, seen[made], "%q and %q", text, seen[made])
		seen[made] = text
	}
}

func TestWidest(t *testing.T) {
	for _, given := range []struct{ hosts, want []string }{
		{[]string{"b.example.com", "a.example.com"}, []string{"a.example.com", "b.example.com"}},
		{[]string{"*", "a.example.com", "*.example.com"}, []string{"*"}},
		{[]string{"*.example.com", "a.example.com", "b.a.example.com", "example.com", "*.a.example.com", "aexample.com"}, []string{"*.example.com", "aexample.com", "example.com"}},
		{nil, nil},
	} {
		require.Equal(t, given.want, widest(given.hosts), "%v", given.hosts)
	}
}

func TestEverything(t *testing.T) {
	for _, given := range []struct {
		match policy.Match
		grpc  bool
		want  bool
	}{
		{policy.Match{Path: policy.PathMatch{Kind: policy.PathPrefix, Value: "/"}}, false, true},
		{policy.Match{Path: policy.PathMatch{Kind: policy.PathRegex, Value: ".*"}}, false, true},
		{policy.Match{Path: policy.PathMatch{Kind: policy.PathPrefix, Value: "/"}}, true, false},
		{policy.Match{Path: policy.PathMatch{Kind: policy.PathPrefix, Value: "/"}, Method: "GET"}, false, false},
		{policy.Match{Path: policy.PathMatch{Kind: policy.PathPrefix, Value: "/a"}}, false, false},
		{policy.Match{Path: policy.PathMatch{Kind: policy.PathPrefix, Value: "/"}, Headers: []policy.ValueMatch{{Name: "x"}}}, false, false},
		{policy.Match{Path: policy.PathMatch{Kind: policy.PathExact, Value: "/"}}, false, false},
	} {
		require.Equal(t, given.want, everything(&given.match, given.grpc), "%+v", given)
	}
}
