package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/claims"
	"weir.dev/extauthz/internal/proofs"
	"weir.dev/extauthz/jose"
)

// Verifier verifies the tokens of one provider. Safe for concurrent use.
type Verifier struct {
	digest     [sha256.Size]byte
	issuer     string
	audiences  []string
	algorithms []string
	types      []string
	leeway     time.Duration
	claims     claims.Mapping
	keys       keySource
	cache      *proofs.Cache
	ttl        time.Duration
	refusalTTL time.Duration
	events     Events
	known      atomic.Pointer[header] // of the last token with a good signature
}

// Verify returns what a token says if its signature, issuer, audience and times
// hold at now. Every error is a refusal; one that wraps an *extauthz.Refusal
// carries its reason. Only fetching keys may wait, never past ctx. The keys in
// effect are looked at before the cache, so that a token is not accepted on the
// strength of keys that may no longer be used.
func (v *Verifier) Verify(ctx context.Context, now time.Time, token string) (*extauthz.Proof, error) {
	if len(token) > jose.MaxTokenBytes {
		return nil, invalid("the token is %d bytes long; the most is %d", len(token), jose.MaxTokenBytes)
	}
	set, generation, err := v.keys.current(ctx, now)
	if err != nil {
		return nil, extauthz.Refuse(extauthz.ReasonProviderUnavailable, err)
	}
	key := proofs.Key{Credential: proofs.Sum(token), Terms: v.digest, Generation: generation}
	known, err := v.cache.Find(&key, now)
	switch {
	case known != nil:
		v.events.TokenCache("hit")
		return known, nil
	case err != nil:
		v.events.TokenCache("negative")
		return nil, err
	}
	v.events.TokenCache("miss")
	return v.verify(ctx, now, token, set, key)
}

func (v *Verifier) verify(ctx context.Context, now time.Time, token string, set *keys, key proofs.Key) (*extauthz.Proof, error) {
	parsed, err := v.parse(token)
	if err != nil {
		return nil, v.refuse(key, invalid("%w", err), now)
	}
	// Who it is from and for is looked at before the keys, so that a token of
	// another issuer cannot cause a fetch.
	if err := v.checkParties(parsed.claims); err != nil {
		return nil, v.refuse(key, err, now)
	}
	if key.Generation, err = v.checkSignature(ctx, now, parsed, set, key.Generation); err != nil {
		if lasting := (*badSignature)(nil); errors.As(err, &lasting) {
			return nil, v.refuse(key, lasting.error, now)
		}
		return nil, err
	}
	expires, err := v.checkTimes(parsed.claims, now)
	if err != nil {
		return nil, err
	}
	identified, err := v.claims.FromStruct(v.issuer, parsed.claims)
	if err != nil {
		return nil, v.refuse(key, invalid("%w", err), now)
	}
	v.cache.Keep(&key, identified, len(parsed.Payload), proofs.Life{Now: now, TTL: v.ttl, Expires: expires})
	return identified, nil
}

func (v *Verifier) refuse(key proofs.Key, err error, now time.Time) error {
	v.cache.Refuse(&key, err, proofs.Life{Now: now, TTL: v.refusalTTL})
	return err
}

func (v *Verifier) checkHeader(header map[string]any) error {
	algorithm, _ := header["alg"].(string)
	if !slices.Contains(v.algorithms, algorithm) {
		return errors.New(`token header: "alg" is not one that the policy accepts`)
	}
	if err := jose.CheckHeader(header); err != nil {
		return err
	}
	return v.checkType(header)
}

func (v *Verifier) checkType(header map[string]any) error {
	value, set := header["typ"]
	if !set {
		if len(v.types) == 0 {
			return nil
		}
		return errors.New("token header: typ is absent and the policy asks for one")
	}
	text, ok := value.(string)
	if !ok {
		return errors.New("token header: typ is not a string")
	}
	name := canonicalType(text)
	if len(v.types) == 0 && (name == "jwt" || name == "at+jwt") || slices.Contains(v.types, name) {
		return nil
	}
	return errors.New("token header: typ is not one that the policy accepts")
}

