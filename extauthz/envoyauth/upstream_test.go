package envoyauth

import (
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/require"

	"weir.dev/extauthz"
)

func TestWithoutCookies(t *testing.T) {
	held := func(name string) bool { return name == "ours" }
	for _, c := range []struct {
		name    string
		cookies []string
		want    string
		removed bool
	}{
		{"none", nil, "", false},
		{"only others", []string{"a=1; b=2"}, "", false},
		{"only ours", []string{"ours=secret"}, "", true},
		{"between others", []string{"a=1; ours=secret; b=2"}, "a=1; b=2", false},
		{"odd spaces", []string{"a=1;ours =secret;;	b=2 ; "}, "a=1; b=2", false},
		{"twice, over two headers", []string{"ours=x; a=1", "b=2; ours=y"}, "a=1; b=2", false},
		{"name alone", []string{"ours; a=1"}, "a=1", false},
		{"same prefix is another's", []string{"ours2=1; ours=secret"}, "ours2=1", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			request, ok := &extauthz.Request{}, &authv3.OkHttpResponse{}
			for _, value := range c.cookies {
				request.Headers = append(request.Headers, extauthz.Header{Name: "cookie", Value: value})
			}
			withoutCookies(ok, request, held)
			got := ""
			for _, header := range ok.GetHeaders() {
				got = header.GetHeader().GetValue()
			}
			require.Equal(t, c.want, got)
			require.Equal(t, c.removed, contains(ok.GetHeadersToRemove(), "cookie"))
		})
	}
}

func TestUpstreamHeadersSurviveRemoval(t *testing.T) {
	ok := &authv3.OkHttpResponse{HeadersToRemove: []string{"x-api-key", "authorization"}}
	upstream(ok, []extauthz.Header{{Name: "authorization", Value: "Bearer theirs"}})
	require.Equal(t, []string{"x-api-key"}, ok.GetHeadersToRemove(), "Envoy removes after it sets")
	require.Equal(t, "Bearer theirs", ok.GetHeaders()[0].GetHeader().GetValue())
}
