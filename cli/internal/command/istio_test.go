package command

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

// What Istio is given for policies, but for the connection settings, which are those
// of Weir's own target.
func TestTranslateIstio(t *testing.T) {
	for _, name := range []string{"istio", "istio-tls", "istio-jwt", "istio-clients", "istio-answers"} {
		arguments := []string{"translate", "--target", "istio", "-o", "json", "testdata/" + name + ".in.yaml"}
		code, out, errs := runApp(t, arguments...)
		require.Equal(t, 0, code, errs)
		var list struct {
			Items []map[string]any `json:"items"`
		}
		require.NoError(t, json.Unmarshal([]byte(out), &list))
		var kept []map[string]any
		for _, object := range list.Items {
			metadata := object["metadata"].(map[string]any) //nolint:forcetypeassert // as made
			wanted := map[string]string{"istio": "", "istio-jwt": "", "istio-tls": "no EnvoyFilter", "istio-clients": "-clients", "istio-answers": "-routes"}[name]
			if object["kind"] != "EnvoyFilter" || strings.HasSuffix(metadata["name"].(string), wanted) && !strings.HasSuffix(metadata["name"].(string), "-connection") {
				kept = append(kept, object)
			}
		}
		var text strings.Builder
		require.NoError(t, writeDocuments(&text, kept))
		golden(t, name+".out.yaml", text.String())

		_, again, _ := runApp(t, arguments...)
		require.Equal(t, out, again, "the same, to the byte, each time")
	}
}

// What of TLS Istio has no words for, and what would be open by a name that two
// listeners take.
func TestTranslateIstioRefusesOfTLS(t *testing.T) {
	content, err := os.ReadFile("testdata/istio-tls.in.yaml")
	require.NoError(t, err)
	for change, want := range map[[2]string]string{
		{"hostname: admin.example.com, ", ""}:                                                   "whose hostname another listener of port 8443 takes too",
		{"hostname: admin.example.com", "hostname: x.shop.example.com"}:                         "whose hostname another listener of port 8443 takes too",
		{`minVersion: "1.3"`, `protocols: [HTTP/1.1]`}:                                          "protocols of a listener",
		{"{certificateRefs: [{name: any}]}", "{certificateRefs: [{name: any}, {name: other}]}"}: "2 certificates of one listener",
	} {
		path := filepath.Join(t.TempDir(), "policy.yaml")
		changed := strings.Replace(string(content), change[0], change[1], 1)
		require.NotEqual(t, string(content), changed, change[0])
		require.NoError(t, os.WriteFile(path, []byte(changed), 0o600))
		code, out, errs := runApp(t, "translate", "--target", "istio", path)
		require.Equal(t, 1, code, "%s\n%s", change[1], out)
		require.Contains(t, errs, "unsupported on istio: ")
		require.Contains(t, errs, want)
	}
}

