package node

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"embed"
	"encoding/pem"
	"errors"
	"os"
	"path"
	"path/filepath"
	"text/template"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"weir.dev/e2e/cluster/pki"
)

//go:embed files
var files embed.FS

// places says where the templates of files/ go below the state.
func places() map[string]string {
	return map[string]string{
		"containerd.toml": "containerd.toml", "kubelet.yaml": "kubelet.yaml", "Corefile": "Corefile",
		"10-ptp.conflist": "cni/10-ptp.conflist", "hosts.toml": "hosts/_default/hosts.toml",
	}
}

// configure writes the configuration of what runs on the node.
func (n *Node) configure() error {
	values := struct{ Dir, Run, Tools, Node, Pods, Cgroup string }{n.Dir, n.Run, n.tools, n.Address(), n.pods(), n.cgroup()}
	for name, place := range places() {
		parsed, err := template.ParseFS(files, path.Join("files", name))
		if err != nil {
			return err
		}
		var content bytes.Buffer
		if err := parsed.Execute(&content, values); err != nil {
			return err
		}
		target := n.in(place)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, content.Bytes(), 0o600); err != nil {
			return err
		}
	}
	return errors.Join(os.MkdirAll(n.in("log"), 0o755), os.MkdirAll(n.Run, 0o755))
}

// certificates makes both authorities, the servers' certificates, and a
// kubeconfig for everyone who calls the API.
func (n *Node) certificates() error {
	dir := n.in("pki")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ca, err := pki.New()
	if err != nil {
		return err
	}
	front, err := pki.New()
	if err != nil {
		return err
	}
	if err := errors.Join(ca.Write(dir, "ca"), front.Write(dir, "front-ca"), writeAccounts(dir)); err != nil {
		return err
	}
	for file, who := range map[string]struct {
		by     *pki.Authority
		user   string
		groups []string
		hosts  []string
	}{
		"apiserver": {by: ca, user: "kube-apiserver", hosts: []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "127.0.0.1", n.Address(), n.apiIP(),
		}},
		"kubelet":     {by: ca, user: "system:node:" + name, groups: []string{"system:nodes"}, hosts: []string{name, n.Address()}},
		"front":       {by: front, user: "front-proxy"},
		"admin":       {by: ca, user: "admin", groups: []string{"system:masters"}},
		"controllers": {by: ca, user: "system:kube-controller-manager"},
		"scheduler":   {by: ca, user: "system:kube-scheduler"},
		"proxy":       {by: ca, user: "system:kube-proxy"},
		// The name server and the load balancer stand in for a cloud's: nothing here
		// checks their rights.
		"names":    {by: ca, user: "names", groups: []string{"system:masters"}},
		"balancer": {by: ca, user: "load-balancer", groups: []string{"system:masters"}},
	} {
		issued, err := who.by.Issue(who.user, who.groups, who.hosts...)
		if err != nil {
			return err
		}
		if err := errors.Join(issued.Write(dir, file), n.kubeconfig(filepath.Join(dir, file+".conf"), ca, issued)); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) kubeconfig(path string, ca *pki.Authority, user pki.Pair) error {
	return clientcmd.WriteToFile(api.Config{
		CurrentContext: "weir",
		Contexts:       map[string]*api.Context{"weir": {Cluster: "weir", AuthInfo: "weir"}},
		Clusters:       map[string]*api.Cluster{"weir": {Server: "https://" + n.Address() + ":6443", CertificateAuthorityData: ca.PEM}},
		AuthInfos:      map[string]*api.AuthInfo{"weir": {ClientCertificateData: user.Cert, ClientKeyData: user.Key}},
	}, path)
}

// writeAccounts writes the key that signs the tokens of service accounts.
func writeAccounts(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "accounts.key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), 0o600),
		os.WriteFile(filepath.Join(dir, "accounts.crt"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600))
}
