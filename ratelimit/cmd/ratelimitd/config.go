package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"weir.dev/kit/certs"
	"weir.dev/kit/config"
	"weir.dev/kit/daemon"
	"weir.dev/kit/rpcserver"

	"weir.dev/ratelimit/store/memory"
	"weir.dev/ratelimit/store/redis"
)

// RedisURLVariable overrides store.redis.url.
const RedisURLVariable = "WEIR_REDIS_URL"

// Config is the daemon's configuration file.
type Config struct {
	daemon.Config `yaml:",inline"`
	Server        rpcserver.Config   `yaml:"server"`
	ControlPlane  ControlPlaneConfig `yaml:"controlPlane"`
	// Rules say where rules come from if not from a control plane.
	Rules RulesConfig `yaml:"rules"`
	// Domain is the one that Envoy's rate limit filters must name.
	Domain string      `yaml:"domain"`
	Store  StoreConfig `yaml:"store"`
}

// ControlPlaneConfig says where rules come from.
type ControlPlaneConfig struct {
	// Address is host:port of controlplaned.
	Address string `yaml:"address"`
	// Peer is the SPIFFE id that it must have.
	Peer string `yaml:"peer"`
	// NodeID names this replica in its status. Default: $POD_NAME, else "ratelimit".
	NodeID string `yaml:"nodeId"`
}

// RulesConfig says where rules are without a control plane.
type RulesConfig struct {
	// Dir is a folder with RateLimitPolicies in YAML, as package rulesfile reads it.
	// It is read again when it changes; what is wrong keeps the rules of before.
	Dir string `yaml:"dir"`
}

// StoreConfig says where counters are kept: in Redis if it has a url, in memory
// otherwise.
type StoreConfig struct {
	Memory MemoryConfig `yaml:"memory"`
	Redis  redis.Config `yaml:"redis"`
	// Timeout bounds one call to Redis, connecting included. The default of
	// 25ms is a quarter of the 100ms that Envoy is configured to wait for us, so that
	// the rule's failure mode answers and not Envoy's.
	Timeout config.Duration `yaml:"timeout"`
	// MaxInFlight is how many calls may wait for Redis at once, 1 to 100,000.
	// Default 512. For those beyond, the rules' failure modes answer at once.
	MaxInFlight int `yaml:"maxInFlight"`
	// Replicas is how many replicas there are at least, 1 (default) to 1000. They
	// find each other through Redis; the number is for limits with localShare when
	// Redis has never answered, or not all have found it.
	Replicas uint32 `yaml:"replicas"`
}

// MemoryConfig bounds the counters in memory.
type MemoryConfig struct {
	MaxKeys int `yaml:"maxKeys"`
}

// SetDefaults fills in what is documented.
func (c *Config) SetDefaults() {
	c.Config.SetDefaults()
	c.Server.SetDefaults()
	c.Server.AllowedPeers = []string{certs.PeerID("ingress"), certs.PeerID("gateway/*")}
	c.ControlPlane = ControlPlaneConfig{Peer: certs.PeerID("controlplane"), NodeID: cmp.Or(os.Getenv("POD_NAME"), "ratelimit")}
	c.Domain = "weir"
	c.Store.Memory.MaxKeys = 1_000_000
	c.Store.Redis.SetDefaults()
	c.Store.Replicas, c.Store.MaxInFlight = 1, 512
	c.Store.Timeout = config.Duration(25 * time.Millisecond)
}

// Validate reports every mistake.
func (c *Config) Validate() error {
	errs := []error{c.Config.Validate(), c.Server.Validate()}
	errs = append(errs, c.validateSource())
	if c.Domain == "" {
		errs = append(errs, errors.New("domain: is required"))
	}
	if keys := c.Store.Memory.MaxKeys; keys < memory.MinKeys || keys > memory.MaxKeys {
		errs = append(errs, fmt.Errorf("store.memory.maxKeys: %d is outside %d to %d", keys, memory.MinKeys, memory.MaxKeys))
	}
	if c.Store.Replicas < 1 || c.Store.Replicas > 1000 {
		errs = append(errs, fmt.Errorf("store.replicas: %d is outside 1 to 1000", c.Store.Replicas))
	}
	if c.Store.MaxInFlight < 1 || c.Store.MaxInFlight > 100_000 {
		errs = append(errs, fmt.Errorf("store.maxInFlight: %d is outside 1 to 100000", c.Store.MaxInFlight))
	}
	if timeout := c.Store.Timeout.Std(); timeout < time.Millisecond || timeout > 5*time.Second {
		errs = append(errs, fmt.Errorf("store.timeout: %s is outside 1ms to 5s", timeout))
	}
	return errors.Join(append(errs, config.Prefix("store.redis.", c.Store.Redis.Validate()))...)
}

// validateSource checks where rules come from.
func (c *Config) validateSource() error {
	if c.Rules.Dir != "" {
		if c.ControlPlane.Address != "" {
			return errors.New("rules.dir: stands beside controlPlane.address; rules come from one of them")
		}
		return nil
	}
	var errs []error
	if _, _, err := net.SplitHostPort(c.ControlPlane.Address); err != nil {
		errs = append(errs, fmt.Errorf("controlPlane.address: %q is not host:port; or name rules.dir, to stand alone", c.ControlPlane.Address))
	}
	if c.ControlPlane.Peer == "" {
		errs = append(errs, errors.New("controlPlane.peer: is required, such as spiffe://weir.local/controlplane"))
	}
	if c.ControlPlane.NodeID == "" {
		errs = append(errs, errors.New("controlPlane.nodeId: is required"))
	}
	return errors.Join(errs...)
}

func (c *Config) applyEnvironment(getenv func(string) string) {
	if url := getenv(RedisURLVariable); url != "" {
		c.Store.Redis.URL = url
	}
}
