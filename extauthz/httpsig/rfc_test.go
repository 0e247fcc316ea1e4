package httpsig

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz"
)

// Keys of RFC 9421 appendix B.1.
const (
	rsaPSSKey = `-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAr4tmm3r20Wd/PbqvP1s2
+QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct+Lh1GH45x28Rw3Ry53mm+
oAXjyQ86OnDkZ5N8lYbggD4O3w6M6pAvLkhk95AndTrifbIFPNU8PPMO7OyrFAHq
gDsznjPFmTOtCEcN2Z1FpWgchwuYLPL+Wokqltd11nqqzi+bJ9cvSKADYdUAAN5W
Utzdpiy6LbTgSxP7ociU4Tn0g5I6aDZJ7A8Lzo0KSyZYoA485mqcO0GVAdVw9lq4
aOT9v6d+nb4bnNkQVklLQ3fVAvJm+xdDOp9LCNCN48V2pnDOkFV6+U9nV5oyc6XI
2wIDAQAB
-----END PUBLIC KEY-----`
	ecKey = `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqIVYZVLCrPZHGHjP17CTW0/+D9Lf
w0EkjqF7xB4FivAxzic30tMM4GF+hR6Dxh71Z50VGGdldkkDXZCnTNnoXQ==
-----END PUBLIC KEY-----`
	edKey = `-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
-----END PUBLIC KEY-----`
	sharedSecret = "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="
)

// What appendix B.2 and B.3 sign.
const (
	rfcBody    = `{"hello": "world"}`
	rfcDigest  = "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:"
	clientCert = ":MIIBqDCCAU6gAwIBAgIBBzAKBggqhkjOPQQDAjA6MRswGQYDVQQKDBJMZXQncyBBdXRoZW50aWNhdGUxGzAZBgNVBAMMEkxBIEludGVybWVkaWF0ZSBDQTAeFw0yMDAxMTQyMjU1MzNaFw0yMTAxMjMyMjU1MzNaMA0xCzAJBgNVBAMMAkJDMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8YnXXfaUgmnMtOXU/IncWalRhebrXmckC8vdgJ1p5Be5F/3YC8OthxM4+k1M6aEAEFcGzkJiNy6J84y7uzo9M6NyMHAwCQYDVR0TBAIwADAfBgNVHSMEGDAWgBRm3WjLa38lbEYCuiCPct0ZaSED2DAOBgNVHQ8BAf8EBAMCBsAwEwYDVR0lBAwwCgYIKwYBBQUHAwIwHQYDVR0RAQH/BBMwEYEPYmRjQGV4YW1wbGUuY29tMAoGCCqGSM49BAMCA0gAMEUCIBHda/r1vaL6G3VliL4/Di6YK0Q6bMjeSkC3dFCOOB8TAiEAx/kHSB4urmiZ0NX5r5XarmPk0wmuydBVoU4hBVZ1yhk=:"
)

type vector struct {
	algorithm, key, input, signature string
	authority                        string
}

