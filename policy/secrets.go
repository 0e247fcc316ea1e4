package policy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"weir.dev/policy/v1alpha1"
)

// maxSecretBytes bounds one value of a Secret, as Kubernetes bounds the whole.
const maxSecretBytes = 1 << 20

// secret checks a Secret. Messages never quote its data.
func (c *checker) secret(secret *corev1.Secret) {
	for key, value := range secret.StringData { // as the Kubernetes API does it
		if secret.Data == nil {
			secret.Data = map[string][]byte{}
		}
		secret.Data[key] = []byte(value)
	}
	secret.StringData = nil
	for _, key := range slices.Sorted(maps.Keys(secret.Data)) {
		if value := secret.Data[key]; len(value) > maxSecretBytes {
			c.fail(CodeTooMany, keyField(key), "has %d bytes; the most is %d", len(value), maxSecretBytes)
		}
	}
	if secret.Type != corev1.SecretTypeTLS {
		return
	}
	for _, key := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
		if len(secret.Data[key]) == 0 {
			c.required(keyField(key))
			return
		}
	}
	if err := checkKeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]); err != nil {
		c.fail(CodeCertificate, "data", "%v", err)
	}
}

func keyField(key string) string { return fmt.Sprintf("data[%q]", key) }

// checkKeyPair reports what keeps a certificate from serving, in words that hold
// nothing of the key.
func checkKeyPair(certificate, key []byte) error {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return errors.New("tls.crt and tls.key are no certificate with its key in PEM: " + keyPairFault(certificate, key))
	}
	for rest := certificate; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("tls.crt holds a block of type %q; certificates only belong there", block.Type)
		}
	}
	for i, raw := range pair.Certificate {
		parsed, err := x509.ParseCertificate(raw)
		if err != nil {
			return errors.New("tls.crt holds a certificate that cannot be read")
		}
		if i == 0 {
			if err := checkKeyKind(parsed); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkKeyKind refuses the keys that Envoy does.
func checkKeyKind(certificate *x509.Certificate) error {
	switch key := certificate.PublicKey.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < 2048 {
			return fmt.Errorf("the RSA key has %d bits; Envoy takes 2048 and more", key.N.BitLen())
		}
		return nil
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return errors.New("the ECDSA key is not of the curves P-256, P-384 and P-521, which Envoy takes")
	default:
		return fmt.Errorf("the key is of algorithm %s; Envoy takes RSA and ECDSA", certificate.PublicKeyAlgorithm)
	}
}

func keyPairFault(certificate, key []byte) string {
	block, _ := pem.Decode(certificate)
	switch {
	case block == nil:
		return "tls.crt holds no PEM block"
	case block.Type != "CERTIFICATE":
		return "tls.crt does not begin with a certificate"
	}
	if block, _ = pem.Decode(key); block == nil {
		return "tls.key holds no PEM block"
	}
	return "the key is not readable, or not that of the first certificate"
}

// checkAuthorities reports what is wrong with a bundle of authorities.
func checkAuthorities(bundle []byte) error {
	count := 0
	for rest := bundle; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("holds a block of type %q; certificates only belong there", block.Type)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return errors.New("holds a certificate that cannot be read")
		}
		if !certificate.IsCA {
			return fmt.Errorf("holds a certificate that is no authority's: %s", certificate.Subject)
		}
		count++
	}
	if count == 0 {
		return errors.New("holds no certificate in PEM")
	}
	return nil
}

// checkRevocationLists reports what is wrong with revocation lists.
func checkRevocationLists(lists []byte) error {
	count := 0
	for rest := lists; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if _, err := x509.ParseRevocationList(block.Bytes); block.Type != "X509 CRL" || err != nil {
			return errors.New("holds a block that is no revocation list")
		}
		count++
	}
	if count == 0 {
		return errors.New("holds no revocation list in PEM")
	}
	return nil
}

// bundle joins what several references hold, each checked.
func (r *resolver) bundle(namespace string, refs []v1alpha1.PEMRef, key string, check func([]byte) error) ([]byte, int, error) {
	var joined [][]byte
	for i, ref := range refs {
		value, err := r.pemValue(namespace, ref, key)
		if err == nil {
			err = check(value)
			if err != nil {
				err = fmt.Errorf("%s %s/%s, key %q, %w", pemKind(ref), namespace, ref.Name, pemKey(ref, key), err)
			}
		}
		if err != nil {
			return nil, i, err
		}
		joined = append(joined, bytes.TrimSpace(value))
	}
	if len(joined) == 0 {
		return nil, 0, nil
	}
	return append(bytes.Join(joined, []byte("\n")), '\n'), 0, nil
}

func pemKind(ref v1alpha1.PEMRef) string {
	if ref.Kind == "" {
		return "ConfigMap"
	}
	return ref.Kind
}

func pemKey(ref v1alpha1.PEMRef, otherwise string) string {
	if ref.Key == "" {
		return otherwise
	}
	return ref.Key
}

func (r *resolver) pemValue(namespace string, ref v1alpha1.PEMRef, key string) ([]byte, error) {
	key = pemKey(ref, key)
	if pemKind(ref) == "ConfigMap" {
		return r.configMapValue(namespace, v1alpha1.ConfigMapKeyRef{Name: ref.Name, Key: key})
	}
	object, ok := r.byRef[ObjectRef{Kind: "Secret", Namespace: namespace, Name: ref.Name}]
	if !ok {
		return nil, fmt.Errorf("there is no Secret %s/%s", namespace, ref.Name)
	}
	if secret, ok := object.Value.(*corev1.Secret); ok && len(secret.Data[key]) > 0 {
		return secret.Data[key], nil
	}
	return nil, fmt.Errorf("Secret %s/%s has no key %q", namespace, ref.Name, key) //nolint:staticcheck // a kind's name
}