// What of client certificates Istio would understand otherwise is refused, with its
// place; what is told of them to services is told as it is asked for.
func TestTranslateIstioOfClientCertificates(t *testing.T) {
	content, err := os.ReadFile("testdata/istio-clients.in.yaml")
	require.NoError(t, err)
	forwarding := func(settings string) string {
		return "apiVersion: weir.dev/v1alpha1\nkind: HeaderPolicy\nmetadata: {name: h}\nspec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]\n" +
			"  forwardedClientCert: {" + settings + "}\n---\n"
	}
	const names, before = "{type: DNS, exact: orders.example.com}", "apiVersion: v1\nkind: ConfigMap"
	for _, test := range []struct{ old, new, refused, kept, gone string }{
		{old: names, new: names, kept: "weir.forwarded_client_cert"},
		{old: names, new: "{type: Email, exact: orders@example.com}", refused: "subjectAltNames[1]: an address of mail"},
		{old: names, new: "{type: URI, exact: 'https://orders.example.com/pay'}", kept: "- https://orders.example.com/pay"},
		{old: names, new: "{type: URI, exact: 'https://orders.example.com'}", refused: `subjectAltNames[1]: "https://orders.example.com" may be a name of another kind than URI`},
		{old: names, new: "{type: URI, exact: 'spiffe://example.com'}", refused: `subjectAltNames[1]: "spiffe://example.com" may be a name of another kind than URI`},
		{old: names, new: "{type: URI, exact: 'urn:orders'}", kept: "- urn:orders"},
		{old: names, new: "{type: DNS, exact: 192.0.2.1}", refused: `subjectAltNames[1]: "192.0.2.1" may be a name of another kind than DNS`},
		{old: names, new: "{type: DNS, suffix: .example.com}", refused: "subjectAltNames[1]: a prefix or suffix: Istio compares whole names"},
		{old: names, new: "{type: URI, prefix: 'spiffe://'}", refused: "subjectAltNames[1]: a prefix or suffix"},
		{old: names, new: "{type: IP, exact: 192.0.2.1}", refused: "subjectAltNames[1]: an address"},
		{old: names, new: "{type: URI, exact: orders.example.com}", refused: `subjectAltNames[1]: "orders.example.com" may be a name of another kind than URI`},
		{old: names, new: "{type: URI, exact: 'sip:orders@example.com'}", refused: `subjectAltNames[1]: "sip:orders@example.com" may be a name`},
		{old: names, new: "{type: DNS, exact: 'urn:orders'}", refused: `subjectAltNames[1]: "urn:orders" may be a name of another kind than DNS`},
		{old: before, new: forwarding("mode: ForwardOnly") + before, refused: "forwardedClientCert mode ForwardOnly"},
		{old: before, new: forwarding("mode: AppendForward") + before, refused: "forwardedClientCert mode AppendForward"},
		{old: before, new: forwarding("mode: SanitizeSet") + before, refused: "forwardedClientCert without the detail DNS"},
		{old: before, new: forwarding("mode: SanitizeSet, details: [Subject, URI, DNS, Cert]") + before, kept: "forward_client_cert_details: SANITIZE_SET", gone: "weir.forwarded_client_cert"},
	} {
		path := filepath.Join(t.TempDir(), "policy.yaml")
		require.Contains(t, string(content), test.old)
		require.NoError(t, os.WriteFile(path, []byte(strings.Replace(string(content), test.old, test.new, 1)), 0o600))
		code, out, errs := runApp(t, "translate", "--target", "istio", path)
		if test.refused != "" {
			require.Equal(t, 1, code, test.new)
			require.Contains(t, errs, "unsupported on istio: "+test.refused)
			require.Contains(t, errs, path+":", "the place is named")
			require.Empty(t, out)
			continue
		}
		require.Equal(t, 0, code, errs)
		require.Contains(t, out, test.kept)
		require.NotContains(t, out, "BEGIN", "neither keys nor certificates are shown")
		if test.gone != "" {
			require.NotContains(t, out, test.gone)
		}
	}
}

// Keys' digests are shown to who asks for them only.
func TestTranslateIstioHidesSecrets(t *testing.T) {
	const digest = "K7gNU3sdo" // of the consumer's key, as the rules have it
	for _, asked := range []bool{false, true} {
		arguments := []string{"translate", "--target", "istio", "--type", "Secret", "testdata/istio.in.yaml"}
		if asked {
			arguments = append(arguments, "--secrets")
		}
		code, out, errs := runApp(t, arguments...)
		require.Equal(t, 0, code, errs)
		require.Equal(t, asked, strings.Contains(out, digest), out)
	}
}

// A listener that is closed, since what it verifies clients with is broken, is not taken
// for one that passes connections on.
func TestTranslateIstioOfAClosedListener(t *testing.T) {
	content, err := os.ReadFile("testdata/istio-tls.in.yaml")
	require.NoError(t, err)
	path, whole := filepath.Join(t.TempDir(), "policy.yaml"), `minVersion: "1.3"`
	require.Equal(t, 1, strings.Count(string(content), whole))
	broken := strings.Replace(string(content), whole, whole+"\n  clientCertificates: {caCertificateRefs: [{kind: ConfigMap, name: gone}]}", 1)
	require.NoError(t, os.WriteFile(path, []byte(broken), 0o600))
	code, out, errs := runApp(t, "translate", "--target", "istio", path)
	require.Equal(t, 1, code)
	require.Empty(t, out)
	require.Contains(t, errs, "gone")
	require.Contains(t, errs, "unsupported on istio: listeners that take no connection")
	require.NotContains(t, errs, "listeners of protocol TLS")
}

