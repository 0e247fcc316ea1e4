package stack

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/cli/state"
	"weir.dev/kit/certs"
)

func testLayout(t *testing.T) layout {
	t.Helper()
	dir, err := state.At("/state")
	require.NoError(t, err)
	internal := state.Ports{}
	for i, use := range uses() {
		internal[use] = 20000 + i
	}
	return layout{dir: dir, policyDir: "/policies", ports: &Allocation{Ingress: map[int]int{8080: 8081, 9090: 9090}, Internal: internal}, otlp: "otel:4317"}
}

func TestControlPlaneConfig(t *testing.T) {
	c := testLayout(t).config(daemons()[0])
	require.Equal(t, "127.0.0.1:20001", c.Server.Listen)
	require.Equal(t, "127.0.0.1:20002", c.Admin.Listen)
	require.Equal(t, "/state/certs/controlplane/tls.key", c.Server.TLS.KeyFile)
	require.Equal(t, []string{"/policies", "/state/development"}, c.Sources.Folders)
	require.Equal(t, map[int]int{8080: 8081}, c.Ingress.PortMap, "only what is shifted")
	require.Equal(t, "127.0.0.1:20003", c.ExtAuthz.Address)
	require.Equal(t, "127.0.0.1:20005", c.RateLimit.Address)
	require.Equal(t, "otel:4317", c.OTLP.Address)
	require.Nil(t, c.Store)
	require.Equal(t, []string{"spiffe://weir.local/ingress", "spiffe://weir.local/extauthz", "spiffe://weir.local/ratelimit", "spiffe://weir.local/cli"}, c.Server.AllowedPeers)
}

func TestOtherConfigs(t *testing.T) {
	for _, d := range daemons()[1:] {
		c := testLayout(t).config(d)
		require.Equal(t, []string{"spiffe://weir.local/ingress"}, c.Server.AllowedPeers, d.name)
		require.Nil(t, c.Sources, d.name)
		switch d.name {
		case User:
			require.Equal(t, "/state/data/user.db", c.Store.SQLite.Path)
		case Data:
			require.Equal(t, "/state/data/data.db", c.Store.SQLite.Path)
		default:
			require.Equal(t, &controlPlane{Address: "127.0.0.1:20001", Peer: "spiffe://weir.local/controlplane", NodeID: d.identity}, c.ControlPlane)
		}
	}
}

func TestSecretsGoOnlyWhereTheyAreUsed(t *testing.T) {
	env := []string{"HOME=/h", "WEIR_REDIS_URL=r", "WEIR_POSTGRES_URL=p"}
	require.Equal(t, []string{"HOME=/h"}, envFor(env, nil))
	for _, d := range daemons() {
		got := strings.Join(envFor(env, d.secrets), " ")
		require.Equal(t, d.name == RateLimit || d.name == ExtAuthz, strings.Contains(got, "REDIS"), d.name)
		require.Equal(t, d.name == User || d.name == Data, strings.Contains(got, "POSTGRES"), d.name)
	}
}

func TestOTLPAddress(t *testing.T) {
	for value, want := range map[string]string{
		"": "", "http://collector:4317": "collector:4317", "https://collector": "collector:4317", "collector:1234": "collector:1234",
		"http://[::1]:4317/": "[::1]:4317",
	} {
		require.Equal(t, want, otlpAddress([]string{"X=y", "OTEL_EXPORTER_OTLP_ENDPOINT=" + value}), value)
	}
}

func TestProbe(t *testing.T) {
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			http.Error(w, "rules: none\nstore: down", http.StatusServiceUnavailable)
		}
	}))
	defer admin.Close()
	require.NoError(t, Probe(context.Background(), admin.URL+"/readyz"))
	require.ErrorContains(t, Probe(context.Background(), admin.URL+"/x"), "answers 503: rules: none; store: down")
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = silent.Close() }()
	require.ErrorIs(t, Probe(ctx, "http://"+silent.Addr().String()), context.DeadlineExceeded)
}

func TestCertificatesAreMadeOnceAndRenewed(t *testing.T) {
	dir, err := state.At(t.TempDir())
	require.NoError(t, err)
	now := time.Now()
	made, err := ensureCertificates(dir, now)
	require.NoError(t, err)
	require.Equal(t, Identities(), made)
	again, err := ensureCertificates(dir, now)
	require.NoError(t, err)
	require.Empty(t, again)
	later, err := ensureCertificates(dir, now.Add(certs.CertificateLifetime*3/4))
	require.NoError(t, err)
	require.Equal(t, Identities(), later)
	_, err = tls.LoadX509KeyPair(dir.Path("certs", "ingress", "tls.crt"), dir.Path("certs", "ingress", "tls.key"))
	require.NoError(t, err)
}

func TestMissingBinaryIsNamed(t *testing.T) {
	require.ErrorContains(t, CheckBinaries(t.TempDir()), "controlplaned is not beside weir")
}

func TestEndStaleLeavesStrangersAlone(t *testing.T) {
	dir, err := state.At(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, dir.Prepare())
	record := state.Record{Components: []state.Component{{Name: "reused"}}}
	record.Components[0].Process.PID = os.Getpid()
	record.Components[0].Process.StartTime = 1 // Another process had this pid.
	require.NoError(t, dir.WriteRecord(record))
	EndStale(dir, slog.New(slog.DiscardHandler)) // Or this test is no more.
	require.NoDirExists(t, dir.Run())
}
