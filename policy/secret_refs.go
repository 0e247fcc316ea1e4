package policy

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"weir.dev/policy/v1alpha1"
)

func (c *checker) secretKeyRef(field string, ref *v1alpha1.SecretKeyRef) {
	if ref == nil {
		return
	}
	c.text(field+".name", ref.Name, true, 253)
	c.text(field+".key", ref.Key, true, 253)
}

// secretValue reads a key of a Secret. Errors hold nothing of its data.
func (r *resolver) secretValue(namespace string, ref v1alpha1.SecretKeyRef) ([]byte, error) {
	object, ok := r.byRef[ObjectRef{Kind: "Secret", Namespace: namespace, Name: ref.Name}]
	if !ok {
		return nil, fmt.Errorf("there is no Secret %s/%s", namespace, ref.Name)
	}
	if secret, ok := object.Value.(*corev1.Secret); ok && len(secret.Data[ref.Key]) > 0 {
		return secret.Data[ref.Key], nil
	}
	return nil, fmt.Errorf("Secret %s/%s has no key %q", namespace, ref.Name, ref.Key) //nolint:staticcheck // a kind's name
}

// checkSigner accepts the private keys that extauthz signs with.
func checkSigner(key any) error {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		if key.N.BitLen() < 2048 {
			return fmt.Errorf("holds an RSA key of %d bits; at least 2048 are accepted", key.N.BitLen())
		}
		return nil
	case *ecdsa.PrivateKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return nil
		}
	case ed25519.PrivateKey:
		return nil
	}
	return errors.New("holds a private key that is not RSA, ECDSA (P-256, P-384) or Ed25519")
}
