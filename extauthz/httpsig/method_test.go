package httpsig_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/httpsig"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/replay"
)

type terms = rulesv1.HttpSignatureAuthenticator

const secret = "0123456789abcdef0123456789abcdef"

// keys are one of each kind, by algorithm, and what signs with them.
type keys struct {
	sources []*rulesv1.SignatureKey
	sign    map[string]func(message []byte) []byte
}

func newKeys(t testing.TB) *keys {
	t.Helper()
	k := &keys{sign: map[string]func([]byte) []byte{}}
	add := func(algorithm string, public any, sign func([]byte) []byte) {
		source := &rulesv1.SignatureKey{Name: algorithm, Id: algorithm, Algorithm: algorithm, Scopes: []string{"read"}}
		if public == nil {
			source.Key = &rulesv1.SignatureKey_Secret{Secret: []byte(secret)}
		} else {
			der, err := x509.MarshalPKIXPublicKey(public)
			require.NoError(t, err)
			source.Key = &rulesv1.SignatureKey_PublicKey{PublicKey: der}
		}
		k.sources = append(k.sources, source)
		k.sign[algorithm] = sign
	}
	add("hmac-sha256", nil, func(message []byte) []byte {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(message)
		return mac.Sum(nil)
	})
	edPublic, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	add("ed25519", edPublic, func(message []byte) []byte { return ed25519.Sign(ed, message) })
	for algorithm, curve := range map[string]elliptic.Curve{"ecdsa-p256-sha256": elliptic.P256(), "ecdsa-p384-sha384": elliptic.P384()} {
		ec, err := ecdsa.GenerateKey(curve, rand.Reader)
		require.NoError(t, err)
		add(algorithm, &ec.PublicKey, func(message []byte) []byte {
			sum256, sum384 := sha256.Sum256(message), sha512.Sum384(message)
			sum := sum256[:]
			if curve == elliptic.P384() {
				sum = sum384[:]
			}
			r, s, err := ecdsa.Sign(rand.Reader, ec, sum)
			require.NoError(t, err)
			size := curve.Params().BitSize / 8
			return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
		})
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	add("rsa-pss-sha512", &private.PublicKey, func(message []byte) []byte {
		sum := sha512.Sum512(message)
		signature, err := rsa.SignPSS(rand.Reader, private, crypto.SHA512, sum[:], &rsa.PSSOptions{SaltLength: 64})
		require.NoError(t, err)
		return signature
	})
	add("rsa-v1_5-sha256", &private.PublicKey, func(message []byte) []byte {
		sum := sha256.Sum256(message)
		signature, err := rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, sum[:])
		require.NoError(t, err)
		return signature
	})
	return k
}

func (k *keys) consumers(t testing.TB) *extauthz.ConsumerSet {
	t.Helper()
	c, err := extauthz.NewCompiler()
	require.NoError(t, err)
	set, err := c.Consumers(map[string]*rulesv1.Consumer{"default/shop": {Name: "default/shop", Tenant: "acme", SignatureKeys: k.sources}})
	require.NoError(t, err)
	return set
}

// plan is a signature to be made. The base is written here on its own.
type plan struct {
	components []string // with their values, "name: value"
	parameters string
	algorithm  string
	label      string
}

func goodParameters(algorithm string) string {
	return ";created=" + strconv.FormatInt(authtest.Now().Unix(), 10) + `;keyid="` + algorithm + `"`
}

func usual() []string {
	return []string{`"@method": GET`, `"@authority": api.example`, `"@path": /v1/users`, `"@query": ?page=2`}
}

func (k *keys) headers(p plan) []string {
	if p.label == "" {
		p.label = "sig"
	}
	var names []string
	base := ""
	for _, component := range p.components {
		name, _, _ := strings.Cut(component, ": ")
		names = append(names, name)
		base += component + "\n"
	}
	input := "(" + strings.Join(names, " ") + ")" + p.parameters
	signature := k.sign[p.algorithm]([]byte(base + `"@signature-params": ` + input))
	return []string{"signature-input", p.label + "=" + input, "signature", p.label + "=:" + base64.StdEncoding.EncodeToString(signature) + ":"}
}

