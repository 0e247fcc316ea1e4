package ersettings

import (
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Settings are the variables that change something, by field. A tag gives the
// name and the default.
type Settings struct {
	// HTTP: /json and /healthcheck.
	Host string `env:"HOST" default:"0.0.0.0"`
	Port uint16 `env:"PORT" default:"8080"`
	// Debug: /rlconfig, /metrics, /stats and profiles.
	DebugHost string `env:"DEBUG_HOST" default:"0.0.0.0"`
	DebugPort uint16 `env:"DEBUG_PORT" default:"6070"`

	GRPCHost                  string        `env:"GRPC_HOST" default:"0.0.0.0"`
	GRPCPort                  uint16        `env:"GRPC_PORT" default:"8081"`
	GRPCUDS                   string        `env:"GRPC_UDS"`
	GRPCMaxConnectionAge      time.Duration `env:"GRPC_MAX_CONNECTION_AGE" default:"24h"`
	GRPCMaxConnectionAgeGrace time.Duration `env:"GRPC_MAX_CONNECTION_AGE_GRACE" default:"1h"`
	GRPCServerUseTLS          bool          `env:"GRPC_SERVER_USE_TLS" default:"false"`
	GRPCServerTLSCert         string        `env:"GRPC_SERVER_TLS_CERT"`
	GRPCServerTLSKey          string        `env:"GRPC_SERVER_TLS_KEY"`
	GRPCClientTLSCA           string        `env:"GRPC_CLIENT_TLS_CACERT"`
	GRPCClientTLSSAN          string        `env:"GRPC_CLIENT_TLS_SAN"`

	LogLevel  string `env:"LOG_LEVEL" default:"WARN"`
	LogFormat string `env:"LOG_FORMAT" default:"text"`

	ConfigType string `env:"CONFIG_TYPE" default:"FILE"`
	// Of CONFIG_TYPE=GRPC_XDS_SOTW.
	XDSNodeID       string        `env:"CONFIG_GRPC_XDS_NODE_ID" default:"default"`
	XDSNodeMetadata string        `env:"CONFIG_GRPC_XDS_NODE_METADATA"`
	XDSServer       string        `env:"CONFIG_GRPC_XDS_SERVER_URL" default:"localhost:18000"`
	XDSHeaders      string        `env:"CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS"`
	XDSTLS          bool          `env:"CONFIG_GRPC_XDS_SERVER_USE_TLS" default:"false"`
	XDSTLSCert      string        `env:"CONFIG_GRPC_XDS_CLIENT_TLS_CERT"`
	XDSTLSKey       string        `env:"CONFIG_GRPC_XDS_CLIENT_TLS_KEY"`
	XDSTLSCA        string        `env:"CONFIG_GRPC_XDS_SERVER_TLS_CACERT"`
	XDSTLSName      string        `env:"CONFIG_GRPC_XDS_SERVER_TLS_SAN"`
	XDSFirstPause   time.Duration `env:"XDS_CLIENT_BACKOFF_INITIAL_INTERVAL" default:"10s"`
	XDSMaxPause     time.Duration `env:"XDS_CLIENT_BACKOFF_MAX_INTERVAL" default:"60s"`
	XDSMaxBytes     int           `env:"XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES" default:"4194304"`

	ForceStart      bool   `env:"FORCE_START_WITHOUT_INITIAL_CONFIG" default:"false"`
	RuntimeRoot     string `env:"RUNTIME_ROOT" default:"/srv/runtime_data/current"`
	RuntimeSub      string `env:"RUNTIME_SUBDIRECTORY"`
	RuntimeApp      string `env:"RUNTIME_APPDIRECTORY" default:"config"`
	IgnoreDotFiles  bool   `env:"RUNTIME_IGNOREDOTFILES" default:"false"`
	MergeDomains    bool   `env:"MERGE_DOMAIN_CONFIG" default:"false"`
	HealthyWithOnly bool   `env:"HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED" default:"false"`

	UsePrometheus  bool   `env:"USE_PROMETHEUS" default:"false"`
	PrometheusAddr string `env:"PROMETHEUS_ADDR" default:":9090"`
	PrometheusPath string `env:"PROMETHEUS_PATH" default:"/metrics"`

	NearLimitRatio float64 `env:"NEAR_LIMIT_RATIO" default:"0.8"`
	KeyPrefix      string  `env:"CACHE_KEY_PREFIX"`
	Backend        string  `env:"BACKEND_TYPE" default:"redis"`

	ResponseHeaders bool   `env:"LIMIT_RESPONSE_HEADERS_ENABLED" default:"false"`
	HeaderLimit     string `env:"LIMIT_LIMIT_HEADER" default:"RateLimit-Limit"`
	HeaderRemaining string `env:"LIMIT_REMAINING_HEADER" default:"RateLimit-Remaining"`
	HeaderReset     string `env:"LIMIT_RESET_HEADER" default:"RateLimit-Reset"`

	RedisSocketType   string        `env:"REDIS_SOCKET_TYPE" default:"unix"`
	RedisType         string        `env:"REDIS_TYPE" default:"SINGLE"`
	RedisURL          string        `env:"REDIS_URL" default:"/var/run/nutcracker/ratelimit.sock"`
	RedisPoolSize     int           `env:"REDIS_POOL_SIZE" default:"10"`
	RedisAuth         string        `env:"REDIS_AUTH"`
	RedisSentinelAuth string        `env:"REDIS_SENTINEL_AUTH"`
	RedisTLS          bool          `env:"REDIS_TLS" default:"false"`
	RedisTLSCert      string        `env:"REDIS_TLS_CLIENT_CERT"`
	RedisTLSKey       string        `env:"REDIS_TLS_CLIENT_KEY"`
	RedisTLSCA        string        `env:"REDIS_TLS_CACERT"`
	RedisTLSAnyHost   bool          `env:"REDIS_TLS_SKIP_HOSTNAME_VERIFICATION" default:"false"`
	RedisTimeout      time.Duration `env:"REDIS_TIMEOUT" default:"10s"`

	// Limits per second are kept in a Redis of their own.
	PerSecond             bool          `env:"REDIS_PERSECOND" default:"false"`
	PerSecondSocketType   string        `env:"REDIS_PERSECOND_SOCKET_TYPE" default:"unix"`
	PerSecondType         string        `env:"REDIS_PERSECOND_TYPE" default:"SINGLE"`
	PerSecondURL          string        `env:"REDIS_PERSECOND_URL" default:"/var/run/nutcracker/ratelimitpersecond.sock"`
	PerSecondPoolSize     int           `env:"REDIS_PERSECOND_POOL_SIZE" default:"10"`
	PerSecondAuth         string        `env:"REDIS_PERSECOND_AUTH"`
	PerSecondSentinelAuth string        `env:"REDIS_PERSECOND_SENTINEL_AUTH"`
	PerSecondTLS          bool          `env:"REDIS_PERSECOND_TLS" default:"false"`
	PerSecondTimeout      time.Duration `env:"REDIS_PERSECOND_TIMEOUT" default:"10s"`

	// Of BACKEND_TYPE=memcache.
	MemcacheServers string `env:"MEMCACHE_HOST_PORT"`
	MemcacheIdle    int    `env:"MEMCACHE_MAX_IDLE_CONNS" default:"2"`
	MemcacheSRV     string `env:"MEMCACHE_SRV"`
	// MemcacheSRVRefresh is how often the record is looked up again; 0 is never.
	MemcacheSRVRefresh time.Duration `env:"MEMCACHE_SRV_REFRESH" default:"0"`
	MemcacheTLS        bool          `env:"MEMCACHE_TLS" default:"false"`
	MemcacheTLSCert    string        `env:"MEMCACHE_TLS_CLIENT_CERT"`
	MemcacheTLSKey     string        `env:"MEMCACHE_TLS_CLIENT_KEY"`
	MemcacheTLSCA      string        `env:"MEMCACHE_TLS_CACERT"`
	MemcacheTLSAny     bool          `env:"MEMCACHE_TLS_SKIP_HOSTNAME_VERIFICATION" default:"false"`

	// LocalCacheBytes is how much remembers limits that are used up; 0 is none.
	LocalCacheBytes int `env:"LOCAL_CACHE_SIZE_IN_BYTES" default:"0"`

	UseStatsd     bool          `env:"USE_STATSD" default:"true"`
	StatsdHost    string        `env:"STATSD_HOST" default:"localhost"`
	StatsdPort    uint16        `env:"STATSD_PORT" default:"8125"`
	StatsdNetwork string        `env:"STATSD_PROTOCOL" default:"tcp"`
	StatsdEvery   time.Duration `env:"STATS_FLUSH_INTERVAL" default:"10s"`
	StatsdTags    string        `env:"EXTRA_TAGS"`
	NoStats       bool          `env:"DISABLE_STATS" default:"false"`
	// UseDogStatsd sends tags as DogStatsD has them, by UDP.
	UseDogStatsd  bool   `env:"USE_DOG_STATSD" default:"false"`
	DogMogrifiers string `env:"USE_DOG_STATSD_MOGRIFIERS"`
	// Mogrifiers are those of DogMogrifiers, in order.
	Mogrifiers []Mogrifier

	GlobalShadow bool `env:"SHADOW_MODE" default:"false"`
	GlobalQuota  bool `env:"QUOTA_MODE" default:"false"`
	Metadata     bool `env:"RESPONSE_DYNAMIC_METADATA" default:"false"`

	// Ignored names what is set and changes nothing, each with the reason.
	Ignored []string
}

// without are the names of envoyproxy/ratelimit that change nothing here.
func without() map[string]string {
	const (
		script    = "requests that come together share a script call by themselves; there is no pipeline to tune"
		onCreate  = "a counter expires with its window"
		neverPaid = "a refused request is never charged"
	)
	return map[string]string{
		"REDIS_PIPELINE_WINDOW": script, "REDIS_PIPELINE_LIMIT": script, "REDIS_CLUSTER_PIPELINE_PARALLELISM": script,
		"REDIS_PERSECOND_PIPELINE_WINDOW": script, "REDIS_PERSECOND_PIPELINE_LIMIT": script,
		"EXPIRATION_JITTER_MAX_SECONDS":                 onCreate,
		"STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT":       neverPaid,
		"RUNTIME_WATCH_ROOT":                            "both the link and the files are watched",
		"REDIS_HEALTH_CHECK_ACTIVE_CONNECTION":          "health follows whether Redis answers",
		"REDIS_POOL_ON_EMPTY_BEHAVIOR":                  "a call waits for a connection no longer than its deadline",
		"REDIS_STARTUP_INITIAL_INTERVAL":                "the start does not wait for Redis",
		"REDIS_STARTUP_MAX_INTERVAL":                    "the start does not wait for Redis",
		"REDIS_STARTUP_MAX_ELAPSED_TIME":                "the start does not wait for Redis",
		"PROMETHEUS_MAPPER_YAML":                        "metrics have their labels from the start; there is no mapping",
		"PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS":      "times are in seconds",
		"TRACING_ENABLED":                               "traces are configured by the OTEL_ variables",
		"CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL": "XDS_CLIENT_BACKOFF_INITIAL_INTERVAL and _MAX_INTERVAL say when it is tried again",
		"XDS_CLIENT_BACKOFF_RANDOM_FACTOR":              "pauses double, less up to a fifth at random",
		"XDS_CLIENT_BACKOFF_JITTER":                     "pauses double, less up to a fifth at random",
	}
}

// Read reads the environment; lookup is os.LookupEnv outside tests. The error
// joins every mistake, each beginning with the variable's name. No error holds a
// password.
func Read(lookup func(string) (string, bool)) (*Settings, error) {
	s := &Settings{}
	var errs []error
	unread := map[string]bool{}
	value := reflect.ValueOf(s).Elem()
	for i := range value.NumField() {
		tag := value.Type().Field(i).Tag
		name, ok := tag.Lookup("env")
		if !ok {
			continue
		}
		text, set := lookup(name)
		if !set {
			text = tag.Get("default")
		}
		if err := assign(value.Field(i), strings.TrimSpace(text)); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			unread[name] = true
		}
	}
	for name, reason := range without() {
		if _, set := lookup(name); set {
			s.Ignored = append(s.Ignored, name+": "+reason)
		}
	}
	slices.Sort(s.Ignored)
	if s.UseDogStatsd {
		var err error
		s.Mogrifiers, err = mogrifiers(s.DogMogrifiers, lookup)
		errs = append(errs, err)
	}
	for _, err := range s.validate() {
		// What could not be read is not judged as if it were zero.
		if name, _, _ := strings.Cut(err.Error(), ": "); !unread[name] {
			errs = append(errs, err)
		}
	}
	return s, errors.Join(errs...)
}

