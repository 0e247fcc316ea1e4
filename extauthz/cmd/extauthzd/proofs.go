package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"weir.dev/extauthz"
	"weir.dev/extauthz/certauth"
	"weir.dev/extauthz/httpsig"
	"weir.dev/extauthz/proof"
	"weir.dev/extauthz/replay"
	"weir.dev/kit/config"
)

// proofSettings are about proofs of possession: DPoP and signed requests.
type proofSettings struct {
	// Remembered bounds how many used proofs this process remembers; when they
	// are as many, proofs are refused until some have ended. Default 1,048,576,
	// which takes about 100 MiB at most.
	Remembered int `yaml:"remembered"`
	// RedisURLFile is a file with the URL of a Redis in which servers that share
	// clients remember used proofs together. Empty means that each remembers its
	// own: a proof can then be used once at each.
	RedisURLFile string `yaml:"redisUrlFile"`
	// RedisTimeout bounds one question to Redis. Default 100ms.
	RedisTimeout config.Duration `yaml:"redisTimeout"`
	// NonceSecretFiles hold secrets of at least 32 bytes for DPoP nonces: the
	// first makes them, all are taken. Servers that share clients share them.
	// Empty means one that is made at start.
	NonceSecretFiles []string `yaml:"nonceSecretFiles"`
}

func (s *proofSettings) setDefaults() {
	*s = proofSettings{Remembered: replay.DefaultEntries, RedisTimeout: config.Duration(replay.DefaultTimeout)}
}

func (s *proofSettings) validate() error {
	var errs []error
	if s.Remembered < 1<<10 || s.Remembered > 1<<26 {
		errs = append(errs, fmt.Errorf("proofs.remembered: %d is outside 1024 to 67108864", s.Remembered))
	}
	if timeout := s.RedisTimeout.Std(); timeout < time.Millisecond || timeout > time.Second {
		errs = append(errs, fmt.Errorf("proofs.redisTimeout: %s is outside 1ms to 1s", timeout))
	}
	return errors.Join(errs...)
}

// proofParts hold what proofs need.
type proofParts struct {
	certificates *certauth.Reader
	nonces       *proof.Nonces
	used         replay.Store
	close        func() error
}

func newProofs(settings *proofSettings) (*proofParts, error) {
	parts := &proofParts{close: func() error { return nil }}
	var err error
	if parts.certificates, err = certauth.NewReader(); err != nil {
		return nil, err
	}
	var secrets [][]byte
	for i, path := range settings.NonceSecretFiles {
		secret, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("proofs.nonceSecretFiles[%d]: %w", i, err)
		}
		secrets = append(secrets, secret)
	}
	if parts.nonces, err = proof.NewNonces(secrets...); err != nil {
		return nil, fmt.Errorf("proofs.nonceSecretFiles: %w", err)
	}
	if settings.RedisURLFile == "" {
		parts.used = replay.NewMemory(settings.Remembered)
		return parts, nil
	}
	raw, err := os.ReadFile(settings.RedisURLFile)
	if err != nil {
		return nil, fmt.Errorf("proofs.redisUrlFile: %w", err)
	}
	options, err := redis.ParseURL(strings.TrimSpace(string(raw)))
	if err != nil { // it may quote a password
		return nil, fmt.Errorf("proofs.redisUrlFile: %s does not hold a URL such as rediss://user:password@host:6379/0", settings.RedisURLFile)
	}
	// Deadlines of requests have to end questions to a Redis that hangs.
	options.ContextTimeoutEnabled = true
	client := redis.NewClient(options)
	parts.used, parts.close = replay.NewRedis(client, "weir:extauthz:used:", settings.RedisTimeout.Std()), client.Close
	return parts, nil
}

// builders are the methods by proof, and those that take tokens, held to what the
// tokens are bound to.
func (p *proofParts) builders(tokens []extauthz.Builder) []extauthz.Builder {
	all := []extauthz.Builder{certauth.NewBuilder(p.certificates), httpsig.NewBuilder(p.used)}
	for _, builder := range tokens {
		all = append(all, proof.NewGuard(builder, proof.Options{Certificates: p.certificates, Nonces: p.nonces, Used: p.used}))
	}
	return all
}
