package clientauth

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

// How a client proves itself.
type How int

// Ways to prove; the zero value is none of them.
const (
	// None is a public client, which says its name alone.
	None How = iota + 1
	// Basic is client_secret_basic (RFC 6749 section 2.3.1).
	Basic
	// Post is client_secret_post.
	Post
	// PrivateKeyJWT is private_key_jwt (RFC 7523 section 2.2): the secret is a
	// private key in PEM.
	PrivateKeyJWT
)

// Client is what an endpoint knows us by. Safe for concurrent use.
type Client struct {
	how        How
	id, secret string

	method jwt.SigningMethod
	key    crypto.Signer
	clock  func() time.Time
}

// assertionLife bounds the use of one client assertion.
const assertionLife = time.Minute

// New makes a Client; errors begin with the field at fault, client_id or
// client_secret, and hold nothing of the secret.
func New(how How, id, secret string, clock func() time.Time) (*Client, error) {
	made := &Client{how: how, id: id, secret: secret, clock: clock}
	switch {
	case id == "":
		return nil, errors.New("client_id: is required")
	case secret == "" && how != None:
		return nil, errors.New("client_secret: is required")
	case how == PrivateKeyJWT:
		var err error
		if made.key, made.method, err = privateKey(secret); err != nil {
			return nil, fmt.Errorf("client_secret: %w", err)
		}
	case how < None || how > PrivateKeyJWT:
		return nil, fmt.Errorf("client_authentication: %d is not known", how)
	}
	return made, nil
}

// Of makes a Client with a secret, as rules say it.
func Of(how rulesv1.ClientAuthentication, id, secret string, clock func() time.Time) (*Client, error) {
	switch how {
	case rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_UNSPECIFIED, rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_BASIC:
		return New(Basic, id, secret, clock)
	case rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_POST:
		return New(Post, id, secret, clock)
	case rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_PRIVATE_KEY_JWT:
		return New(PrivateKeyJWT, id, secret, clock)
	}
	return nil, fmt.Errorf("client_authentication: %s is not known", how)
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

// Sign adds the client's proof to a request's form or header; audience is who is
// meant by an assertion: the endpoint, or the issuer.
func (c *Client) Sign(form url.Values, header http.Header, audience string) error {
	switch c.how {
	case Basic:
		// Both are form-encoded first (RFC 6749 section 2.3.1).
		pair := url.QueryEscape(c.id) + ":" + url.QueryEscape(c.secret)
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(pair)))
		return nil
	case Post:
		form.Set("client_secret", c.secret)
	case PrivateKeyJWT:
		assertion, err := c.assertion(audience)
		if err != nil {
			return errors.New("the client assertion cannot be signed")
		}
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", assertion)
	}
	form.Set("client_id", c.id)
	return nil
}

// assertion is a JWT of the client about itself (RFC 7523 section 3).
func (c *Client) assertion(audience string) (string, error) {
	now := c.clock()
	token := jwt.NewWithClaims(c.method, jwt.MapClaims{
		"iss": c.id, "sub": c.id, "aud": audience, "jti": rand.Text(),
		"iat": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	})
	return token.SignedString(c.key)
}
