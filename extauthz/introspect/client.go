package introspect

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/golang-jwt/jwt/v5"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

// client proves extauthz to the endpoint (RFC 7662 section 2.1).
type client struct {
	how        rulesv1.IntrospectionAuthenticator_ClientAuthentication
	id, secret string

	audience string
	method   jwt.SigningMethod
	key      crypto.Signer
	clock    func() time.Time
}

// assertionLife bounds the use of one client assertion.
const assertionLife = time.Minute

func newClient(settings *rulesv1.IntrospectionAuthenticator, clock func() time.Time) (client, error) {
	made := client{
		how: settings.GetClientAuthentication(), id: settings.GetClientId(), secret: settings.GetClientSecret(), clock: clock,
	}
	if made.id == "" {
		return made, errors.New("client_id: is required")
	}
	if made.secret == "" {
		return made, errors.New("client_secret: is required")
	}
	switch made.how {
	case rulesv1.IntrospectionAuthenticator_CLIENT_AUTHENTICATION_UNSPECIFIED:
		made.how = rulesv1.IntrospectionAuthenticator_CLIENT_AUTHENTICATION_BASIC
	case rulesv1.IntrospectionAuthenticator_CLIENT_AUTHENTICATION_BASIC, rulesv1.IntrospectionAuthenticator_CLIENT_AUTHENTICATION_POST:
	case rulesv1.IntrospectionAuthenticator_CLIENT_AUTHENTICATION_PRIVATE_KEY_JWT:
		made.audience = settings.GetAssertionAudience()
		if made.audience == "" {
			made.audience = settings.GetUri()
		}
		var err error
		if made.key, made.method, err = privateKey(made.secret); err != nil {
			return made, fmt.Errorf("client_secret: %w", err)
		}
	default:
		return made, fmt.Errorf("client_authentication: %s is not known", made.how)
	}
	return made, nil
}

// privateKey reads a key in PEM (PKCS #8, or the older forms of RSA and EC) and
// says what it signs with. Errors hold nothing of it.
func privateKey(text string) (crypto.Signer, jwt.SigningMethod, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, nil, errors.New("is no private key in PEM, which private_key_jwt needs")
	}
	var parsed any
	if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		parsed = key
	} else if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		parsed = key
	} else if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		parsed = key
	}
	switch key := parsed.(type) {
	case *rsa.PrivateKey:
		if key.N.BitLen() < 2048 {
			return nil, nil, errors.New("is an RSA key of less than 2048 bits")
		}
		return key, jwt.SigningMethodRS256, nil
	case *ecdsa.PrivateKey:
		switch key.Curve {
		case elliptic.P256():
			return key, jwt.SigningMethodES256, nil
		case elliptic.P384():
			return key, jwt.SigningMethodES384, nil
		}
	case ed25519.PrivateKey:
		return key, jwt.SigningMethodEdDSA, nil
	}
	return nil, nil, errors.New("is no RSA, ECDSA (P-256, P-384) or Ed25519 private key")
}

// sign adds the client's proof to a request's form or header.
func (c *client) sign(form url.Values, header http.Header) error {
	switch c.how {
	case rulesv1.IntrospectionAuthenticator_CLIENT_AUTHENTICATION_POST:
		form.Set("client_id", c.id)
		form.Set("client_secret", c.secret)
	case rulesv1.IntrospectionAuthenticator_CLIENT_AUTHENTICATION_PRIVATE_KEY_JWT:
		assertion, err := c.assertion()
		if err != nil {
			return err
		}
		form.Set("client_id", c.id)
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", assertion)
	default:
		// Both are form-encoded first (RFC 6749 section 2.3.1).
		pair := url.QueryEscape(c.id) + ":" + url.QueryEscape(c.secret)
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(pair)))
	}
	return nil
}

// assertion is a JWT of the client about itself (RFC 7523 section 3).
func (c *client) assertion() (string, error) {
	now := c.clock()
	token := jwt.NewWithClaims(c.method, jwt.MapClaims{
		"iss": c.id, "sub": c.id, "aud": c.audience, "jti": rand.Text(),
		"iat": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	})
	return token.SignedString(c.key)
}
