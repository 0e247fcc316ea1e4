package development

import (
	"bytes"
	"fmt"

	"go.yaml.in/yaml/v3"

	"weir.dev/kit/certs"
)

// Names of the objects.
const (
	IssuerConfigMapName = "weir-development-issuer"
	JWKSKey             = "jwks.json"
	ConsumerName        = "quickstart"
	ConsumerTier        = "free"
)

// Input is what the objects are made of.
type Input struct {
	// APIKeySHA256 is lower-case hex.
	APIKeySHA256 string
	// JWKS is the issuer's public key set, JSON.
	JWKS []byte
	// UserPort and DataPort are where the services listen on 127.0.0.1.
	UserPort, DataPort int
}

// File is one YAML file of objects.
type File struct {
	Name    string
	Content []byte
}

// Objects makes the files; the same input gives the same bytes.
func Objects(in Input) ([]File, error) {
	var files []File
	for _, part := range []struct {
		name    string
		objects []any
	}{
		{"issuer.yaml", []any{issuer(in)}},
		{"consumer.yaml", []any{consumer(in)}},
		{"backends.yaml", []any{
			backend("user", in.UserPort, "weir.user.v1.UserService", "weir.user.v1.ApiKeyService"),
			backend("data", in.DataPort, "weir.data.v1.DataService"),
		}},
	} {
		content := bytes.NewBufferString("# Written by weir up: changes are lost at the next start.\n")
		encoder := yaml.NewEncoder(content)
		encoder.SetIndent(2)
		for _, object := range part.objects {
			if err := encoder.Encode(object); err != nil {
				return nil, fmt.Errorf("%s: %w", part.name, err)
			}
		}
		files = append(files, File{Name: part.name, Content: content.Bytes()})
	}
	return files, nil
}

// Placeholders are the objects with throw-away credentials, for checking a
// policy folder that refers to them while no Weir runs.
func Placeholders() ([]File, error) {
	throwAway, err := NewCredentials()
	if err != nil {
		return nil, err
	}
	jwks, err := throwAway.JWKS()
	if err != nil {
		return nil, err
	}
	return Objects(Input{APIKeySHA256: throwAway.APIKeySHA256(), JWKS: jwks, UserPort: 1, DataPort: 2})
}

type object struct {
	APIVersion string            `yaml:"apiVersion"`
	Kind       string            `yaml:"kind"`
	Metadata   metadata          `yaml:"metadata"`
	Data       map[string]string `yaml:"data,omitempty"`
	Spec       any               `yaml:"spec,omitempty"`
}

type metadata struct {
	Name string `yaml:"name"`
}

const weirAPIVersion = "weir.dev/v1alpha1"

func issuer(in Input) object {
	return object{
		APIVersion: "v1", Kind: "ConfigMap", Metadata: metadata{Name: IssuerConfigMapName},
		Data: map[string]string{JWKSKey: string(in.JWKS)},
	}
}

type consumerSpec struct {
	Tenant        string         `yaml:"tenant"`
	Tier          string         `yaml:"tier"`
	APIKeys       []apiKey       `yaml:"apiKeys"`
	TokenSubjects []tokenSubject `yaml:"tokenSubjects"`
}

type apiKey struct {
	Name   string   `yaml:"name"`
	SHA256 string   `yaml:"sha256"`
	Scopes []string `yaml:"scopes"`
}

type tokenSubject struct {
	Issuer  string `yaml:"issuer"`
	Subject string `yaml:"subject"`
}

func consumer(in Input) object {
	return object{
		APIVersion: weirAPIVersion, Kind: "Consumer", Metadata: metadata{Name: ConsumerName},
		Spec: consumerSpec{
			Tenant: Tenant, Tier: ConsumerTier,
			APIKeys:       []apiKey{{Name: "default", SHA256: in.APIKeySHA256, Scopes: Scopes()}},
			TokenSubjects: []tokenSubject{{Issuer: Issuer, Subject: Subject}},
		},
	}
}

type backendSpec struct {
	Protocol    string      `yaml:"protocol"`
	Endpoints   []endpoint  `yaml:"endpoints"`
	TLS         backendTLS  `yaml:"tls"`
	Transcoding transcoding `yaml:"transcoding"`
}

type endpoint struct {
	Address string `yaml:"address"`
	Port    int    `yaml:"port"`
}

type backendTLS struct {
	SPIFFEID string `yaml:"spiffeID"`
}

type transcoding struct {
	DescriptorSetRef keyRef   `yaml:"descriptorSetRef"`
	Services         []string `yaml:"services"`
}

type keyRef struct {
	Name string `yaml:"name"`
	Key  string `yaml:"key"`
}

func backend(name string, port int, services ...string) object {
	return object{
		APIVersion: weirAPIVersion, Kind: "Backend", Metadata: metadata{Name: name},
		Spec: backendSpec{
			Protocol:  "GRPC",
			Endpoints: []endpoint{{Address: "127.0.0.1", Port: port}},
			TLS:       backendTLS{SPIFFEID: certs.PeerID(name)},
			Transcoding: transcoding{
				DescriptorSetRef: keyRef{Name: name + "-descriptors", Key: "descriptors.binpb"},
				Services:         services,
			},
		},
	}
}