// vectors are those of requests that use what is supported: all of them.
func vectors() map[string]vector {
	return map[string]vector{
		"B.2.1 minimal": {
			extauthz.SignatureRSAPSS, rsaPSSKey, `();created=1618884473;keyid="test-key-rsa-pss";nonce="b3k2pp5k7z-50gnwp.yemd"`,
			"d2pmTvmbncD3xQm8E9ZV2828BjQWGgiwAaw5bAkgibUopemLJcWDy/lkbbHAve4cRAtx31Iq786U7it++wgGxbtRxf8Udx7zFZsckzXaJMkA7ChG52eSkFxykJeNqsrWH5S+oxNFlD4dzVuwe8DhTSja8xxbR/Z2cOGdCbzR72rgFWhzx2VjBqJzsPLMIQKhO4DGezXehhWwE56YCE+O6c0mKZsfxVrogUvA4HELjVKWmAvtl6UnCh8jYzuVG5WSb/QEVPnP5TmcAnLH1g+s++v6d4s8m0gCw1fV5/SITLq9mhho8K3+7EPYTU8IU1bLhdxO5Nyt8C8ssinQ98Xw9Q==", "",
		},
		"B.2.2 selective": {
			extauthz.SignatureRSAPSS, rsaPSSKey, `("@authority" "content-digest" "@query-param";name="Pet");created=1618884473;keyid="test-key-rsa-pss";tag="header-example"`,
			"LjbtqUbfmvjj5C5kr1Ugj4PmLYvx9wVjZvD9GsTT4F7GrcQEdJzgI9qHxICagShLRiLMlAJjtq6N4CDfKtjvuJyE5qH7KT8UCMkSowOB4+ECxCmT8rtAmj/0PIXxi0A0nxKyB09RNrCQibbUjsLS/2YyFYXEu4TRJQzRw1rLEuEfY17SARYhpTlaqwZVtR8NV7+4UKkjqpcAoFqWFQh62s7Cl+H2fjBSpqfZUJcsIk4N6wiKYd4je2U/lankenQ99PZfB4jY3I5rSV2DSBVkSFsURIjYErOs0tFTQosMTAoxk//0RoKUqiYY8Bh0aaUEb0rQl3/XaVe4bXTugEjHSw==", "",
		},
		"B.2.3 full": {
			extauthz.SignatureRSAPSS, rsaPSSKey, `("date" "@method" "@path" "@query" "@authority" "content-type" "content-digest" "content-length");created=1618884473;keyid="test-key-rsa-pss"`,
			"bbN8oArOxYoyylQQUU6QYwrTuaxLwjAC9fbY2F6SVWvh0yBiMIRGOnMYwZ/5MR6fb0Kh1rIRASVxFkeGt683+qRpRRU5p2voTp768ZrCUb38K0fUxN0O0iC59DzYx8DFll5GmydPxSmme9v6ULbMFkl+V5B1TP/yPViV7KsLNmvKiLJH1pFkh/aYA2HXXZzNBXmIkoQoLd7YfW91kE9o/CCoC1xMy7JA1ipwvKvfrs65ldmlu9bpG6A9BmzhuzF8Eim5f8ui9eH8LZH896+QIF61ka39VBrohr9iyMUJpvRX2Zbhl5ZJzSRxpJyoEZAFL2FUo5fTIztsDZKEgM4cUA==", "",
		},
		"B.2.5 HMAC": {
			extauthz.SignatureHMACSHA256, "", `("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"`,
			"pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=", "",
		},
		"B.2.6 Ed25519": {
			extauthz.SignatureEd25519, edKey, `("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"`,
			"wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==", "",
		},
		"B.3 a proxy's": {
			extauthz.SignatureECDSAP256, ecKey, `("@path" "@query" "@method" "@authority" "client-cert");created=1618884473;keyid="test-key-ecc-p256"`,
			"xVMHVpawaAC/0SbHrKRs9i8I3eOs5RtTMGCWXm/9nvZzoHsIg6Mce9315T6xoklyy0yzhD9ah4JHRwMLOgmizw==", "service.internal.example",
		},
	}
}

func (v vector) signer(t *testing.T) *extauthz.Signer {
	t.Helper()
	signer := &extauthz.Signer{Algorithm: v.algorithm}
	var err error
	if v.key == "" {
		signer.Secret, err = base64.StdEncoding.DecodeString(sharedSecret)
	} else {
		block, _ := pem.Decode([]byte(v.key))
		signer.Public, err = x509.ParsePKIXPublicKey(block.Bytes)
	}
	require.NoError(t, err)
	return signer
}

func (v vector) request() *extauthz.Request {
	authority := "example.com"
	if v.authority != "" {
		authority = v.authority
	}
	return &extauthz.Request{
		Method: "POST", Target: "/foo?param=Value&Pet=dog", Authority: authority,
		Headers: []extauthz.Header{
			{Name: "date", Value: "Tue, 20 Apr 2021 02:07:55 GMT"},
			{Name: "content-type", Value: "application/json"},
			{Name: "content-digest", Value: rfcDigest},
			{Name: "content-length", Value: "18"},
			{Name: "client-cert", Value: clientCert},
		},
	}
}

func TestVectorsOfTheRFC(t *testing.T) {
	for name, v := range vectors() {
		t.Run(name, func(t *testing.T) {
			inputs, err := parseDictionary("sig=" + v.input)
			require.NoError(t, err)
			signature, err := base64.StdEncoding.DecodeString(v.signature)
			require.NoError(t, err)
			base, err := newMessage(v.request(), "https", v.request().Authority).signatureBase(&inputs[0])
			require.NoError(t, err)
			require.NoError(t, verify(v.signer(t), base, signature))
			// Negative controls: another message, another signature, another key.
			require.Error(t, verify(v.signer(t), base+" ", signature))
			signature[10] ^= 1
			require.Error(t, verify(v.signer(t), base, signature))
			signature[10] ^= 1
			other := v.signer(t)
			other.Algorithm = extauthz.SignatureRSAPKCS1
			require.Error(t, verify(other, base, signature))
			require.Error(t, verify(v.signer(t), base, append(signature, 0)))
			require.Error(t, verify(v.signer(t), base, nil))
		})
	}
	require.NoError(t, checkDigest(rfcDigest, []byte(rfcBody)))
	require.Error(t, checkDigest(rfcDigest, []byte(rfcBody+" ")))
}

func TestDigests(t *testing.T) {
	const sha256 = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"
	for header, ok := range map[string]bool{
		sha256: true, sha256 + ", " + rfcDigest: true, sha256 + ", md5=:AAAA:": true,
		"": false, "md5=:AAAA:": false, "sha-256=:AAAA:": false, "sha-256": false, "sha-256=abc": false,
		sha256 + ", sha-512=:AAAA:": false, sha256 + ", " + sha256: false, `sha-256="X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE="`: false,
	} {
		require.Equal(t, ok, checkDigest(header, []byte(rfcBody)) == nil, header)
	}
}
