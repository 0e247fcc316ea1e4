package ersettings_test

import (
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit/ersettings"
)

func read(set map[string]string) (*ersettings.Settings, error) {
	return ersettings.Read(func(name string) (string, bool) { value, ok := set[name]; return value, ok })
}

func TestDefaults(t *testing.T) {
	s, err := read(nil)
	require.NoError(t, err)
	require.EqualValues(t, 8080, s.Port)
	require.EqualValues(t, 8081, s.GRPCPort)
	require.EqualValues(t, 6070, s.DebugPort)
	require.Equal(t, "/srv/runtime_data/current", s.RuntimeRoot)
	require.Equal(t, "config", s.RuntimeApp)
	require.InDelta(t, 0.8, s.NearLimitRatio, 0)
	require.Equal(t, 24*time.Hour, s.GRPCMaxConnectionAge)
	require.Equal(t, "RateLimit-Remaining", s.HeaderRemaining)
	require.Empty(t, s.Ignored)
}

func TestValues(t *testing.T) {
	s, err := read(map[string]string{
		"PORT": "0", "REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": "redis:6379", "REDIS_TYPE": "cluster", "REDIS_TIMEOUT": "150ms", "SHADOW_MODE": "1",
		"NEAR_LIMIT_RATIO": "0.5", "REDIS_PIPELINE_LIMIT": "7", "USE_STATSD": "false", "LOG_LEVEL": "debug", "MERGE_DOMAIN_CONFIG": "",
	})
	require.NoError(t, err)
	require.Zero(t, s.Port)
	require.True(t, s.GlobalShadow)
	require.False(t, s.MergeDomains)
	require.Equal(t, 150*time.Millisecond, s.RedisTimeout)
	require.Len(t, s.Ignored, 1)
	require.Contains(t, s.Ignored[0], "REDIS_PIPELINE_LIMIT: requests that come together share a script call")
}

func TestMistakes(t *testing.T) {
	_, err := read(map[string]string{
		"PORT": "http", "GRPC_PORT": "65536", "SHADOW_MODE": "maybe", "REDIS_TIMEOUT": "10", "NEAR_LIMIT_RATIO": "2", "REDIS_POOL_SIZE": "0",
		"CONFIG_TYPE": "ETCD", "BACKEND_TYPE": "etcd", "REDIS_TYPE": "ring", "REDIS_SOCKET_TYPE": "udp", "LOG_LEVEL": "loud",
		"GRPC_SERVER_USE_TLS": "true", "GRPC_CLIENT_TLS_SAN": "x", "REDIS_TLS_CLIENT_CERT": "c", "USE_PROMETHEUS": "true", "PROMETHEUS_ADDR": "9090",
		"PROMETHEUS_PATH": "metrics", "LIMIT_RESPONSE_HEADERS_ENABLED": "true", "LIMIT_RESET_HEADER": "a b", "REDIS_AUTH": "hunter2",
	})
	for _, name := range []string{
		"PORT", "GRPC_PORT", "SHADOW_MODE", "REDIS_TIMEOUT", "NEAR_LIMIT_RATIO", "REDIS_POOL_SIZE", "CONFIG_TYPE", "BACKEND_TYPE", "REDIS_TYPE",
		"REDIS_SOCKET_TYPE", "LOG_LEVEL", "GRPC_SERVER_USE_TLS", "GRPC_CLIENT_TLS_SAN", "REDIS_TLS_CLIENT_CERT", "PROMETHEUS_ADDR",
		"PROMETHEUS_PATH", "LIMIT_RESET_HEADER",
	} {
		require.ErrorContains(t, err, name+": ")
	}
	require.NotContains(t, err.Error(), "hunter2")
	_, err = read(map[string]string{"REDIS_TYPE": "SENTINEL", "REDIS_URL": "a:1"})
	require.ErrorContains(t, err, "REDIS_URL: for SENTINEL is MASTER-NAME,")
}

