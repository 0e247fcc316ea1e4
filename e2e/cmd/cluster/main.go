// Command cluster runs a Kubernetes for tests, and Istio in it, on this machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"weir.dev/e2e/cluster"
	"weir.dev/e2e/cluster/images"
	"weir.dev/e2e/cluster/kind"
	"weir.dev/e2e/cluster/node"
)

const usage = `cluster [--provider node|kind] COMMAND

  up                        boot it; a node without Docker is built first (15 minutes, once)
  istio ENVOY [VALUES...]   install istiod with its own charts, on that Envoy binary
  load NAME BINARY...       load an image of each static binary; NAME is its reference, with {} for the name of the binary
  exec COMMAND...           run a command in its network: kubectl, helm, curl
  kubeconfig                print the path of a kubeconfig
  down                      remove it

Nodes run side by side in slots: WEIR_NODE_SLOT=1 to 3 is another one than 0.
The node without Docker needs Linux, root, and runc, iptables, nftables and conntrack.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		var exit interface{ ExitCode() int }
		if errors.As(err, &exit) && exit.ExitCode() > 0 {
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	flags := flag.NewFlagSet("cluster", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage) }
	provider := flags.String("provider", "node", "node or kind")
	sources := flags.String("components", "e2e/cluster/components", "what the node is built from")
	if err := flags.Parse(arguments); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return errors.New("say what to do")
	}
	c, err := open(ctx, *provider, *sources)
	if err != nil {
		return err
	}
	return do(ctx, c, flags.Arg(0), flags.Args()[1:])
}

func open(ctx context.Context, provider, sources string) (cluster.Provider, error) {
	switch provider {
	case "node":
		path, err := filepath.Abs(sources)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("run this at the root of the repository, or say --components: %w", err)
		}
		slot, err := node.SlotFromEnvironment()
		if err != nil {
			return nil, err
		}
		return node.New(ctx, node.Options{Sources: path, Slot: slot, Progress: os.Stderr})
	case "kind":
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		return kind.New(filepath.Join(cache, "weir", "kind"), os.Stderr)
	}
	return nil, fmt.Errorf("there is no provider %q: write node or kind", provider)
}

func do(ctx context.Context, c cluster.Provider, command string, arguments []string) error {
	switch {
	case command == "up" && len(arguments) == 0:
		return c.Up(ctx)
	case command == "down" && len(arguments) == 0:
		return c.Down(ctx)
	case command == "kubeconfig" && len(arguments) == 0:
		_, err := fmt.Println(c.Kubeconfig())
		return err
	case command == "istio" && len(arguments) > 0:
		return c.Istio(ctx, arguments[0], arguments[1:]...)
	case command == "load" && len(arguments) > 1:
		return load(ctx, c, arguments[0], arguments[1:])
	case command == "exec" && len(arguments) > 0:
		child := c.Command(ctx, arguments[0], arguments[1:]...)
		child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
		return child.Run()
	}
	return fmt.Errorf("%q with %d arguments is no command; --help lists them", command, len(arguments))
}

func load(ctx context.Context, c cluster.Provider, pattern string, binaries []string) error {
	all := make([]images.Image, 0, len(binaries))
	for _, binary := range binaries {
		image, err := images.Static(strings.ReplaceAll(pattern, "{}", filepath.Base(binary)), binary)
		if err != nil {
			return err
		}
		all = append(all, image)
	}
	return c.Load(ctx, all...)
}
