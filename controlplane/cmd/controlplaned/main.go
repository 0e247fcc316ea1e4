// Command controlplaned compiles policy and serves it to Envoy, extauthzd and
// ratelimitd over ADS.
package main

import (
	"context"
	"os"

	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"weir.dev/controlplane"
	"weir.dev/kit/daemon"
)

func main() {
	cfg := new(controlplane.Config)
	os.Exit(daemon.Main("controlplaned", cfg, func(ctx context.Context, runtime *daemon.Runtime) error {
		keepSmall(ctx)
		// The Kubernetes client logs through one logger of the process.
		klog.SetSlogLogger(runtime.Logger.With("library", "kubernetes client"))
		log.SetLogger(klog.Background())
		return controlplane.Run(ctx, cfg, runtime)
	}))
}
