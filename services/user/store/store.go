// Package store keeps the user service's state in SQL, on either database.
// Packages sqlite and postgres open it.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"weir.dev/services/internal/query"
	"weir.dev/services/internal/sqldb"
	"weir.dev/services/user"
)

// Store implements user.Store. Safe for concurrent use.
type Store struct {
	db            *sqldb.DB
	organizations sqldb.Table[user.Organization]
	users         sqldb.Table[user.User]
	memberships   sqldb.Table[user.Membership]
	roles         sqldb.Table[user.Role]
	apiKeys       sqldb.Table[user.APIKey]
}

var _ user.Store = (*Store)(nil)

// New wraps a database whose schema is up to date. The store owns it.
func New(db *sqldb.DB) *Store {
	return &Store{db: db, organizations: organizations(), users: users(), memberships: memberships(), roles: roles(), apiKeys: apiKeys()}
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return s.db.Ping(ctx) }

// PageSecret is the secret that keys page tokens.
func (s *Store) PageSecret(ctx context.Context) ([]byte, error) {
	return s.db.Secret(ctx, "user_secrets", "page-token")
}

// times reads a row's two times after the columns before them.
func times(v *user.Version, scan func(...any) error, into ...any) error {
	var created, updated int64
	err := scan(append(into, &created, &updated)...)
	v.CreateTime, v.UpdateTime = sqldb.Time(created), sqldb.Time(updated)
	return err
}

func columns(name string, more map[string]string) map[string]string {
	more["name"], more["create_time"], more["update_time"] = name, "created_at", "updated_at"
	return more
}

func organizations() sqldb.Table[user.Organization] {
	return sqldb.Table[user.Organization]{
		Name: "user_organizations", Keys: []string{"id"}, Columns: []string{"display_name", "created_at", "updated_at"},
		Fields: columns("id", map[string]string{"display_name": "display_name"}),
		Row: func(o user.Organization) []any {
			return []any{o.Tenant, o.ID, o.Revision, o.DisplayName, sqldb.Micros(o.CreateTime), sqldb.Micros(o.UpdateTime)}
		},
		Scan: func(scan func(...any) error) (o user.Organization, err error) {
			err = times(&o.Version, scan, &o.ID, &o.Revision, &o.DisplayName)
			return o, err
		},
	}
}

func users() sqldb.Table[user.User] {
	return sqldb.Table[user.User]{
		Name: "user_users", Keys: []string{"id"}, Columns: []string{"email", "email_key", "display_name", "created_at", "updated_at"},
		Fields: columns("id", map[string]string{"display_name": "display_name", "email": "email_key"}),
		Row: func(u user.User) []any {
			return []any{u.Tenant, u.ID, u.Revision, u.Email, user.EmailKey(u.Email), u.DisplayName, sqldb.Micros(u.CreateTime), sqldb.Micros(u.UpdateTime)}
		},
		Scan: func(scan func(...any) error) (u user.User, err error) {
			var key string
			err = times(&u.Version, scan, &u.ID, &u.Revision, &u.Email, &key, &u.DisplayName)
			return u, err
		},
	}
}

func memberships() sqldb.Table[user.Membership] {
	return sqldb.Table[user.Membership]{
		Name: "user_memberships", Keys: []string{"organization", "member"}, Columns: []string{"roles", "created_at", "updated_at"},
		Fields: columns("member", map[string]string{
			"user": "member",
			"roles": "EXISTS (SELECT 1 FROM user_membership_roles AS held WHERE held.tenant = user_memberships.tenant" +
				" AND held.organization = user_memberships.organization AND held.member = user_memberships.member AND held.role = %s)",
		}),
		Row: func(m user.Membership) []any {
			return []any{m.Tenant, m.Organization, m.User, m.Revision, strings.Join(m.Roles, " "), sqldb.Micros(m.CreateTime), sqldb.Micros(m.UpdateTime)}
		},
		Scan: func(scan func(...any) error) (m user.Membership, err error) {
			var held string
			err = times(&m.Version, scan, &m.Organization, &m.User, &m.Revision, &held)
			m.Roles = strings.Fields(held)
			return m, err
		},
	}
}

func roles() sqldb.Table[user.Role] {
	return sqldb.Table[user.Role]{
		Name: "user_roles", Keys: []string{"id"}, Columns: []string{"display_name", "permissions", "created_at", "updated_at"}, Shared: true,
		Fields: columns("id", map[string]string{"display_name": "display_name", "predefined": "(tenant = '')"}),
		Row: func(r user.Role) []any {
			permissions, _ := json.Marshal(append([]string{}, r.Permissions...)) // texts always marshal
			return []any{r.Tenant, r.ID, r.Revision, r.DisplayName, string(permissions), sqldb.Micros(r.CreateTime), sqldb.Micros(r.UpdateTime)}
		},
		Scan: func(scan func(...any) error) (r user.Role, err error) {
			var permissions string
			if err := times(&r.Version, scan, &r.ID, &r.Revision, &r.DisplayName, &permissions); err != nil {
				return r, err
			}
			r.Predefined = user.Predefined(r.ID)
			err = json.Unmarshal([]byte(permissions), &r.Permissions)
			return r, err
		},
	}
}

// known gives the service's name to what sqldb calls stale.
func known(err error) error {
	if errors.Is(err, sqldb.ErrStale) {
		return user.ErrStale
	}
	return err
}

// get reads one row; absent is the error when there is none.
func get[T any](ctx context.Context, s *Store, table sqldb.Table[T], absent error, tenant string, keys ...string) (row T, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, q sqldb.Querier) error {
		row, err = locked(ctx, q, table, "", absent, tenant, keys...)
		return err
	})
	return row, err
}

// locked reads one row in a transaction, locked.
func locked[T any](ctx context.Context, q sqldb.Querier, table sqldb.Table[T], lock string, absent error, tenant string, keys ...string) (T, error) {
	row, err := table.Get(ctx, q, lock, tenant, keys...)
	if errors.Is(err, sqldb.ErrNotFound) {
		return row, absent
	}
	return row, err
}

// page reads one page.
func page[T any](ctx context.Context, s *Store, table sqldb.Table[T], list query.List, tenant string, parents ...string) (rows []T, next *query.Cursor, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, q sqldb.Querier) error {
		rows, next, err = table.List(ctx, q, s.db.Dialect(), list, tenant, parents...)
		return err
	})
	return rows, next, err
}

// insert adds one row; duplicate makes the error of a taken key.
func insert[T any](ctx context.Context, s *Store, table sqldb.Table[T], row T, duplicate func(where string) error) error {
	return s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		err := table.Insert(ctx, q, row)
		if where, taken := s.db.Dialect().Duplicate(err); taken {
			return duplicate(where)
		}
		return err
	})
}

// update replaces one row; duplicate makes the error of a taken key.
func update[T any](ctx context.Context, s *Store, table sqldb.Table[T], row T, revision int64, duplicate func(where string) error) error {
	return known(s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		ok, err := table.Update(ctx, q, row, revision-1)
		if where, taken := s.db.Dialect().Duplicate(err); taken {
			return duplicate(where)
		}
		if err == nil && !ok {
			return sqldb.ErrStale
		}
		return err
	}))
}
