package store

import (
	"context"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"time"

	"weir.dev/services/internal/query"
	"weir.dev/services/internal/sqldb"
	"weir.dev/services/user"
)

func apiKeys() sqldb.Table[user.APIKey] {
	return sqldb.Table[user.APIKey]{
		Name: "user_api_keys", Keys: []string{"id"},
		Columns: []string{
			"display_name", "consumer", "scopes", "sha256", "lifetime", "expires_at", "revoked_at", "last_used_at", "replaced_by", "change", "created_at", "updated_at",
		},
		Fields: columns("id", map[string]string{"display_name": "display_name", "consumer": "consumer"}),
		Row: func(k user.APIKey) []any {
			return []any{
				k.Tenant, k.ID, k.Revision, k.DisplayName, k.Consumer, strings.Join(k.Scopes, " "), hex.EncodeToString(k.SHA256[:]), k.Lifetime.Microseconds(),
				optional(k.ExpireTime), optional(k.RevokeTime), optional(k.LastUseTime), k.ReplacedBy, k.Change, sqldb.Micros(k.CreateTime), sqldb.Micros(k.UpdateTime),
			}
		},
		Scan: scanAPIKey,
	}
}

func scanAPIKey(scan func(...any) error) (k user.APIKey, err error) {
	var scopes, digest string
	var lifetime, expires, revoked, used int64
	err = times(&k.Version, scan, &k.ID, &k.Revision, &k.DisplayName, &k.Consumer, &scopes, &digest, &lifetime, &expires, &revoked, &used, &k.ReplacedBy, &k.Change)
	if err != nil {
		return k, err
	}
	k.Scopes, k.Lifetime = strings.Fields(scopes), time.Duration(lifetime)*time.Microsecond
	k.ExpireTime, k.RevokeTime, k.LastUseTime = optionalTime(expires), optionalTime(revoked), optionalTime(used)
	raw, err := hex.DecodeString(digest)
	copy(k.SHA256[:], raw)
	return k, err
}

// optional is a time that may be missing, as it is stored.
func optional(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return sqldb.Micros(t)
}

func optionalTime(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return sqldb.Time(micros)
}

// nextChange takes the feed's next version, and with it the lock that makes
// changes visible in order.
func nextChange(ctx context.Context, q sqldb.Querier) (version int64, err error) {
	err = q.QueryRowContext(ctx, "UPDATE user_key_feed SET version = version + 1 WHERE id = 1 RETURNING version").Scan(&version)
	return version, err
}

// CreateAPIKey implements user.APIKeyStore.
func (s *Store) CreateAPIKey(ctx context.Context, k user.APIKey) error {
	return s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error { return s.insertAPIKey(ctx, q, k) })
}

func (s *Store) insertAPIKey(ctx context.Context, q sqldb.Querier, k user.APIKey) (err error) {
	if k.Change, err = nextChange(ctx, q); err != nil {
		return err
	}
	var count int
	if err := q.QueryRowContext(ctx, "SELECT count(*) FROM user_api_keys WHERE tenant = $1 AND revoked_at = 0", k.Tenant).Scan(&count); err != nil {
		return err
	}
	if count >= user.MaxKeys {
		return user.TooManyKeys()
	}
	return s.apiKeys.Insert(ctx, q, k)
}

// GetAPIKey implements user.APIKeyStore.
func (s *Store) GetAPIKey(ctx context.Context, tenant, id string) (user.APIKey, error) {
	k, err := get(ctx, s, s.apiKeys, user.APIKeyNotFound(id), tenant, id)
	k.Tenant = tenant
	return k, err
}

// ListAPIKeys implements user.APIKeyStore.
func (s *Store) ListAPIKeys(ctx context.Context, tenant string, list query.List) ([]user.APIKey, *query.Cursor, error) {
	return page(ctx, s, s.apiKeys, list, tenant)
}

// UpdateAPIKey implements user.APIKeyStore.
func (s *Store) UpdateAPIKey(ctx context.Context, k user.APIKey, successor *user.APIKey) error {
	return known(s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) (err error) {
		changed := k
		if changed.Change, err = nextChange(ctx, q); err != nil {
			return err
		}
		current, err := locked(ctx, q, s.apiKeys, s.db.Dialect().ForUpdate(), user.APIKeyNotFound(k.ID), k.Tenant, k.ID)
		if err != nil {
			return err
		}
		changed.LastUseTime = current.LastUseTime
		ok, err := s.apiKeys.Update(ctx, q, changed, k.Revision-1)
		switch {
		case err != nil:
			return err
		case !ok:
			return sqldb.ErrStale
		case successor != nil:
			return s.insertAPIKey(ctx, q, *successor)
		}
		return nil
	}))
}

// FeedPosition implements user.KeyFeedStore.
func (s *Store) FeedPosition(ctx context.Context) (position user.FeedPosition, err error) {
	epoch, err := s.db.Secret(ctx, "user_secrets", "key-feed-epoch")
	if err != nil {
		return position, err
	}
	position.Epoch = hex.EncodeToString(epoch[:16])
	err = s.db.Read(ctx, func(ctx context.Context, q sqldb.Querier) error {
		return q.QueryRowContext(ctx, "SELECT version, purged FROM user_key_feed WHERE id = 1").Scan(&position.Version, &position.Purged)
	})
	return position, err
}

// ChangedAPIKeys implements user.KeyFeedStore.
func (s *Store) ChangedAPIKeys(ctx context.Context, after int64, limit int) (keys []user.APIKey, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, q sqldb.Querier) error {
		statement := "SELECT tenant, id, revision, " + strings.Join(s.apiKeys.Columns, ", ") + " FROM user_api_keys WHERE change > $1 ORDER BY change LIMIT $2"
		rows, err := q.QueryContext(ctx, statement, after, int64(limit))
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			tenant := ""
			key, err := scanAPIKey(func(into ...any) error { return rows.Scan(append([]any{&tenant}, into...)...) })
			if err != nil {
				return err
			}
			key.Tenant = tenant
			keys = append(keys, key)
		}
		return rows.Err()
	})
	return keys, err
}

// UseAPIKeys implements user.KeyFeedStore.
func (s *Store) UseAPIKeys(ctx context.Context, uses map[string]time.Time) error {
	return s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		for _, id := range slices.Sorted(maps.Keys(uses)) { // in one order, so that two reports can't lock each other out
			_, err := q.ExecContext(ctx, "UPDATE user_api_keys SET last_used_at = $1 WHERE id = $2 AND last_used_at < $1", sqldb.Micros(uses[id]), id)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// PurgeAPIKeys implements user.KeyFeedStore.
func (s *Store) PurgeAPIKeys(ctx context.Context, before time.Time) error {
	const old = " FROM user_api_keys WHERE (revoked_at > 0 AND revoked_at < $1) OR (expires_at > 0 AND expires_at < $1)"
	return s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		var latest int64
		if err := q.QueryRowContext(ctx, "SELECT coalesce(max(change), 0)"+old, sqldb.Micros(before)).Scan(&latest); err != nil || latest == 0 {
			return err
		}
		if _, err := q.ExecContext(ctx, "UPDATE user_key_feed SET purged = $1 WHERE id = 1 AND purged < $1", latest); err != nil {
			return err
		}
		_, err := q.ExecContext(ctx, "DELETE"+old, sqldb.Micros(before))
		return err
	})
}