func request(headers ...string) *extauthz.Request {
	r := &extauthz.Request{Method: "GET", Target: "/v1/users?page=2", Authority: "api.example"}
	for i := 0; i < len(headers); i += 2 {
		r.Headers = append(r.Headers, extauthz.Header{Name: headers[i], Value: headers[i+1]})
	}
	return r
}

func build(t testing.TB, source *terms, used replay.Store) extauthz.Method {
	t.Helper()
	if used == nil {
		used = replay.NewMemory(0)
	}
	if len(source.GetAlgorithms()) == 0 {
		source.Algorithms = []string{"hmac-sha256", "ed25519", "ecdsa-p256-sha256", "ecdsa-p384-sha384", "rsa-pss-sha512", "rsa-v1_5-sha256"}
	}
	method, err := httpsig.NewBuilder(used).Build(&rulesv1.Authenticator{
		Name: "signed", Method: &rulesv1.Authenticator_HttpSignature{HttpSignature: source},
	}, extauthz.Place{})
	require.NoError(t, err)
	return method
}

func prove(method extauthz.Method, consumers *extauthz.ConsumerSet, r *extauthz.Request, now time.Time) (*extauthz.Proof, *extauthz.Refusal) {
	found, err := method.Prove(context.Background(), &extauthz.Call{Now: now, Request: r, Realm: "edge", Consumers: consumers})
	if err == nil {
		return found, nil
	}
	var refusal *extauthz.Refusal
	if !errors.As(err, &refusal) {
		return nil, extauthz.Refuse(extauthz.ReasonInternal, err)
	}
	return nil, refusal
}

func TestEveryAlgorithm(t *testing.T) {
	k := newKeys(t)
	consumers := k.consumers(t)
	method := build(t, &terms{}, nil)
	for algorithm := range k.sign {
		r := request(k.headers(plan{usual(), goodParameters(algorithm), algorithm, ""})...)
		require.Equal(t, extauthz.Present, method.Presence(r))
		found, refusal := prove(method, consumers, r, authtest.Now())
		require.Nil(t, refusal, "%s: %v", algorithm, refusal)
		require.Equal(t, "default/shop", found.Consumer.Name)
		require.Equal(t, []string{"read"}, found.Scopes)
		require.Equal(t, algorithm, found.Subject)
		// The same signature is good for nothing else.
		for name, change := range map[string]func(*extauthz.Request){
			"method": func(r *extauthz.Request) { r.Method = "DELETE" },
			"path":   func(r *extauthz.Request) { r.Target = "/v1/admin?page=2" },
			"query":  func(r *extauthz.Request) { r.Target = "/v1/users?page=3" },
			"host":   func(r *extauthz.Request) { r.Authority = "other.example" },
			"port":   func(r *extauthz.Request) { r.Authority = "api.example:8443" },
		} {
			changed := *r
			change(&changed)
			_, refusal := prove(method, consumers, &changed, authtest.Now())
			require.NotNil(t, refusal, name)
			require.Equal(t, extauthz.ReasonSignatureInvalid, refusal.Reason)
		}
		for other := range k.sign { // only those that are listed
			_, refusal := prove(build(t, &terms{Algorithms: []string{other}}, nil), consumers, r, authtest.Now())
			require.Equal(t, other != algorithm, refusal != nil, "%s by %s", algorithm, other)
		}
	}
}

