package development

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"weir.dev/cli/state"
)

// What tokens of the development issuer say.
const (
	Issuer        = "https://issuer.weir.local"
	Audience      = "weir"
	Subject       = "quickstart-user"
	Tenant        = "demo"
	TokenLifetime = time.Hour
	// TokenType is RFC 9068's media type of access tokens.
	TokenType = "at+jwt"
)

// Scopes are what the development key and tokens are granted.
func Scopes() []string { return []string{"user:read", "user:write", "data:read", "data:write"} }

const (
	apiKeyFile     = "api-key"
	signingKeyFile = "token-signing-key.pem"
	apiKeyPrefix   = "weir_"
	apiKeyBytes    = 32
)

var apiKeyPattern = regexp.MustCompile(`^weir_[A-Za-z0-9_-]{43}$`)

// Credentials are the secrets of a development Weir. Safe for concurrent use.
type Credentials struct {
	apiKey string
	key    *ecdsa.PrivateKey
	keyID  string
}

// NewCredentials makes fresh ones, in memory alone.
func NewCredentials() (*Credentials, error) {
	random := make([]byte, apiKeyBytes)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return newCredentials(apiKeyPrefix+base64.RawURLEncoding.EncodeToString(random), key)
}

func newCredentials(apiKey string, key *ecdsa.PrivateKey) (*Credentials, error) {
	c := &Credentials{apiKey: apiKey, key: key}
	public, err := c.publicKey()
	if err != nil {
		return nil, err
	}
	c.keyID = public.KeyID
	return c, nil
}

// OpenCredentials reads those kept in dir; an error that is os.ErrNotExist says
// that there are none yet.
func OpenCredentials(dir string) (*Credentials, error) {
	rawKey, err := state.ReadFile(filepath.Join(dir, apiKeyFile))
	if err != nil {
		return nil, err
	}
	apiKey := strings.TrimSpace(string(rawKey))
	if !apiKeyPattern.MatchString(apiKey) {
		return nil, damaged(dir, apiKeyFile)
	}
	raw, err := state.ReadFile(filepath.Join(dir, signingKeyFile))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, damaged(dir, signingKeyFile)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, damaged(dir, signingKeyFile)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, damaged(dir, signingKeyFile)
	}
	return newCredentials(apiKey, key)
}

func damaged(dir, name string) error {
	return fmt.Errorf("%s is damaged: remove the folder %s and start again for new credentials", filepath.Join(dir, name), dir)
}

// EnsureCredentials reads those kept in dir, or makes and keeps new ones when
// there are none at all.
func EnsureCredentials(dir string) (*Credentials, error) {
	c, err := OpenCredentials(dir)
	if !errors.Is(err, os.ErrNotExist) {
		return c, err
	}
	if c, err = NewCredentials(); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := state.WriteFile(filepath.Join(dir, signingKeyFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return nil, err
	}
	return c, state.WriteFile(filepath.Join(dir, apiKeyFile), []byte(c.apiKey+"\n"))
}

// APIKey is the key in plain text: a secret.
func (c *Credentials) APIKey() string { return c.apiKey }

// APIKeySHA256 is the key's hash in lower-case hex, which is what policies hold.
func (c *Credentials) APIKeySHA256() string {
	sum := sha256.Sum256([]byte(c.apiKey))
	return hex.EncodeToString(sum[:])
}

// Token mints a token (RFC 9068) that is good for an hour from now: a secret.
func (c *Credentials) Token(now time.Time) (string, error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return "", err
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": Issuer, "sub": Subject, "aud": Audience,
		"iat": now.Unix(), "exp": now.Add(TokenLifetime).Unix(),
		"jti": hex.EncodeToString(id), "client_id": ConsumerName,
		"tenant": Tenant, "scope": strings.Join(Scopes(), " "),
	})
	token.Header["typ"] = TokenType
	token.Header["kid"] = c.keyID
	return token.SignedString(c.key)
}

// publicJWK is a public key as of RFC 7517 and 7518.
type publicJWK struct {
	KeyType   string `json:"kty"`
	Curve     string `json:"crv"`
	X         string `json:"x"`
	Y         string `json:"y"`
	Algorithm string `json:"alg"`
	Use       string `json:"use"`
	KeyID     string `json:"kid"`
}

// JWKS is the public key set that verifies the tokens.
func (c *Credentials) JWKS() ([]byte, error) {
	key, err := c.publicKey()
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string][]publicJWK{"keys": {key}})
}

func (c *Credentials) publicKey() (publicJWK, error) {
	point, err := c.key.PublicKey.Bytes() // 4, X, Y: SEC 1, uncompressed.
	if err != nil {
		return publicJWK{}, err
	}
	half := (len(point) - 1) / 2
	key := publicJWK{
		KeyType: "EC", Curve: "P-256", Algorithm: jwt.SigningMethodES256.Alg(), Use: "sig",
		X: base64.RawURLEncoding.EncodeToString(point[1 : 1+half]),
		Y: base64.RawURLEncoding.EncodeToString(point[1+half:]),
	}
	// RFC 7638: the required members in lexical order.
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":%q,"kty":%q,"x":%q,"y":%q}`, key.Curve, key.KeyType, key.X, key.Y))
	key.KeyID = base64.RawURLEncoding.EncodeToString(sum[:])
	return key, nil
}
