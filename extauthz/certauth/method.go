package certauth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"weak"

	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/kit/certname"
)

// maxPatterns bounds the names of one authenticator.
const maxPatterns = 256

// Builder makes the methods by client certificate. Methods with equal
// authorities share them and what is remembered about chains. Safe for
// concurrent use.
type Builder struct {
	reader *Reader

	mu     sync.Mutex
	trusts map[[sha256.Size]byte]weak.Pointer[Trust]
}

// NewBuilder makes a builder.
func NewBuilder(reader *Reader) *Builder {
	return &Builder{reader: reader, trusts: map[[sha256.Size]byte]weak.Pointer[Trust]{}}
}

// Build implements extauthz.Builder.
func (b *Builder) Build(authenticator *rulesv1.Authenticator, _ extauthz.Place) (extauthz.Method, error) {
	source := authenticator.GetClientCertificate()
	if source == nil {
		return nil, nil //nolint:nilnil // as the interface asks
	}
	method, err := b.build(source)
	if err != nil {
		return nil, fmt.Errorf("client_certificate.%w", err)
	}
	return method, nil
}

func (b *Builder) build(source *rulesv1.ClientCertificateAuthenticator) (*method, error) {
	m := &method{issuer: source.GetIssuer(), kind: nameKind(source.GetName())}
	var err error
	if m.source, err = b.reader.Source(source.GetSource()); err != nil {
		return nil, err
	}
	if m.kind == 0 {
		return nil, fmt.Errorf("name: %s is not known", source.GetName())
	}
	if m.issuer == "" && m.kind != certname.SPIFFE {
		return nil, errors.New("issuer: is required, but for SPIFFE IDs, whose trust domain it is")
	}
	if m.issuer != "" && !extauthz.ValidHeaderValue(m.issuer) {
		return nil, errors.New("issuer: is not printable ASCII")
	}
	if n := len(source.GetNames()); n == 0 || n > maxPatterns {
		return nil, fmt.Errorf("names: there are %d; 1 to %d are accepted", n, maxPatterns)
	}
	for i, text := range source.GetNames() {
		p, err := certname.Parse(m.kind, text)
		if err != nil {
			return nil, fmt.Errorf("names[%d]: %q %w", i, text, err)
		}
		m.patterns = append(m.patterns, p)
	}
	if len(source.GetAuthorities()) == 0 {
		return m, m.checkUnverified(source)
	}
	if m.trust, err = b.trust(source.GetAuthorities(), source.GetRevocationLists()); err != nil {
		return nil, err
	}
	return m, nil
}

// checkUnverified allows no authorities only where somebody else has verified.
func (m *method) checkUnverified(source *rulesv1.ClientCertificateAuthenticator) error {
	switch {
	case len(source.GetRevocationLists()) > 0:
		return errors.New("revocation_lists: need authorities")
	case m.source.from == rulesv1.ClientCertificateSource_FROM_CLIENT_CERT:
		return errors.New("authorities: are required where a hop tells of certificates in Client-Cert")
	case m.source.told() && m.kind != certname.SPIFFE:
		return errors.New("authorities: are required where a hop tells of names other than SPIFFE IDs")
	}
	return nil
}

func nameKind(name rulesv1.ClientCertificateAuthenticator_Name) certname.Kind {
	switch name {
	case rulesv1.ClientCertificateAuthenticator_NAME_SPIFFE:
		return certname.SPIFFE
	case rulesv1.ClientCertificateAuthenticator_NAME_DNS:
		return certname.DNS
	case rulesv1.ClientCertificateAuthenticator_NAME_EMAIL:
		return certname.Email
	case rulesv1.ClientCertificateAuthenticator_NAME_COMMON_NAME:
		return certname.CommonName
	case rulesv1.ClientCertificateAuthenticator_NAME_SUBJECT:
		return certname.Subject
	}
	return 0
}

func (b *Builder) trust(authorities, lists []byte) (*Trust, error) {
	hash := sha256.New()
	first := sha256.Sum256(authorities)
	hash.Write(first[:])
	hash.Write(lists)
	key := [sha256.Size]byte(hash.Sum(nil))
	b.mu.Lock()
	defer b.mu.Unlock()
	if known := b.trusts[key].Value(); known != nil {
		return known, nil
	}
	made, err := NewTrust(authorities, lists)
	if err != nil {
		return nil, err
	}
	for key, pointer := range b.trusts {
		if pointer.Value() == nil {
			delete(b.trusts, key)
		}
	}
	b.trusts[key] = weak.Make(made)
	return made, nil
}

// method identifies by one certificate.
type method struct {
	source   *Source
	kind     certname.Kind
	patterns []certname.Pattern
	issuer   string
	// trust is nil where the proxy or a hop has verified the certificate.
	trust *Trust
}

