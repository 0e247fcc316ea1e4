// Package rpcserver is the gRPC server that every Weir daemon serves with:
// mutual TLS with named peers, health, reflection, metrics, traces, recovery,
// coded errors and an orderly drain. What is served on it contains none of
// these.
package rpcserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"time"

	"weir.dev/kit/certs"
	"weir.dev/kit/config"
)

// Config says where and to whom a server serves.
type Config struct {
	// Listen is the host:port to bind; port 0 takes a free one.
	Listen string `yaml:"listen"`
	// TLS is this server's certificate and the authorities it trusts.
	TLS certs.Files `yaml:"tls"`
	// AllowedPeers are the SPIFFE ids that may connect; one that ends in /* stands for
	// every id below.
	AllowedPeers []string `yaml:"allowedPeers"`
	// Plaintext serves whoever connects, without TLS: for a server whose only
	// way in is a proxy on the same machine, or in the same pod, that does that.
	Plaintext bool `yaml:"plaintext"`
	// ReservedPeers are the SPIFFE ids that may call a service that is not for
	// AllowedPeers, by the service's full name. They may call nothing else.
	ReservedPeers map[string][]string `yaml:"reservedPeers"`
	// MaxMessageBytes bounds one received message. Default 4 MiB.
	MaxMessageBytes int `yaml:"maxMessageBytes"`
	// MaxConcurrentStreams bounds the calls of one connection. Default 1000.
	MaxConcurrentStreams uint32 `yaml:"maxConcurrentStreams"`
	// DrainTimeout is how long calls may still finish after a stop. Default 10s.
	DrainTimeout config.Duration `yaml:"drainTimeout"`
	// Assertions make the caller's identity be read of what extauthz signed, where
	// a call has that.
	Assertions AssertionConfig `yaml:"assertions"`
}

// AssertionConfig says whose assertions are verified; the zero value reads the
// identity headers and no assertion.
type AssertionConfig struct {
	// KeySet is the address of extauthz's key set, such as
	// http://127.0.0.1:9901/.well-known/jwks.json. Over http it must not leave the
	// machine.
	KeySet string `yaml:"keySet"`
	// Issuer is that of extauthz; Audience is this service's.
	Issuer   string `yaml:"issuer"`
	Audience string `yaml:"audience"`
	// Required refuses calls without an assertion; they are otherwise read as
	// without this section, since peers may call, too.
	Required bool `yaml:"required"`
}

func (c *AssertionConfig) validate() error {
	if *c == (AssertionConfig{}) {
		return nil
	}
	address, err := url.Parse(c.KeySet)
	if err != nil || address.Host == "" || address.Scheme != "https" && (address.Scheme != "http" || !loopback(address.Hostname())) {
		return fmt.Errorf("server.assertions.keySet: %q is not an https address, nor one of this machine", c.KeySet)
	}
	if c.Issuer == "" || c.Audience == "" {
		return errors.New("server.assertions: issuer and audience are required")
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

// SetDefaults fills in what the package documents.
func (c *Config) SetDefaults() {
	c.Listen = "127.0.0.1:0"
	c.MaxMessageBytes = 4 << 20
	c.MaxConcurrentStreams = 1000
	c.DrainTimeout = config.Duration(10 * time.Second)
}

// Validate reports every mistake.
func (c *Config) Validate() error {
	var errs []error
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		errs = append(errs, fmt.Errorf("server.listen: %q is not host:port", c.Listen))
	}
	switch {
	case !c.Plaintext:
		errs = append(errs, under("server.", c.TLS.Validate())...)
	case len(c.ReservedPeers) > 0:
		errs = append(errs, errors.New("server.reservedPeers: nobody can be told apart without TLS; leave it or plaintext out"))
	}
	if len(c.AllowedPeers) == 0 && !c.Plaintext {
		errs = append(errs, errors.New("server.allowedPeers: name at least one peer, such as spiffe://weir.local/ingress"))
	}
	if c.MaxMessageBytes < 1<<10 || c.MaxMessageBytes > 64<<20 {
		errs = append(errs, fmt.Errorf("server.maxMessageBytes: %d is outside 1 KiB to 64 MiB", c.MaxMessageBytes))
	}
	if c.MaxConcurrentStreams == 0 {
		errs = append(errs, errors.New("server.maxConcurrentStreams: must be at least 1"))
	}
	if c.DrainTimeout <= 0 {
		errs = append(errs, errors.New("server.drainTimeout: must be positive"))
	}
	errs = append(errs, c.Assertions.validate())
	return errors.Join(errs...)
}

// under puts prefix before each of the errors that err joins.
func under(prefix string, err error) []error {
	if err == nil {
		return nil
	}
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // The outermost error is asked.
		all = joined.Unwrap()
	}
	prefixed := make([]error, 0, len(all))
	for _, each := range all {
		prefixed = append(prefixed, fmt.Errorf("%s%w", prefix, each))
	}
	return prefixed
}
