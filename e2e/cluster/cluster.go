package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"weir.dev/e2e/cluster/pki"
)

// Bounds of starting and stopping.
const (
	startTimeout = 90 * time.Second
	stopTimeout  = 15 * time.Second
	probeEvery   = 50 * time.Millisecond
	// starts is how often etcd or the API server is tried on new ports: a free
	// port may be taken by somebody else before it is bound.
	starts = 3
)

// Cluster is a running Kubernetes API. Use Start; not safe for concurrent use,
// but what it returns is.
type Cluster struct {
	dir       string
	tools     string
	authority *pki.Authority
	etcd      *process
	etcdURL   string
	api       *process
	port      int
}

// Start runs etcd and kube-apiserver from the folder tools, as build.Tools makes
// it, with their state and logs in dir, which the caller removes after Stop. It returns when the API is ready.
func Start(ctx context.Context, tools, dir string) (*Cluster, error) {
	ca, err := pki.New()
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, tools: tools, authority: ca}
	server, err := ca.Issue("kube-apiserver", nil, "127.0.0.1")
	if err != nil {
		return nil, err
	}
	accounts, err := ca.Issue("service-accounts", nil)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(server.Write(dir, "server"), accounts.Write(dir, "accounts"), os.WriteFile(filepath.Join(dir, "ca.crt"), ca.PEM, 0o600)); err != nil {
		return nil, err
	}
	if err := retry(func() error { return c.startEtcd(ctx) }); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	err = retry(func() error {
		var err error
		if c.port, err = freePort(); err != nil {
			return err
		}
		return c.StartAPI(ctx)
	})
	if err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

func retry(start func() error) (err error) {
	for range starts {
		if err = start(); err == nil || errors.Is(err, context.Canceled) {
			return err
		}
	}
	return err
}

func (c *Cluster) startEtcd(ctx context.Context) error {
	clients, err := freePort()
	if err != nil {
		return err
	}
	peers, err := freePort()
	if err != nil {
		return err
	}
	c.etcdURL = fmt.Sprintf("http://127.0.0.1:%d", clients)
	peerURL := fmt.Sprintf("http://127.0.0.1:%d", peers)
	// The data of a test may be lost: no fsync makes it several times faster.
	c.etcd, err = run(filepath.Join(c.dir, "etcd.log"), filepath.Join(c.tools, "etcd"), "--data-dir", filepath.Join(c.dir, "etcd-"+strconv.Itoa(clients)),
		"--unsafe-no-fsync", "--listen-client-urls", c.etcdURL, "--advertise-client-urls", c.etcdURL,
		"--listen-peer-urls", peerURL, "--initial-advertise-peer-urls", peerURL, "--initial-cluster", "default="+peerURL, "--log-level", "warn")
	if err != nil {
		return err
	}
	if err := c.etcd.await(ctx, http.DefaultClient, c.etcdURL+"/readyz"); err != nil {
		return errors.Join(err, c.etcd.stop())
	}
	return nil
}

// StartAPI starts the API server again after StopAPI, at the same address and
// with the same objects.
func (c *Cluster) StartAPI(ctx context.Context) error {
	in := func(name string) string { return filepath.Join(c.dir, name) }
	var err error
	c.api, err = run(in("apiserver.log"), filepath.Join(c.tools, "kube-apiserver"), "--etcd-servers", c.etcdURL,
		"--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--secure-port", strconv.Itoa(c.port),
		"--tls-cert-file", in("server.crt"), "--tls-private-key-file", in("server.key"), "--client-ca-file", in("ca.crt"),
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", in("accounts.crt"),
		"--service-account-signing-key-file", in("accounts.key"), "--service-cluster-ip-range", "198.18.0.0/24",
		"--authorization-mode", "RBAC", "--disable-admission-plugins", "ServiceAccount", "--endpoint-reconciler-type", "none")
	if err != nil {
		return err
	}
	config, err := c.Config("readiness", "system:masters")
	if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	if err := c.api.await(ctx, client, config.Host+"/readyz"); err != nil {
		return errors.Join(err, c.api.stop())
	}
	return nil
}

// StopAPI kills the API server alone, as a crash does: clients see refused
// connections. Gently it would wait for every watch to end.
func (c *Cluster) StopAPI() error { return c.api.kill() }

// Stop stops both.
func (c *Cluster) Stop() error { return errors.Join(c.api.kill(), c.etcd.stop()) }

// Config reaches the API as a user with groups; "system:masters" may do
// everything.
func (c *Cluster) Config(user string, groups ...string) (*rest.Config, error) {
	issued, err := c.authority.Issue(user, groups)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            fmt.Sprintf("https://127.0.0.1:%d", c.port),
		TLSClientConfig: rest.TLSClientConfig{CAData: c.authority.PEM, CertData: issued.Cert, KeyData: issued.Key},
		QPS:             -1,
	}, nil
}

// Kubeconfig writes a file with which any client reaches the API as a user with
// groups, and returns its path.
func (c *Cluster) Kubeconfig(user string, groups ...string) (string, error) {
	config, err := c.Config(user, groups...)
	if err != nil {
		return "", err
	}
	path := filepath.Join(c.dir, user+".kubeconfig")
	return path, clientcmd.WriteToFile(api.Config{
		CurrentContext: "test",
		Contexts:       map[string]*api.Context{"test": {Cluster: "test", AuthInfo: user}},
		Clusters:       map[string]*api.Cluster{"test": {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos:      map[string]*api.AuthInfo{user: {ClientCertificateData: config.CertData, ClientKeyData: config.KeyData}},
	}, path)
}

// process is a running component.
type process struct {
	command *exec.Cmd
	log     string
	ended   chan struct{}
}

func run(log, binary string, args ...string) (*process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	// It lives until stop, whatever becomes of the context that it was started in.
	p := &process{command: exec.CommandContext(context.Background(), binary, args...), log: log, ended: make(chan struct{})}
	p.command.Stdout, p.command.Stderr = file, file
	// A test that is killed must not leave servers behind.
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		_ = p.command.Wait()
	}()
	return p, nil
}

// await returns when url answers 200.
func (p *process) await(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if ready(ctx, client, url) {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended while starting:\n%s", p.command.Path, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", p.command.Path, ctx.Err(), p.tail())
		case <-time.After(probeEvery):
		}
	}
}

func ready(ctx context.Context, client *http.Client, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode == http.StatusOK
}

func (p *process) tail() string {
	content, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(content), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-15):], []byte("\n")))
}

// stop ends the process, gently first; nil is a process that never started.
func (p *process) stop() error {
	if p == nil {
		return nil
	}
	_ = p.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopTimeout):
		return p.kill()
	}
}

func (p *process) kill() error {
	if p == nil {
		return nil
	}
	if err := p.command.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.ended
	return nil
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = listener.Close() }()
	address, ok := listener.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("not a TCP address")
	}
	return address.Port, nil
}
