package ersettings

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Mogrifier is one of DOG_STATSD_MOGRIFIER_*.
type Mogrifier struct {
	Pattern *regexp.Regexp
	Name    string
	// Tags are names and values, in order.
	Tags [][2]string
}

// mogrifiers reads the variables of those that are listed.
func mogrifiers(list string, lookup func(string) (string, bool)) (all []Mogrifier, err error) {
	var errs []error
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		prefix := "DOG_STATSD_MOGRIFIER_" + name
		value := func(of string) string {
			text, _ := lookup(prefix + of)
			return text
		}
		one := Mogrifier{Name: value("_NAME")}
		if one.Name == "" || value("_PATTERN") == "" {
			errs = append(errs, fmt.Errorf("%s_PATTERN, %s_NAME: are required by USE_DOG_STATSD_MOGRIFIERS", prefix, prefix))
			continue
		}
		if one.Pattern, err = regexp.Compile(value("_PATTERN")); err != nil {
			errs = append(errs, fmt.Errorf("%s_PATTERN: %w", prefix, err))
		}
		for pair := range strings.SplitSeq(value("_TAGS"), ",") {
			tag, text, _ := strings.Cut(pair, ":")
			switch {
			case strings.TrimSpace(pair) == "":
			case tag == "" || text == "":
				errs = append(errs, fmt.Errorf("%s_TAGS: must be NAME:VALUE, with commas between", prefix))
			default:
				one.Tags = append(one.Tags, [2]string{strings.TrimSpace(tag), text})
			}
		}
		all = append(all, one)
	}
	return all, errors.Join(errs...)
}

var srvName = regexp.MustCompile(`^_([^.]+)\._([^.]+)\.(.+)$`)

// SRV takes the name of an SRV record (RFC 2782) apart.
func SRV(name string) (service, protocol, domain string, ok bool) {
	found := srvName.FindStringSubmatch(name)
	if found == nil {
		return "", "", "", false
	}
	return found[1], found[2], found[3], true
}

// ForSeconds are the settings of the Redis for limits per second, as if it were
// the only one.
func (s *Settings) ForSeconds() *Settings {
	other := *s
	other.RedisSocketType, other.RedisType, other.RedisURL = s.PerSecondSocketType, s.PerSecondType, s.PerSecondURL
	other.RedisPoolSize, other.RedisAuth, other.RedisTLS, other.RedisTimeout = s.PerSecondPoolSize, s.PerSecondAuth, s.PerSecondTLS, s.PerSecondTimeout
	other.PerSecond = false
	return &other
}

// validateRedis checks one Redis's variables, whose names begin with prefix.
func (s *Settings) validateRedis(prefix string, add func(wrong bool, format string, args ...any)) {
	add(s.RedisTimeout <= 0, prefix+"TIMEOUT: %s is not positive", s.RedisTimeout)
	add(s.RedisPoolSize < 1 || s.RedisPoolSize > 10_000, prefix+"POOL_SIZE: %d is outside 1 to 10000", s.RedisPoolSize)
	add(!slices.Contains([]string{"single", "cluster", "sentinel"}, strings.ToLower(s.RedisType)), prefix+"TYPE: %q is not SINGLE, CLUSTER or SENTINEL", s.RedisType)
	add(s.RedisSocketType != "unix" && s.RedisSocketType != "tcp", prefix+"SOCKET_TYPE: %q is not unix or tcp", s.RedisSocketType)
	add(strings.EqualFold(s.RedisType, "sentinel") && !strings.Contains(s.RedisURL, ","), prefix+"URL: for SENTINEL is MASTER-NAME,HOST:PORT[,HOST:PORT ...]")
}
