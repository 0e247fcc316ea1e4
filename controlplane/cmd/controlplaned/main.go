// Command controlplaned compiles policy and serves it to Envoy, extauthzd and
// ratelimitd over ADS.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"weir.dev/controlplane"
	"weir.dev/kit/daemon"
)

// gcPercent trades a little time for memory: a change makes a few MiB, and the
// first Plan several times what stays. GOGC in the environment wins.
const gcPercent = 50

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	cfg := new(controlplane.Config)
	os.Exit(daemon.Main("controlplaned", cfg, func(ctx context.Context, runtime *daemon.Runtime) error {
		// The Kubernetes client logs through one logger of the process.
		klog.SetSlogLogger(runtime.Logger.With("library", "kubernetes client"))
		log.SetLogger(klog.Background())
		return controlplane.Run(ctx, cfg, runtime)
	}))
}
