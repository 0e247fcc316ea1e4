package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/ersettings"
	"weir.dev/ratelimit/metrics"
	"weir.dev/ratelimit/store/guard"
	"weir.dev/ratelimit/store/memcached"
	"weir.dev/ratelimit/store/memory"
	"weir.dev/ratelimit/store/persecond"
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
		servers, err := s.memcacheServers()
		if err != nil {
			return nil, err
		}
		client, err := memcacheClient(s.settings, servers, timeout)
		if err != nil {
			return nil, err
		}
		store, err := memcached.New(client, keyPrefix(s.settings, "weir"), nil)
		if err != nil {
			return nil, errors.Join(err, client.Close())
		}
		s.close, s.ping = client.Close, store.Ping
		s.logger.Info("counters are kept in memcached", "servers", s.settings.MemcacheServers+s.settings.MemcacheSRV)
		return guard.New(store, guard.Options{Timeout: timeout, Observer: observer}), nil
	}
	others, err := s.openRedis(s.settings, observer)
	if err != nil || !s.settings.PerSecond {
		return others, err
	}
	seconds, err := s.openRedis(s.settings.ForSeconds(), observer)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return persecond.New(seconds, others), nil
}

// openRedis opens one Redis, which is closed and asked for with those before.
func (s *server) openRedis(settings *ersettings.Settings, observer guard.Observer) (ratelimit.Store, error) {
	config, err := redisConfig(settings)
	if err != nil {
		return nil, err
	}
	timeout := min(settings.RedisTimeout, maxStoreTimeout)
	client, err := config.NewClient(timeout)
	if err != nil {
		return nil, err
	}
	store, err := redis.New(client, redis.Options{Prefix: config.KeyPrefix})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	closeBefore, pingBefore := s.close, s.ping
	s.close = func() error { return errors.Join(client.Close(), closeBefore()) }
	s.ping = func(ctx context.Context) error {
		if err := store.Ping(ctx); err != nil || pingBefore == nil {
			return err
		}
		return pingBefore(ctx)
	}
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

// memcacheServers are those that are listed, or that an SRV record has.
func (s *server) memcacheServers() (*memcache.ServerList, error) {
	servers := new(memcache.ServerList)
	if s.settings.MemcacheSRV != "" {
		record := &srvRecord{name: s.settings.MemcacheSRV, servers: servers, resolver: net.DefaultResolver}
		if err := record.look(context.Background()); err != nil {
			return nil, fmt.Errorf("MEMCACHE_SRV: %w", err)
		}
		if every := s.settings.MemcacheSRVRefresh; every > 0 {
			s.background = func(ctx context.Context) { record.follow(ctx, every, s.logger) }
		}
		return servers, nil
	}
	list := strings.Split(s.settings.MemcacheServers, ",")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
		if _, _, err := net.SplitHostPort(list[i]); err != nil && !strings.HasPrefix(list[i], "/") {
			return nil, errors.New("MEMCACHE_HOST_PORT: each address must be host:port")
		}
	}
	return servers, servers.SetServers(list...)
}

func memcacheClient(settings *ersettings.Settings, servers *memcache.ServerList, timeout time.Duration) (*memcache.Client, error) {
	client := memcache.NewFromSelector(servers)
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
	servers, err := settings.Servers()
	if err != nil {
		return nil, fmt.Errorf("REDIS_URL: %w", err)
	}
	query := url.Values{}
	if servers.Master != "" {
		query.Set("master_name", servers.Master)
	}
	address := url.URL{Scheme: "redis"}
	if settings.RedisTLS {
		address.Scheme = "rediss"
	}
	if settings.RedisSocketType == "unix" && config.Mode == "single" {
		address.Scheme, address.Path = "unix", servers.Addresses[0]
	} else {
		address.Host = servers.Addresses[0]
		query["addr"] = servers.Addresses[1:]
		if servers.Database != 0 {
			address.Path = "/" + strconv.Itoa(servers.Database)
		}
	}
	if settings.RedisTLSAnyHost {
		query.Set("skip_verify", "true")
	}
	address.RawQuery = query.Encode()
	config.URL = address.String()
	config.Username, config.Password = login(settings.RedisAuth)
	config.SentinelUsername, config.SentinelPassword = login(settings.RedisSentinelAuth)
	// The variables go before what the URL has, each by itself.
	user, secret := &config.Username, &config.Password
	if config.Mode == "sentinel" {
		user, secret = &config.SentinelUsername, &config.SentinelPassword
	}
	*user, *secret = cmp.Or(*user, servers.User), cmp.Or(*secret, servers.Password)
	config.TLS = redis.TLSConfig{CAFile: settings.RedisTLSCA, CertFile: settings.RedisTLSCert, KeyFile: settings.RedisTLSKey}
	return config, config.Validate()
}

// login takes USER:PASSWORD, or a password alone, apart.
func login(auth string) (user, password string) {
	user, password, both := strings.Cut(auth, ":")
	if !both {
		return "", auth
	}
	return user, password
}
