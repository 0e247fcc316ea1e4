package envoy

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy"
)

// apply plays edits back: kept and removed lines are a, kept and added ones b.
func apply(edits []edit) (a, b []string) {
	for _, e := range edits {
		if e.kind != '+' {
			a = append(a, e.line)
		}
		if e.kind != '-' {
			b = append(b, e.line)
		}
	}
	return a, b
}

func TestShortestEditTurnsOneIntoTheOther(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	lines := func() []string {
		var out []string
		for range random.Intn(30) {
			out = append(out, fmt.Sprintf("%d\n", random.Intn(6)))
		}
		return out
	}
	for range 2000 {
		a, b := lines(), lines()
		gotA, gotB := apply(shortestEdit(a, b))
		require.Equal(t, a, gotA)
		require.Equal(t, b, gotB)
	}
}

func TestShortestEditIsBounded(t *testing.T) {
	var a, b []string
	for i := range 3 * maxEdits {
		a, b = append(a, fmt.Sprint("a", i)), append(b, fmt.Sprint("b", i))
	}
	gotA, gotB := apply(shortestEdit(a, b))
	require.Equal(t, a, gotA)
	require.Equal(t, b, gotB)
}

func TestUnifiedShowsWhatSurrounds(t *testing.T) {
	split := func(text string) []string { return strings.SplitAfter(text, "\n") }
	require.Equal(t, "@@ -2 +2 @@\n b\n c\n d\n-e\n+E\n f\n g\n h\n",
		unified(split("a\nb\nc\nd\ne\nf\ng\nh\ni\n"), split("a\nb\nc\nd\nE\nf\ng\nh\ni\n")))
	require.Equal(t, "@@ -1 +1 @@\n+x\n a\n", unified(split("a\n"), split("x\na\n")))
}

func TestShowHidesSecrets(t *testing.T) {
	set := Set{}
	text := func(value string) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: value}}
	}
	require.NoError(t, set.Add("s", &tlsv3.Secret{Name: "s", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: text("public"), PrivateKey: text("very private"), Password: text("hunter2"),
	}}}))
	require.NoError(t, set.Add("c", &rulesv1.Consumer{Name: "c", ApiKeys: []*rulesv1.ApiKey{{Name: "k", Sha256: []byte("hash of a key")}}}))
	require.NoError(t, set.Add("wrapped", &tlsv3.Secret{Name: "l", Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{Secret: text("generic")}}}))
	for _, resources := range set {
		for _, resource := range resources {
			shown, err := YAML(resource)
			require.NoError(t, err)
			for _, secret := range []string{"very private", "hunter2", "aGFzaCBvZiBhIGtleQ", "generic\n"} {
				require.NotContains(t, shown, secret)
			}
			if resource.Name == "s" {
				require.Contains(t, shown, "public", "what is public stays")
			}
		}
	}
}

func TestDiffNamesWhatChanged(t *testing.T) {
	before, after := Set{}, Set{}
	require.NoError(t, before.Add("a", &rulesv1.RateLimitRule{Id: "a", Requests: 1}))
	require.NoError(t, before.Add("b", &rulesv1.RateLimitRule{Id: "b"}))
	require.NoError(t, after.Add("a", &rulesv1.RateLimitRule{Id: "a", Requests: 2}))
	require.NoError(t, after.Add("c", &rulesv1.RateLimitRule{Id: "c"}))
	changes, err := Diff(before, after, true)
	require.NoError(t, err)
	require.Equal(t, []ResourceChange{
		{Type: "limits", Name: "a", Action: policy.ChangeChanged, Diff: "@@ -1 +1 @@\n id: a\n-requests: 1\n+requests: 2\n"},
		{Type: "limits", Name: "b", Action: policy.ChangeRemoved},
		{Type: "limits", Name: "c", Action: policy.ChangeAdded},
	}, changes)
	changes, err = Diff(nil, nil, true)
	require.NoError(t, err)
	require.Empty(t, changes)
}