// Each refused line is a guard: the signature itself is right.
func TestSignatures(t *testing.T) {
	k := newKeys(t)
	consumers, now := k.consumers(t), authtest.Now()
	created := func(after time.Duration) string { return ";created=" + strconv.FormatInt(now.Add(after).Unix(), 10) }
	const key, hmacAlg = `;keyid="hmac-sha256"`, "hmac-sha256"
	with := func(parameters string) []string { return k.headers(plan{usual(), parameters, hmacAlg, ""}) }
	covering := func(components ...string) []string {
		return k.headers(plan{components, goodParameters(hmacAlg), hmacAlg, ""})
	}
	good := with(goodParameters(hmacAlg))
	withBody := append(usual(), `"content-digest": sha-256=:AAAA:`)
	post := func(components []string, headers ...string) *extauthz.Request {
		components = append([]string{`"@method": POST`}, components[1:]...)
		r := request(append(covering(components...), headers...)...)
		r.Method = "POST"
		return r
	}
	invalid, coverage, expired := extauthz.ReasonSignatureInvalid, extauthz.ReasonSignatureCoverage, extauthz.ReasonSignatureExpired
	for name, test := range map[string]struct {
		terms   *terms
		request *extauthz.Request
		reason  extauthz.Reason
		says    string
	}{
		"good":                       {&terms{}, request(good...), "", ""},
		"oldest":                     {&terms{}, request(with(created(-5*time.Minute) + key)...), "", ""},
		"too old":                    {&terms{}, request(with(created(-5*time.Minute-time.Second) + key)...), expired, "ago"},
		"a little ahead":             {&terms{}, request(with(created(5*time.Second) + key)...), "", ""},
		"from the future":            {&terms{}, request(with(created(6*time.Second) + key)...), expired, "future"},
		"no time":                    {&terms{}, request(with(key)...), expired, "absent"},
		"expires later":              {&terms{}, request(with(created(0) + ";expires=" + strconv.FormatInt(now.Unix()+1, 10) + key)...), "", ""},
		"expired":                    {&terms{}, request(with(created(0) + ";expires=" + strconv.FormatInt(now.Unix(), 10) + key)...), expired, "expires"},
		"no key id":                  {&terms{}, request(with(created(0))...), invalid, "no signature is by"},
		"unknown key id":             {&terms{}, request(with(created(0) + `;keyid="x"`)...), invalid, "no signature is by"},
		"algorithm named":            {&terms{}, request(with(goodParameters(hmacAlg) + `;alg="hmac-sha256"`)...), "", ""},
		"another algorithm named":    {&terms{}, request(with(goodParameters(hmacAlg) + `;alg="ed25519"`)...), invalid, "alg"},
		"key of another":             {&terms{}, request(k.headers(plan{usual(), goodParameters("ed25519"), hmacAlg, ""})...), invalid, "wrong"},
		"parameter unknown":          {&terms{}, request(with(goodParameters(hmacAlg) + `;x="y"`)...), invalid, "parameter"},
		"parameter of a kind":        {&terms{}, request(with(goodParameters(hmacAlg) + `;nonce=abc`)...), invalid, "parameter"},
		"parameter twice":            {&terms{}, request(with(goodParameters(hmacAlg) + key)...), invalid, "twice"},
		"tag":                        {&terms{Tag: "app"}, request(with(goodParameters(hmacAlg) + `;tag="app"`)...), "", ""},
		"another tag":                {&terms{Tag: "app"}, request(with(goodParameters(hmacAlg) + `;tag="other"`)...), invalid, "tag"},
		"no tag":                     {&terms{Tag: "app"}, request(good...), invalid, "tag"},
		"nonce demanded":             {&terms{RequireNonce: true}, request(with(goodParameters(hmacAlg) + `;nonce="n"`)...), "", ""},
		"no nonce":                   {&terms{RequireNonce: true}, request(good...), coverage, "nonce"},
		"target-uri stands for all":  {&terms{}, request(covering(`"@method": GET`, `"@target-uri": https://api.example/v1/users?page=2`)...), "", ""},
		"scheme of clients":          {&terms{Scheme: "http"}, request(covering(`"@method": GET`, `"@target-uri": http://api.example/v1/users?page=2`)...), "", ""},
		"scheme of others":           {&terms{}, request(covering(`"@method": GET`, `"@target-uri": http://api.example/v1/users?page=2`)...), invalid, "wrong"},
		"method left out":            {&terms{}, request(covering(usual()[1:]...)...), coverage, "@method"},
		"authority left out":         {&terms{}, request(covering(usual()[0], usual()[2], usual()[3])...), coverage, "@authority"},
		"query left out":             {&terms{}, request(covering(usual()[:3]...)...), coverage, "@query"},
		"nothing covered":            {&terms{}, request(covering()...), coverage, "@method"},
		"header demanded":            {&terms{Components: []string{"x-a"}}, request(append(covering(`"x-a": 1, 2`), "x-a", " 1 ", "x-a", "2")...), "", ""},
		"header demanded, not there": {&terms{Components: []string{"x-a"}}, request(good...), coverage, "x-a"},
		"header covered, removed":    {&terms{Components: []string{"@method"}}, request(covering(`"@method": GET`, `"x-a": 1`)...), invalid, "no such header"},
		"header covered, added to":   {&terms{Components: []string{"@method"}}, request(append(covering(`"@method": GET`, `"x-a": 1`), "x-a", "1", "x-a", "2")...), invalid, "wrong"},
		"header empty":               {&terms{Components: []string{"x-a"}}, request(append(covering(`"x-a": `), "x-a", "")...), "", ""},
		"header with a line break":   {&terms{Components: []string{"x-a"}}, request(append(covering(`"x-a": 1`), "x-a", "1\n\"@method\": GET")...), invalid, "line break"},
		"component twice":            {&terms{}, request(covering(append(usual(), usual()[0])...)...), invalid, "twice"},
		"component unknown":          {&terms{}, request(covering(append(usual(), `"@status": 200`)...)...), invalid, "not supported"},
		"component's parameters":     {&terms{}, request(append(covering(append(usual(), `"x-a";sf: 1`)...), "x-a", "1")...), invalid, "parameters"},
		"component in capitals":      {&terms{}, request(append(covering(append(usual(), `"X-A": 1`)...), "x-a", "1")...), invalid, "lower case"},
		"component no text":          {&terms{}, request(covering(append(usual(), `x: 1`)...)...), invalid, "text"},
		"signature of signature":     {&terms{}, request(covering(append(usual(), `"signature": 1`)...)...), invalid, "cannot be covered"},
		"query parameter":            {&terms{Components: []string{"@method"}}, request(covering(`"@method": GET`, `"@query-param";name="page": 2`)...), "", ""},
		"query parameter, absent":    {&terms{Components: []string{"@method"}}, request(covering(`"@method": GET`, `"@query-param";name="x": 2`)...), invalid, "0 times"},
		"parameter for the query":    {&terms{Components: []string{"@query"}}, request(covering(`"@query-param";name="page": 2`)...), coverage, "@query"},
		"no input":                   {&terms{}, request(good[2:]...), invalid, "no signature is by"},
		"no signature":               {&terms{}, request(good[:2]...), invalid, "no signature to the input"},
		"signature is a list":        {&terms{}, request(good[0], good[1], "signature", "sig=(1)"), invalid, "byte sequence"},
		"signature has a parameter":  {&terms{}, request(good[0], good[1], good[2], good[3]+";a"), invalid, "byte sequence"},
		"input is no list":           {&terms{}, request("signature-input", "sig=1", good[2], good[3]), invalid, "list of components"},
		"input not readable":         {&terms{}, request("signature-input", "sig=(", good[2], good[3]), invalid, "structured field"},
		"a proxy's signature too":    {&terms{}, request(append([]string{"signature-input", `proxy=();keyid="of a proxy"`, "signature", "proxy=:AAAA:"}, good...)...), "", ""},
		"the same label twice":       {&terms{}, request(append(good, good[0], good[1])...), invalid, "twice"},
		"body covered":               {&terms{}, post(withBody, "content-length", "2", "content-digest", "sha-256=:AAAA:"), "", ""},
		"body not covered":           {&terms{}, post(usual(), "content-length", "2", "content-digest", "sha-256=:AAAA:"), coverage, "content-digest"},
		"body without a length":      {&terms{}, post(usual()), coverage, "content-digest"},
		"chunked body of a GET":      {&terms{}, request(append(good, "transfer-encoding", "chunked")...), coverage, "content-digest"},
		"two lengths":                {&terms{}, request(append(good, "content-length", "0", "content-length", "2")...), coverage, "content-digest"},
		"POST without a body":        {&terms{}, post(usual(), "content-length", "0"), "", ""},
		"body not to be covered":     {&terms{BodyUnsigned: true}, post(usual(), "content-length", "2"), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, refusal := prove(build(t, test.terms, nil), consumers, test.request, now)
			if test.reason == "" {
				require.Nil(t, refusal, "%v", refusal)
				return
			}
			require.NotNil(t, refusal, "accepted")
			require.Equal(t, test.reason, refusal.Reason, "%v", refusal)
			require.ErrorContains(t, refusal, test.says)
			require.Equal(t, `Signature realm="edge"`, refusal.Challenge)
			require.Equal(t, "accept-signature", refusal.ResponseHeaders[0].Name)
		})
	}
}

