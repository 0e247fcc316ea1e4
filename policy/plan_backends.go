package policy

import (
	"strconv"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// WeightedBackend is a share of the requests. Backend is empty when the
// reference did not resolve: its share is answered with 500.
type WeightedBackend struct {
	Backend string
	Weight  uint32
	// The headers and the host name are changed for this backend alone.
	RequestHeaders  HeaderChange
	ResponseHeaders HeaderChange
	Host            string
	// Path is changed for this share alone, in the place of what Route.Rewrite says;
	// Redirect answers it, and Mirrors are sent copies of it beside those of the
	// Route.
	Path     *PathChange `json:",omitempty"`
	Redirect *Redirect   `json:",omitempty"`
	Mirrors  []Mirror    `json:",omitempty"`
}

// Apart reports whether more is done with the share than sending it elsewhere
// with other headers.
func (b *WeightedBackend) Apart() bool {
	return b.Path != nil || b.Redirect != nil || len(b.Mirrors) > 0
}

// Mirror is a backend that is sent copies of Numerator in Denominator requests.
type Mirror struct {
	Backend                string
	Numerator, Denominator uint32
}

// Backend is a resolved destination.
type Backend struct {
	// ID is "namespace/name" of a Backend, "namespace/name:port" of a Service.
	// "~" and a digest follow where it is not plain HTTP/1.1, and again where
	// Connection differs from the defaults.
	ID       string
	Protocol v1alpha1.BackendProtocol
	// Endpoints are sorted where their order has no meaning.
	Endpoints   []Endpoint
	TLS         *TLS
	Transcoding *Transcoding
	// Connection is nil for the defaults.
	Connection *Connection
	// Members is set for a Backend that stands for others: the first of them that
	// has an endpoint which is well serves. It has no endpoints of its own.
	Members []string
	Origin  Origin
}

// Endpoint is one address. Address and Port are set, or Socket.
type Endpoint struct {
	// Address is an IP address, or a DNS name that the proxy resolves.
	Address string `json:"address"`
	Port    int32  `json:"port"`
	// Socket is the path of a Unix domain socket.
	Socket string `json:"socket,omitempty"`
	// Zone is where the endpoint is; empty when not known.
	Zone string `json:"zone,omitempty"`
}

// describe is "address:port" or the socket's path.
func (e Endpoint) describe() string {
	if e.Socket != "" {
		return e.Socket
	}
	host := e.Address
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(int(e.Port))
}

// Trust says who vouches for a backend's certificate.
type Trust string

// Kinds of trust.
const (
	// TrustMesh: the mesh's own authorities.
	TrustMesh Trust = "Mesh"
	// TrustSystem: those that the proxy's system trusts.
	TrustSystem Trust = "System"
	// TrustBundle: those in TLS.Bundle.
	TrustBundle Trust = "Bundle"
)

// TLS secures connections to a backend.
type TLS struct {
	// ServerName is asked for (SNI).
	ServerName string
	Trust      Trust
	// Bundle holds certificates in PEM.
	Bundle string
	// Names: the certificate must be for one of them.
	Names []gatewayv1.SubjectAltName
	// Identity is set to present the edge's own certificate of the mesh.
	Identity bool
	// Certificate is the id of the Secret whose certificate is presented.
	Certificate string
}

// describe is one clause for people.
func (t *TLS) describe() string {
	names := make([]string, len(t.Names))
	for i, name := range t.Names {
		names[i] = string(name.Hostname) + string(name.URI)
	}
	text := "TLS with "
	if t.Identity || t.Certificate != "" {
		text = "mutual TLS with "
	}
	return text + strings.Join(names, " or ")
}

// Transcoding turns REST into gRPC.
type Transcoding struct {
	DescriptorSet   []byte
	Services        []string
	MaxRequestBytes uint32
	// Streams says that a method takes a stream of messages, which is not held.
	Streams bool
}

// Connection is what a TrafficPolicy says of the connections to a backend. Nil
// and 0 stand for the target's defaults.
type Connection struct {
	ConnectTimeout time.Duration
	Budget         *v1alpha1.RetryBudget
	Limits         *v1alpha1.ConnectionLimits
	Outliers       *v1alpha1.OutlierDetection
	Health         *v1alpha1.HealthCheck
	Balancing      *v1alpha1.LoadBalancing
}
