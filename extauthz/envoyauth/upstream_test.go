package envoyauth

import (
	"testing"

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
			request, answer := &extauthz.Request{}, &Answer{}
			for _, value := range c.cookies {
				request.Headers = append(request.Headers, extauthz.Header{Name: "cookie", Value: value})
			}
			answer.withoutCookies(request, held)
			got := ""
			for _, header := range answer.set {
				got = header.Value
			}
			require.Equal(t, c.want, got)
			require.Equal(t, c.removed, contains(answer.remove, "cookie"))
		})
	}
}

func TestUpstreamHeadersSurviveRemoval(t *testing.T) {
	answer := &Answer{remove: []string{"x-api-key", "authorization"}}
	answer.upstream([]extauthz.Header{{Name: "authorization", Value: "Bearer theirs"}})
	require.Equal(t, []string{"x-api-key"}, answer.remove, "Envoy removes after it sets")
	require.Equal(t, "Bearer theirs", answer.set[0].Value)
}