// Who sent no signature is told what one has to be like, where one is accepted.
func TestToldWithoutSignature(t *testing.T) {
	told := func(way *rulesv1.Authenticator) extauthz.Decision {
		compiler, err := extauthz.NewCompiler(httpsig.NewBuilder(replay.NewMemory(0)))
		require.NoError(t, err)
		route := authtest.Route("r", way)
		set, err := compiler.Routes(nil, map[string]*rulesv1.AuthRoute{"r": route})
		require.NoError(t, err)
		consumers, err := compiler.Consumers(authtest.Consumers())
		require.NoError(t, err)
		return extauthz.Decide(t.Context(), authtest.Now(), extauthz.NewRules(set, consumers), &extauthz.Request{
			Route: "r", Method: "GET", Target: "/", Authority: "api.example", Protocol: "HTTP/2", Source: "10.1.2.3",
		})
	}
	signed := told(&rulesv1.Authenticator{Name: "signed", Method: &rulesv1.Authenticator_HttpSignature{HttpSignature: &terms{Algorithms: []string{"ed25519"}, RequireNonce: true}}})
	require.Equal(t, extauthz.ReasonCredentialsMissing, signed.Reason)
	require.Len(t, signed.ResponseHeaders, 1)
	require.Equal(t, "accept-signature", signed.ResponseHeaders[0].Name)
	require.Contains(t, signed.ResponseHeaders[0].Value, ";nonce")
	require.Empty(t, told(authtest.APIKey()).ResponseHeaders, "of a route that takes none")
}