func TestTranslateIstioRefuses(t *testing.T) {
	content, err := os.ReadFile("testdata/istio.in.yaml")
	require.NoError(t, err)
	for change, want := range map[[2]string]string{
		{"loadBalancing: {", "healthCheck: {tcp: {}}\n  loadBalancing: {"}:                                                       "unsupported on istio: health checks",
		{"hashBy: [{", "hashBy: [{type: ClientIP}, {"}:                                                                           "unsupported on istio: 2 entries of hashBy",
		{"listeners: [{name: http", "listeners: [{name: raw, protocol: TLS, tls: {mode: Passthrough}, port: 8443}, {name: http"}: "unsupported on istio: listeners of protocol",
		{"hostnames: [open.example.com", "hostnames: [shop.example.com"}:                                                         "unsupported on istio: a match by headers or query",
		{"{address: 198.51.100.7, port: 8000}", "{unixSocket: /run/x}"}:                                                          "unsupported on istio: a Unix socket",
		{"name: X-Version", "name: x-version"}:                                                                                   "",
	} {
		path := filepath.Join(t.TempDir(), "policy.yaml")
		changed := strings.Replace(string(content), change[0], change[1], 1)
		require.NotEqual(t, string(content), changed, change[0])
		require.NoError(t, os.WriteFile(path, []byte(changed), 0o600))
		code, out, errs := runApp(t, "translate", "--target", "istio", path)
		if want == "" {
			require.Equal(t, 0, code, errs)
			continue
		}
		require.Equal(t, 1, code, change[0])
		require.Contains(t, errs, want)
		require.Contains(t, errs, "WEIR6001")
		require.Contains(t, errs, path+":", "the place is named")
		require.Empty(t, out, "nothing that could be piped to who applies it")
	}
	code, _, errs := runApp(t, "translate", "--target", "consul", "testdata/istio.in.yaml")
	require.Equal(t, 2, code)
	require.Contains(t, errs, "--target")
	code, _, errs = runApp(t, "translate", "--target", "istio", "--istio-ratelimit", "nowhere", "testdata/istio.in.yaml")
	require.Equal(t, 2, code, errs)
	code, _, errs = runApp(t, "translate", "--target", "istio", "--type", "rds", "testdata/istio.in.yaml")
	require.Equal(t, 2, code)
	require.Contains(t, errs, "use one of Secret, ConfigMap")
	code, _, _ = runApp(t, "mesh", "nonsense")
	require.Equal(t, 2, code, "as of the other groups of commands")
}

// A proxy that has none of it fails every assertion; one that has nothing at all is
// no proxy of it.
func TestMeshAssert(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dump.json")
	require.NoError(t, os.WriteFile(path, []byte(`{"configs": [{"dynamic_listeners": [{"active_state": {"listener": {"name": "other"}}}]}]}`), 0o600))
	code, out, errs := runApp(t, "mesh", "assert", "testdata/istio.in.yaml", "--dump", path)
	require.Equal(t, 1, code, errs)
	require.Contains(t, out, "HTTP_FILTER weir.cors is there 0 times")
	require.Contains(t, out, "HTTP_ROUTE httproute/default/shop/api@default/edge/http is there 0 times")
	require.Contains(t, out, "3 EnvoyFilters checked")

	code, _, errs = runApp(t, "mesh", "assert", "testdata/istio.in.yaml")
	require.Equal(t, 2, code)
	require.Contains(t, errs, "--dump")
	require.NoError(t, os.WriteFile(path, []byte(`{}`), 0o600))
	code, _, errs = runApp(t, "mesh", "assert", "testdata/istio.in.yaml", "--dump", path)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "no listeners")
}

