package token

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"weak"

	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz/internal/proofs"
	"weir.dev/extauthz/jose"
)

// remoteID is what makes two remote key sets the same.
type remoteID struct {
	uri string
	// issuer is set when uri is that of a discovery document.
	issuer                   string
	fresh, maxStale, timeout time.Duration
}

func (v *Verifiers) keys(provider *rulesv1.JwtAuthenticator) (keySource, error) {
	switch source := provider.GetJwks().(type) {
	case *rulesv1.JwtAuthenticator_InlineJwks:
		set, err := jose.ParseKeySet([]byte(source.InlineJwks))
		if err != nil {
			return nil, fmt.Errorf("inline_jwks: %w", err)
		}
		return &inlineKeys{set: &keys{KeySet: set}, generation: v.generation.Add(1)}, nil
	case *rulesv1.JwtAuthenticator_RemoteJwks:
		return v.remote("remote_jwks", remoteID{uri: source.RemoteJwks.GetUri()}, source.RemoteJwks)
	case *rulesv1.JwtAuthenticator_DiscoveredJwks:
		id := remoteID{uri: source.DiscoveredJwks.GetUri(), issuer: provider.GetIssuer()}
		if id.uri == "" {
			id.uri = strings.TrimSuffix(id.issuer, "/") + wellKnown
		}
		return v.remote("discovered_jwks", id, source.DiscoveredJwks)
	default:
		return nil, errors.New("jwks: give inline_jwks, remote_jwks or discovered_jwks")
	}
}

// times are what remote and discovered key sets have in common.
type times interface {
	GetCacheDuration() *durationpb.Duration
	GetMaxStale() *durationpb.Duration
	GetTimeout() *durationpb.Duration
}

func (v *Verifiers) remote(field string, id remoteID, source times) (keySource, error) {
	var errs [4]error
	if err := checkURI(id.uri); err != nil {
		errs[0] = fmt.Errorf("%s.uri: %q %w", field, id.uri, err)
	}
	id.fresh, errs[1] = proofs.Duration(field+".cache_duration", source.GetCacheDuration(), defaultFresh, maxFresh)
	id.maxStale, errs[2] = proofs.Duration(field+".max_stale", source.GetMaxStale(), defaultMaxStale, maxMaxStale)
	id.timeout, errs[3] = proofs.Duration(field+".timeout", source.GetTimeout(), defaultTimeout, maxTimeout)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	if known := v.remotes[id].Value(); known != nil {
		return known, nil
	}
	made := &remoteKeys{
		uri: id.uri, fresh: id.fresh, maxStale: id.maxStale, timeout: id.timeout,
		cooldown: v.cooldown, retry: min(defaultRetry, v.cooldown),
		fetcher: v.fetcher, issuer: id.issuer,
		generation: func() uint64 { return v.generation.Add(1) }, observe: v.events.KeySetFetch,
	}
	sweep(v.remotes)
	v.remotes[id] = weak.Make(made)
	return made, nil
}
