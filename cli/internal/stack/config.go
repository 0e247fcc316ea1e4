package stack

import (
	"bytes"
	"fmt"
	"net"
	"path/filepath"
	"strconv"

	"go.yaml.in/yaml/v3"

	"weir.dev/cli/state"
	"weir.dev/kit/certs"
)

const loopback = "127.0.0.1"

func local(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }

// BootstrapConfig is what Envoy's bootstrap configuration depends on.
type BootstrapConfig struct {
	NodeID string
	// AdminAddress and ControlPlaneAddress are host:port.
	AdminAddress, ControlPlaneAddress string
	// ControlPlanePeer is the SPIFFE id of the control plane.
	ControlPlanePeer string
	// CertDir holds tls.crt, tls.key and ca.crt of the ingress.
	CertDir string
	// Zone is where the ingress says it is; empty is nowhere.
	Zone string
	// PublicTrustFile holds the authorities of public servers; empty is where this
	// system keeps them.
	PublicTrustFile string
}

// Bootstrap makes Envoy's bootstrap configuration.
type Bootstrap interface {
	// JSON returns it as Envoy reads it.
	JSON(BootstrapConfig) ([]byte, error)
}

type daemonConfig struct {
	Admin  listenConfig `yaml:"admin"`
	Log    logConfig    `yaml:"log"`
	Server serverConfig `yaml:"server"`
	// Of the control plane.
	Sources   *sources  `yaml:"sources,omitempty"`
	StateFile string    `yaml:"stateFile,omitempty"`
	Ingress   *ingress  `yaml:"ingress,omitempty"`
	ExtAuthz  *upstream `yaml:"extAuthz,omitempty"`
	RateLimit *upstream `yaml:"rateLimit,omitempty"`
	OTLP      *upstream `yaml:"otlp,omitempty"`
	AdminAPI  *adminAPI `yaml:"adminAPI,omitempty"`
	// Of extauthz.
	Audit *auditLog `yaml:"audit,omitempty"`
	// Of its subscribers.
	ControlPlane *controlPlane `yaml:"controlPlane,omitempty"`
	Keys         *keys         `yaml:"keys,omitempty"`
	// Of services.
	Store *store `yaml:"store,omitempty"`
}

type listenConfig struct {
	Listen string `yaml:"listen"`
}

type logConfig struct {
	Level string `yaml:"level"`
}

type serverConfig struct {
	Listen       string      `yaml:"listen"`
	TLS          certs.Files `yaml:"tls"`
	AllowedPeers []string    `yaml:"allowedPeers"`
	// ReservedPeers are of services between parts of Weir.
	ReservedPeers map[string][]string `yaml:"reservedPeers,omitempty"`
	// MaxMessageBytes is more than usual for policy that is sent to be applied.
	MaxMessageBytes int `yaml:"maxMessageBytes,omitempty"`
}

// MaxPolicyBytes bounds the policy that one command sends.
const MaxPolicyBytes = 32 << 20

type adminAPI struct {
	REST string `yaml:"rest"`
}

type sources struct {
	Folders    []string    `yaml:"folders"`
	Managed    string      `yaml:"managed"`
	Kubernetes *kubernetes `yaml:"kubernetes,omitempty"`
}

type kubernetes struct {
	Enabled    bool     `yaml:"enabled"`
	Kubeconfig string   `yaml:"kubeconfig"`
	Context    string   `yaml:"context,omitempty"`
	Namespaces []string `yaml:"namespaces,omitempty"`
	Addresses  []string `yaml:"addresses"`
}

// Kubernetes is an API server that is followed beside the folder.
type Kubernetes struct {
	// Kubeconfig is an absolute path.
	Kubeconfig string
	// Context of it; empty means its current one.
	Context string
	// Namespaces that are read; none means all.
	Namespaces []string
}

type ingress struct {
	Address string      `yaml:"address"`
	PortMap map[int]int `yaml:"portMap,omitempty"`
}

type upstream struct {
	Address string `yaml:"address"`
}

type controlPlane struct {
	Address string `yaml:"address"`
	Peer    string `yaml:"peer"`
	NodeID  string `yaml:"nodeId"`
}

type auditLog struct {
	Dir    string `yaml:"dir"`
	KeyDir string `yaml:"keyDir"`
}

type keys struct {
	Address string `yaml:"address"`
	Peer    string `yaml:"peer"`
	File    string `yaml:"file"`
}

type store struct {
	SQLite sqlite `yaml:"sqlite"`
}

type sqlite struct {
	Path string `yaml:"path"`
}