// Presence implements extauthz.Method.
func (m *method) Presence(request *extauthz.Request) extauthz.Presence {
	return m.source.Presence(request)
}

// Prove implements extauthz.Method.
func (m *method) Prove(_ context.Context, call *extauthz.Call) (*extauthz.Proof, error) {
	proof, err := m.prove(call)
	if err == nil {
		return proof, nil
	}
	var known *extauthz.Refusal
	if !errors.As(err, &known) {
		return nil, err
	}
	told := *known // what a trust remembers is shared
	told.Challenge = m.Challenge(call.Realm)
	return nil, &told
}

func (m *method) prove(call *extauthz.Call) (*extauthz.Proof, error) {
	evidence, err := m.source.Read(call.Request)
	if err != nil {
		return nil, err
	}
	if err := m.verify(evidence, call.Now); err != nil {
		return nil, err
	}
	names := []string{evidence.SPIFFE}
	if evidence.Leaf != nil {
		if names, err = certname.Of(m.kind, evidence.Leaf); err != nil {
			return nil, extauthz.Refuse(extauthz.ReasonCertificateName, err)
		}
	}
	name := m.choose(names)
	if name == "" {
		return nil, extauthz.Refuse(extauthz.ReasonCertificateName, fmt.Errorf("none of its names %.200q is one that the policy accepts", names))
	}
	proof := &extauthz.Proof{Issuer: m.issuer, Subject: name, Certificate: evidence.attributes()}
	if proof.Issuer == "" {
		proof.Issuer = certname.TrustDomain(name)
	}
	return proof, nil
}

// verify holds a certificate to the trust. Without one the proxy or the hop has
// verified it when the connection began, which may be long ago.
func (m *method) verify(evidence *Evidence, now time.Time) error {
	if m.trust != nil {
		return m.trust.Verify(evidence, now)
	}
	if evidence.Leaf == nil {
		if m.kind != certname.SPIFFE || evidence.SPIFFE == "" {
			return extauthz.Refuse(extauthz.ReasonCertificateInvalid, errors.New("no certificate was told"))
		}
		return nil
	}
	return checkValidity(evidence.Leaf, now)
}

// choose takes the first name that the first pattern with any matches.
func (m *method) choose(names []string) string {
	for i := range m.patterns {
		for _, name := range names {
			if name != "" && m.patterns[i].Matches(name) {
				return name
			}
		}
	}
	return ""
}

// Challenge implements extauthz.Method. TLS asks for certificates and HTTP has no
// scheme for them, but a 401 without a challenge is none (RFC 9110 section
// 15.5.2).
func (m *method) Challenge(realm string) string { return `ClientCertificate realm="` + realm + `"` }

// CredentialHeaders implements extauthz.Method.
func (m *method) CredentialHeaders() []string { return m.source.Headers() }

// attributes are what authorization expressions may ask about.
func (e *Evidence) attributes() *structpb.Struct {
	e.once.Do(func() { e.described = e.describe() })
	return e.described
}

// describe fills in every member, so that an expression finds each.
func (e *Evidence) describe() *structpb.Struct {
	text := map[string]string{"sha256": "", "subject": "", "issuer": "", "serial": "", "not_after": ""}
	lists := map[string][]string{"uris": {}, "dns_names": {}, "emails": {}}
	if e.Thumbprint != [sha256.Size]byte{} {
		text["sha256"] = hex.EncodeToString(e.Thumbprint[:])
	}
	if e.Leaf == nil {
		lists["uris"] = []string{e.SPIFFE}
	} else {
		// Names that cannot be read are left out; they identify nobody.
		text["subject"], _ = certname.DistinguishedName(e.Leaf.RawSubject)
		text["issuer"], _ = certname.DistinguishedName(e.Leaf.RawIssuer)
		text["serial"] = e.Leaf.SerialNumber.Text(16)
		text["not_after"] = e.Leaf.NotAfter.UTC().Format(time.RFC3339)
		for _, uri := range e.Leaf.URIs {
			lists["uris"] = append(lists["uris"], uri.String())
		}
		lists["dns_names"], lists["emails"] = e.Leaf.DNSNames, e.Leaf.EmailAddresses
	}
	described := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	value := func(text string) *structpb.Value { return structpb.NewStringValue(strings.ToValidUTF8(text, "\uFFFD")) }
	for name, member := range text {
		described.Fields[name] = value(member)
	}
	for name, members := range lists {
		list := &structpb.ListValue{}
		for _, member := range members {
			list.Values = append(list.Values, value(member))
		}
		described.Fields[name] = structpb.NewListValue(list)
	}
	return described
}
