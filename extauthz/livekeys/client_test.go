package livekeys

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	keysv1 "weir.dev/api/gen/weir/keys/v1"
	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/kit/certs"
	"weir.dev/kit/keyformat"
)

// feed is a user service whose batches a test sends by hand.
type feed struct {
	keysv1.UnimplementedApiKeyFeedServiceServer
	asked   chan *keysv1.WatchApiKeysRequest
	batches chan *keysv1.WatchApiKeysResponse
	used    chan *keysv1.ReportApiKeyUseRequest
}

func (f *feed) WatchApiKeys(in *keysv1.WatchApiKeysRequest, stream grpc.ServerStreamingServer[keysv1.WatchApiKeysResponse]) error {
	f.asked <- in
	for {
		select {
		case batch := <-f.batches:
			if err := stream.Send(batch); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (f *feed) ReportApiKeyUse(_ context.Context, in *keysv1.ReportApiKeyUseRequest) (*keysv1.ReportApiKeyUseResponse, error) {
	f.used <- in
	return &keysv1.ReportApiKeyUseResponse{}, nil
}

type heard struct {
	mu     sync.Mutex
	states chan error
}

func (h *heard) IssuedKeys(int)  {}
func (h *heard) KeysSaved(error) {}
func (h *heard) KeyFeed(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case h.states <- err:
	default:
	}
}

func within[T any](t *testing.T, c <-chan T) (got T) {
	t.Helper()
	select {
	case got = <-c:
	case <-time.After(time.Minute):
		t.Fatal("nothing came")
	}
	return got
}

func TestClientFollowsTheFeed(t *testing.T) {
	dir := t.TempDir()
	authority, err := certs.OpenAuthority(filepath.Join(dir, "ca"), time.Now())
	require.NoError(t, err)
	config := func(component string, of func(certs.Files) (*tls.Config, error)) *tls.Config {
		files, _, err := authority.Ensure(component, filepath.Join(dir, component), time.Now())
		require.NoError(t, err)
		made, err := of(files)
		require.NoError(t, err)
		return made
	}
	service := &feed{asked: make(chan *keysv1.WatchApiKeysRequest, 4), batches: make(chan *keysv1.WatchApiKeysResponse), used: make(chan *keysv1.ReportApiKeyUseRequest, 4)}
	serverTLS := config("user", func(f certs.Files) (*tls.Config, error) { return f.ServerConfig([]string{certs.PeerID("extauthz")}) })
	serve := func(address string) (*grpc.Server, string) {
		listener, err := net.Listen("tcp", address)
		require.NoError(t, err)
		server := grpc.NewServer(grpc.Creds(credentials.NewTLS(serverTLS)))
		keysv1.RegisterApiKeyFeedServiceServer(server, service)
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(server.Stop)
		return server, listener.Addr().String()
	}
	server, address := serve("127.0.0.1:0")

	events := &heard{states: make(chan error, 16)}
	store, err := Open(Options{Path: filepath.Join(dir, "keys"), Events: events})
	require.NoError(t, err)
	client := NewClient(store, address, config("extauthz", func(f certs.Files) (*tls.Config, error) { return f.ClientConfig(certs.PeerID("user")) }))
	client.every = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()

	require.Zero(t, within(t, service.asked).GetVersion())
	secret, err := keyformat.New("x0abcdefgh")
	require.NoError(t, err)
	sum := sha256.Sum256([]byte(secret))
	entry := &keysv1.KeyEntry{Id: "a", Sha256: sum[:], Tenant: "acme", Consumer: "default/shop"}
	service.batches <- &keysv1.WatchApiKeysResponse{Epoch: "e", Version: 7, Reset_: true, Keys: []*keysv1.KeyEntry{entry}}
	require.NoError(t, within(t, events.states), "heard of the service")
	found, known := store.Find(sum, time.Now())
	require.True(t, known)
	require.Equal(t, "a", found.ID)

	compiler, err := extauthz.NewCompiler()
	require.NoError(t, err)
	compiler.UseIssuedKeys(store)
	routes, err := compiler.Routes(nil, map[string]*rulesv1.AuthRoute{"r": authtest.Route("r", authtest.APIKey())})
	require.NoError(t, err)
	consumers, err := compiler.Consumers(authtest.Consumers())
	require.NoError(t, err)
	decision := extauthz.Decide(ctx, time.Now(), extauthz.NewRules(routes, consumers), &extauthz.Request{
		Route: "r", Method: "GET", Target: "/", Authority: "a", Headers: []extauthz.Header{{Name: "x-api-key", Value: secret}},
	})
	require.True(t, decision.Allowed, decision.Reason)
	told := within(t, service.used).GetUses()
	require.Len(t, told, 1)
	require.Equal(t, "a", told[0].GetId())
	require.WithinDuration(t, time.Now(), told[0].GetTime().AsTime(), time.Minute)

	server.Stop()
	require.Error(t, within(t, events.states))
	_, known = store.Find(sum, time.Now())
	require.True(t, known, "kept through the outage")
	serve(address)
	again := within(t, service.asked)
	require.Equal(t, "e", again.GetEpoch())
	require.EqualValues(t, 7, again.GetVersion())

	// A batch that makes no sense ends the session; the next one starts over.
	service.batches <- &keysv1.WatchApiKeysResponse{Epoch: "e", Version: 8, Keys: []*keysv1.KeyEntry{{Id: "b"}}}
	require.EqualValues(t, 7, within(t, service.asked).GetVersion())
	cancel()
	require.ErrorIs(t, within(t, done), context.Canceled)
}

// A service that is still starting is nothing to be told of; one that stays away is, once.
func TestOutagesThatLastAreLogged(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, free.Close())
	for name, tc := range map[string]struct {
		brief time.Duration
		lines int
	}{"brief": {time.Hour, 0}, "lasting": {time.Nanosecond, 1}} {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			events := &heard{states: make(chan error)}
			store, err := Open(Options{Path: filepath.Join(t.TempDir(), "keys"), Events: events, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			require.NoError(t, err)
			client := NewClient(store, free.Addr().String(), &tls.Config{MinVersion: tls.VersionTLS13})
			client.brief = tc.brief
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- client.Run(ctx) }()
			for range 3 {
				require.Error(t, within(t, events.states))
			}
			cancel()
			require.ErrorIs(t, within(t, done), context.Canceled)
			require.Equal(t, tc.lines, strings.Count(log.String(), "the feed of issued API keys ended"), log.String())
		})
	}
}
