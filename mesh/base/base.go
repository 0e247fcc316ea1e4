package base

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"text/template"
	"time"

	"weir.dev/mesh/istio"
)

//go:embed files
var files embed.FS

// Profiles of a mesh.
const (
	// Standard lets services call each other, and the world.
	Standard = "standard"
	// DefaultDeny lets nobody call what is not named.
	DefaultDeny = "default-deny"
)

// Profiles are all that there are.
func Profiles() []string { return []string{Standard, DefaultDeny} }

// Modes are the mesh's own of mutual TLS that one may begin with: STRICT would cut
// off whoever calls in plaintext, and is for each namespace to come to.
func Modes() []string { return []string{"PERMISSIVE", "DISABLE"} }

// Options are what differs between meshes.
type Options struct {
	// Profile is Standard or DefaultDeny.
	Profile string
	// MTLS is one of Modes.
	MTLS string
	// TrustDomain is the first part of service identities, a DNS name.
	TrustDomain string
	// Provider is the name of extauthz among the mesh's extension providers, ExtAuthz
	// where it is reached, and CheckTimeout how long a check may take.
	Provider     string
	ExtAuthz     istio.Service
	CheckTimeout time.Duration
	// RootNamespace is that of Istio's control plane.
	RootNamespace, IngressNamespace, EgressNamespace, WeirNamespace string
	// Ports of the ingress gateway.
	Ports []int
	// TrustedProxies stand before the gateway, 0 to 20.
	TrustedProxies int
	// Egress adds a gateway for what goes out.
	Egress bool
}

// DefaultOptions are those of Istio's own charts and of Weir's.
func DefaultOptions() Options {
	standard := istio.DefaultOptions()
	return Options{
		Profile: Standard, MTLS: "PERMISSIVE", TrustDomain: "cluster.local",
		Provider: standard.Provider, ExtAuthz: istio.Service{Host: "weir-extauthz.weir-system.svc.cluster.local", Port: 9001}, CheckTimeout: time.Second,
		RootNamespace: "istio-system", IngressNamespace: standard.Namespace, EgressNamespace: "istio-egress", WeirNamespace: standard.RulesNamespace,
		Ports: []int{80, 443},
	}
}

// File is one of those that make a mesh.
type File struct {
	Name    string
	Content []byte
}

// Names of files.
const (
	// IstiodValues and the next two are values of Istio's charts, Objects are for
	// kubectl.
	IstiodValues  = "istiod.yaml"
	IngressValues = "ingress-gateway.yaml"
	EgressValues  = "egress-gateway.yaml"
	Objects       = "base.yaml"
)

// Render makes the files of a mesh. An error names each option that cannot be.
func Render(o Options) ([]File, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	parsed, err := template.New("").Option("missingkey=error").ParseFS(files, "files/*.yaml")
	if err != nil {
		return nil, err
	}
	data := struct {
		Options
		DefaultDeny bool
		IngressName string
	}{o, o.Profile == DefaultDeny, "istio-ingressgateway"}
	made := []File{{Name: IstiodValues}, {Name: IngressValues}}
	if o.Egress {
		made = append(made, File{Name: EgressValues})
	}
	made = append(made, File{Name: Objects})
	source := map[string]string{IstiodValues: "istiod.yaml", IngressValues: "gateway.yaml", EgressValues: "egress.yaml", Objects: "base.yaml"}
	for i := range made {
		var content bytes.Buffer
		if err := parsed.ExecuteTemplate(&content, source[made[i].Name], data); err != nil {
			return nil, fmt.Errorf("%s: %w", made[i].Name, err)
		}
		made[i].Content = content.Bytes()
	}
	return made, nil
}

const (
	maxPorts          = 50
	maxTrustedProxies = 20
	maxCheckTimeout   = time.Minute
)

var (
	labelPattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)                              // immutable; RFC 1123
	namePattern  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`) // immutable
)

func (o *Options) validate() error {
	var errs []error
	fail := func(format string, values ...any) { errs = append(errs, fmt.Errorf(format, values...)) }
	if !slices.Contains(Profiles(), o.Profile) {
		fail("profile %q is not known; use one of %v", o.Profile, Profiles())
	}
	if !slices.Contains(Modes(), o.MTLS) {
		fail("mode %q cannot be begun with; use one of %v, and go to STRICT by weir mesh mtls", o.MTLS, Modes())
	}
	for _, name := range [][2]string{
		{"root namespace", o.RootNamespace},
		{"gateway's namespace", o.IngressNamespace},
		{"egress gateway's namespace", o.EgressNamespace},
		{"Weir's namespace", o.WeirNamespace},
	} {
		if !labelPattern.MatchString(name[1]) {
			fail("the %s %q is no name of a namespace", name[0], name[1])
		}
	}
	for _, name := range [][2]string{{"trust domain", o.TrustDomain}, {"provider", o.Provider}, {"host of extauthz", o.ExtAuthz.Host}} {
		if len(name[1]) > 253 || !namePattern.MatchString(name[1]) {
			fail("the %s %q is no DNS name", name[0], name[1])
		}
	}
	if o.ExtAuthz.Port == 0 || o.ExtAuthz.Port > 65535 {
		fail("the port of extauthz, %d, is outside 1 to 65535", o.ExtAuthz.Port)
	}
	if o.CheckTimeout < 10*time.Millisecond || o.CheckTimeout > maxCheckTimeout {
		fail("the timeout of a check, %s, is outside 10ms to %s", o.CheckTimeout, maxCheckTimeout)
	}
	if len(o.Ports) == 0 || len(o.Ports) > maxPorts {
		fail("%d ports of the gateway are outside 1 to %d", len(o.Ports), maxPorts)
	}
	for i, port := range o.Ports {
		if port < 1 || port > 65535 || slices.Contains(o.Ports[:i], port) {
			fail("port %d is outside 1 to 65535, or named twice", port)
		}
	}
	if o.TrustedProxies < 0 || o.TrustedProxies > maxTrustedProxies {
		fail("%d trusted proxies are outside 0 to %d", o.TrustedProxies, maxTrustedProxies)
	}
	return errors.Join(errs...)
}
