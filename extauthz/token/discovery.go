package token

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"

	"weir.dev/extauthz/jose"
)

// wellKnown is where an issuer publishes its document (OpenID Connect Discovery
// 1.0 section 4).
const wellKnown = "/.well-known/openid-configuration"

// maxDiscoveryBytes bounds a discovery document.
const maxDiscoveryBytes = 256 << 10

// readDiscovery reads what a discovery document says about keys. Its issuer has
// to be the one expected, letter by letter (section 4.3): a document that speaks
// for another one would have its keys verify foreign tokens. algorithms is nil
// when the document names none.
func readDiscovery(raw []byte, issuer string) (uri string, algorithms []string, err error) {
	document, err := jose.ParseObject(raw)
	if err != nil {
		return "", nil, err
	}
	if said, _ := document["issuer"].(string); said != issuer {
		return "", nil, errors.New(`"issuer" is not the policy's issuer, letter by letter`)
	}
	uri, _ = document["jwks_uri"].(string)
	if err := checkKeysURI(uri); err != nil {
		return "", nil, fmt.Errorf(`"jwks_uri": %q %w`, uri, err)
	}
	listed, set := document["id_token_signing_alg_values_supported"]
	if !set {
		return uri, nil, nil
	}
	list, ok := listed.([]any)
	if !ok {
		return "", nil, errors.New(`"id_token_signing_alg_values_supported" is not a list`)
	}
	algorithms = []string{}
	for _, element := range list {
		if algorithm, ok := element.(string); ok && jose.Asymmetric(algorithm) {
			algorithms = append(algorithms, algorithm)
		}
	}
	if len(algorithms) == 0 {
		return "", nil, errors.New(`"id_token_signing_alg_values_supported" lists no asymmetric algorithm`)
	}
	return uri, algorithms, nil
}

// checkKeysURI accepts https, and http on this machine: keys fetched in the clear
// can be replaced on the way.
func checkKeysURI(text string) error {
	if err := checkURI(text); err != nil {
		return err
	}
	uri, err := url.Parse(text)
	if err != nil {
		return err
	}
	if uri.Scheme != "https" && !loopback(uri.Hostname()) {
		return errors.New("is not https")
	}
	return nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}
