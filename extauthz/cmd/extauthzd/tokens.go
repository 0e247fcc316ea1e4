package main

import (
	"errors"
	"fmt"
	"strings"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/bearer"
	"weir.dev/extauthz/internal/proofs"
	"weir.dev/extauthz/introspect"
	"weir.dev/extauthz/kubeauth"
	"weir.dev/extauthz/telemetry"
	"weir.dev/extauthz/token"
	"weir.dev/kit/daemon"
)

// kubernetesSetting is the API server that is asked about ServiceAccounts' tokens.
type kubernetesSetting struct {
	// Server is https://host[:port]; empty when there is none, and such tokens are
	// refused.
	Server string `yaml:"server"`
	// CAFile holds the authorities of its certificate; TokenFile the token that
	// extauthz proves itself with. Default: where Kubernetes mounts them.
	CAFile    string `yaml:"caFile"`
	TokenFile string `yaml:"tokenFile"`
}

// mounted is where Kubernetes puts a pod's own credential.
const mounted = "/var/run/secrets/kubernetes.io/serviceaccount/"

func (k *kubernetesSetting) setDefaults() {
	k.CAFile, k.TokenFile = mounted+"ca.crt", mounted+"token"
}

func (k *kubernetesSetting) validate() error {
	if k.Server == "" {
		return nil
	}
	var errs []error
	if !strings.HasPrefix(k.Server, "https://") && !strings.HasPrefix(k.Server, "http://") {
		errs = append(errs, fmt.Errorf("kubernetes.server: %q is not a URL such as https://kubernetes.default.svc", k.Server))
	}
	if k.TokenFile == "" {
		errs = append(errs, errors.New("kubernetes.tokenFile: is required"))
	}
	return errors.Join(errs...)
}

// tokenBuilders make the methods that take Bearer tokens. They share what is
// remembered and what was seen of a token.
func tokenBuilders(cfg *settings, runtime *daemon.Runtime, metrics *telemetry.Metrics) ([]extauthz.Builder, error) {
	cache, err := proofs.New(cfg.Tokens.CacheBytes)
	if err != nil {
		return nil, err
	}
	events, err := telemetry.NewProofs(runtime.Registry, cache.Len)
	if err != nil {
		return nil, err
	}
	chooser := bearer.NewChooser()
	verifiers, err := token.NewVerifiers(token.Options{
		Cache: cache, Chooser: chooser, CacheTTL: cfg.Tokens.CacheTTL.Std(), Events: metrics,
	})
	if err != nil {
		return nil, err
	}
	introspection, err := introspect.New(introspect.Options{
		Cache: cache, Chooser: chooser, Events: events, MaxTTL: cfg.Tokens.CacheTTL.Std(),
		Statements: func(source *rulesv1.JwtAuthenticator) (introspect.Statement, error) {
			return verifiers.Verifier(source)
		},
	})
	if err != nil {
		return nil, err
	}
	reviews, err := kubeauth.New(kubeauth.Options{
		Cache: cache, Chooser: chooser, Events: events, MaxTTL: cfg.Tokens.CacheTTL.Std(),
		Server: kubeauth.Server{Address: cfg.Kubernetes.Server, CAFile: cfg.Kubernetes.CAFile, TokenFile: cfg.Kubernetes.TokenFile},
	})
	if err != nil {
		return nil, err
	}
	return []extauthz.Builder{verifiers, introspection, reviews}, nil
}
