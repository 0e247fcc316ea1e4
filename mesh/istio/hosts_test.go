package istio

import (
	"regexp"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/stretchr/testify/require"
	networking "istio.io/api/networking/v1alpha3"

	"weir.dev/policy"
)

// A Location that names the request's host does not name its port: Envoy would
// keep it.
func TestRedirectsNameNoPortOfTheRequest(t *testing.T) {
	route := &policy.Route{ID: "r", Redirect: &policy.Redirect{Scheme: "https", Status: 302}, Match: policy.Match{Path: policy.PathMatch{Kind: policy.PathPrefix, Value: "/"}}}
	c := &compiler{lifted: map[string]*routev3.Route{"r": {Action: &routev3.Route_Redirect{Redirect: &routev3.RedirectAction{
		SchemeRewriteSpecifier: &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: "https"}, HostRedirect: "of.a.virtual.host",
	}}}}}
	made := c.redirect(route, &networking.HTTPRoute{Match: matches(&route.Match, false)})
	require.Len(t, made, 2)
	require.Empty(t, made[0].GetRedirect().GetAuthority(), "the VirtualService may have several hosts")
	require.Zero(t, made[0].GetRedirect().GetPort())
	require.EqualValues(t, 443, made[1].GetRedirect().GetPort())
	require.Nil(t, made[1].GetMatch()[0].GetAuthority())
	without := regexp.MustCompile("^(?:" + made[0].GetMatch()[0].GetAuthority().GetRegex() + ")$")
	for host, want := range map[string]bool{"a.example": true, "a.example:80": false, "[::1]": true, "[::1]:80": false} {
		require.Equal(t, want, without.MatchString(host), host)
	}

	route.Redirect.Host = "b.example"
	require.Len(t, c.redirect(route, &networking.HTTPRoute{Match: matches(&route.Match, false)}), 1)
}

// A match of the header Host holds whatever the port, and is no header in Istio.
func TestHostMatches(t *testing.T) {
	made := matches(&policy.Match{Headers: []policy.ValueMatch{{Name: "host", Value: "a.example"}}}, false)
	require.Empty(t, made[0].GetHeaders())
	host := regexp.MustCompile("^(?:" + made[0].GetAuthority().GetRegex() + ")$")
	for name, want := range map[string]bool{"a.example": true, "A.example:1": true, "aXexample": false, "a.example.b:1": false, "a.example:x": true, "a.example:": true, "a.example.": true, "a.example.:1": true} {
		require.Equal(t, want, host.MatchString(name), name)
	}
}
