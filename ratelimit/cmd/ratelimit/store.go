package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/ersettings"
	"weir.dev/ratelimit/metrics"
	"weir.dev/ratelimit/store/guard"
	"weir.dev/ratelimit/store/memcached"
	"weir.dev/ratelimit/store/memory"
	"weir.dev/ratelimit/store/redis"
	"weir.dev/ratelimit/store/refusals"
)

// openStore opens what counters are kept in, with refusals remembered before it
// where that is asked for.
func (s *server) openStore() (ratelimit.Store, error) {
	store, err := s.openBackend()
	if err == nil && s.settings.LocalCacheBytes > 0 {
		store = refusals.New(store, s.settings.LocalCacheBytes, nil)
	}
	return store, err
}

func (s *server) openBackend() (ratelimit.Store, error) {
	if s.settings.Backend == "memory" {
		return memory.New(memory.Options{MaxKeys: memory.MaxKeys})
	}
	observer, err := metrics.New(s.registry, s.logger)
	if err != nil {
		return nil, err
	}
	timeout := min(s.settings.RedisTimeout, maxStoreTimeout)
	if s.settings.Backend == "memcache" {
		client, err := memcacheClient(s.settings, timeout)
		if err != nil {
			return nil, err
		}
		store, err := memcached.New(client, keyPrefix(s.settings, "weir"), nil)
		if err != nil {
			return nil, errors.Join(err, client.Close())
		}
		s.close, s.ping = client.Close, store.Ping
		s.logger.Info("counters are kept in memcached", "servers", s.settings.MemcacheServers)
		return guard.New(store, guard.Options{Timeout: timeout, Observer: observer}), nil
	}
	config, err := redisConfig(s.settings)
	if err != nil {
		return nil, err
	}
	client, err := config.NewClient(timeout)
	if err != nil {
		return nil, err
	}
	store, err := redis.New(client, redis.Options{Prefix: config.KeyPrefix})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	s.close, s.ping = client.Close, store.Ping
	s.logger.Info("counters are kept in Redis", "redis", config.Address())
	return guard.New(store, guard.Options{Timeout: timeout, Observer: observer}), nil
}

// keyPrefix is CACHE_KEY_PREFIX without its end, which separates it there.
func keyPrefix(settings *ersettings.Settings, otherwise string) string {
	if prefix := strings.Trim(settings.KeyPrefix, "_:"); prefix != "" {
		return prefix
	}
	return otherwise
}

func memcacheClient(settings *ersettings.Settings, timeout time.Duration) (*memcache.Client, error) {
	servers := strings.Split(settings.MemcacheServers, ",")
	for i := range servers {
		servers[i] = strings.TrimSpace(servers[i])
		if _, _, err := net.SplitHostPort(servers[i]); err != nil && !strings.HasPrefix(servers[i], "/") {
			return nil, errors.New("MEMCACHE_HOST_PORT: each address must be host:port")
		}
	}
	client := memcache.New(servers...)
	client.Timeout, client.MaxIdleConns = timeout, settings.MemcacheIdle
	if !settings.MemcacheTLS {
		return client, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: settings.MemcacheTLSAny} //nolint:gosec // The operator's choice.
	if settings.MemcacheTLSCA != "" {
		raw, err := os.ReadFile(settings.MemcacheTLSCA)
		if err != nil {
			return nil, fmt.Errorf("MEMCACHE_TLS_CACERT: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("MEMCACHE_TLS_CACERT: %s holds no PEM certificate", settings.MemcacheTLSCA)
		}
	}
	if settings.MemcacheTLSCert != "" {
		pair, err := tls.LoadX509KeyPair(settings.MemcacheTLSCert, settings.MemcacheTLSKey)
		if err != nil {
			return nil, fmt.Errorf("MEMCACHE_TLS_CLIENT_CERT: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	client.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		return (&tls.Dialer{Config: config}).DialContext(ctx, network, address)
	}
	return client, nil
}

// redisConfig translates the variables, whose addresses have no scheme.
func redisConfig(settings *ersettings.Settings) (*redis.Config, error) {
	config := &redis.Config{}
	config.SetDefaults()
	config.Mode, config.PoolSize = strings.ToLower(settings.RedisType), settings.RedisPoolSize
	config.KeyPrefix = keyPrefix(settings, config.KeyPrefix)
	nodes := strings.Split(settings.RedisURL, ",")
	query := url.Values{}
	if config.Mode == "sentinel" {
		query.Set("master_name", nodes[0])
		nodes = nodes[1:]
	}
	address := url.URL{Scheme: "redis"}
	if settings.RedisTLS {
		address.Scheme = "rediss"
	}
	if settings.RedisSocketType == "unix" && config.Mode == "single" {
		address.Scheme, address.Path = "unix", settings.RedisURL
	} else {
		for _, node := range nodes {
			if _, _, err := net.SplitHostPort(node); err != nil {
				return nil, errors.New("REDIS_URL: each address must be host:port")
			}
		}
		address.Host = nodes[0]
		query["addr"] = nodes[1:]
	}
	if settings.RedisTLSAnyHost {
		query.Set("skip_verify", "true")
	}
	address.RawQuery = query.Encode()
	config.URL = address.String()
	user, password, both := strings.Cut(settings.RedisAuth, ":")
	if !both {
		user, password = "", settings.RedisAuth
	}
	config.Username, config.Password = user, password
	config.TLS = redis.TLSConfig{CAFile: settings.RedisTLSCA, CertFile: settings.RedisTLSCert, KeyFile: settings.RedisTLSKey}
	return config, config.Validate()
}
