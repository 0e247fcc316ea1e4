package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"weir.dev/kit/certs"
	"weir.dev/kit/config"
	"weir.dev/kit/daemon"
	"weir.dev/kit/rpcserver"
)

// settings is the daemon's configuration file.
type settings struct {
	daemon.Config `yaml:",inline"`
	Server        rpcserver.Config      `yaml:"server"`
	ControlPlane  controlPlaneSetting   `yaml:"controlPlane"`
	Tokens        tokenSettings         `yaml:"tokens"`
	Audit         auditSettings         `yaml:"audit"`
	Decisions     decisionSettings      `yaml:"decisions"`
	Proofs        proofSettings         `yaml:"proofs"`
	Kubernetes    kubernetesSetting     `yaml:"kubernetes"`
	Keys          keySettings           `yaml:"keys"`
	Sessions      sessionSettings       `yaml:"sessions"`
	Authorization authorizationSettings `yaml:"authorization"`
	Limits        limitSettings         `yaml:"limits"`
	SelfTest      selfTestSettings      `yaml:"selfTest"`
	// Rules and HTTP are for standing alone.
	Rules ruleSettings `yaml:"rules"`
	HTTP  httpSettings `yaml:"http"`
}

// controlPlaneSetting says where the rules come from. The client certificate is
// the server's.
type controlPlaneSetting struct {
	// Address is host:port.
	Address string `yaml:"address"`
	// Peer is the SPIFFE id that the control plane must prove.
	Peer string `yaml:"peer"`
	// NodeID names this process in the control plane's status. Default: $POD_NAME,
	// else "extauthzd".
	NodeID string `yaml:"nodeId"`
}

// tokenSettings bounds what is remembered of tokens.
type tokenSettings struct {
	// CacheBytes bounds what is remembered of tokens, approximately, whichever
	// method proved them. Default 64 MiB.
	CacheBytes uint64 `yaml:"cacheBytes"`
	// CacheTTL bounds how long one proof is remembered, whatever a policy says.
	// Default 5m.
	CacheTTL config.Duration `yaml:"cacheTtl"`
}

// SetDefaults fills in what the fields document.
func (s *settings) SetDefaults() {
	s.Config.SetDefaults()
	s.Server.SetDefaults()
	s.Server.AllowedPeers = []string{certs.PeerID("ingress"), certs.PeerID("gateway/*")}
	s.ControlPlane = controlPlaneSetting{Peer: certs.PeerID("controlplane"), NodeID: cmp.Or(os.Getenv("POD_NAME"), "extauthzd")}
	s.Proofs.setDefaults()
	s.Keys.setDefaults()
	s.Limits.setDefaults()
	s.Sessions.setDefaults()
	s.Authorization.setDefaults()
	s.Tokens = tokenSettings{CacheBytes: 64 << 20, CacheTTL: config.Duration(5 * 60e9)}
	s.Audit.SetDefaults()
	s.Decisions.SetDefaults()
	s.Kubernetes.setDefaults()
}

// Validate reports every mistake.
func (s *settings) Validate() error {
	errs := []error{
		s.Config.Validate(), s.Server.Validate(), s.Keys.validate(), s.Limits.validate(), s.HTTP.validate(), s.SelfTest.validate(), s.Kubernetes.validate(), s.Proofs.validate(),
		s.Sessions.validate(), s.Authorization.validate(), s.Audit.Validate(s.ControlPlane.NodeID), s.Decisions.Validate(),
	}
	if s.Rules.File != "" {
		return errors.Join(append(errs, s.validateAlone(), s.Tokens.validate())...)
	}
	if _, port, err := net.SplitHostPort(s.ControlPlane.Address); err != nil || port == "" {
		errs = append(errs, fmt.Errorf("controlPlane.address: %q is not host:port; or name rules.file, to stand alone", s.ControlPlane.Address))
	}
	if !strings.HasPrefix(s.ControlPlane.Peer, "spiffe://") {
		errs = append(errs, fmt.Errorf("controlPlane.peer: %q is not a SPIFFE id such as spiffe://weir.local/controlplane", s.ControlPlane.Peer))
	}
	if s.ControlPlane.NodeID == "" {
		errs = append(errs, errors.New("controlPlane.nodeId: is required"))
	}
	if s.HTTP.Listen != "" {
		errs = append(errs, errors.New("http.listen: the control plane's Envoys speak gRPC; leave it out, or name rules.file"))
	}
	return errors.Join(append(errs, s.Tokens.validate())...)
}

func (s *tokenSettings) validate() error {
	var errs []error
	if s.CacheBytes < 1<<20 || s.CacheBytes > 16<<30 {
		errs = append(errs, fmt.Errorf("tokens.cacheBytes: %d is outside 1 MiB to 16 GiB", s.CacheBytes))
	}
	if ttl := s.CacheTTL.Std(); ttl <= 0 || ttl.Hours() > 1 {
		errs = append(errs, fmt.Errorf("tokens.cacheTtl: %s is outside 0s to 1h", ttl))
	}
	return errors.Join(errs...)
}
