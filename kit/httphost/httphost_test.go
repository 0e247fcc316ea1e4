package httphost_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/kit/httphost"
)

func TestCanonical(t *testing.T) {
	for authority, want := range map[string]string{
		"a.example": "a.example", "A.EXAMPLE:443": "a.example", "a.example.": "a.example", "a.example.:80": "a.example",
		"192.0.2.7:1": "192.0.2.7", "[::1]": "::1", "[2001:DB8::A]:8080": "2001:db8::a", "xn--bcher-kva.example": "xn--bcher-kva.example",
		// What cannot be a host, or could be read as another one.
		"": "", ":80": "", ".": "", "a.example:": "", "a.example:x": "", "a.example:123456": "", "a:1:2": "", "::1": "", "[]": "", "[::1": "", "[::1]x": "",
		"[::1]:": "", "[a.example]:1": "", "u@a.example": "", "a/b": "", `a\b`: "", "a,b": "", "a b": "", "a\tb": "", "a%2eb": "", "a#b": "", "bücher.example": "",
	} {
		host, ok := httphost.Canonical(authority)
		require.Equal(t, want, host, "%q", authority)
		require.Equal(t, want != "", ok, "%q", authority)
	}
}

// FuzzCanonical: what is canonical stays so, whatever port is written behind it.
func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{"a.example:80", "[::1]:443", "A.", "a:b", "[::1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, authority string) {
		host, ok := httphost.Canonical(authority)
		require.Equal(t, host != "", ok)
		require.Equal(t, strings.ToLower(host), host)
		if !ok {
			return
		}
		written := host
		if strings.Contains(host, ":") {
			written = "[" + host + "]"
		}
		for _, port := range []string{"", ":1", ":65535"} {
			again, ok := httphost.Canonical(written + port)
			require.True(t, ok, "%q", written+port)
			if !strings.HasSuffix(host, ".") { // "a.." is not "a."
				require.Equal(t, host, again)
			}
		}
	})
}
