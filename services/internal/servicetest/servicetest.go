// Package servicetest runs services for tests, over real connections with
// mutual TLS: within the test's process, or as a child that can be killed.
package servicetest

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"weir.dev/kit/certs"
	"weir.dev/kit/identity"
	"weir.dev/kit/rpcserver"
)

// RunMain is the environment variable that makes a test binary be its daemon;
// see Child.
const RunMain = "WEIR_TEST_RUN_MAIN"

const (
	ingress      = "ingress"
	startTimeout = 30 * time.Second
)

// Pair is a server's certificate and the credentials of its client.
type pair struct {
	server certs.Files
	client credentials.TransportCredentials
}

func newPair(t testing.TB, component string) pair {
	t.Helper()
	dir, now := t.TempDir(), time.Now()
	authority, err := certs.OpenAuthority(filepath.Join(dir, "ca"), now)
	require.NoError(t, err)
	server, err := authority.Issue(component, filepath.Join(dir, component), now)
	require.NoError(t, err)
	client, err := authority.Issue(ingress, filepath.Join(dir, ingress), now)
	require.NoError(t, err)
	config, err := client.ClientConfig(certs.PeerID(component))
	require.NoError(t, err)
	return pair{server: server, client: credentials.NewTLS(config)}
}

func (p pair) dial(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(p.client))
	require.NoError(t, err)
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

// Serve runs a server in this process until the test ends.
func Serve(t testing.TB, register func(grpc.ServiceRegistrar)) *grpc.ClientConn {
	t.Helper()
	keys := newPair(t, "service")
	config := rpcserver.Config{}
	config.SetDefaults()
	config.TLS, config.AllowedPeers = keys.server, []string{certs.PeerID(ingress)}
	server, err := rpcserver.New(config, rpcserver.Options{Name: "service"})
	require.NoError(t, err)
	register(server.GRPC())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	connection := keys.dial(t, server.Address())
	t.Cleanup(func() {
		_ = connection.Close()
		cancel()
		require.NoError(t, <-done)
	})
	return connection
}

// As is a context whose calls come from the given tenant.
func As(ctx context.Context, tenant string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, identity.HeaderTenant, tenant, identity.HeaderSubject, "test")
}

// Reason is the stable reason of a call's error, empty for nil.
func Reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// Fields are the fields that a call's error names.
func Fields(err error) (fields []string) {
	for _, detail := range status.Convert(err).Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			for _, violation := range bad.GetFieldViolations() {
				fields = append(fields, violation.GetField())
			}
		}
	}
	return fields
}

// Child is a daemon in a process of its own: this test binary, whose TestMain
// calls main when RunMain is set.
type Child struct {
	keys    pair
	config  string
	env     []string
	process *exec.Cmd
	ended   chan error
}

// NewChild prepares a daemon with the given store section of its YAML
// configuration; Start starts it.
func NewChild(t testing.TB, component, store string, env ...string) *Child {
	t.Helper()
	keys := newPair(t, component)
	files, err := json.Marshal(map[string]any{"certFile": keys.server.CertFile, "keyFile": keys.server.KeyFile, "caFile": keys.server.CAFile})
	require.NoError(t, err)
	config := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(config, []byte("server:\n  listen: 127.0.0.1:0\n  allowedPeers: ["+certs.PeerID(ingress)+"]\n  tls: "+
		string(files)+"\nstore: "+store+"\n"), 0o600))
	return &Child{keys: keys, config: config, env: env}
}

// Start starts the process and returns a connection to it.
func (c *Child) Start(t testing.TB) *grpc.ClientConn {
	t.Helper()
	c.process = exec.Command(os.Args[0], "--config", c.config)
	c.process.Env = append(append(os.Environ(), RunMain+"=1"), c.env...)
	stderr, err := c.process.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, c.process.Start())
	address, ended := make(chan string, 1), make(chan error, 1)
	c.ended = ended
	process := c.process
	go func() {
		follow(t, stderr, address)
		ended <- process.Wait()
		close(ended)
	}()
	t.Cleanup(func() { _ = process.Process.Kill(); <-ended })
	select {
	case found := <-address:
		return c.keys.dial(t, found)
	case err := <-ended:
		t.Fatalf("the daemon ended at once: %v", err)
	case <-time.After(startTimeout):
		t.Fatal("the daemon did not start in time")
	}
	return nil
}

// follow reads the log and finds the address in it.
func follow(t testing.TB, log io.Reader, address chan<- string) {
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		var entry struct{ Msg, Address, Level string }
		if err := json.Unmarshal(lines.Bytes(), &entry); err != nil || entry.Level == "ERROR" {
			t.Logf("daemon: %s", lines.Text())
			continue
		}
		if entry.Msg == "serving gRPC" {
			address <- entry.Address
		}
	}
}

// Signal sends the process a signal and waits for its end.
func (c *Child) Signal(t testing.TB, signal os.Signal) error {
	t.Helper()
	require.NoError(t, c.process.Process.Signal(signal))
	select {
	case err := <-c.ended:
		return err
	case <-time.After(startTimeout):
		t.Fatal("the daemon did not end in time")
		return nil
	}
}
