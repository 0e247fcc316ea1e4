package certauth

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz/internal/authtest"
	"weir.dev/kit/certname"
)

// FuzzXFCC holds that nothing breaks, and that what counts as one element has
// one reading: joined to another with a comma it is never one.
func FuzzXFCC(f *testing.F) {
	certificate := authtest.EncodedPEM(authtest.NewAuthority(f, "root").Client(nil, "spiffe://td/a"))
	for _, seed := range []string{
		"", ",", "By=a;Hash=b;URI=spiffe://td/a", `Subject="CN=a\",b";URI=spiffe://td/a`, `Cert="` + certificate + `"`,
		`URI=spiffe://td/a;DNS=a;DNS=b,By=x`, `URI="spiffe://td/a"`, "URI=spiffe://td/a;URI=spiffe://td/b", `Chain="` + certificate + `";Cert="` + certificate + `"`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		evidence, err := evidenceOfXFCC(value, 1)
		if err != nil {
			require.Nil(t, evidence)
			return
		}
		if evidence.Leaf == nil {
			require.NoError(t, certname.CheckSPIFFE(evidence.SPIFFE))
			require.Contains(t, value, evidence.SPIFFE)
		}
		_, err = evidenceOfXFCC(value+",URI=spiffe://td/a", 1)
		require.Error(t, err)
		require.NotContains(t, strings.SplitN(value, "=", 2)[0], ",")
	})
}

// FuzzClientCert holds that nothing breaks.
func FuzzClientCert(f *testing.F) {
	f.Add(":AAAA:", "")
	f.Add("::", ":AAAA:, :BBBB:")
	f.Add(":AAAA", ",")
	f.Fuzz(func(t *testing.T, leaf, chain string) {
		evidence, err := evidenceOfClientCert(leaf, chain)
		require.Equal(t, err == nil, evidence != nil)
	})
}