func TestMogrifiersAndRecords(t *testing.T) {
	set := map[string]string{
		"USE_DOG_STATSD": "true", "USE_STATSD": "false", "USE_DOG_STATSD_MOGRIFIERS": "HITS, DOMAIN",
		"DOG_STATSD_MOGRIFIER_HITS_PATTERN": `^a\.(.*)$`, "DOG_STATSD_MOGRIFIER_HITS_NAME": "a", "DOG_STATSD_MOGRIFIER_HITS_TAGS": "domain:$1,x:y:z",
		"DOG_STATSD_MOGRIFIER_DOMAIN_PATTERN": "b", "DOG_STATSD_MOGRIFIER_DOMAIN_NAME": "c",
		"BACKEND_TYPE": "memcache", "MEMCACHE_SRV": "_memcache._tcp.cache.example", "MEMCACHE_SRV_REFRESH": "30s",
	}
	s, err := read(set)
	require.NoError(t, err)
	require.Len(t, s.Mogrifiers, 2)
	require.Equal(t, [][2]string{{"domain", "$1"}, {"x", "y:z"}}, s.Mogrifiers[0].Tags)
	require.Equal(t, "c", s.Mogrifiers[1].Name)
	require.Empty(t, s.Ignored)
	for name, wrong := range map[string]string{
		"DOG_STATSD_MOGRIFIER_HITS_PATTERN": "(", "DOG_STATSD_MOGRIFIER_DOMAIN_NAME": "", "DOG_STATSD_MOGRIFIER_HITS_TAGS": "domain",
		"MEMCACHE_SRV": "cache.example", "MEMCACHE_SRV_REFRESH": "1ms", "USE_DOG_STATSD": "maybe",
	} {
		changed := maps.Clone(set)
		changed[name] = wrong
		_, err := read(changed)
		require.ErrorContains(t, err, name)
	}
	set["USE_STATSD"], set["MEMCACHE_HOST_PORT"] = "true", "a:1"
	_, err = read(set)
	require.ErrorContains(t, err, "USE_DOG_STATSD: stands beside USE_STATSD")
	require.ErrorContains(t, err, "MEMCACHE_HOST_PORT: either this")
}

func TestRedisForSeconds(t *testing.T) {
	s, err := read(map[string]string{
		"REDIS_URL": "a:1", "REDIS_SOCKET_TYPE": "tcp", "REDIS_AUTH": "one",
		"REDIS_PERSECOND": "true", "REDIS_PERSECOND_URL": "b:2,c:3", "REDIS_PERSECOND_SOCKET_TYPE": "tcp", "REDIS_PERSECOND_TYPE": "cluster", "REDIS_PERSECOND_AUTH": "two",
	})
	require.NoError(t, err)
	other := s.ForSeconds()
	require.Equal(t, []string{"b:2,c:3", "cluster", "two"}, []string{other.RedisURL, other.RedisType, other.RedisAuth})
	require.Equal(t, "a:1", s.RedisURL)
	_, err = read(map[string]string{"REDIS_PERSECOND": "true", "REDIS_PERSECOND_TYPE": "ring", "REDIS_PERSECOND_POOL_SIZE": "0"})
	require.ErrorContains(t, err, "REDIS_PERSECOND_TYPE: ")
	require.ErrorContains(t, err, "REDIS_PERSECOND_POOL_SIZE: ")
	_, err = read(map[string]string{"REDIS_PERSECOND_TYPE": "ring"})
	require.NoError(t, err, "it is not used")
}

// What cannot be read is told once, and no address, which may hold a password, is
// repeated.
func TestRedisMistakes(t *testing.T) {
	const must = "is not HOST:PORT or redis://[USER:PASSWORD@]HOST:PORT[/DATABASE]"
	for _, test := range []struct {
		set  map[string]string
		want string
	}{
		{map[string]string{"REDIS_POOL_SIZE": "abc"}, `REDIS_POOL_SIZE: "abc" is not a whole number`},
		{map[string]string{"REDIS_POOL_SIZE": "0"}, "REDIS_POOL_SIZE: 0 is outside 1 to 10000"},
		{map[string]string{"REDIS_TIMEOUT": "10"}, `REDIS_TIMEOUT: "10" is not a duration such as 150ms or 10s`},
		{map[string]string{"REDIS_URL": ""}, "REDIS_URL: is empty; it is HOST:PORT with _SOCKET_TYPE=tcp, or a socket's path with unix, which is the default"},
		{map[string]string{"REDIS_URL": "hunter2:6379"}, "REDIS_URL: is not the path of a socket; for HOST:PORT set _SOCKET_TYPE=tcp, whose default is unix"},
		{map[string]string{"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": "hunter2"}, "REDIS_URL: address 1 of 1 " + must},
		{map[string]string{"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": "redis://:hunter2@redis"}, "REDIS_URL: address 1 of 1 " + must},
		{map[string]string{"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": "redis://redis:6379/hunter2"}, "REDIS_URL: address 1 of 1 has a database that is not a number"},
		{map[string]string{"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": "a:1,b:2"}, "REDIS_URL: has several addresses, and _TYPE is single"},
		{map[string]string{"REDIS_TYPE": "cluster", "REDIS_URL": "a:1,hunter2"}, "REDIS_URL: address 2 of 2 " + must},
		{map[string]string{"REDIS_TYPE": "cluster", "REDIS_URL": "redis://a:1/4"}, "REDIS_URL: names database 4, which only _TYPE=single has"},
		{map[string]string{"REDIS_PERSECOND": "true", "REDIS_PERSECOND_URL": ""}, "REDIS_PERSECOND_URL: is empty; it is HOST:PORT with _SOCKET_TYPE=tcp, or a socket's path with unix, which is the default"},
	} {
		_, err := read(test.set)
		require.EqualError(t, err, test.want)
	}
	_, err := read(map[string]string{"BACKEND_TYPE": "memory", "REDIS_URL": ""})
	require.NoError(t, err, "it is not used")
}
