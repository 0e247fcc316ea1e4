package httpsig

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/replay"
)

const (
	headerSignature      = "signature"
	headerSignatureInput = "signature-input"
	headerContentDigest  = "content-digest"
)

// Defaults and bounds of an authenticator's terms.
const (
	defaultMaxAge = 5 * time.Minute
	maxMaxAge     = time.Hour
	maxComponents = 32
	maxNonceBytes = 256
	// futureLeeway is how far "created" may lie ahead.
	futureLeeway = 5 * time.Second
)

// Builder makes the methods by signature. Safe for concurrent use.
type Builder struct{ used replay.Store }

// NewBuilder makes a builder; used remembers nonces.
func NewBuilder(used replay.Store) *Builder { return &Builder{used: used} }

// Build implements extauthz.Builder.
func (b *Builder) Build(authenticator *rulesv1.Authenticator, _ extauthz.Place) (extauthz.Method, error) {
	source := authenticator.GetHttpSignature()
	if source == nil {
		return nil, nil //nolint:nilnil // as the interface asks
	}
	built, err := b.build(source)
	if err != nil {
		return nil, fmt.Errorf("http_signature.%w", err)
	}
	return built, nil
}

func (b *Builder) build(source *rulesv1.HttpSignatureAuthenticator) (*method, error) {
	m := &method{
		used: b.used, algorithms: slices.Clone(source.GetAlgorithms()), components: slices.Clone(source.GetComponents()),
		maxAge: defaultMaxAge, requireNonce: source.GetRequireNonce(), tag: source.GetTag(), scheme: source.GetScheme(),
		bodyUnsigned: source.GetBodyUnsigned(),
	}
	known := []string{
		extauthz.SignatureHMACSHA256, extauthz.SignatureEd25519, extauthz.SignatureECDSAP256, extauthz.SignatureECDSAP384,
		extauthz.SignatureRSAPSS, extauthz.SignatureRSAPKCS1,
	}
	if len(m.algorithms) == 0 {
		return nil, errors.New("algorithms: at least one is required")
	}
	for i, name := range m.algorithms {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("algorithms[%d]: %q is not one of %s", i, name, strings.Join(known, ", "))
		}
	}
	if len(m.components) == 0 {
		m.components = []string{"@method", "@authority", "@path", "@query"}
	}
	if len(m.components) > maxComponents {
		return nil, fmt.Errorf("components: %d are too many; the most is %d", len(m.components), maxComponents)
	}
	for i, name := range m.components {
		if !coverable(name) {
			return nil, fmt.Errorf("components[%d]: %q is neither a derived component that is supported nor a header in lower case", i, name)
		}
	}
	if age := source.GetMaxAge(); age != nil {
		if m.maxAge = age.AsDuration(); age.CheckValid() != nil || m.maxAge < time.Second || m.maxAge > maxMaxAge {
			return nil, fmt.Errorf("max_age: %s is outside 1s to %s", m.maxAge, maxMaxAge)
		}
	}
	switch m.scheme {
	case "":
		m.scheme = "https"
	case "https", "http":
	default:
		return nil, fmt.Errorf("scheme: %q is neither https nor http", m.scheme)
	}
	return m, nil
}

func coverable(name string) bool {
	switch name {
	case "@method", "@target-uri", "@authority", "@scheme", "@path", "@query":
		return true
	case "", headerSignature, headerSignatureInput:
		return false
	}
	return name[0] != '@' && name == strings.ToLower(name) && !strings.ContainsAny(name, " \t\r\n\"\\:,;=()")
}

// method is one authenticator. Safe for concurrent use.
type method struct {
	used         replay.Store
	algorithms   []string
	components   []string
	maxAge       time.Duration
	requireNonce bool
	tag, scheme  string
	bodyUnsigned bool
}

// Presence implements extauthz.Method. Both headers are dictionaries, so several
// of each are one.
func (m *method) Presence(request *extauthz.Request) extauthz.Presence {
	for i := range request.Headers {
		if name := request.Headers[i].Name; name == headerSignature || name == headerSignatureInput {
			return extauthz.Present
		}
	}
	return extauthz.Absent
}

// Challenge implements extauthz.Method.
func (m *method) Challenge(realm string) string { return `Signature realm="` + realm + `"` }

// CredentialHeaders implements extauthz.Method: a service could use a signature
// elsewhere while it is fresh.
func (m *method) CredentialHeaders() []string { return []string{headerSignature, headerSignatureInput} }

// Tells implements extauthz.Teller: a signature can be asked for whenever one is
// missing (RFC 9421 section 5.1).
func (m *method) Tells() []extauthz.Header {
	return []extauthz.Header{{Name: "accept-signature", Value: m.accepts()}}
}

