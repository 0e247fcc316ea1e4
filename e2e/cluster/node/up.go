package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// readyTimeout bounds each step of starting: a busy machine takes a minute for
// what a quiet one does in seconds.
const readyTimeout = 3 * time.Minute

// Up boots the node, and returns when it is ready for pods: about ten seconds. A
// node that runs already is left as it is; pieces of one are removed first. When
// it fails, everything is taken down again, and the logs are in the error.
func (n *Node) Up(ctx context.Context) error {
	if n.running(ctx) {
		n.say("the node is up already")
		return nil
	}
	if err := n.Down(ctx); err != nil {
		return fmt.Errorf("removing what an earlier node left: %w", err)
	}
	started := time.Now()
	n.say("booting a Kubernetes node (about ten seconds) ...")
	if err := n.boot(ctx); err != nil {
		return errors.Join(err, n.Down(context.WithoutCancel(ctx)))
	}
	n.say("the node is ready after %s", time.Since(started).Round(100*time.Millisecond))
	return os.WriteFile(n.in("ready"), []byte(n.tools), 0o600)
}

// running tells whether a node of these very tools is up and well.
func (n *Node) running(ctx context.Context) bool {
	tools, err := os.ReadFile(n.in("ready"))
	if err != nil || string(tools) != n.tools {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err = n.kubectl(ctx, "wait", "--for=condition=Ready", "node/"+name, "--timeout=1s")
	return err == nil
}

func (n *Node) boot(ctx context.Context) error {
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"its network", n.network},
		{"its certificates", func(context.Context) error { return n.certificates() }},
		{"its configuration", func(context.Context) error { return n.configure() }},
		{"its control group", func(context.Context) error { return n.makeCgroup() }},
		{"the control plane", n.controlPlane},
		{"containerd", n.containers},
		{"the node's agents", n.agents},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// network makes the namespace, and a veth pair that gives the node its address:
// some kernels have no dummy devices.
func (n *Node) network(ctx context.Context) error {
	inside := []string{"nsenter", "--net=" + n.netns(), "--"}
	for _, command := range [][]string{
		{"ip", "netns", "add", n.namespace()},
		{"ip", "link", "add", n.device(), "type", "veth", "peer", "name", "node0", "netns", n.namespace()},
		{"ip", "address", "add", n.outside() + "/24", "dev", n.device()},
		{"ip", "link", "set", n.device(), "up"},
		append(inside, "ip", "link", "set", "lo", "up"),
		append(inside, "ip", "address", "add", n.Address()+"/24", "dev", "node0"),
		append(inside, "ip", "link", "set", "node0", "up"),
		append(inside, "ip", "route", "add", "default", "dev", "node0"),
		append(inside, "sysctl", "-qw", "net.ipv4.ip_forward=1"),
		{"ip", "route", "replace", n.pods(), "via", n.Address(), "dev", n.device()},
		{"ip", "route", "replace", n.services(), "via", n.Address(), "dev", n.device()},
		{"ip", "route", "replace", n.pool(), "via", n.Address(), "dev", n.device()},
		// The kubelet's mounts are seen by containerd's containers.
		{"mount", "--make-rshared", "/"},
	} {
		if err := run(ctx, command...); err != nil {
			return err
		}
	}
	return nil
}

func run(ctx context.Context, command ...string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	output, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, output)
	}
	return nil
}

// controlPlane starts etcd, the API and what acts on it.
func (n *Node) controlPlane(ctx context.Context) error {
	p := func(file string) string { return n.in("pki", file) }
	if err := n.start("etcd", "--data-dir", n.in("etcd"), "--unsafe-no-fsync", "--log-level", "warn"); err != nil {
		return err
	}
	if err := n.StartAPI(ctx); err != nil {
		return err
	}
	err := n.start("kube-controller-manager", "--kubeconfig="+p("controllers.conf"), "--authentication-kubeconfig="+p("controllers.conf"), "--authorization-kubeconfig="+p("controllers.conf"),
		"--service-account-private-key-file="+p("accounts.key"), "--root-ca-file="+p("ca.crt"), "--use-service-account-credentials",
		"--cluster-signing-cert-file="+p("ca.crt"), "--cluster-signing-key-file="+p("ca.key"), "--leader-elect=false")
	if err != nil {
		return err
	}
	return n.start("kube-scheduler", "--kubeconfig="+p("scheduler.conf"), "--authentication-kubeconfig="+p("scheduler.conf"), "--authorization-kubeconfig="+p("scheduler.conf"), "--leader-elect=false")
}

// StartAPI starts the API server, also again after Kill of kube-apiserver; it returns
// when that is ready.
func (n *Node) StartAPI(ctx context.Context) error {
	p := func(file string) string { return n.in("pki", file) }
	err := n.start("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443", "--advertise-address="+n.Address(),
		"--tls-cert-file="+p("apiserver.crt"), "--tls-private-key-file="+p("apiserver.key"), "--client-ca-file="+p("ca.crt"),
		"--service-account-key-file="+p("accounts.crt"), "--service-account-signing-key-file="+p("accounts.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-cluster-ip-range="+n.services(),
		"--authorization-mode=Node,RBAC", "--allow-privileged", "--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate="+p("admin.crt"), "--kubelet-client-key="+p("admin.key"), "--kubelet-certificate-authority="+p("ca.crt"),
		"--requestheader-client-ca-file="+p("front-ca.crt"), "--requestheader-allowed-names=front-proxy",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+p("front.crt"), "--proxy-client-key-file="+p("front.key"), "--enable-aggregator-routing")
	if err != nil {
		return err
	}
	return n.await(ctx, "kube-apiserver", func(ctx context.Context) error {
		_, err := n.kubectl(ctx, "get", "--raw", "/readyz")
		return err
	})
}

// containers starts containerd, with the image that holds pods' namespaces.
func (n *Node) containers(ctx context.Context) error {
	if err := n.start("containerd", "-c", n.in("containerd.toml")); err != nil {
		return err
	}
	if err := n.await(ctx, "containerd", func(ctx context.Context) error {
		return run(ctx, n.Tool("ctr"), "-a", n.socket(), "version")
	}); err != nil {
		return err
	}
	return n.loadPause(ctx)
}

// agents starts the kubelet, kube-proxy, the name server and the load balancer.
func (n *Node) agents(ctx context.Context) error {
	p := func(file string) string { return n.in("pki", file) }
	for _, command := range [][]string{
		{
			"kubelet", "--config=" + n.in("kubelet.yaml"), "--kubeconfig=" + p("kubelet.conf"), "--hostname-override=" + name, "--node-ip=" + n.Address(),
			"--root-dir=" + n.in("kubelet"), "--cert-dir=" + n.in("pki"), "--tls-cert-file=" + p("kubelet.crt"), "--tls-private-key-file=" + p("kubelet.key"),
		},
		{
			// The limits of conntrack can't be written in a namespace.
			"kube-proxy", "--kubeconfig=" + p("proxy.conf"), "--hostname-override=" + name, "--proxy-mode=nftables", "--cluster-cidr=" + n.pods(),
			"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
		},
		{"coredns", "-conf", n.in("Corefile")},
		{"load-balancer", "-kubeconfig", p("balancer.conf"), "-pool", n.pool()},
	} {
		if err := n.start(command[0], command[1:]...); err != nil {
			return err
		}
	}
	return n.await(ctx, "kubelet", func(ctx context.Context) error {
		_, err := n.kubectl(ctx, "wait", "--for=condition=Ready", "node/"+name, "--timeout=1s")
		return err
	})
}

func (n *Node) socket() string { return filepath.Join(n.Run, "containerd.sock") }
