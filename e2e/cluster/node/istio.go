package node

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"weir.dev/e2e/cluster/build"
	"weir.dev/e2e/cluster/images"
)

// istioUser is whom Istio's images run as.
const istioUser = "1337:1337"

// Istio installs istiod by Istio's own charts, with its agent around a stock Envoy
// binary: about two minutes to build the first time, then fifteen seconds. values
// are further files of Helm values, such as extension providers.
func (n *Node) Istio(ctx context.Context, envoy string, values ...string) error {
	tools, err := build.Tools(ctx, n.Sources, n.Progress, build.Istio)
	if err != nil {
		return err
	}
	source, err := n.istioModule(ctx)
	if err != nil {
		return err
	}
	proxy, err := proxyImage(tools, source, envoy)
	if err != nil {
		return err
	}
	pilot, err := images.Static("docker.io/istio/pilot:dev", filepath.Join(tools, "pilot-discovery"))
	if err != nil {
		return err
	}
	pilot.User = istioUser
	pilot.Files = append(pilot.Files, bootstrapTemplate(source))
	n.say("installing Istio ...")
	if err := n.Load(ctx, pilot, proxy); err != nil {
		return err
	}
	charts := filepath.Join(source, "manifests", "charts")
	defaults := n.in("istiod.yaml")
	content, err := files.ReadFile("files/istiod.yaml")
	if err != nil {
		return err
	}
	if err := os.WriteFile(defaults, content, 0o600); err != nil {
		return err
	}
	if err := n.Helm(ctx, "upgrade", "--install", "istio-base", filepath.Join(charts, "base"), "-n", "istio-system", "--create-namespace"); err != nil {
		return err
	}
	arguments := []string{"upgrade", "--install", "istiod", filepath.Join(charts, "istio-control", "istio-discovery"), "-n", "istio-system", "-f", defaults}
	for _, file := range values {
		arguments = append(arguments, "-f", file)
	}
	if err := n.Helm(ctx, append(arguments, "--wait", "--timeout", "180s")...); err != nil {
		return err
	}
	n.say("istiod is up")
	return nil
}

// Helm runs helm on the cluster.
func (n *Node) Helm(ctx context.Context, arguments ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	command := n.Command(ctx, n.Tool("helm"), arguments...)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("helm %s: %w: %s", strings.Join(arguments, " "), err, output)
	}
	return nil
}

// istioModule is where the sources of Istio are, with its charts.
func (n *Node) istioModule(ctx context.Context) (string, error) {
	command := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "istio.io/istio")
	command.Dir = filepath.Join(n.Sources, "istio")
	command.Env = append(os.Environ(), "GOWORK=off")
	output, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("finding Istio's charts: %w", err)
	}
	return strings.TrimSpace(string(output)), nil
}

// bootstrapTemplate is what Istio makes Envoy's bootstrap from.
func bootstrapTemplate(source string) images.File {
	return images.File{
		Path:   "/var/lib/istio/envoy/envoy_bootstrap_tmpl.json",
		Source: filepath.Join(source, "tools", "packaging", "common", "envoy_bootstrap.json"),
	}
}

// proxyImage has Istio's agent, Envoy, and the iptables that its init container
// sends traffic to Envoy by.
func proxyImage(tools, source, envoy string) (images.Image, error) {
	image := images.Image{Name: "docker.io/istio/proxyv2:dev", Entrypoint: []string{"/usr/local/bin/pilot-agent"}, User: "0:0"}
	writable := fs.ModeDir | 0o777
	image.Files = []images.File{
		{Path: "/usr/local/bin/pilot-agent", Source: filepath.Join(tools, "pilot-agent"), Mode: 0o755},
		bootstrapTemplate(source),
		{Path: "/etc/istio/proxy", Mode: writable},
		{Path: "/var/lib/istio/data", Mode: writable},
		{Path: "/tmp", Mode: writable | fs.ModeSticky},
		{Path: "/etc/passwd", Content: []byte("root:x:0:0::/:/\nistio-proxy:x:1337:1337::/:/\n")},
		{Path: "/etc/group", Content: []byte("root:x:0:\nistio-proxy:x:1337:\n")},
	}
	const multi = "/usr/sbin/xtables-nft-multi"
	for binary, place := range map[string]string{multi: multi, envoy: "/usr/local/bin/envoy"} {
		found, err := images.Dynamic(binary, place)
		if err != nil {
			return images.Image{}, err
		}
		image.Files = append(image.Files, found...)
	}
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		image.Files = append(image.Files, images.File{Path: "/usr/sbin/" + name, Link: "xtables-nft-multi"})
	}
	extensions, err := filepath.Glob("/usr/lib/*/xtables/*.so")
	if err != nil {
		return images.Image{}, err
	}
	for _, path := range extensions {
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return images.Image{}, err
		}
		image.Files = append(image.Files, images.File{Path: path, Source: real, Mode: 0o755})
	}
	return image, nil
}