// Prove implements extauthz.Method.
func (m *method) Prove(ctx context.Context, call *extauthz.Call) (*extauthz.Proof, error) {
	signer, err := m.prove(ctx, call)
	if err == nil {
		return &signer.Proof, nil
	}
	var refusal *extauthz.Refusal
	if !errors.As(err, &refusal) {
		refusal = extauthz.Refuse(extauthz.ReasonSignatureInvalid, err)
	}
	if refusal.Reason != extauthz.ReasonReplayUnknown {
		refusal.Challenge = m.Challenge(call.Realm)
		refusal.ResponseHeaders = m.Tells()
	}
	return nil, refusal
}

// accepts says what a signature has to be like (RFC 9421 section 5.1).
func (m *method) accepts() string {
	input := member{list: true}
	for _, name := range m.components {
		input.items = append(input.items, item{value: name})
	}
	input.parameters = []parameter{{"created", true}, {"keyid", true}}
	if m.requireNonce {
		input.parameters = append(input.parameters, parameter{"nonce", true})
	}
	if m.tag != "" {
		input.parameters = append(input.parameters, parameter{"tag", m.tag})
	}
	var b strings.Builder
	b.WriteString("sig=")
	writeList(&b, &input)
	return b.String()
}

// signed is one signature of a request.
type signed struct {
	input     *member
	signature []byte

	keyID, algorithm, nonce, tag string
	created, expires             time.Time
}

func (m *method) prove(ctx context.Context, call *extauthz.Call) (*extauthz.Signer, error) {
	s, signer, err := m.choose(call)
	if err != nil {
		return nil, err
	}
	switch {
	case !slices.Contains(m.algorithms, signer.Algorithm):
		return nil, fmt.Errorf("the key is for %s, which the policy does not accept", signer.Algorithm)
	case s.algorithm != "" && s.algorithm != signer.Algorithm:
		return nil, errors.New("alg is not the one that the key is for")
	case !signer.Expires.IsZero() && !call.Now.Before(signer.Expires):
		return nil, fmt.Errorf("key %s of consumer %s has expired", signer.Proof.Subject, signer.Proof.Consumer.Name)
	}
	if err := m.checkTimes(s, call.Now); err != nil {
		return nil, extauthz.Refuse(extauthz.ReasonSignatureExpired, err)
	}
	if err := m.checkCoverage(s, call.Request); err != nil {
		return nil, extauthz.Refuse(extauthz.ReasonSignatureCoverage, err)
	}
	if err := m.verify(s, signer, call.Request); err != nil {
		return nil, err
	}
	if err := checkBody(s, call.Request); err != nil {
		return nil, extauthz.Refuse(extauthz.ReasonContentDigest, err)
	}
	return signer, m.once(ctx, call.Now, s)
}

// verify tries the authorities that the client may have sent.
func (m *method) verify(s *signed, signer *extauthz.Signer, request *extauthz.Request) error {
	known, ported := request.Authorities()
	base, err := newMessage(request, m.scheme, known).signatureBase(s.input)
	if err != nil {
		return err
	}
	if err = verify(signer, base, s.signature); err == nil || ported == "" {
		return err
	}
	other, err := newMessage(request, m.scheme, ported).signatureBase(s.input)
	if err != nil || other == base {
		return errSignature
	}
	return verify(signer, other, s.signature)
}

// checkBody holds a body to its signed digest where the proxy has sent the body
// here, which it does where rules read it. Elsewhere the digest is signed and the
// service has to compare it.
func checkBody(s *signed, request *extauthz.Request) error {
	header, presence := request.Credential(headerContentDigest)
	if !s.covers(headerContentDigest) || presence == extauthz.Absent || len(request.Body) == 0 {
		return nil
	}
	if presence == extauthz.Ambiguous {
		return errors.New("there are several content-digest headers")
	}
	return checkDigest(header, request.Body)
}

// covers reports whether a component is covered, as it is.
func (s *signed) covers(name string) bool {
	for i := range s.input.items {
		if s.input.items[i].value == name && len(s.input.items[i].parameters) == 0 {
			return true
		}
	}
	return false
}

// once takes a nonce once, whether or not one is demanded.
func (m *method) once(ctx context.Context, now time.Time, s *signed) error {
	if s.nonce == "" {
		return nil
	}
	first, err := m.used.First(ctx, replay.NewID("httpsig", s.keyID, s.nonce), now, 2*(m.maxAge+futureLeeway))
	switch {
	case err != nil:
		return extauthz.Refuse(extauthz.ReasonReplayUnknown, err)
	case !first:
		return extauthz.Refuse(extauthz.ReasonSignatureReplayed, errors.New("the nonce was used before"))
	}
	return nil
}

