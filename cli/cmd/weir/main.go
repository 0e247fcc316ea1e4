// Command weir runs a Weir on one machine and works with it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"weir.dev/cli/internal/command"
	"weir.dev/cli/internal/stack"
	"weir.dev/controlplane/bootstrap"
)

func main() {
	executable, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "weir: cannot tell where it is installed:", err)
		os.Exit(1)
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	app := &command.App{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Env: os.Environ(),
		Invoked: os.Args[0], Executable: executable, Signals: signals, Bootstrap: envoyBootstrap{},
	}
	os.Exit(app.Execute(context.Background(), os.Args[1:]))
}

// envoyBootstrap has the control plane's package make it.
type envoyBootstrap struct{}

func (envoyBootstrap) JSON(c stack.BootstrapConfig) ([]byte, error) {
	return bootstrap.JSON(bootstrap.Config{
		NodeID: c.NodeID, AdminAddress: c.AdminAddress, CertDir: c.CertDir, Zone: c.Zone,
		ControlPlaneAddress: c.ControlPlaneAddress, ControlPlanePeer: c.ControlPlanePeer, PublicTrustFile: c.PublicTrustFile,
	})
}