// layout is everything that the configuration files are made of.
type layout struct {
	dir       state.Dir
	policyDir string
	ports     *Allocation
	// otlp is host:port, empty for none.
	otlp string
	// kubernetes is nil for none.
	kubernetes *Kubernetes
	zone       string
}

func (l layout) grpc(name string) string  { return local(l.ports.Internal[name+useGRPC]) }
func (l layout) admin(name string) string { return local(l.ports.Internal[name+useAdmin]) }

func (l layout) rest() string { return local(l.ports.Internal[ControlPlane+useREST]) }

func (l layout) configPath(name string) string {
	return filepath.Join(l.dir.Run(), name+".yaml")
}

func (l layout) bootstrapPath() string { return filepath.Join(l.dir.Run(), "envoy.json") }

func (l layout) certDir(identity string) string { return filepath.Join(l.dir.Certs(), identity) }

// config is one daemon's configuration.
func (l layout) config(d component) daemonConfig {
	c := daemonConfig{
		Admin: listenConfig{l.admin(d.name)},
		Log:   logConfig{"info"},
		Server: serverConfig{
			Listen: l.grpc(d.name), TLS: certs.FilesIn(l.certDir(d.identity)), AllowedPeers: peerIDs(d.peers),
		},
	}
	switch d.name {
	case ControlPlane:
		c.Sources = &sources{Folders: []string{l.policyDir, l.dir.Development()}, Managed: l.dir.Applied()}
		if k := l.kubernetes; k != nil {
			c.Sources.Kubernetes = &kubernetes{
				Enabled: true, Kubeconfig: k.Kubeconfig, Context: k.Context, Namespaces: k.Namespaces, Addresses: []string{loopback},
			}
		}
		c.Server.MaxMessageBytes = MaxPolicyBytes
		c.AdminAPI = &adminAPI{REST: l.rest()}
		c.StateFile = filepath.Join(l.dir.ControlPlane(), "plan-cache")
		c.Ingress = &ingress{Address: loopback, PortMap: l.shifted()}
		c.ExtAuthz = &upstream{l.grpc(ExtAuthz)}
		c.RateLimit = &upstream{l.grpc(RateLimit)}
		if l.otlp != "" {
			c.OTLP = &upstream{l.otlp}
		}
	case ExtAuthz:
		c.ControlPlane = l.controlPlane(d)
		c.Keys = &keys{Address: l.grpc(User), Peer: certs.PeerID("user"), File: filepath.Join(l.dir.Data(), "issued-keys")}
		c.Audit = &auditLog{Dir: l.dir.Audit(), KeyDir: l.dir.AuditKeys()}
	case RateLimit:
		c.ControlPlane = l.controlPlane(d)
	case User, Data:
		c.Store = &store{SQLite: sqlite{Path: filepath.Join(l.dir.Data(), d.identity+".db")}}
		if d.name == User {
			c.Server.ReservedPeers = map[string][]string{keyFeedService: peerIDs([]string{"extauthz"})}
		}
	}
	return c
}

// keyFeedService is what the user service serves to extauthz alone.
const keyFeedService = "weir.keys.v1.ApiKeyFeedService"

func (l layout) controlPlane(d component) *controlPlane {
	return &controlPlane{Address: l.grpc(ControlPlane), Peer: certs.PeerID("controlplane"), NodeID: d.identity}
}

// shifted maps the listeners' ports that could not be had as declared.
func (l layout) shifted() map[int]int {
	shifted := map[int]int{}
	for declared, bound := range l.ports.Ingress {
		if declared != bound {
			shifted[declared] = bound
		}
	}
	return shifted
}

// writeConfigs writes the files of all components.
func (l layout) writeConfigs(bootstrap Bootstrap) error {
	for _, d := range daemons() {
		var content bytes.Buffer
		encoder := yaml.NewEncoder(&content)
		encoder.SetIndent(2)
		if err := encoder.Encode(l.config(d)); err != nil {
			return fmt.Errorf("configuration of %s: %w", d.name, err)
		}
		if err := state.WriteFile(l.configPath(d.name), content.Bytes()); err != nil {
			return fmt.Errorf("configuration of %s: %w", d.name, err)
		}
	}
	content, err := bootstrap.JSON(BootstrapConfig{
		NodeID: identityIngress, AdminAddress: l.admin(Envoy),
		ControlPlaneAddress: l.grpc(ControlPlane), ControlPlanePeer: certs.PeerID("controlplane"),
		CertDir: l.certDir(identityIngress), Zone: l.zone,
	})
	if err != nil {
		return fmt.Errorf("Envoy's bootstrap configuration: %w", err) //nolint:staticcheck // A name begins it.
	}
	return state.WriteFile(l.bootstrapPath(), content)
}
