package main

import (
	"errors"
	"fmt"
	"time"

	"weir.dev/extauthz"
	"weir.dev/extauthz/assertion"
	"weir.dev/extauthz/exchange"
	"weir.dev/extauthz/metadata"
	"weir.dev/extauthz/relation"
	"weir.dev/extauthz/telemetry"
	"weir.dev/kit/config"
	"weir.dev/kit/daemon"
)

// authorizationSettings are about what rules read from elsewhere and what
// services are told.
type authorizationSettings struct {
	// CacheBytes bounds what is kept of other servers' answers, approximately, for
	// each kind of them. Default 16 MiB.
	CacheBytes uint64 `yaml:"cacheBytes"`
	// AssertionIssuer is the "iss" of assertions. Default "https://extauthz.weir.local".
	AssertionIssuer string `yaml:"assertionIssuer"`
	// KeyRotation is how often the key of assertions changes. Default 24h.
	KeyRotation config.Duration `yaml:"keyRotation"`
}

func (s *authorizationSettings) setDefaults() {
	*s = authorizationSettings{CacheBytes: 16 << 20, AssertionIssuer: "https://extauthz.weir.local", KeyRotation: config.Duration(24 * time.Hour)}
}

func (s *authorizationSettings) validate() error {
	var errs []error
	if s.CacheBytes < 1<<20 || s.CacheBytes > 16<<30 {
		errs = append(errs, fmt.Errorf("authorization.cacheBytes: %d is outside 1 MiB to 16 GiB", s.CacheBytes))
	}
	if s.AssertionIssuer == "" || !extauthz.ValidHeaderValue(s.AssertionIssuer) {
		errs = append(errs, fmt.Errorf("authorization.assertionIssuer: %q is empty, or not printable ASCII", s.AssertionIssuer))
	}
	if rotation := s.KeyRotation.Std(); rotation < 30*time.Minute || rotation > 30*24*time.Hour {
		errs = append(errs, fmt.Errorf("authorization.keyRotation: %s is outside 30m to 720h", rotation))
	}
	return errors.Join(errs...)
}

// keySetPath is where the admin server publishes the key set of assertions.
const keySetPath = "GET /.well-known/jwks.json"

// extensions wires what authorization asks beside the rules.
func extensions(cfg *settings, runtime *daemon.Runtime) (extauthz.Extensions, error) {
	var none extauthz.Extensions
	events, err := telemetry.NewAnswers(runtime.Registry)
	if err != nil {
		return none, err
	}
	sources, err := metadata.New(nil, cfg.Authorization.CacheBytes, events)
	if err != nil {
		return none, err
	}
	stores, err := relation.New(nil, cfg.Authorization.CacheBytes, events)
	if err != nil {
		return none, err
	}
	exchanger, err := exchange.New(nil, cfg.Authorization.CacheBytes, events)
	if err != nil {
		return none, err
	}
	keys, err := assertion.NewKeys(cfg.Authorization.KeyRotation.Std(), time.Now)
	if err != nil {
		return none, err
	}
	signer, err := assertion.NewSigner(cfg.Authorization.AssertionIssuer, keys)
	if err != nil {
		return none, err
	}
	runtime.Admin.Handle(keySetPath, keys)
	announcers := &assertion.Announcers{Signer: signer, Exchanger: exchanger}
	return extauthz.Extensions{Metadata: sources.Fetcher, Relationships: stores.Checker, Upstream: announcers.Announcer}, nil
}
