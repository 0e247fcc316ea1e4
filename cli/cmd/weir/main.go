// Command weir runs a Weir on one machine and works with it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"weir.dev/cli/internal/command"
	"weir.dev/cli/internal/stack"
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
		Invoked: os.Args[0], Executable: executable, Signals: signals, Bootstrap: bootstrap{},
	}
	os.Exit(app.Execute(context.Background(), os.Args[1:]))
}

// bootstrap stands where the control plane's bootstrap package goes.
type bootstrap struct{}

func (bootstrap) JSON(stack.BootstrapConfig) ([]byte, error) {
	return nil, errors.New("this build has no control plane")
}
