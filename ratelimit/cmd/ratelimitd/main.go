// Command ratelimitd is Weir's rate limit server: Envoy asks it how often. See
// weir.dev/ratelimit/envoyrls for the contract with Envoy's configuration.
package main

import (
	"context"
	"os"

	"weir.dev/kit/daemon"
	"weir.dev/kit/heap"

	"weir.dev/ratelimit/store/redis"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == checkCommand {
		os.Exit(checkConfig(os.Args[2:], os.Stdout, os.Stderr))
	}
	if len(os.Args) > 1 && os.Args[1] == checkRulesCommand {
		os.Exit(checkRules(os.Args[2:], os.Stdout, os.Stderr))
	}
	floor := heap.NewFloor()
	cfg := &Config{}
	code := daemon.Main("ratelimitd", cfg, func(ctx context.Context, runtime *daemon.Runtime) error {
		cfg.applyEnvironment(os.Getenv)
		redis.UseLogger(runtime.Logger)
		server, err := newServer(cfg, runtime)
		if err != nil {
			return err
		}
		return server.run(ctx)
	})
	floor.Release()
	os.Exit(code)
}