// assign reads one value. An empty one is the type's zero value, as there.
func assign(field reflect.Value, text string) error {
	if text == "" {
		return nil
	}
	switch into := field.Addr().Interface().(type) {
	case *string:
		*into = text
	case *bool:
		parsed, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		*into = parsed
	case *uint16:
		parsed, err := strconv.ParseUint(text, 0, 16)
		if err != nil {
			return fmt.Errorf("%q is not a port from 0 to 65535", text)
		}
		*into = uint16(parsed)
	case *int:
		parsed, err := strconv.ParseInt(text, 0, 32)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		*into = int(parsed)
	case *float64:
		parsed, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("%q is not a number", text)
		}
		*into = parsed
	case *time.Duration:
		parsed, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration such as 150ms or 10s", text)
		}
		*into = parsed
	}
	return nil
}

func (s *Settings) validate() []error {
	var errs []error
	add := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	add(s.ConfigType != "FILE" && s.ConfigType != "GRPC_XDS_SOTW", "CONFIG_TYPE: %q is not FILE or GRPC_XDS_SOTW", s.ConfigType)
	xds := s.ConfigType == "GRPC_XDS_SOTW"
	_, _, err := net.SplitHostPort(s.XDSServer)
	add(xds && err != nil, "CONFIG_GRPC_XDS_SERVER_URL: %q is not host:port", s.XDSServer)
	add(xds && (s.XDSFirstPause <= 0 || s.XDSMaxPause < s.XDSFirstPause), "XDS_CLIENT_BACKOFF_INITIAL_INTERVAL: must be positive and at most XDS_CLIENT_BACKOFF_MAX_INTERVAL")
	add(xds && (s.XDSMaxBytes < 1<<10 || s.XDSMaxBytes > 256<<20), "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES: %d is outside 1 KiB to 256 MiB", s.XDSMaxBytes)
	add(xds && s.XDSTLS && (s.XDSTLSCert == "") != (s.XDSTLSKey == ""), "CONFIG_GRPC_XDS_CLIENT_TLS_CERT: comes together with CONFIG_GRPC_XDS_CLIENT_TLS_KEY")
	for name, text := range map[string]string{"CONFIG_GRPC_XDS_NODE_METADATA": s.XDSNodeMetadata, "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS": s.XDSHeaders} {
		_, err := Pairs(text)
		add(xds && err != nil, "%s: %v", name, err)
	}
	add(!slices.Contains([]string{"redis", "memcache", "memory"}, s.Backend), "BACKEND_TYPE: %q is not supported; use redis, memcache, or memory for a single replica", s.Backend)
	add(s.Backend == "memcache" && (s.MemcacheServers == "") == (s.MemcacheSRV == ""), "MEMCACHE_HOST_PORT: either this, HOST:PORT[,HOST:PORT ...], or MEMCACHE_SRV is required by BACKEND_TYPE=memcache")
	_, _, _, named := SRV(s.MemcacheSRV)
	add(s.MemcacheSRV != "" && !named, "MEMCACHE_SRV: %q is not _SERVICE._PROTOCOL.DOMAIN", s.MemcacheSRV)
	add(s.MemcacheSRVRefresh < 0 || s.MemcacheSRVRefresh > 0 && s.MemcacheSRVRefresh < time.Second, "MEMCACHE_SRV_REFRESH: %s is not 0 or 1s and more", s.MemcacheSRVRefresh)
	add(s.UseDogStatsd && s.UseStatsd, "USE_DOG_STATSD: stands beside USE_STATSD, whose default is true; set one of them to false")
	add(s.MemcacheIdle < 1 || s.MemcacheIdle > 10_000, "MEMCACHE_MAX_IDLE_CONNS: %d is outside 1 to 10000", s.MemcacheIdle)
	add((s.MemcacheTLSCert == "") != (s.MemcacheTLSKey == ""), "MEMCACHE_TLS_CLIENT_CERT: comes together with MEMCACHE_TLS_CLIENT_KEY")
	add(s.LocalCacheBytes < 0 || s.LocalCacheBytes > 1<<30, "LOCAL_CACHE_SIZE_IN_BYTES: %d is outside 0 to 1 GiB", s.LocalCacheBytes)
	add(s.StatsdNetwork != "tcp" && s.StatsdNetwork != "udp", "STATSD_PROTOCOL: %q is not tcp or udp", s.StatsdNetwork)
	add(s.StatsdEvery < 100*time.Millisecond || s.StatsdEvery > time.Hour, "STATS_FLUSH_INTERVAL: %s is outside 100ms to 1h", s.StatsdEvery)
	if _, err := Pairs(s.StatsdTags); err != nil {
		errs = append(errs, fmt.Errorf("EXTRA_TAGS: %w", err))
	}
	add(s.NearLimitRatio < 0 || s.NearLimitRatio > 1, "NEAR_LIMIT_RATIO: %v is outside 0 to 1", s.NearLimitRatio)
	add(s.GRPCServerUseTLS && (s.GRPCServerTLSCert == "" || s.GRPCServerTLSKey == ""), "GRPC_SERVER_USE_TLS: needs GRPC_SERVER_TLS_CERT and GRPC_SERVER_TLS_KEY")
	add(s.GRPCClientTLSSAN != "" && s.GRPCClientTLSCA == "", "GRPC_CLIENT_TLS_SAN: needs GRPC_CLIENT_TLS_CACERT, or no client certificate is asked for")
	s.validateRedis("REDIS_", add)
	if s.PerSecond {
		s.ForSeconds().validateRedis("REDIS_PERSECOND_", add)
	}
	add((s.RedisTLSCert == "") != (s.RedisTLSKey == ""), "REDIS_TLS_CLIENT_CERT: comes together with REDIS_TLS_CLIENT_KEY")
	add(!slices.Contains([]string{"debug", "info", "warn", "warning", "error"}, strings.ToLower(s.LogLevel)), "LOG_LEVEL: %q is not DEBUG, INFO, WARN or ERROR", s.LogLevel)
	_, _, err = net.SplitHostPort(s.PrometheusAddr)
	add(s.UsePrometheus && err != nil, "PROMETHEUS_ADDR: %q is not host:port", s.PrometheusAddr)
	add(s.UsePrometheus && !strings.HasPrefix(s.PrometheusPath, "/"), "PROMETHEUS_PATH: %q does not begin with a slash", s.PrometheusPath)
	for name, header := range map[string]string{"LIMIT_LIMIT_HEADER": s.HeaderLimit, "LIMIT_REMAINING_HEADER": s.HeaderRemaining, "LIMIT_RESET_HEADER": s.HeaderReset} {
		add(s.ResponseHeaders && !token(header), "%s: %q is not the name of a header", name, header)
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errs
}

// Pairs reads NAME=VALUE or NAME:VALUE texts that commas separate.
func Pairs(text string) (map[string]string, error) {
	pairs := map[string]string{}
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		at := strings.IndexAny(part, "=:")
		if at < 1 {
			return nil, errors.New("must be NAME:VALUE, with commas between")
		}
		pairs[strings.TrimSpace(part[:at])] = strings.TrimSpace(part[at+1:])
	}
	return pairs, nil
}

// token reports whether text is a field name (RFC 9110 section 5.6.2).
func token(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		alphanumeric := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		return !alphanumeric && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}
