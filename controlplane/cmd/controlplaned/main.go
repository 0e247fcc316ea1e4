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

// gcPercent trades memory for time: a change makes a few MiB, and to collect them
// goes through all that stays. At 5,000 routes 200 takes 40 MiB more than 50 does,
// and half the CPU time of a change. GOGC in the environment wins.
const gcPercent = 200

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
