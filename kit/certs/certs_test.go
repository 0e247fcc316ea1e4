package certs_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/kit/certs"
)

var now = time.Now()

func authority(t *testing.T) *certs.Authority {
	authority, err := certs.OpenAuthority(t.TempDir(), now)
	require.NoError(t, err)
	return authority
}

func issue(t *testing.T, authority *certs.Authority, component string, at time.Time) certs.Files {
	files, err := authority.Issue(component, t.TempDir(), at)
	require.NoError(t, err)
	return files
}

// serve answers each connection with one byte, as TLS 1.3 tells a client that it
// was refused only when it reads.
func serve(t *testing.T, config *tls.Config) string {
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				_, _ = conn.Write([]byte{1})
			}()
		}
	}()
	return listener.Addr().String()
}

// call connects and reports how it went and which certificate the server had.
func call(address string, config *tls.Config) (*x509.Certificate, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", address, config)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return nil, err
	}
	return conn.ConnectionState().PeerCertificates[0], nil
}

func serverConfig(t *testing.T, files certs.Files, peers ...string) *tls.Config {
	config, err := files.ServerConfig(peers)
	require.NoError(t, err)
	return config
}

func clientConfig(t *testing.T, files certs.Files, peer string) *tls.Config {
	config, err := files.ClientConfig(peer)
	require.NoError(t, err)
	return config
}

func TestWhoMayTalkToWhom(t *testing.T) {
	ours, theirs := authority(t), authority(t)
	long := now.Add(-certs.CertificateLifetime - time.Hour)
	ratelimit := issue(t, ours, "ratelimit", now)
	ingress := issue(t, ours, "ingress", now)
	expectRateLimit, allowIngress := certs.PeerID("ratelimit"), []string{certs.PeerID("ingress")}
	for name, tc := range map[string]struct {
		server     certs.Files
		allowed    []string
		client     certs.Files
		expect     string
		wantServed bool
	}{
		"the named peers":            {ratelimit, allowIngress, ingress, expectRateLimit, true},
		"one of several":             {ratelimit, []string{certs.PeerID("cli"), certs.PeerID("ingress")}, ingress, expectRateLimit, true},
		"another client":             {ratelimit, allowIngress, issue(t, ours, "data", now), expectRateLimit, false},
		"a longer name":              {ratelimit, allowIngress, issue(t, ours, "ingress2", now), expectRateLimit, false},
		"nobody is allowed":          {ratelimit, nil, ingress, expectRateLimit, false},
		"another server":             {issue(t, ours, "data", now), allowIngress, ingress, expectRateLimit, false},
		"a client of another CA":     {ratelimit, allowIngress, issue(t, theirs, "ingress", now), expectRateLimit, false},
		"a server of another CA":     {issue(t, theirs, "ratelimit", now), allowIngress, ingress, expectRateLimit, false},
		"an expired client":          {ratelimit, allowIngress, issue(t, ours, "ingress", long), expectRateLimit, false},
		"an expired server":          {issue(t, ours, "ratelimit", long), allowIngress, ingress, expectRateLimit, false},
		"a client from the future":   {ratelimit, allowIngress, issue(t, ours, "ingress", now.Add(time.Hour)), expectRateLimit, false},
		"a clock that is a bit slow": {ratelimit, allowIngress, issue(t, ours, "ingress", now.Add(time.Minute)), expectRateLimit, true},
	} {
		t.Run(name, func(t *testing.T) {
			address := serve(t, serverConfig(t, tc.server, tc.allowed...))
			_, err := call(address, clientConfig(t, tc.client, tc.expect))
			if tc.wantServed {
				require.NoError(t, err)
			} else {
				require.Error(t, err)
			}
		})
	}
}