// Envoy takes the port off the host, so the one that was connected to counts.
func TestPorts(t *testing.T) {
	k := newKeys(t)
	consumers, method := k.consumers(t), build(t, &terms{}, nil)
	components := append([]string{}, usual()...)
	components[1] = `"@authority": api.example:8443`
	r := request(k.headers(plan{components, goodParameters("hmac-sha256"), "hmac-sha256", ""})...)
	for port, ok := range map[uint32]bool{0: false, 8443: true, 9443: false} {
		r.Port = port
		_, refusal := prove(method, consumers, r, authtest.Now())
		require.Equal(t, ok, refusal == nil, "%d: %v", port, refusal)
	}
}

// A body that is here is held to the digest that was signed.
func TestBodies(t *testing.T) {
	k := newKeys(t)
	consumers := k.consumers(t)
	sum := sha256.Sum256([]byte("body"))
	digest := "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
	components := append([]string{`"@method": POST`}, append(usual()[1:], `"content-digest": `+digest)...)
	r := request(append(k.headers(plan{components, goodParameters("hmac-sha256"), "hmac-sha256", ""}), "content-digest", digest, "content-length", "4")...)
	r.Method = "POST"
	for body, reason := range map[string]extauthz.Reason{"": "", "body": "", "Body": extauthz.ReasonContentDigest} {
		r.Body = []byte(body)
		_, refusal := prove(build(t, &terms{}, nil), consumers, r, authtest.Now())
		if reason == "" {
			require.Nil(t, refusal, body)
			continue
		}
		require.Equal(t, reason, refusal.Reason)
	}
}

