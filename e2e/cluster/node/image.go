package node

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"weir.dev/e2e/cluster/images"
)

// Load puts images into the node's store, so that pods can run them with
// imagePullPolicy Never or IfNotPresent; nothing is ever pulled.
func (n *Node) Load(ctx context.Context, all ...images.Image) error {
	file, err := os.CreateTemp("", "weir-images-*.tar")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }()
	if err := file.Close(); err != nil {
		return err
	}
	if err := images.WriteArchive(file.Name(), all...); err != nil {
		return err
	}
	if err := run(ctx, n.Tool("ctr"), "-a", n.socket(), "-n", "k8s.io", "images", "import", file.Name()); err != nil {
		return err
	}
	for _, i := range all {
		n.say("loaded %s", i.Name)
	}
	return nil
}

// pause waits for its end, and reaps what is left to it when processes of a pod
// share their namespace.
const pause = `package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		for {
			var status syscall.WaitStatus
			if pid, _ := syscall.Wait4(-1, &status, syscall.WNOHANG, nil); pid <= 0 {
				break
			}
		}
	}
}
`

// loadPause makes the image that holds a pod's namespaces.
func (n *Node) loadPause(ctx context.Context) error {
	dir := n.in("pause")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	source, binary := filepath.Join(dir, "pause.go"), filepath.Join(dir, "pause")
	if err := os.WriteFile(source, []byte(pause), 0o600); err != nil {
		return err
	}
	command := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", binary, source)
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-buildvcs=false")
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("building pause: %w: %s", err, output)
	}
	image, err := images.Static("docker.io/library/pause:local", binary)
	if err != nil {
		return err
	}
	return n.Load(ctx, image)
}
