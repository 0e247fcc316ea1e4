package user

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
	"weir.dev/services/internal/query"
)

// Bounds of API keys.
const (
	// MaxKeys bounds the keys of a tenant that are not revoked.
	MaxKeys = 10_000
	// MaxKeyScopes bounds the scopes of one key.
	MaxKeyScopes = 50
	// MaxOverlap bounds how long a replaced key goes on being accepted.
	MaxOverlap = 30 * 24 * time.Hour
	// DefaultOverlap is how long it does if nothing is said.
	DefaultOverlap = 24 * time.Hour
	// KeptRefused is how long a key that is refused for good is still listed.
	KeptRefused = 90 * 24 * time.Hour
)

// ScopeKeysAdmin lets its bearer issue keys for any consumer of the tenant, with
// any scopes, and replace and revoke those of others.
const ScopeKeysAdmin = "apikeys.admin"

// APIKeyPattern is the pattern of resource names of API keys.
const APIKeyPattern = "apiKeys/*"

// KeyState is what has become of a key.
type KeyState int

// States of keys.
const (
	KeyActive KeyState = iota + 1
	KeyExpired
	KeyRevoked
)

// APIKey is what is kept of an API key: everything but the key.
type APIKey struct {
	Version
	ID          string
	DisplayName string
	// Consumer is "namespace/name". Never empty.
	Consumer string
	Scopes   []string
	// SHA256 is of the key as sent.
	SHA256 [32]byte
	// Lifetime is what the key was issued for; zero means for ever.
	Lifetime time.Duration
	// ExpireTime, RevokeTime and LastUseTime are zero for never.
	ExpireTime, RevokeTime, LastUseTime time.Time
	// ReplacedBy is the id of the key that replaced this one.
	ReplacedBy string
	// Change is the feed's version that this version of the key came with. The
	// store sets it.
	Change int64
}

// Name is the resource name.
func (k APIKey) Name() string { return "apiKeys/" + k.ID }

// State is what has become of the key at now.
func (k APIKey) State(now time.Time) KeyState {
	switch {
	case !k.RevokeTime.IsZero():
		return KeyRevoked
	case !k.ExpireTime.IsZero() && !now.Before(k.ExpireTime):
		return KeyExpired
	default:
		return KeyActive
	}
}

func (k APIKey) clone() APIKey {
	k.Scopes = slices.Clone(k.Scopes)
	return k
}

// APIKeyFields are the fields of API keys in filters and orders.
func APIKeyFields() query.Schema {
	return fields(APIKeyPattern, query.Schema{"display_name": {Kind: query.Text}, "consumer": {Kind: query.Text}})
}

// FeedPosition says where the feed of key changes stands.
type FeedPosition struct {
	// Epoch names the database; versions of different epochs can't be compared.
	Epoch string
	// Version is of the latest change; the first one is 1.
	Version int64
	// Purged is the latest version of which a key has been forgotten.
	Purged int64
}

// APIKeyStore keeps API keys, under the contract of OrganizationStore. Every
// change takes the next version of the feed, and becomes visible after all with
// a lower one.
type APIKeyStore interface {
	// CreateAPIKey returns TooManyKeys when the tenant has MaxKeys that are not
	// revoked.
	CreateAPIKey(ctx context.Context, k APIKey) error
	GetAPIKey(ctx context.Context, tenant, id string) (APIKey, error)
	ListAPIKeys(ctx context.Context, tenant string, list query.List) ([]APIKey, *query.Cursor, error)
	// UpdateAPIKey leaves LastUseTime as it is. With a successor that is not
	// nil, it adds that in the same transaction.
	UpdateAPIKey(ctx context.Context, k APIKey, successor *APIKey) error
}

// KeyFeedStore is the other side of APIKeyStore: the keys of all tenants by the
// order of their changes.
type KeyFeedStore interface {
	FeedPosition(ctx context.Context) (FeedPosition, error)
	// ChangedAPIKeys lists the keys whose Change is above after, in its order,
	// at most limit of them.
	ChangedAPIKeys(ctx context.Context, after int64, limit int) ([]APIKey, error)
	// UseAPIKeys moves LastUseTime forward, by id; ids that are not known are
	// left out. It is no change of the feed.
	UseAPIKeys(ctx context.Context, uses map[string]time.Time) error
	// PurgeAPIKeys forgets keys that were revoked or expired before a time.
	PurgeAPIKeys(ctx context.Context, before time.Time) error
}

// APIKeyNotFound is the error of a key that the tenant doesn't have.
func APIKeyNotFound(id string) *fault.Error {
	return fault.New(codes.NotFound, "API_KEY_NOT_FOUND", "apiKeys/%s does not exist", id)
}

// TooManyKeys is the error of a tenant that has MaxKeys.
func TooManyKeys() *fault.Error {
	return fault.New(codes.ResourceExhausted, "TOO_MANY_API_KEYS", "the tenant has %d API keys; revoke some first", MaxKeys)
}

// KeyRefused is the error of replacing a key that is not accepted itself.
func KeyRefused(name, why string) *fault.Error {
	return fault.New(codes.FailedPrecondition, "API_KEY_NOT_ACTIVE", "%s %s; issue a new key instead", name, why)
}

// NotYourKey is the error of reaching for more than one's own.
func NotYourKey(format string, args ...any) *fault.Error {
	return fault.New(codes.PermissionDenied, "API_KEY_NOT_YOURS", format, args...)
}