func TestNoncesAreTakenOnce(t *testing.T) {
	k := newKeys(t)
	consumers := k.consumers(t)
	method := build(t, &terms{}, nil)
	use := func(algorithm, nonce string, now time.Time) extauthz.Reason {
		parameters := goodParameters(algorithm)
		if nonce != "" {
			parameters += `;nonce="` + nonce + `"`
		}
		_, refusal := prove(method, consumers, request(k.headers(plan{usual(), parameters, algorithm, ""})...), now)
		if refusal == nil {
			return ""
		}
		return refusal.Reason
	}
	now := authtest.Now()
	require.Empty(t, use("hmac-sha256", "a", now))
	require.Equal(t, extauthz.ReasonSignatureReplayed, use("hmac-sha256", "a", now))
	require.Equal(t, extauthz.ReasonSignatureReplayed, use("hmac-sha256", "a", now.Add(5*time.Minute)))
	require.Empty(t, use("hmac-sha256", "b", now))
	require.Empty(t, use("ed25519", "a", now), "a nonce is of its key")
	require.Empty(t, use("hmac-sha256", "", now))
	require.Empty(t, use("hmac-sha256", "", now), "without one, a signature is good while it is fresh")
	full := replay.NewMemory(1)
	method = build(t, &terms{}, full)
	failed := extauthz.Reason("")
	for i := range 200 {
		if reason := use("hmac-sha256", strconv.Itoa(i), now); reason != "" {
			failed = reason
		}
	}
	require.Equal(t, extauthz.ReasonReplayUnknown, failed)
}

func TestKeysThatExpire(t *testing.T) {
	k := newKeys(t)
	k.sources[0].ExpireTime = timestamppb.New(authtest.Now())
	r := request(k.headers(plan{usual(), goodParameters("hmac-sha256"), "hmac-sha256", ""})...)
	_, refusal := prove(build(t, &terms{}, nil), k.consumers(t), r, authtest.Now())
	require.ErrorContains(t, refusal, "expired")
	_, refusal = prove(build(t, &terms{}, nil), k.consumers(t), r, authtest.Now().Add(-time.Nanosecond))
	require.Nil(t, refusal)
}

func TestTermsThatCannotWork(t *testing.T) {
	for says, source := range map[string]*terms{
		"algorithms: at least one":    {},
		`algorithms[0]: "none"`:       {Algorithms: []string{"none"}},
		`components[0]: "@status"`:    {Algorithms: []string{"ed25519"}, Components: []string{"@status"}},
		`components[0]: "X-A"`:        {Algorithms: []string{"ed25519"}, Components: []string{"X-A"}},
		`components[0]: "signature"`:  {Algorithms: []string{"ed25519"}, Components: []string{"signature"}},
		"max_age: 2h0m0s":             {Algorithms: []string{"ed25519"}, MaxAge: durationpb.New(2 * time.Hour)},
		`scheme: "ftp"`:               {Algorithms: []string{"ed25519"}, Scheme: "ftp"},
		"components: 33 are too many": {Algorithms: []string{"ed25519"}, Components: make([]string, 33)},
	} {
		_, err := httpsig.NewBuilder(replay.NewMemory(0)).Build(&rulesv1.Authenticator{
			Method: &rulesv1.Authenticator_HttpSignature{HttpSignature: source},
		}, extauthz.Place{})
		require.ErrorContains(t, err, "http_signature."+says)
	}
}

