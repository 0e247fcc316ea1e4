package command

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/mesh/mtls"
)

func TestMTLSUsage(t *testing.T) {
	for arguments, want := range map[string]string{
		"set":                                 "needs an argument",
		"set SOME -n shop":                    `"SOME" is no mode; use DISABLE, PERMISSIVE or STRICT`,
		"set STRICT":                          "name the namespace with -n",
		"set STRICT -n Shop":                  `"Shop" is no name of a namespace`,
		"set STRICT -n shop --observe 0s":     "--observe: 0s is too short",
		"set STRICT -n shop --observe -1s":    "--observe: -1s is not between",
		"set STRICT -n shop --watch 25h":      "--watch: 25h0m0s is not between",
		"set STRICT -n shop --workload a":     "must be formatted as key=value",
		"set STRICT -n shop --workload a=b/c": "--workload: a=b/c is no label",
		"rollback":                            "name the namespace with -n",
		"status --observe 1m":                 "name the namespace with -n",
		"status -o xml":                       "xml",
		"nonsense":                            "nonsense",
	} {
		code, out, errs := runApp(t, append([]string{"mesh", "mtls"}, strings.Fields(arguments)...)...)
		require.Equal(t, 2, code, "%s: %s%s", arguments, out, errs)
		require.Contains(t, errs, want, arguments)
	}
}

func TestMTLSPrints(t *testing.T) {
	var out bytes.Buffer
	caller := mtls.Caller{Address: "10.0.0.9", Name: "pod legacy/old-1", Workload: "Deployment old", Target: "shop/orders-1", TargetWorkload: "Deployment orders", Port: 8080, Requests: 3}
	printMTLSStatus(&out, &mtlsStatus{
		Rows: []mtls.Row{
			{Namespace: "shop", Pods: 3, Sidecars: 2, Setting: mtls.Setting{Mode: mtls.Permissive, By: "Istio's default"}},
			{Namespace: "shop", Workload: "Deployment orders", Pods: 2, Sidecars: 2, Setting: mtls.Setting{Mode: mtls.Strict, By: "PeerAuthentication shop/w", Ports: map[uint32]mtls.Mode{9000: mtls.Disable}}},
		},
		Observed: "1m0s", Callers: []mtls.Caller{caller}, Unknown: []string{"the sidecar of shop/a cannot be asked: no\x1b"},
	})
	require.Equal(t, `NAMESPACE  WORKLOAD           SIDECARS  MODE                   BY
shop       all                2 of 3    PERMISSIVE             Istio's default
shop       Deployment orders  2 of 2    STRICT, 9000: DISABLE  PeerAuthentication shop/w
1 plaintext caller in 1m0s
  pod legacy/old-1 (Deployment old), 10.0.0.9: 3 requests to Deployment orders port 8080
`+"  not known: the sidecar of shop/a cannot be asked: no"+printable("\x1b")+"\n", out.String())

	result := &mtls.Result{Scope: mtls.Scope{Namespace: "shop"}, From: mtls.Permissive, To: mtls.Strict, Sidecars: 2}
	for action, want := range map[string]string{
		mtls.Changed:    "namespace shop is STRICT in 2 sidecars; it was PERMISSIVE\n",
		mtls.Unchanged:  "namespace shop is STRICT already\n",
		mtls.WouldBe:    "namespace shop would be STRICT in 2 sidecars; it is PERMISSIVE\n",
		mtls.Refused:    "namespace shop stays PERMISSIVE: STRICT is refused\n",
		mtls.RolledBack: "namespace shop is PERMISSIVE again: everything was put back as it was\n",
		mtls.Stuck:      "namespace shop could not be put back to PERMISSIVE\n",
		mtls.Cleared:    "namespace shop stays PERMISSIVE: what an observation left was taken away\n",
	} {
		out.Reset()
		result.Action = action
		printMTLSResult(&out, result)
		require.Equal(t, want, out.String())
	}
	out.Reset()
	printMTLSResult(&out, &mtls.Result{Scope: result.Scope, From: mtls.Permissive, To: mtls.Permissive, Action: mtls.WouldBe})
	require.Equal(t, "namespace shop would stay PERMISSIVE\n", out.String())
}
