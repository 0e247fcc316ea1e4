package extauthz_test

import (
	"crypto/sha256"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/apikey"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/kit/keyformat"
)

// issuedKeys is a fake of extauthz.IssuedKeys.
type issuedKeys struct {
	keys  map[apikey.Digest]*extauthz.IssuedKey
	known bool
}

func (i *issuedKeys) Find(digest apikey.Digest, _ time.Time) (*extauthz.IssuedKey, bool) {
	return i.keys[digest], i.known
}

func (i *issuedKeys) issue(t *testing.T, kept *extauthz.IssuedKey) (secret string, _ *extauthz.IssuedKey) {
	t.Helper()
	kept.ID = "x0abcdefgh"
	secret, err := keyformat.New(kept.ID)
	require.NoError(t, err)
	i.keys[sha256.Sum256([]byte(secret))] = kept
	return secret, kept
}

func TestIssuedKeys(t *testing.T) {
	issued := &issuedKeys{keys: map[apikey.Digest]*extauthz.IssuedKey{}, known: true}
	c := compiler(t)
	c.UseIssuedKeys(issued)
	routes, err := c.Routes(nil, map[string]*rulesv1.AuthRoute{"r": authtest.Route("r", authtest.APIKey())})
	require.NoError(t, err)
	consumers, err := c.Consumers(authtest.Consumers())
	require.NoError(t, err)
	decide := func(consumers *extauthz.ConsumerSet, key string) extauthz.Decision {
		r := request("x-api-key: " + key)
		r.Route = "r"
		return extauthz.Decide(t.Context(), authtest.Now(), extauthz.NewRules(routes, consumers), r)
	}
	with := func(change func(*extauthz.IssuedKey)) *extauthz.IssuedKey {
		k := &extauthz.IssuedKey{Tenant: "acme", Consumer: "default/shop", Scopes: []string{"write"}}
		change(k)
		return k
	}

	secret, kept := issued.issue(t, with(func(*extauthz.IssuedKey) {}))
	require.True(t, kept.LastUse().IsZero())
	decision := decide(consumers, secret)
	require.True(t, decision.Allowed, decision.Reason)
	require.Equal(t, "default/shop", decision.Identity.Consumer)
	require.Equal(t, "apiKeys/x0abcdefgh", decision.Identity.Subject)
	require.Equal(t, "gold", decision.Identity.Tier)
	require.Equal(t, []string{"write"}, decision.Identity.Scopes)
	require.Equal(t, authtest.Now().Unix(), kept.LastUse().Unix())
	require.True(t, decide(consumers, authtest.GoodKey).Allowed, "keys of the rules go on")

	// A change of the consumers is a change of what the key proves.
	moved := authtest.Consumers()
	moved["default/shop"].Tenant = "other"
	elsewhere, err := c.Consumers(moved)
	require.NoError(t, err)
	require.Equal(t, extauthz.ReasonAPIKeyConsumer, decide(elsewhere, secret).Reason)
	require.True(t, decide(consumers, secret).Allowed)

	for name, test := range map[string]struct {
		change func(*extauthz.IssuedKey)
		reason extauthz.Reason
	}{
		"revoked":          {func(k *extauthz.IssuedKey) { k.Revoked = true }, extauthz.ReasonAPIKeyRevoked},
		"expired":          {func(k *extauthz.IssuedKey) { k.Expires = authtest.Now() }, extauthz.ReasonAPIKeyExpired},
		"unknown consumer": {func(k *extauthz.IssuedKey) { k.Consumer = "default/nobody" }, extauthz.ReasonAPIKeyConsumer},
		"another tenant":   {func(k *extauthz.IssuedKey) { k.Tenant = "evil" }, extauthz.ReasonAPIKeyConsumer},
		"no tenant":        {func(k *extauthz.IssuedKey) { k.Tenant = "" }, extauthz.ReasonAPIKeyConsumer},
	} {
		t.Run(name, func(t *testing.T) {
			secret, kept := issued.issue(t, with(test.change))
			decision := decide(consumers, secret)
			require.Equal(t, test.reason, decision.Reason)
			require.Equal(t, string(extauthz.ReasonAPIKeyInvalid), decision.Reason.Fault().Reason, "the client learns no more")
			require.NotEmpty(t, decision.Challenge)
			require.True(t, kept.LastUse().IsZero())
			require.NotContains(t, decision.Cause.Error(), secret[len(secret)-38:])
		})
	}

	// A revoked key is refused though a Consumer lists it, and only it.
	revoked, kept := issued.issue(t, with(func(k *extauthz.IssuedKey) { k.Revoked = true }))
	listed := authtest.Consumers()
	sum := sha256.Sum256([]byte(revoked))
	listed["default/shop"].ApiKeys = append(listed["default/shop"].ApiKeys, &rulesv1.ApiKey{Name: "copied", Sha256: sum[:]})
	copied, err := c.Consumers(listed)
	require.NoError(t, err)
	require.Equal(t, extauthz.ReasonAPIKeyRevoked, decide(copied, revoked).Reason)
	delete(issued.keys, sum)
	require.True(t, decide(copied, revoked).Allowed, "the control: %s", kept.ID)

	// While what was issued is not known, a key that may have been is not called
	// wrong, and no key is accepted for it.
	issued.known, issued.keys = false, nil
	require.Equal(t, extauthz.ReasonKeysUnavailable, decide(consumers, secret).Reason)
	require.Equal(t, extauthz.ReasonAPIKeyInvalid, decide(consumers, secret[:len(secret)-1]+"!").Reason, "this was never issued")
	require.True(t, decide(consumers, authtest.GoodKey).Allowed)
}
