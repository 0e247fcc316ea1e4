package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"weir.dev/kit/config"
)

// Config says where Redis is.
type Config struct {
	// URL is redis://host:port/db, rediss:// for TLS, or unix:///path. Empty
	// means that no Redis is used. Cluster and sentinel nodes after the first
	// come as "addr" parameters: rediss://a:6379?addr=b:6379&addr=c:6379.
	URL string `yaml:"url"`
	// Mode is single (default), cluster or sentinel. Sentinel takes the
	// master's name as the parameter "master_name".
	Mode string `yaml:"mode"`
	// Username and Password replace those of URL; PasswordFile is read at
	// start and wins.
	Username     string `yaml:"username"`
	Password     string `yaml:"password"`
	PasswordFile string `yaml:"passwordFile"`
	// SentinelUsername and SentinelPassword are for the sentinels themselves.
	SentinelUsername string `yaml:"sentinelUsername"`
	SentinelPassword string `yaml:"sentinelPassword"`
	// TLS refines rediss://.
	TLS TLSConfig `yaml:"tls"`
	// KeyPrefix starts every key. Default "weir".
	KeyPrefix string `yaml:"keyPrefix"`
	// Groups is the number of hash tags that keys are spread over, 1 to 1024. 0
	// (default) is 64 with mode cluster and 1 otherwise. All replicas must agree;
	// another number starts all counters afresh.
	Groups int `yaml:"groups"`
	// PoolSize bounds the connections. Default 64.
	PoolSize int `yaml:"poolSize"`
	// WaitReplicas is how many Redis replicas must have a decision's charges before
	// it is answered (WAIT), 0 (default) to 5: what is admitted then survives the
	// loss of the master, if one of those takes over. Fewer within WaitTimeout
	// (1ms to 1s, default 10ms) is as if Redis had not answered.
	WaitReplicas int             `yaml:"waitReplicas"`
	WaitTimeout  config.Duration `yaml:"waitTimeout"`
}

// TLSConfig names PEM files: the authorities to trust instead of the system's,
// and a client certificate with its key. All are optional.
type TLSConfig struct {
	CAFile   string `yaml:"caFile"`
	CertFile string `yaml:"certFile"`
	KeyFile  string `yaml:"keyFile"`
}

// SetDefaults fills in what is documented.
func (c *Config) SetDefaults() {
	c.Mode = "single"
	c.KeyPrefix = "weir"
	c.PoolSize = 64
	c.WaitTimeout = config.Duration(DefaultWaitTimeout)
}

// Validate reports every mistake.
func (c *Config) Validate() error {
	var errs []error
	if c.URL != "" && !validURL(c.URL) {
		// The URL can hold a password, so it is not repeated.
		errs = append(errs, errors.New("url: is not redis://host:port, rediss://host:port or unix:///path"))
	}
	if c.Mode != "single" && c.Mode != "cluster" && c.Mode != "sentinel" {
		errs = append(errs, fmt.Errorf("mode: %q is not single, cluster or sentinel", c.Mode))
	}
	if !validPrefix(c.KeyPrefix) {
		errs = append(errs, fmt.Errorf("keyPrefix: %q must be 1 to 64 letters, digits, dots, colons, dashes or underscores", c.KeyPrefix))
	}
	if c.Groups < 0 || c.Groups > MaxGroups {
		errs = append(errs, fmt.Errorf("groups: %d is outside 0 to %d", c.Groups, MaxGroups))
	}
	if c.PoolSize < 1 || c.PoolSize > 10_000 {
		errs = append(errs, fmt.Errorf("poolSize: %d is outside 1 to 10000", c.PoolSize))
	}
	if c.WaitReplicas < 0 || c.WaitReplicas > maxWaitReplicas {
		errs = append(errs, fmt.Errorf("waitReplicas: %d is outside 0 to %d", c.WaitReplicas, maxWaitReplicas))
	}
	if timeout := c.WaitTimeout.Std(); c.WaitReplicas > 0 && (timeout < time.Millisecond || timeout > time.Second) {
		errs = append(errs, fmt.Errorf("waitTimeout: %s is outside 1ms to 1s", timeout))
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		errs = append(errs, errors.New("tls: certFile and keyFile come together"))
	}
	return errors.Join(errs...)
}

// UseLogger sends what the Redis driver has to say to logger, as debug lines: each
// failed connection is one, and outages are reported by package guard's
// observer. The driver's logger is global, so this belongs into main.
func UseLogger(logger *slog.Logger) { goredis.SetLogger(driverLogger{logger}) }

type driverLogger struct{ logger *slog.Logger }

