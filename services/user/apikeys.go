package user

import (
	"context"
	"crypto/sha256"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"weir.dev/kit/identity"
	"weir.dev/kit/keyformat"
	"weir.dev/services/internal/query"
	"weir.dev/services/internal/resource"
)

// Issued is a new key together with the key itself, which is not kept.
type Issued struct {
	APIKey
	Secret string
}

var (
	consumerPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`) // immutable
	scopePattern    = regexp.MustCompile(`^[\x21\x23-\x5B\x5D-\x7E]{1,100}$`)                                         // immutable; RFC 6749 section 3.3
)

// CreateAPIKey issues a key; of k only DisplayName, Consumer, Scopes and
// ExpireTime count. A caller whose own key ends issues keys that end no later.
func (s *Service) CreateAPIKey(ctx context.Context, k APIKey) (Issued, error) {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return Issued{}, err
	}
	caller, _ := identity.FromContext(ctx)
	k = APIKey{Version: s.version(tenant), DisplayName: k.DisplayName, Consumer: k.Consumer, Scopes: k.Scopes, ExpireTime: k.ExpireTime}
	if k.Consumer == "" {
		k.Consumer = caller.Consumer
	}
	if err := s.checkAPIKey(k); err != nil {
		return Issued{}, err
	}
	if err := mayIssue(caller, k); err != nil {
		return Issued{}, err
	}
	own, err := s.ownKey(ctx, tenant, caller)
	if err != nil {
		return Issued{}, err
	}
	if own != nil && k.ExpireTime.IsZero() {
		k.ExpireTime = own.ExpireTime
	}
	if err := mayOutlive(own, k); err != nil {
		return Issued{}, err
	}
	if !k.ExpireTime.IsZero() {
		k.Lifetime = k.ExpireTime.Sub(k.CreateTime)
	}
	issued, err := issue(k)
	if err != nil {
		return Issued{}, err
	}
	if err := s.store.CreateAPIKey(ctx, issued.APIKey); err != nil {
		return Issued{}, err
	}
	s.changed()
	return issued, nil
}

// issue gives k an id and a key.
func issue(k APIKey) (Issued, error) {
	k.ID = resource.NewID(k.CreateTime)
	secret, err := keyformat.New(k.ID)
	if err != nil {
		return Issued{}, fmt.Errorf("a new key: %w", err)
	}
	k.SHA256 = sha256.Sum256([]byte(secret))
	return Issued{APIKey: k, Secret: secret}, nil
}

func (s *Service) checkAPIKey(k APIKey) error {
	c := newChecks("API key")
	c.add("api_key.display_name", resource.CheckText(k.DisplayName, false, resource.MaxDisplayName))
	switch {
	case k.Consumer == "":
		c.add("api_key.consumer", "is required: the caller is no Consumer whose key this could be")
	case !consumerPattern.MatchString(k.Consumer):
		c.add("api_key.consumer", "is not namespace/name of a Consumer, such as default/shop")
	}
	c.add("api_key.scopes", checkKeyScopes(k.Scopes))
	c.add("api_key.expire_time", s.checkExpiry(k.ExpireTime))
	return c.err()
}

func (s *Service) checkExpiry(at time.Time) string {
	if !at.IsZero() && !at.After(s.clock()) {
		return "is not in the future"
	}
	return ""
}

func checkKeyScopes(scopes []string) string {
	if len(scopes) > MaxKeyScopes {
		return fmt.Sprintf("has more than %d entries", MaxKeyScopes)
	}
	for i, scope := range scopes {
		if !scopePattern.MatchString(scope) {
			return fmt.Sprintf("entry %d is not a scope of at most 100 characters (RFC 6749 section 3.3)", i)
		}
		if slices.Contains(scopes[:i], scope) {
			return fmt.Sprintf("names %q twice", scope)
		}
	}
	return ""
}

// mayIssue lets a caller have keys that can do no more than the caller.
func mayIssue(caller identity.Identity, k APIKey) error {
	if err := mayHandle(caller, k); err != nil || slices.Contains(caller.Scopes, ScopeKeysAdmin) {
		return err
	}
	for _, scope := range k.Scopes {
		if !slices.Contains(caller.Scopes, scope) {
			return NotYourKey("the caller hasn't got the scope %q itself; giving it away takes the scope %s", scope, ScopeKeysAdmin)
		}
	}
	return nil
}

// ownKey is the key that the caller came with, where that ends; nil for other
// callers, and for those who may issue what they like.
func (s *Service) ownKey(ctx context.Context, tenant string, caller identity.Identity) (*APIKey, error) {
	id, issued := strings.CutPrefix(caller.Subject, "apiKeys/")
	if !issued || slices.Contains(caller.Scopes, ScopeKeysAdmin) {
		return nil, nil
	}
	own, err := s.store.GetAPIKey(ctx, tenant, id)
	if err != nil {
		return nil, fmt.Errorf("the key that the caller came with: %w", err)
	}
	if own.ExpireTime.IsZero() {
		return nil, nil
	}
	return &own, nil
}

// mayOutlive keeps a key that ends from leaving one behind that does not.
func mayOutlive(own *APIKey, k APIKey) error {
	if own == nil || !k.ExpireTime.IsZero() && !k.ExpireTime.After(own.ExpireTime) {
		return nil
	}
	return NotYourKey("the caller's own key ends at %s, so it can't have one that ends later; that takes the scope %s",
		own.ExpireTime.UTC().Format(time.RFC3339), ScopeKeysAdmin)
}

// mayHandle lets a caller change the keys of its own consumer.
func mayHandle(caller identity.Identity, k APIKey) error {
	if caller.Consumer == k.Consumer || slices.Contains(caller.Scopes, ScopeKeysAdmin) {
		return nil
	}
	return NotYourKey("the key is of another consumer than the caller; that takes the scope %s", ScopeKeysAdmin)
}

// GetAPIKey returns one key.
func (s *Service) GetAPIKey(ctx context.Context, name string) (APIKey, error) {
	tenant, ids, err := scope(ctx, name, APIKeyPattern, "name")
	if err != nil {
		return APIKey{}, err
	}
	return s.store.GetAPIKey(ctx, tenant, ids[0])
}

// ListAPIKeys returns a page of keys and the token of the next.
func (s *Service) ListAPIKeys(ctx context.Context, request query.Request) ([]APIKey, string, error) {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return nil, "", err
	}
	return list(s, request, APIKeyFields(), []string{"apiKeys", tenant}, func(l query.List) ([]APIKey, *query.Cursor, error) {
		return s.store.ListAPIKeys(ctx, tenant, l)
	})
}

// RotateAPIKey replaces a key by a new one. A nil overlap is DefaultOverlap; a
// zero expires gives the new key the lifetime of the old one.
func (s *Service) RotateAPIKey(ctx context.Context, name string, overlap *time.Duration, expires time.Time, etag string) (Issued, error) {
	tenant, ids, err := scope(ctx, name, APIKeyPattern, "name")
	if err != nil {
		return Issued{}, err
	}
	c := newChecks("rotation")
	c.add("expire_time", s.checkExpiry(expires))
	if overlap == nil {
		usual := DefaultOverlap
		overlap = &usual
	}
	if *overlap < 0 || *overlap > MaxOverlap {
		c.add("overlap", fmt.Sprintf("is outside 0 to %s", MaxOverlap))
	}
	if err := c.err(); err != nil {
		return Issued{}, err
	}
	caller, _ := identity.FromContext(ctx)
	own, err := s.ownKey(ctx, tenant, caller)
	if err != nil {
		return Issued{}, err
	}
	var successor Issued
	_, err = change(etag,
		func() (APIKey, error) { return s.store.GetAPIKey(ctx, tenant, ids[0]) },
		func(current *APIKey) error {
			if err := mayIssue(caller, *current); err != nil {
				return err
			}
			if successor, err = s.replace(current, *overlap, expires); err != nil {
				return err
			}
			if own != nil && own.ID == current.ID && successor.Lifetime > 0 && successor.Lifetime <= own.Lifetime {
				return nil // renewed for as long as it was given
			}
			return mayOutlive(own, successor.APIKey)
		},
		func(changed APIKey) error { return s.store.UpdateAPIKey(ctx, changed, &successor.APIKey) })
	if err != nil {
		return Issued{}, err
	}
	s.changed()
	return successor, nil
}

// replace makes the successor and lets the old key run out.
func (s *Service) replace(old *APIKey, overlap time.Duration, expires time.Time) (Issued, error) {
	now := resource.Now(s.clock)
	switch state := old.State(now); {
	case state == KeyRevoked:
		return Issued{}, KeyRefused(old.Name(), "is revoked")
	case state == KeyExpired:
		return Issued{}, KeyRefused(old.Name(), "has expired")
	case old.ReplacedBy != "":
		return Issued{}, KeyRefused(old.Name(), "was replaced by apiKeys/"+old.ReplacedBy)
	}
	lifetime := old.Lifetime
	switch {
	case !expires.IsZero():
		lifetime = expires.Sub(now)
	case lifetime > 0:
		expires = now.Add(lifetime)
	}
	successor, err := issue(APIKey{
		Version: s.version(old.Tenant), DisplayName: old.DisplayName, Consumer: old.Consumer, Scopes: old.clone().Scopes,
		Lifetime: lifetime, ExpireTime: expires,
	})
	if err != nil {
		return Issued{}, err
	}
	if end := now.Add(overlap); old.ExpireTime.IsZero() || end.Before(old.ExpireTime) {
		old.ExpireTime = end
	}
	old.ReplacedBy = successor.ID
	old.next(now)
	return successor, nil
}

// RevokeAPIKey refuses a key from now on. A key that is revoked already stays as
// it is.
func (s *Service) RevokeAPIKey(ctx context.Context, name, etag string) (APIKey, error) {
	tenant, ids, err := scope(ctx, name, APIKeyPattern, "name")
	if err != nil {
		return APIKey{}, err
	}
	caller, _ := identity.FromContext(ctx)
	done := false
	key, err := change(etag,
		func() (APIKey, error) { return s.store.GetAPIKey(ctx, tenant, ids[0]) },
		func(current *APIKey) error {
			if err := mayHandle(caller, *current); err != nil {
				return err
			}
			if done = !current.RevokeTime.IsZero(); done {
				return nil
			}
			now := resource.Now(s.clock)
			current.RevokeTime = now
			current.next(now)
			return nil
		},
		func(changed APIKey) error {
			if done {
				return nil
			}
			return s.store.UpdateAPIKey(ctx, changed, nil)
		})
	if err == nil && !done {
		s.changed()
	}
	return key, err
}