// trusting makes client present its certificate and trust another authority, so
// that only the server's check is left.
func TestEachSideChecksByItself(t *testing.T) {
	ours, theirs := authority(t), authority(t)
	server := issue(t, ours, "ratelimit", now)
	foreign := issue(t, theirs, "ingress", now)
	config := clientConfig(t, foreign, certs.PeerID("ratelimit"))
	config.VerifyConnection = nil
	_, err := call(serve(t, serverConfig(t, server, certs.PeerID("ingress"))), config)
	require.ErrorContains(t, err, "tls:", "the server refuses a foreign client by itself")

	ingress := issue(t, ours, "ingress", now)
	anonymous := clientConfig(t, ingress, certs.PeerID("ratelimit"))
	anonymous.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	_, err = call(serve(t, serverConfig(t, server, certs.PeerID("ingress"))), anonymous)
	require.ErrorContains(t, err, "certificate required")

	old := clientConfig(t, ingress, certs.PeerID("ratelimit"))
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	_, err = call(serve(t, serverConfig(t, server, certs.PeerID("ingress"))), old)
	require.ErrorContains(t, err, "protocol version")

	open := serverConfig(t, issue(t, theirs, "ratelimit", now), certs.PeerID("ingress"))
	open.GetConfigForClient = nil
	pair, err := tls.LoadX509KeyPair(filepathOf(t, theirs))
	require.NoError(t, err)
	open.Certificates = []tls.Certificate{pair}
	_, err = call(serve(t, open), clientConfig(t, ingress, certs.PeerID("ratelimit")))
	require.ErrorContains(t, err, "unknown authority", "the client refuses a foreign server by itself")
}

func filepathOf(t *testing.T, authority *certs.Authority) (certFile, keyFile string) {
	files := issue(t, authority, "ratelimit", now)
	return files.CertFile, files.KeyFile
}

func TestRenewedFilesArePickedUp(t *testing.T) {
	ours := authority(t)
	dir := t.TempDir()
	server, err := ours.Issue("ratelimit", dir, now)
	require.NoError(t, err)
	clientDir := t.TempDir()
	client, err := ours.Issue("ingress", clientDir, now)
	require.NoError(t, err)
	address := serve(t, serverConfig(t, server, certs.PeerID("ingress")))
	config := clientConfig(t, client, certs.PeerID("ratelimit"))
	first, err := call(address, config)
	require.NoError(t, err)

	_, err = ours.Issue("ratelimit", dir, now)
	require.NoError(t, err)
	_, err = ours.Issue("ingress", clientDir, now)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		renewed, err := call(address, config)
		require.NoError(t, err, "no handshake fails during a renewal")
		return renewed.SerialNumber.Cmp(first.SerialNumber) != 0
	}, time.Minute, 50*time.Millisecond)

	// Both move to a new authority, one after the other.
	next := authority(t)
	_, err = next.Issue("ratelimit", dir, now)
	require.NoError(t, err)
	_, err = next.Issue("ingress", clientDir, now)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := call(address, config)
		return err == nil
	}, time.Minute, 50*time.Millisecond)
}

func TestABrokenRenewalKeepsTheOld(t *testing.T) {
	ours := authority(t)
	server := issue(t, ours, "ratelimit", now)
	config := serverConfig(t, server, certs.PeerID("ingress"))
	address := serve(t, config)
	client := clientConfig(t, issue(t, ours, "ingress", now), certs.PeerID("ratelimit"))
	first, err := call(address, client)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(server.KeyFile, []byte("half a k"), 0o600))
	require.NoError(t, os.Remove(server.CAFile))
	deadline := time.Now().Add(1500 * time.Millisecond) // files are looked at once a second
	for time.Now().Before(deadline) {
		again, err := call(address, client)
		require.NoError(t, err)
		require.Equal(t, first.SerialNumber, again.SerialNumber)
	}
}

func TestFirstLoadFailsClearly(t *testing.T) {
	files := issue(t, authority(t), "ratelimit", now)
	for _, path := range []string{files.CertFile, files.KeyFile, files.CAFile} {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		for name, spoil := range map[string]func() error{
			"missing": func() error { return os.Remove(path) },
			"garbage": func() error { return os.WriteFile(path, []byte("garbage"), 0o600) },
		} {
			require.NoError(t, spoil())
			_, err := files.ServerConfig([]string{"x"})
			require.Error(t, err, "%s %s", path, name)
			_, err = files.ClientConfig("x")
			require.Error(t, err, "%s %s", path, name)
			require.NoError(t, os.WriteFile(path, content, 0o600))
		}
	}
	require.ErrorContains(t, certs.Files{}.Validate(), "tls.caFile")
	require.NoError(t, files.Validate())
}