// Printf implements the driver's logging interface.
func (l driverLogger) Printf(ctx context.Context, format string, values ...any) {
	if l.logger.Enabled(ctx, slog.LevelDebug) {
		l.logger.DebugContext(ctx, "redis driver", "message", fmt.Sprintf(format, values...))
	}
}

func validURL(raw string) bool {
	parsed, err := url.Parse(raw)
	if err != nil {
		return false
	}
	switch parsed.Scheme {
	case "redis", "rediss":
		return parsed.Host != ""
	case "unix":
		return parsed.Path != ""
	}
	return false
}

// Address is the URL without its password, for logs.
func (c *Config) Address() string {
	parsed, err := url.Parse(c.URL)
	if err != nil {
		return "(unreadable)"
	}
	return parsed.Redacted()
}

// NewClient makes the client, which connects when first used. timeout bounds
// each attempt to dial, read or write; nothing is retried within a call, since
// a retried charge could count twice.
func (c *Config) NewClient(timeout time.Duration) (goredis.UniversalClient, error) {
	options, err := c.parse()
	if err != nil {
		return nil, err
	}
	if c.Username != "" {
		options.Username = c.Username
	}
	if c.Password != "" {
		options.Password = c.Password
	}
	if c.SentinelUsername != "" {
		options.SentinelUsername = c.SentinelUsername
	}
	if c.SentinelPassword != "" {
		options.SentinelPassword = c.SentinelPassword
	}
	if c.PasswordFile != "" {
		raw, err := os.ReadFile(c.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("store.redis.passwordFile: %w", err)
		}
		options.Password = strings.TrimRight(string(raw), "\r\n")
	}
	if options.TLSConfig != nil {
		if err := c.TLS.refine(options.TLSConfig); err != nil {
			return nil, err
		}
	} else if c.TLS != (TLSConfig{}) {
		return nil, errors.New("store.redis.tls: needs a rediss:// url")
	}
	options.DialTimeout, options.ReadTimeout, options.WriteTimeout = timeout, timeout, timeout
	options.PoolTimeout = timeout
	options.PoolSize = c.PoolSize
	options.MinIdleConns = min(4, c.PoolSize)
	options.MaxRetries, options.MaxRedirects = -1, 3
	options.DialerRetries = 1
	options.ContextTimeoutEnabled = true
	options.DisableIdentity = true
	options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	switch c.Mode {
	case "cluster":
		return goredis.NewClusterClient(options.Cluster()), nil
	case "sentinel":
		if options.MasterName == "" {
			return nil, errors.New("store.redis.url: sentinel mode needs the parameter master_name")
		}
		return goredis.NewFailoverClient(options.Failover()), nil
	}
	return goredis.NewClient(options.Simple()), nil
}

// parse reads the URL by the mode's own parser into the common options.
func (c *Config) parse() (*goredis.UniversalOptions, error) {
	options := &goredis.UniversalOptions{}
	var err error
	switch c.Mode {
	case "cluster":
		var parsed *goredis.ClusterOptions
		if parsed, err = goredis.ParseClusterURL(c.URL); err == nil {
			options.Addrs, options.TLSConfig = parsed.Addrs, parsed.TLSConfig
			options.Username, options.Password = parsed.Username, parsed.Password
		}
	case "sentinel":
		var parsed *goredis.FailoverOptions
		if parsed, err = goredis.ParseFailoverURL(c.URL); err == nil {
			options.Addrs, options.TLSConfig, options.MasterName = parsed.SentinelAddrs, parsed.TLSConfig, parsed.MasterName
			options.Username, options.Password, options.DB = parsed.Username, parsed.Password, parsed.DB
			options.SentinelUsername, options.SentinelPassword = parsed.SentinelUsername, parsed.SentinelPassword
		}
	default:
		var parsed *goredis.Options
		if parsed, err = goredis.ParseURL(c.URL); err == nil {
			options.Addrs, options.TLSConfig = []string{parsed.Addr}, parsed.TLSConfig
			options.Username, options.Password, options.DB = parsed.Username, parsed.Password, parsed.DB
		}
	}
	if err != nil {
		// The parser's error can repeat the URL, password included.
		return nil, fmt.Errorf("store.redis.url: cannot be read as a %s url", c.Mode)
	}
	return options, nil
}

func (c *TLSConfig) refine(config *tls.Config) error {
	config.MinVersion = tls.VersionTLS12
	if c.CAFile != "" {
		raw, err := os.ReadFile(c.CAFile)
		if err != nil {
			return fmt.Errorf("store.redis.tls.caFile: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(raw) {
			return fmt.Errorf("store.redis.tls.caFile: %s holds no PEM certificate", c.CAFile)
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return fmt.Errorf("store.redis.tls: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return nil
}
