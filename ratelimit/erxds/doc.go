// Package erxds fetches the configuration of envoyproxy/ratelimit over xDS, as
// that server does with CONFIG_TYPE=GRPC_XDS_SOTW and as Envoy Gateway serves it:
// state-of-the-world ADS with resources of type
// ratelimit.config.ratelimit.v3.RateLimitConfig, one for each domain. What they
// say is checked like a file (package erconfig); a set with a mistake is refused
// as a whole, and what was in effect stays.
package erxds