// choose finds the first signature by a key of a consumer, of the policy's tag.
// Proxies may have added others.
func (m *method) choose(call *extauthz.Call) (*signed, *extauthz.Signer, error) {
	inputs, err := dictionary(call.Request, headerSignatureInput)
	if err != nil {
		return nil, nil, err
	}
	signatures, err := dictionary(call.Request, headerSignature)
	if err != nil {
		return nil, nil, err
	}
	for i := range inputs {
		s, err := readInput(&inputs[i])
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", headerSignatureInput, err)
		}
		signer := call.Consumers.Signer(s.keyID)
		if signer == nil || m.tag != "" && s.tag != m.tag {
			continue
		}
		for j := range signatures {
			if signatures[j].name == inputs[i].name {
				raw, ok := signatures[j].items[0].value.([]byte)
				if signatures[j].list || !ok || len(signatures[j].items[0].parameters) > 0 {
					return nil, nil, errors.New("the signature is not a byte sequence")
				}
				s.signature = raw
				return s, signer, nil
			}
		}
		return nil, nil, errors.New("there is no signature to the input")
	}
	return nil, nil, errors.New("no signature is by a key of a consumer, with the policy's tag")
}

func dictionary(request *extauthz.Request, name string) ([]member, error) {
	var values []string
	for i := range request.Headers {
		if request.Headers[i].Name == name {
			values = append(values, request.Headers[i].Value)
		}
	}
	members, err := parseDictionary(strings.Join(values, ","))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return members, nil
}

// readInput reads the parameters of a signature (RFC 9421 section 2.3). One that
// is not known might restrict what the signature is good for, so it refuses.
func readInput(input *member) (*signed, error) {
	if !input.list {
		return nil, errors.New("a member is not a list of components")
	}
	s := &signed{input: input}
	texts := map[string]*string{"keyid": &s.keyID, "alg": &s.algorithm, "nonce": &s.nonce, "tag": &s.tag}
	times := map[string]*time.Time{"created": &s.created, "expires": &s.expires}
	for _, p := range input.parameters {
		switch value := p.value.(type) {
		case string:
			into := texts[p.name]
			if into == nil || value == "" || len(value) > maxNonceBytes {
				return nil, errors.New("it has a parameter that is not known, or too long or empty")
			}
			*into = value
		case int64:
			into := times[p.name]
			if into == nil || value < 0 {
				return nil, errors.New("it has a parameter that is not known, or no date")
			}
			*into = time.Unix(value, 0)
		default:
			return nil, errors.New("it has a parameter of a kind that none is of")
		}
	}
	return s, nil
}

func (m *method) checkTimes(s *signed, now time.Time) error {
	switch age := now.Sub(s.created); {
	case s.created.IsZero():
		return errors.New("created is absent")
	case age > m.maxAge:
		return fmt.Errorf("it was created %s ago; the most is %s", age.Truncate(time.Second), m.maxAge)
	case age < -futureLeeway:
		return errors.New("it was created in the future")
	case !s.expires.IsZero() && !now.Before(s.expires):
		return errors.New("expires has passed")
	}
	return nil
}

// checkCoverage demands what the policy does: @target-uri stands for all of its
// parts, and a body needs its digest.
func (m *method) checkCoverage(s *signed, request *extauthz.Request) error {
	for _, name := range m.components {
		part := name == "@scheme" || name == "@authority" || name == "@path" || name == "@query"
		if !s.covers(name) && (!part || !s.covers("@target-uri")) {
			return errors.New("it does not cover " + name)
		}
	}
	if m.requireNonce && s.nonce == "" {
		return errors.New("it has no nonce and the policy demands one")
	}
	if !m.bodyUnsigned && hasBody(request) && !s.covers(headerContentDigest) {
		return errors.New("the request has a body and the signature does not cover content-digest")
	}
	return nil
}

// hasBody guesses from the headers what Envoy does not tell: a length, or an
// encoding that frames a body, or a method that means one.
func hasBody(request *extauthz.Request) bool {
	if length, presence := request.Credential("content-length"); presence != extauthz.Absent {
		return presence == extauthz.Ambiguous || length != "0"
	}
	if _, presence := request.Credential("transfer-encoding"); presence != extauthz.Absent {
		return true
	}
	switch method, _ := request.Sent(); method {
	case "GET", "HEAD", "DELETE", "OPTIONS", "TRACE":
		return false
	}
	return true
}
