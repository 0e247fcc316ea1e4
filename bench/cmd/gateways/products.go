package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// product is a control plane with its Envoy, running.
type product struct {
	name    string
	dialect dialect
	dir     string
	port    int
	// control is the control plane's process.
	control int
	stop    func()
}

const weirBackend = `apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: echo, namespace: default}
spec: {endpoints: [{address: 127.0.0.1, port: %d}]}
`

const gatewayBackend = `apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: echo, namespace: default}
spec: {endpoints: [{ip: {address: 127.0.0.1, port: %d}}]}
`

// gatewayProxy has Envoy Gateway listen on the host, with the same Envoy version.
const gatewayProxy = `  parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: host, namespace: default}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: host, namespace: default}
spec: {provider: {type: Host, host: {envoyVersion: %q}}}
`

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = listener.Close() }()
	address, ok := listener.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("no TCP address")
	}
	return address.Port, nil
}

// startWeir runs `weir up --detach`.
func startWeir(ctx context.Context, bin, work string, backend, routes int) (*product, error) {
	p := &product{name: "Weir", dir: filepath.Join(work, "weir", "policy")}
	p.dialect = dialect{class: "weir", classController: "weir.dev/gateway-controller", backendGroup: "weir.dev", backend: weirBackend}
	if err := p.prepare(backend, routes); err != nil {
		return nil, err
	}
	run := func(args ...string) ([]byte, error) {
		command := exec.CommandContext(ctx, bin, args...)
		command.Env = append(os.Environ(), "WEIR_STATE_DIR="+filepath.Join(work, "weir", "state"))
		out, err := command.CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("weir %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return out, nil
	}
	p.stop = func() { _, _ = run("down") }
	if _, err := run("up", "--detach", "--timeout", "2m", "--dir", p.dir); err != nil {
		return p, err
	}
	raw, err := run("status", "-o", "json")
	if err != nil {
		return p, err
	}
	var status struct {
		Ingress    struct{ HTTP string }
		Components []struct {
			Name string
			PID  int
		}
	}
	if err := json.Unmarshal(raw, &status); err != nil {
		return p, err
	}
	if p.port, err = strconv.Atoi(status.Ingress.HTTP[strings.LastIndexByte(status.Ingress.HTTP, ':')+1:]); err != nil {
		return p, fmt.Errorf("ingress %q: %w", status.Ingress.HTTP, err)
	}
	for _, component := range status.Components {
		if strings.HasPrefix(component.Name, "controlplane") {
			p.control = component.PID
		}
	}
	return p, nil
}

// startGateway runs Envoy Gateway in its standalone mode.
func startGateway(ctx context.Context, bin, envoy, version, work string, backend, routes int) (*product, error) {
	root := filepath.Join(work, "gateway")
	p := &product{name: "Envoy Gateway", dir: filepath.Join(root, "policy"), stop: func() {}}
	p.dialect = dialect{
		class: "eg", classController: "gateway.envoyproxy.io/gatewayclass-controller", backendGroup: "gateway.envoyproxy.io",
		backend: gatewayBackend, backendExtra: fmt.Sprintf(gatewayProxy, version),
	}
	if err := p.prepare(backend, routes); err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyGateway
gateway: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
provider:
  type: Custom
  custom:
    resource: {type: File, file: {paths: [%q]}}
    infrastructure: {type: Host, host: {configHome: %q, dataHome: %q, stateHome: %q, runtimeDir: %q}}
logging: {level: {default: error}}
extensionApis: {enableBackend: true}
`, p.dir, root+"/config", root+"/data", root+"/state", root+"/run")
	path := filepath.Join(root, "gateway.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, err
	}
	// Where it looks for an Envoy before it would fetch one.
	versioned := filepath.Join(root, "data", "envoy-versions", version, "bin")
	if err := errors.Join(os.MkdirAll(versioned, 0o700), os.Symlink(envoy, filepath.Join(versioned, "envoy"))); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, bin, "certgen", "--local", "--config-home", root+"/config").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("envoy-gateway certgen: %w\n%s", err, out)
	}
	log, err := os.Create(filepath.Join(root, "log"))
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, bin, "server", "--config-path", path)
	command.Env = append(os.Environ(), "ENVOY_PATH="+envoy)
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		return nil, err
	}
	p.control = command.Process.Pid
	p.stop = func() {
		_ = syscall.Kill(-p.control, syscall.SIGTERM)
		ended := make(chan struct{})
		go func() { _ = command.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
		}
		_ = syscall.Kill(-p.control, syscall.SIGKILL)
		_ = log.Close()
	}
	return p, nil
}

func (p *product) prepare(backend, routes int) error {
	var err error
	if p.port, err = freePort(); err != nil {
		return err
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	return p.dialect.writeBase(p.dir, p.port, backend, routes)
}