func TestAuthorityIsKeptAndNeverReplacedSilently(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	first, err := certs.OpenAuthority(dir, now)
	require.NoError(t, err)
	info, err := os.Stat(filepath.Join(dir, "ca.key"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	again, err := certs.OpenAuthority(dir, now.Add(time.Hour))
	require.NoError(t, err)
	require.Equal(t, first.NotAfter(), again.NotAfter())

	_, err = certs.OpenAuthority(t.TempDir(), now)
	require.NoError(t, err)
	other := filepath.Join(t.TempDir(), "other")
	_, err = certs.OpenAuthority(other, now)
	require.NoError(t, err)
	foreignKey, err := os.ReadFile(filepath.Join(other, "ca.key"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.key"), foreignKey, 0o600))
	_, err = certs.OpenAuthority(dir, now)
	require.ErrorContains(t, err, "does not belong")
	require.NoError(t, os.Remove(filepath.Join(dir, "ca.key")))
	_, err = certs.OpenAuthority(dir, now)
	require.ErrorContains(t, err, "incomplete")
}

func TestEnsureIssuesOnlyWhenNeeded(t *testing.T) {
	ours, dir := authority(t), t.TempDir()
	ensure := func(authority *certs.Authority, component string, at time.Time) bool {
		files, issued, err := authority.Ensure(component, dir, at)
		require.NoError(t, err)
		require.NoError(t, files.Validate())
		return issued
	}
	require.True(t, ensure(ours, "data", now))
	require.False(t, ensure(ours, "data", now))
	require.False(t, ensure(ours, "data", now.Add(certs.CertificateLifetime/2)))
	require.True(t, ensure(ours, "data", now.Add(certs.CertificateLifetime*3/4)), "less than a third of its life is left")
	require.True(t, ensure(ours, "user", now), "for another component")
	require.True(t, ensure(authority(t), "user", now), "of another authority")
}

func TestIssuedCertificatesNameTheComponent(t *testing.T) {
	files := issue(t, authority(t), "ratelimit", now)
	raw, err := os.ReadFile(files.CertFile)
	require.NoError(t, err)
	block, _ := pem.Decode(raw)
	cert, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	require.Equal(t, "spiffe://weir.local/ratelimit", cert.URIs[0].String())
	require.Len(t, cert.URIs, 1, "an SVID has one id")
	require.False(t, cert.IsCA)
	expiry, err := files.NotAfter()
	require.NoError(t, err)
	require.True(t, cert.NotAfter.Equal(expiry))
}

func TestPatternsOfPeers(t *testing.T) {
	for _, c := range []struct {
		pattern, id string
		want        bool
	}{
		{"spiffe://d/a", "spiffe://d/a", true},
		{"spiffe://d/a", "spiffe://d/a/b", false},
		{"spiffe://d/a/*", "spiffe://d/a/b", true},
		{"spiffe://d/a/*", "spiffe://d/a/b/c", true},
		{"spiffe://d/a/*", "spiffe://d/a", false},
		{"spiffe://d/a/*", "spiffe://d/a/", false},
		{"spiffe://d/a/*", "spiffe://d/ab/c", false},
		{"spiffe://d/a/*", "spiffe://e/a/b", false},
		{"spiffe://d/a/*", "spiffe://d/a/../x", false},
		{"spiffe://d/a/*", "spiffe://d/a//x", false},
		{"spiffe://d/a/*", "spiffe://d/a/%2e%2e/x", false},
		{"spiffe://d/a*", "spiffe://d/ab", false},
		{"*", "spiffe://d/a", false},
	} {
		require.Equal(t, c.want, certs.Matches(c.pattern, c.id), "%s %s", c.pattern, c.id)
	}
}