// What --help shows with files that are there runs.
func TestHelpExamples(t *testing.T) {
	dump := filepath.Join(t.TempDir(), "dump.json")
	require.NoError(t, os.WriteFile(dump, []byte(`{"configs": [{"dynamic_listeners": [{"active_state": {"listener": {"name": "other"}}}]}]}`), 0o600))
	t.Chdir("../../..")
	ran := 0
	for _, example := range examples((&App{}).root()) {
		arguments := strings.Fields(example)
		if slices.Contains(arguments, "-") { // What comes through a pipe is not here.
			arguments[slices.Index(arguments, "-")] = dump
		}
		code, out, errs := runApp(t, arguments[1:]...)
		require.Empty(t, errs, example)
		require.NotEmpty(t, out, example)
		if !strings.Contains(out, "findings") {
			require.Equal(t, 0, code, example)
		}
		ran++
	}
	require.GreaterOrEqual(t, ran, 3, "examples are found")
}

// examples are the commands of --help that are about folders of this repository, and
// talk to nothing.
func examples(c *cobra.Command) []string {
	var found []string
	for line := range strings.Lines(strings.ReplaceAll(c.Example, "|\n", "| ")) {
		last := line[strings.LastIndex(line, "|")+1:]
		if strings.Contains(last, " examples/") && c.Flags().Lookup("kubeconfig") == nil {
			found = append(found, strings.TrimSpace(last))
		}
	}
	for _, inner := range c.Commands() {
		found = append(found, examples(inner)...)
	}
	return found
}

// Flags that do not go together, and what is refused before a cluster is asked.
func TestApplyToIstioRefuses(t *testing.T) {
	const policy = "testdata/istio.in.yaml"
	for _, given := range []struct {
		arguments string
		code      int
		want      string
	}{
		{"apply --target istio --prune-set " + policy, 2, "do not go with --target istio"},
		{"apply --target istio --kubernetes " + policy, 2, "do not go with --target istio"},
		{"apply --target istio --prune VirtualService/a/b", 2, "do not go with --target istio"},
		{"apply --target istio --wait 6m " + policy, 2, "--wait"},
		{"apply --target istio --set Not_a_label " + policy, 2, "--set"},
		{"apply --target istio --istio-ratelimit-timeout 1ms " + policy, 2, "--istio-ratelimit-timeout 1ms is outside 10ms to 10s"},
		{"apply --set x " + policy, 2, "go with --kubernetes or --target istio"},
		{"plan --target istio --against testdata " + policy, 1, "do not go with --target istio"},
		{"plan --set x " + policy, 1, "go with --target istio"},
		{"doctor " + policy, 2, "with --target istio only"},
		{"doctor --target istio", 2, "name the policy"},
		{"doctor --target istio --envoy x " + policy, 2, "do not go with --target istio"},
		{"plan --target istio --kubeconfig /nowhere " + policy, 1, "--kubeconfig"},
		{"plan --target istio ../../../examples/tls", 1, "unsupported on istio"},
		{"apply --target istio ../../../examples/tls", 1, "unsupported on istio"},
		{"doctor --target istio ../../../examples/tls", 1, "unsupported on istio"},
	} {
		code, out, errs := runApp(t, strings.Fields(given.arguments)...)
		require.Equal(t, given.code, code, "%s\n%s%s", given.arguments, out, errs)
		require.Contains(t, out+errs, given.want, given.arguments)
	}
}

// weir mesh check finds what is there, tells programs so, and refuses what it does
// not know.
func TestMeshCheck(t *testing.T) {
	code, out, errs := runApp(t, "mesh", "check", "--target", "istio", "testdata/istio.in.yaml", "-o", "json")
	require.Equal(t, 1, code, errs)
	var said struct {
		Routes   int
		Findings []struct{ Code, Message, File string }
	}
	require.NoError(t, json.Unmarshal([]byte(out), &said))
	require.Positive(t, said.Routes)
	require.NotEmpty(t, said.Findings)
	require.Equal(t, "testdata/istio.in.yaml", said.Findings[0].File)
	code, _, errs = runApp(t, "mesh", "check", "--target", "consul", "testdata/istio.in.yaml")
	require.Equal(t, 2, code)
	require.Contains(t, errs, "--target")
	empty := filepath.Join(t.TempDir(), "empty.yaml")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	code, out, errs = runApp(t, "mesh", "check", "--alone", empty)
	require.Equal(t, 0, code, errs)
	require.Contains(t, out, "0 routes checked: 0 findings")
}
