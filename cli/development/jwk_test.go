package development_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"testing"

	"github.com/stretchr/testify/require"
)

func publicKey(t *testing.T, jwk map[string]string) *ecdsa.PublicKey {
	t.Helper()
	require.Equal(t, "EC", jwk["kty"])
	require.Equal(t, "P-256", jwk["crv"])
	point := []byte{4}
	for _, name := range []string{"x", "y"} {
		half, err := base64.RawURLEncoding.DecodeString(jwk[name])
		require.NoError(t, err)
		require.Len(t, half, 32, "RFC 7518 wants full-length coordinates")
		point = append(point, half...)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	require.NoError(t, err)
	return key
}
