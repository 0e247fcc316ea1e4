package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"weir.dev/cli/internal/envoyagent"
	"weir.dev/cli/internal/stack"
	"weir.dev/kit/atomicfile"
	"weir.dev/kit/certs"
)

func (a *App) envoyCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "envoy", Short: "Configure and accompany an Envoy that runs elsewhere", Args: arguments(0, 0),
		Long: "What an Envoy of an ingress needs that weir up does not run, in a pod or on a machine of its own: what it starts\n" +
			"with, and somebody beside it who answers probes and has it end in order.",
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.envoyBootstrapCommand(), a.envoyAgentCommand())
	return c
}

func (a *App) envoyBootstrapCommand() *cobra.Command {
	config := stack.BootstrapConfig{ControlPlanePeer: certs.PeerID("controlplane")}
	var output string
	c := &cobra.Command{
		Use: "bootstrap", Short: "Write what an Envoy starts with", Args: arguments(0, 0),
		Long: "Write the configuration that an Envoy starts with (--config-path): who it is, where its control plane is, and its\n" +
			"certificates, which weir certs makes. Everything else comes from the control plane.",
		Example: "  weir envoy bootstrap --node-id ingress-1 --control-plane controlplane.weir-system.svc:18000 --cert-dir /etc/weir/certs",
		RunE: func(c *cobra.Command, _ []string) error {
			if config.NodeID == "" || config.ControlPlaneAddress == "" || config.CertDir == "" {
				return usageError{errors.New("say --node-id, --control-plane and --cert-dir: without them Envoy could not start, or would not be known")}
			}
			content, err := a.Bootstrap.JSON(config)
			if err != nil {
				return usageError{err}
			}
			if output == "" || output == "-" {
				_, err = c.OutOrStdout().Write(append(content, '\n'))
				return err
			}
			// Envoy may run as another user; there is no secret in it.
			return atomicfile.Write(output, content, 0o644)
		},
	}
	flags := c.Flags()
	flags.StringVar(&config.NodeID, "node-id", "", "the `name` of this Envoy in the control plane's status")
	flags.StringVar(&config.ControlPlaneAddress, "control-plane", "", "`host:port` of the control plane")
	flags.StringVar(&config.ControlPlanePeer, "control-plane-peer", config.ControlPlanePeer, "SPIFFE `id` that it must have")
	flags.StringVar(&config.CertDir, "cert-dir", "", "absolute path of the `folder` with tls.crt, tls.key and ca.crt")
	flags.StringVar(&config.AdminAddress, "admin", "127.0.0.1:9901", "`host:port` of Envoy's admin interface; keep it on loopback")
	flags.StringVar(&config.Zone, "zone", "", "the `zone` that it is in, for backends that prefer their own")
	flags.StringVar(&config.PublicTrustFile, "public-trust", "", "`file` of the authorities of public servers (default that of this system; none trusts no public server)")
	flags.StringVar(&output, "output", "", "`file` to write (default standard output)")
	return c
}

// maxDrain bounds how long an Envoy may be given to end.
const maxDrain = 24 * time.Hour

func (a *App) envoyAgentCommand() *cobra.Command {
	var listen string
	config := envoyagent.Config{Logger: slog.New(slog.NewJSONHandler(a.Stderr, nil)).With("component", "agent")}
	c := &cobra.Command{
		Use: "agent", Short: "Answer probes for an Envoy, and drain it at the end", Args: arguments(0, 0),
		Long: "Run beside an Envoy in its pod. Serves over plain HTTP:\n\n" +
			"  GET /ready    200 while Envoy is ready, has had its configuration, and is not to end\n" +
			"  GET /live     200 while Envoy answers\n" +
			"  GET /metrics  Envoy's metrics for Prometheus\n" +
			"  GET /drained  answers when draining is over\n\n" +
			"Envoy is ready for the first time when it has an address of extauthz and ratelimit, or has had none for 15s.\n\n" +
			"SIGTERM begins draining: Envoy tells its clients to go elsewhere, and is given --delay at least and then until no\n" +
			"request runs, --timeout at most. Have Envoy's own end wait for that, by a preStop hook that gets /drained.",
		RunE: func(c *cobra.Command, _ []string) error {
			if config.Delay < 0 || config.Timeout < config.Delay || config.Timeout > maxDrain {
				return usageError{fmt.Errorf("--delay %s and --timeout %s: 0s, delay, timeout and %s have to be in this order", config.Delay, config.Timeout, maxDrain)}
			}
			for _, address := range []string{listen, config.Admin} {
				if _, _, err := net.SplitHostPort(address); err != nil {
					return usageError{fmt.Errorf("%q is not host:port", address)}
				}
			}
			listener, err := new(net.ListenConfig).Listen(c.Context(), "tcp", listen)
			if err != nil {
				return err
			}
			err = envoyagent.New(config).Serve(c.Context(), a.kill, listener)
			if errors.Is(err, context.Canceled) || errors.Is(err, os.ErrClosed) {
				return nil
			}
			return err
		},
	}
	c.Flags().StringVar(&listen, "listen", ":9902", "`host:port` to serve at")
	c.Flags().StringVar(&config.Admin, "admin", "127.0.0.1:9901", "`host:port` of Envoy's admin interface")
	c.Flags().DurationVar(&config.Delay, "delay", 15*time.Second, "how long Envoy goes on at least, so that whoever sends connections here can learn not to")
	c.Flags().DurationVar(&config.Timeout, "timeout", 5*time.Minute, "how long it goes on at most")
	return c
}