func (v *Verifier) checkParties(claims *structpb.Struct) error {
	fields := claims.GetFields()
	if issuer, ok := fields["iss"].GetKind().(*structpb.Value_StringValue); !ok || issuer.StringValue != v.issuer {
		return extauthz.Refuse(extauthz.ReasonTokenIssuer, errors.New("iss is not the policy's issuer"))
	}
	if !v.meant(fields["aud"]) {
		return extauthz.Refuse(extauthz.ReasonTokenAudience, errors.New("aud names none of the policy's audiences"))
	}
	return nil
}

// meant reports whether an "aud", a text or a list, holds one of the audiences.
func (v *Verifier) meant(audience *structpb.Value) bool {
	switch audience := audience.GetKind().(type) {
	case *structpb.Value_StringValue:
		return slices.Contains(v.audiences, audience.StringValue)
	case *structpb.Value_ListValue:
		for _, element := range audience.ListValue.GetValues() {
			if text, ok := element.GetKind().(*structpb.Value_StringValue); ok && slices.Contains(v.audiences, text.StringValue) {
				return true
			}
		}
	}
	return false
}

// badSignature is a refusal that stays right as long as the keys are the same.
type badSignature struct{ error }

// checkSignature returns the generation of the keys that it used, which is that of
// set unless a new look was needed.
func (v *Verifier) checkSignature(ctx context.Context, now time.Time, token *parsed, set *keys, generation uint64) (uint64, error) {
	signer, known := set.find(token.id, token.algorithm)
	if !known {
		var err error
		set, generation, err = v.keys.refresh(ctx, now)
		if err != nil {
			return 0, extauthz.Refuse(extauthz.ReasonProviderUnavailable, err)
		}
		if signer, known = set.find(token.id, token.algorithm); !known {
			return 0, invalid("the token's kid is not in the key set") // not remembered: it may be there soon
		}
	}
	if signer == nil {
		return generation, &badSignature{invalid("no single key of the set fits the token's kid and alg")}
	}
	if err := signer.Verify(token.algorithm, token.SigningInput, token.Signature); err != nil {
		return generation, &badSignature{invalid("%w", err)}
	}
	v.remember(token.header)
	return generation, nil
}

// checkTimes applies exp (required), nbf and iat with the provider's leeway and
// returns exp. Refusals are not remembered: the clock moves.
func (v *Verifier) checkTimes(claims *structpb.Struct, now time.Time) (expires time.Time, err error) {
	expires, set, err := numericDate(claims, "exp")
	if err != nil || !set {
		return expires, invalid("exp is absent or not a date")
	}
	if !now.Before(expires.Add(v.leeway)) {
		return expires, extauthz.Refuse(extauthz.ReasonTokenExpired, errors.New("exp has passed"))
	}
	notBefore, set, err := numericDate(claims, "nbf")
	if err != nil {
		return expires, invalid("nbf is not a date")
	}
	if set && now.Add(v.leeway).Before(notBefore) {
		return expires, extauthz.Refuse(extauthz.ReasonTokenNotYetValid, errors.New("nbf is in the future"))
	}
	issued, set, err := numericDate(claims, "iat")
	if err != nil {
		return expires, invalid("iat is not a date")
	}
	if set && now.Add(v.leeway).Before(issued) {
		return expires, extauthz.Refuse(extauthz.ReasonTokenNotYetValid, errors.New("iat is in the future"))
	}
	return expires, nil
}

// maxDate is the last second of the year 9999; no later one is a date.
const maxDate = 253402300799

// numericDate reads a NumericDate (RFC 7519 section 2).
func numericDate(claims *structpb.Struct, name string) (date time.Time, set bool, err error) {
	value, set := claims.GetFields()[name]
	if !set {
		return time.Time{}, false, nil
	}
	_, ok := value.GetKind().(*structpb.Value_NumberValue)
	seconds := value.GetNumberValue()
	if !ok || seconds < 0 || seconds > maxDate {
		return time.Time{}, true, errors.New("is not a date")
	}
	whole := int64(seconds)
	return time.Unix(whole, int64((seconds-float64(whole))*1e9)), true, nil
}