func TestSignersThatCannotWork(t *testing.T) {
	k := newKeys(t)
	c, err := extauthz.NewCompiler()
	require.NoError(t, err)
	for says, change := range map[string]func(*rulesv1.Consumer){
		"secret: has 5 bytes": func(c *rulesv1.Consumer) {
			c.SignatureKeys[0].Key = &rulesv1.SignatureKey_Secret{Secret: []byte("short")}
		},
		"public_key: cannot be read":        func(c *rulesv1.Consumer) { c.SignatureKeys[1].Key = nil },
		`algorithm: "ecdsa-p384-sha384" `:   func(c *rulesv1.Consumer) { c.SignatureKeys[1].Algorithm = "ecdsa-p384-sha384" },
		"id: has 0 bytes":                   func(c *rulesv1.Consumer) { c.SignatureKeys[0].Id = "" },
		"id: already belongs":               func(c *rulesv1.Consumer) { c.SignatureKeys[0].Id = c.SignatureKeys[1].Id },
		"scopes: holds":                     func(c *rulesv1.Consumer) { c.SignatureKeys[0].Scopes = []string{"a b"} },
		"signature_keys[1].name: ":          func(c *rulesv1.Consumer) { c.SignatureKeys[1].Name = c.SignatureKeys[0].Name },
		"signature_keys[0].expire_time: ":   func(c *rulesv1.Consumer) { c.SignatureKeys[0].ExpireTime = &timestamppb.Timestamp{Nanos: -1} },
		`algorithm: "none" is not known, o`: func(c *rulesv1.Consumer) { c.SignatureKeys[1].Algorithm = "none" },
	} {
		consumer, ok := proto.Clone(&rulesv1.Consumer{Name: "a", SignatureKeys: k.sources[:2]}).(*rulesv1.Consumer)
		require.True(t, ok)
		change(consumer)
		_, err := c.Consumers(map[string]*rulesv1.Consumer{"a": consumer})
		require.ErrorContains(t, err, says)
	}
}

// FuzzSignatureHeaders holds that nothing but the one good pair of headers gets
// in, and nothing breaks.
func FuzzSignatureHeaders(f *testing.F) {
	k := newKeys(f)
	consumers := k.consumers(f)
	good := k.headers(plan{usual(), goodParameters("hmac-sha256"), "hmac-sha256", ""})
	f.Add(good[1], good[3])
	f.Add(`sig=();created=1;keyid="hmac-sha256"`, "sig=:AAAA:")
	f.Add(`sig=("@query-param";name="page" "x";key="a");created=1772366400;keyid="hmac-sha256";nonce="a"`, "sig=:AAAA:, b=?1")
	method := build(f, &terms{}, nil)
	mac := strings.TrimSuffix(strings.TrimPrefix(good[3], "sig=:"), ":")
	f.Fuzz(func(t *testing.T, input, signature string) {
		found, refusal := prove(method, consumers, request("signature-input", input, "signature", signature), authtest.Now())
		if refusal == nil {
			require.Contains(t, signature, mac)
			require.NotNil(t, found)
			return
		}
		require.NotEqual(t, extauthz.ReasonInternal, refusal.Reason)
	})
}

func BenchmarkHMAC(b *testing.B) {
	k := newKeys(b)
	consumers := k.consumers(b)
	for _, algorithm := range []string{"hmac-sha256", "ed25519"} {
		r := request(k.headers(plan{usual(), goodParameters(algorithm), algorithm, ""})...)
		method := build(b, &terms{}, nil)
		b.Run(algorithm, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, refusal := prove(method, consumers, r, authtest.Now()); refusal != nil {
					b.Fatal(fmt.Sprint(refusal))
				}
			}
		})
	}
}
