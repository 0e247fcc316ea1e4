package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"weir.dev/extauthz/livekeys"
	"weir.dev/extauthz/telemetry"
	"weir.dev/kit/certs"
	"weir.dev/kit/config"
	"weir.dev/kit/daemon"
)

// keySettings says where issued API keys come from. The client certificate is
// the server's.
type keySettings struct {
	// Address of the user service, host:port. Empty knows no issued keys.
	Address string `yaml:"address"`
	// Peer is the SPIFFE id that the user service must prove.
	Peer string `yaml:"peer"`
	// File keeps the keys through outages and restarts; its folder must exist.
	// Empty keeps none: a restart then accepts no issued key until the service
	// answers.
	File string `yaml:"file"`
	// MaxAge bounds how long keys are gone by without hearing of the service.
	// Default 24h, at most 720h.
	MaxAge config.Duration `yaml:"maxAge"`
}

func (s *keySettings) setDefaults() {
	*s = keySettings{Peer: certs.PeerID("user"), MaxAge: config.Duration(livekeys.DefaultMaxAge)}
}

func (s *keySettings) validate() error {
	var errs []error
	if _, port, err := net.SplitHostPort(s.Address); s.Address != "" && (err != nil || port == "") {
		errs = append(errs, fmt.Errorf("keys.address: %q is not host:port", s.Address))
	}
	if !strings.HasPrefix(s.Peer, "spiffe://") {
		errs = append(errs, fmt.Errorf("keys.peer: %q is not a SPIFFE id such as spiffe://weir.local/user", s.Peer))
	}
	if age := s.MaxAge.Std(); age <= 0 || age > 30*24*time.Hour {
		errs = append(errs, fmt.Errorf("keys.maxAge: %s is outside 0s to 720h", age))
	}
	return errors.Join(errs...)
}

// issuedKeys opens the store and its client; both nil without an address.
func issuedKeys(cfg *settings, runtime *daemon.Runtime) (*livekeys.Store, *livekeys.Client, error) {
	if cfg.Keys.Address == "" {
		return nil, nil, nil
	}
	tls, err := cfg.Server.TLS.ClientConfig(cfg.Keys.Peer)
	if err != nil {
		return nil, nil, fmt.Errorf("client certificate: %w", err)
	}
	metrics, err := telemetry.NewKeys(runtime.Registry)
	if err != nil {
		return nil, nil, err
	}
	store, err := livekeys.Open(livekeys.Options{
		Path: cfg.Keys.File, MaxAge: cfg.Keys.MaxAge.Std(), Events: metrics, Logger: runtime.Logger,
	})
	if err != nil {
		return nil, nil, err
	}
	err = telemetry.RegisterKeysAge(runtime.Registry, func() (time.Duration, bool) { return store.Age(time.Now()) })
	return store, livekeys.NewClient(store, cfg.Keys.Address, tls), err
}
