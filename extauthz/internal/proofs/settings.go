package proofs

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

// Bounds of TokenCache, as auth_tokens.proto documents them.
const (
	maxTTL        = time.Hour
	maxRefusalTTL = 5 * time.Minute
)

// TTLs reads a method's cache settings; usual is its own ttl. The error begins
// with the field at fault.
func TTLs(settings *rulesv1.TokenCache, usual time.Duration) (ttl, refusalTTL time.Duration, err error) {
	if ttl, err = Duration("ttl", settings.GetTtl(), usual, maxTTL); err != nil {
		return 0, 0, err
	}
	refusalTTL, err = Duration("refusal_ttl", settings.GetRefusalTtl(), DefaultRefusalTTL, maxRefusalTTL)
	return ttl, refusalTTL, err
}

// Duration reads a duration between zero and most; zero or absent means usual.
func Duration(field string, value *durationpb.Duration, usual, most time.Duration) (time.Duration, error) {
	if value == nil {
		return usual, nil
	}
	if err := value.CheckValid(); err != nil {
		return 0, fmt.Errorf("%s: %w", field, err)
	}
	given := value.AsDuration()
	if given < 0 || given > most {
		return 0, fmt.Errorf("%s: %s is outside 0s to %s", field, given, most)
	}
	if given == 0 {
		return usual, nil
	}
	return given, nil
}
