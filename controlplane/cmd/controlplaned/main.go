// Command controlplaned compiles policy and serves it to Envoy, extauthzd and
// ratelimitd over ADS.
package main

import (
	"context"
	"os"

	"weir.dev/controlplane"
	"weir.dev/kit/daemon"
)

func main() {
	cfg := new(controlplane.Config)
	os.Exit(daemon.Main("controlplaned", cfg, func(ctx context.Context, runtime *daemon.Runtime) error {
		return controlplane.Run(ctx, cfg, runtime)
	}))
}
