package adsclient

import "google.golang.org/grpc/backoff"

func connectBackoff() backoff.Config {
	return backoff.Config{BaseDelay: firstBackoff, Multiplier: 2, Jitter: 0.3, MaxDelay: maxBackoff}
}
