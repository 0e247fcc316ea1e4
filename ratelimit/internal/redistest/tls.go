package redistest

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/kit/certs"
)

// Secure is a server that is spoken to over TLS only, with a client certificate
// and a password.
type Secure struct {
	*Server
	User, Password string
	CAFile         string
	Client         certs.Files
}

// StartSecure starts one.
func StartSecure(t testing.TB) *Secure {
	t.Helper()
	server := newServer(t)
	authority, err := certs.OpenAuthority(filepath.Join(server.dir, "ca"), time.Now())
	require.NoError(t, err)
	files, err := authority.Issue("redis", filepath.Join(server.dir, "redis"), time.Now())
	require.NoError(t, err)
	client, err := authority.Issue("ratelimit", filepath.Join(server.dir, "client"), time.Now())
	require.NoError(t, err)
	secure := &Secure{Server: server, User: "limiter", Password: "correct horse", CAFile: files.CAFile, Client: client}
	port := freePort(t)
	server.url = "rediss://" + net.JoinHostPort("localhost", port)
	// Only what the store needs.
	acl := filepath.Join(server.dir, "users.acl")
	rule := "user limiter on >" + strings.ReplaceAll(secure.Password, " ", "-") + " ~{weir* resetchannels -@all +evalsha +eval +mget +exists +type +set +setrange +time +ping +hello\nuser default off\n"
	secure.Password = strings.ReplaceAll(secure.Password, " ", "-")
	require.NoError(t, os.WriteFile(acl, []byte(rule), 0o600))
	server.arguments = []string{
		"--port", "0", "--tls-port", port, "--bind", "127.0.0.1 ::1", "--aclfile", acl,
		"--tls-cert-file", files.CertFile, "--tls-key-file", files.KeyFile, "--tls-ca-cert-file", files.CAFile, "--tls-auth-clients", "yes",
	}
	server.Restart(t)
	return secure
}
