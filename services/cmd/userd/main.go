// Command userd is the user service: organizations, users, memberships, roles
// and API keys. It serves weir.user.v1 over gRPC, and weir.keys.v1 to the servers
// that check keys, on SQLite or PostgreSQL.
package main

import (
	"context"
	"fmt"
	"os"

	"google.golang.org/grpc"

	keysv1 "weir.dev/api/gen/weir/keys/v1"
	"weir.dev/kit/daemon"
	"weir.dev/services/internal/serve"
	"weir.dev/services/user"
	"weir.dev/services/user/store"
	"weir.dev/services/user/store/postgres"
	"weir.dev/services/user/store/sqlite"
	"weir.dev/services/user/usergrpc"
)

func main() {
	cfg := serve.NewConfig("user.db", os.Getenv)
	os.Exit(daemon.Main("userd", cfg, func(ctx context.Context, runtime *daemon.Runtime) error {
		return run(ctx, runtime, cfg)
	}))
}

func run(ctx context.Context, runtime *daemon.Runtime, cfg *serve.Config) (err error) {
	storage, kind, err := open(ctx, cfg.Store)
	if err != nil {
		return err
	}
	defer func() {
		if failed := storage.Close(); failed != nil {
			runtime.Logger.Error("closing the store failed", "error", failed)
		}
	}()
	secret, err := storage.PageSecret(ctx)
	if err != nil {
		return fmt.Errorf("page tokens: %w", err)
	}
	runtime.Logger.InfoContext(ctx, "store opened", "kind", kind)
	feed := user.NewKeyFeed(storage)
	service := user.New(user.Options{Store: storage, PageSecret: secret, KeysChanged: feed.Changed})
	return serve.Run(ctx, runtime, cfg.Server, serve.Service{
		Store:    storage,
		Register: func(registrar grpc.ServiceRegistrar) { usergrpc.Register(registrar, service, feed) },
		Reserved: []string{usergrpc.FeedService},
		Endless:  []string{keysv1.ApiKeyFeedService_WatchApiKeys_FullMethodName},
		Task:     feed.Purge,
	})
}

func open(ctx context.Context, cfg serve.StoreConfig) (storage *store.Store, kind string, err error) {
	if cfg.Postgres.URL != "" {
		storage, err = postgres.Open(ctx, cfg.Postgres.URL)
		return storage, "postgres", err
	}
	storage, err = sqlite.Open(ctx, cfg.SQLite.Path)
	return storage, "sqlite", err
}
