package ersettings

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// RedisServers are what REDIS_URL names, taken apart.
type RedisServers struct {
	// Master is the name that sentinels know the master by; empty otherwise.
	Master string
	// Addresses are HOST:PORT each, or a socket's path alone.
	Addresses []string
	// User, Password and Database are those of redis://USER:PASSWORD@HOST:PORT/DATABASE,
	// the first address that has them; with sentinels they are for the sentinels.
	User, Password string
	Database       int
}

// Servers takes the addresses of Redis apart: HOST:PORT or redis:// URLs, with
// commas between, or a socket's path. No error repeats an address, which can
// hold a password.
func (s *Settings) Servers() (RedisServers, error) {
	var servers RedisServers
	if s.RedisURL == "" {
		return servers, errors.New("is empty; it is HOST:PORT with _SOCKET_TYPE=tcp, or a socket's path with unix, which is the default")
	}
	kind := strings.ToLower(s.RedisType)
	if s.RedisSocketType == "unix" && kind == "single" {
		if !strings.HasPrefix(s.RedisURL, "/") {
			return servers, errors.New("is not the path of a socket; for HOST:PORT set _SOCKET_TYPE=tcp, whose default is unix")
		}
		servers.Addresses = []string{s.RedisURL}
		return servers, nil
	}
	list := strings.Split(s.RedisURL, ",")
	if kind == "sentinel" {
		if servers.Master, list = list[0], list[1:]; servers.Master == "" || len(list) == 0 {
			return servers, errors.New("for SENTINEL is MASTER-NAME,HOST:PORT[,HOST:PORT ...]")
		}
	}
	for i, one := range list {
		if err := servers.add(strings.TrimSpace(one)); err != nil {
			return servers, fmt.Errorf("address %d of %d %w", i+1, len(list), err)
		}
	}
	switch {
	case kind == "single" && len(list) > 1:
		return servers, errors.New("has several addresses, and _TYPE is single")
	case kind != "single" && servers.Database != 0:
		return servers, fmt.Errorf("names database %d, which only _TYPE=single has", servers.Database)
	}
	return servers, nil
}

func (r *RedisServers) add(address string) error {
	wrong := errors.New("is not HOST:PORT or redis://[USER:PASSWORD@]HOST:PORT[/DATABASE]")
	if strings.HasPrefix(address, "redis://") {
		parsed, err := url.Parse(address)
		if err != nil || parsed.Fragment != "" {
			return wrong
		}
		query := parsed.Query()
		user, database := query.Get("username"), query.Get("db")
		password, set := parsed.User.Password()
		if !set {
			password = query.Get("password")
		}
		if parsed.User.Username() != "" {
			user = parsed.User.Username()
		}
		if strings.Trim(parsed.Path, "/") != "" {
			database = strings.TrimPrefix(parsed.Path, "/")
		}
		number, err := strconv.ParseUint(database, 10, 16)
		if database != "" && err != nil {
			return errors.New("has a database that is not a number")
		}
		if r.User == "" && r.Password == "" {
			r.User, r.Password = user, password
		}
		r.Database = max(r.Database, int(number))
		address = parsed.Host
	}
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		return wrong
	}
	r.Addresses = append(r.Addresses, address)
	return nil
}

// ForSeconds are the settings of the Redis for limits per second, as if it were
// the only one.
func (s *Settings) ForSeconds() *Settings {
	other := *s
	other.RedisSocketType, other.RedisType, other.RedisURL = s.PerSecondSocketType, s.PerSecondType, s.PerSecondURL
	other.RedisPoolSize, other.RedisAuth, other.RedisTLS, other.RedisTimeout = s.PerSecondPoolSize, s.PerSecondAuth, s.PerSecondTLS, s.PerSecondTimeout
	other.RedisSentinelAuth = s.PerSecondSentinelAuth
	other.PerSecond = false
	return &other
}

// validateRedis checks one Redis's variables, whose names begin with prefix.
func (s *Settings) validateRedis(prefix string, add func(wrong bool, format string, args ...any)) {
	add(s.RedisTimeout <= 0, prefix+"TIMEOUT: %s is not positive", s.RedisTimeout)
	add(s.RedisPoolSize < 1 || s.RedisPoolSize > 10_000, prefix+"POOL_SIZE: %d is outside 1 to 10000", s.RedisPoolSize)
	knownType := slices.Contains([]string{"single", "cluster", "sentinel"}, strings.ToLower(s.RedisType))
	add(!knownType, prefix+"TYPE: %q is not SINGLE, CLUSTER or SENTINEL", s.RedisType)
	knownSocket := s.RedisSocketType == "unix" || s.RedisSocketType == "tcp"
	add(!knownSocket, prefix+"SOCKET_TYPE: %q is not unix or tcp", s.RedisSocketType)
	_, err := s.Servers()
	add(knownType && knownSocket && s.Backend == "redis" && err != nil, prefix+"URL: %v", err)
}
