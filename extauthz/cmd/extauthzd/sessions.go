package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"weir.dev/extauthz/login"
	loginredis "weir.dev/extauthz/login/redis"
	"weir.dev/extauthz/telemetry"
	"weir.dev/kit/config"
	"weir.dev/kit/daemon"
)

// redisURLVariable is used where sessions.redisUrlFile is empty.
const redisURLVariable = "WEIR_REDIS_URL"

// sessionSettings are about what servers share of people's sessions.
type sessionSettings struct {
	// RedisURLFile is a file with the URL of the Redis that holds sessions and lets
	// several servers refresh one once. Empty means WEIR_REDIS_URL; without that,
	// sessions are in cookies only.
	RedisURLFile string `yaml:"redisUrlFile"`
	// RedisTimeout bounds one question to Redis. Default 200ms.
	RedisTimeout config.Duration `yaml:"redisTimeout"`
	// KeyPrefix begins every key. Default "weir".
	KeyPrefix string `yaml:"keyPrefix"`
}

func (s *sessionSettings) setDefaults() {
	*s = sessionSettings{RedisTimeout: config.Duration(200 * time.Millisecond), KeyPrefix: "weir"}
}

func (s *sessionSettings) validate() error {
	var errs []error
	if timeout := s.RedisTimeout.Std(); timeout < time.Millisecond || timeout > 5*time.Second {
		errs = append(errs, fmt.Errorf("sessions.redisTimeout: %s is outside 1ms to 5s", timeout))
	}
	if s.KeyPrefix == "" || len(s.KeyPrefix) > 64 || strings.ContainsAny(s.KeyPrefix, " {}\n") {
		errs = append(errs, fmt.Errorf("sessions.keyPrefix: %q is not 1 to 64 characters without spaces and braces", s.KeyPrefix))
	}
	return errors.Join(errs...)
}

// newLogins makes the logins of people; closing ends the connections to Redis.
func newLogins(settings *sessionSettings, runtime *daemon.Runtime) (builder *login.Builder, closing func() error, err error) {
	events, err := telemetry.NewLogins(runtime.Registry)
	if err != nil {
		return nil, nil, err
	}
	closing = func() error { return nil }
	options := login.Options{Events: events}
	text, from := os.Getenv(redisURLVariable), redisURLVariable
	if settings.RedisURLFile != "" {
		raw, err := os.ReadFile(settings.RedisURLFile)
		if err != nil {
			return nil, nil, fmt.Errorf("sessions.redisUrlFile: %w", err)
		}
		text, from = strings.TrimSpace(string(raw)), "sessions.redisUrlFile: "+settings.RedisURLFile
	}
	if text != "" {
		parsed, err := redis.ParseURL(text)
		if err != nil { // it may quote a password
			return nil, nil, fmt.Errorf("%s does not hold a URL such as rediss://user:password@host:6379/0", from)
		}
		parsed.DialTimeout, parsed.ReadTimeout, parsed.WriteTimeout = settings.RedisTimeout.Std(), settings.RedisTimeout.Std(), settings.RedisTimeout.Std()
		parsed.ContextTimeoutEnabled, parsed.MaxRetries = true, 1
		parsed.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
		client := redis.NewClient(parsed)
		options.Redis, closing = loginredis.New(client, settings.KeyPrefix), client.Close
		runtime.Logger.Info("sessions may be kept in Redis", "address", parsed.Addr)
	}
	return login.NewBuilder(options), closing, nil
}
