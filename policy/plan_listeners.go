package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"weir.dev/policy/v1alpha1"
)

// Chain is what a port serves under a set of server names: HTTP (Hosts), or a
// byte stream (Forward).
type Chain struct {
	// Name is unique on the port. That of a plain HTTP port is PlainChain.
	Name string
	// ServerNames are DNS names or wildcards; empty means all others.
	ServerNames []string
	// TLS is how the edge ends TLS; nil where it does not.
	TLS *Termination
	// Forward is set where connections are passed on as they are.
	Forward *Forward
	// Hosts are sorted by name.
	Hosts []Host
	// Edge are the settings of the connection; nil stands for DefaultEdge.
	Edge *Edge
	// Security are headers of all responses.
	Security *Security
	// Listeners that are served, sorted.
	Listeners []Origin
	// Policies are those that reach the whole chain, as Route.Policies are those
	// that reach a route. They are no part of Plan.Digest.
	Policies []PolicyUse
}

// streamChain begins the names of chains of listeners of protocol TLS.
const streamChain = "tls/"

// Closed reports whether the chain, of a listener of HTTPS, ends every connection,
// since what the listener ends TLS with is broken.
func (c *Chain) Closed() bool {
	return c.TLS == nil && c.Forward != nil && len(c.Forward.Backends) == 0 && !strings.HasPrefix(c.Name, streamChain)
}

// Forward passes a connection on by its weighted choice. With no backend, and for
// the share of one that did not resolve, connections are closed.
type Forward struct {
	Backends []WeightedBackend
	Origin   Origin
}

// Termination is how the edge ends TLS.
type Termination struct {
	// Certificates are ids of Secrets; the client's server name picks among them.
	Certificates []string
	// MinVersion and MaxVersion are set.
	MinVersion, MaxVersion v1alpha1.TLSVersion
	// CipherSuites of TLS 1.2 in order of preference, never empty.
	CipherSuites []v1alpha1.CipherSuite
	// Protocols offered by ALPN, the first preferred; none for byte streams.
	Protocols []v1alpha1.HTTPProtocol
	// Clients is nil where no client certificate is asked for.
	Clients *ClientValidation
}

// Offers reports whether a version of HTTP is offered.
func (t *Termination) Offers(protocol v1alpha1.HTTPProtocol) bool {
	if t == nil {
		return false
	}
	for _, offered := range t.Protocols {
		if offered == protocol {
			return true
		}
	}
	return false
}

// ClientValidation says which client certificates are taken.
type ClientValidation struct {
	// Secret is the id of the Secret with the authorities and revocation lists.
	Secret string
	// Required refuses clients without a certificate.
	Required bool
	// AcceptUntrusted takes certificates that are not of the authorities, as
	// AllowInsecureFallback of the Gateway API asks for.
	AcceptUntrusted bool
	// SubjectAltNames: one of them must match; none matches all.
	SubjectAltNames []v1alpha1.SubjectAltName
	Origin          Origin
}

// Secret is a certificate with its key, or authorities with revocation lists.
type Secret struct {
	ID string
	// Certificate chain and PrivateKey, in PEM.
	Certificate, PrivateKey PEM
	// Authorities and RevocationLists, in PEM.
	Authorities, RevocationLists PEM
	Origin                       Origin
}

// PEM is text that is never shown: as text and as JSON it is a hash.
type PEM []byte

// String is a hash of the content, or empty.
func (p PEM) String() string {
	if len(p) == 0 {
		return ""
	}
	sum := sha256.Sum256(p)
	return "sha256:" + hex.EncodeToString(sum[:8])
}

// GoString is String, so that no verb of package fmt shows more.
func (p PEM) GoString() string { return p.String() }

// Format writes String, whatever the verb.
func (p PEM) Format(state fmt.State, _ rune) { _, _ = state.Write([]byte(p.String())) }

// MarshalJSON writes String.
func (p PEM) MarshalJSON() ([]byte, error) { return json.Marshal(p.String()) }

// Security are headers that responses carry.
type Security struct {
	// Headers are sorted by name, which is in lower case.
	Headers []Header
	// Keep leaves those that a service sends by itself.
	Keep   bool
	Origin Origin
}

// Edge is how a chain guards itself. Every field has its effective value; a
// duration of 0 is none.
type Edge struct {
	NormalizePath, MergeSlashes bool
	EscapedSlashes              v1alpha1.EscapedSlashes
	PathParameters              v1alpha1.PathParameters

	MaxHeaderKiB, MaxHeaders uint32
	Underscores              v1alpha1.Underscores

	AcceptRequestID, ReturnRequestID bool

	// MaxConnections is 0 for no bound.
	MaxConnections uint32
	BufferKiB      uint32
	// MaxConnectionRequests is 0 for no bound.
	MaxConnectionRequests uint32
	MaxConnectionDuration time.Duration

	MaxConcurrentStreams, StreamWindowKiB, ConnectionWindowKiB uint32
	ResetBurst, ResetsPerSecond                                uint32

	HandshakeTimeout, RequestHeadersTimeout, RequestTimeout time.Duration
	StreamIdleTimeout, ConnectionIdleTimeout, DrainTimeout  time.Duration

	// TrustedHops and TrustedCIDRs, of which one at most is set, say whose
	// X-Forwarded-For is believed.
	TrustedHops  uint32
	TrustedCIDRs []string

	ForwardedClientCert        v1alpha1.ForwardedClientCertMode
	ForwardedClientCertDetails []v1alpha1.ForwardedClientCertDetail

	ServerMode v1alpha1.ServerHeaderMode
	ServerName string
}

// DefaultEdge is what no policy changed.
func DefaultEdge() Edge {
	return Edge{
		NormalizePath: true, MergeSlashes: true, EscapedSlashes: v1alpha1.EscapedSlashesReject, PathParameters: v1alpha1.PathParametersReject,
		MaxHeaderKiB: 60, MaxHeaders: 100, Underscores: v1alpha1.UnderscoresReject,
		ReturnRequestID: true,
		BufferKiB:       1024,

		MaxConcurrentStreams: 100, StreamWindowKiB: 64, ConnectionWindowKiB: 1024,
		ResetBurst: 200, ResetsPerSecond: 33,

		HandshakeTimeout: 10 * time.Second, RequestHeadersTimeout: 10 * time.Second,
		StreamIdleTimeout: 5 * time.Minute, ConnectionIdleTimeout: 10 * time.Minute, DrainTimeout: 10 * time.Second,

		ForwardedClientCert: v1alpha1.XFCCSanitize,
		ServerMode:          v1alpha1.ServerReplace, ServerName: "weir",
	}
}

// BehindProxies reports whether other proxies stand before this one, so that who
// connects is not the client.
func (e *Edge) BehindProxies() bool { return e.TrustedHops > 0 || len(e.TrustedCIDRs) > 0 }

// Settings are the chain's effective ones.
func (c *Chain) Settings() Edge {
	if c.Edge != nil {
		return *c.Edge
	}
	return DefaultEdge()
}
