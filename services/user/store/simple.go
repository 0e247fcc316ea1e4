package store

import (
	"context"
	"strings"

	"weir.dev/services/internal/query"
	"weir.dev/services/internal/sqldb"
	"weir.dev/services/user"
)

// CreateOrganization implements user.OrganizationStore.
func (s *Store) CreateOrganization(ctx context.Context, o user.Organization) error {
	return insert(ctx, s, s.organizations, o, func(string) error { return user.OrganizationExists(o.ID) })
}

// GetOrganization implements user.OrganizationStore.
func (s *Store) GetOrganization(ctx context.Context, tenant, id string) (user.Organization, error) {
	o, err := get(ctx, s, s.organizations, user.OrganizationNotFound(id), tenant, id)
	o.Tenant = tenant
	return o, err
}

// ListOrganizations implements user.OrganizationStore.
func (s *Store) ListOrganizations(ctx context.Context, tenant string, list query.List) ([]user.Organization, *query.Cursor, error) {
	return page(ctx, s, s.organizations, list, tenant)
}

// UpdateOrganization implements user.OrganizationStore.
func (s *Store) UpdateOrganization(ctx context.Context, o user.Organization) error {
	return update(ctx, s, s.organizations, o, o.Revision, func(string) error { return user.OrganizationExists(o.ID) })
}

// DeleteOrganization implements user.OrganizationStore.
func (s *Store) DeleteOrganization(ctx context.Context, tenant, id string, revision int64, force bool) error {
	return known(s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		current, err := s.lockOrganization(ctx, q, tenant, id)
		if err != nil {
			return err
		}
		if revision != 0 && current.Revision != revision {
			return sqldb.ErrStale
		}
		if force {
			if _, err := q.ExecContext(ctx, "DELETE FROM user_memberships WHERE tenant = $1 AND organization = $2", tenant, id); err != nil {
				return err
			}
		}
		_, err = s.organizations.Delete(ctx, q, 0, tenant, id)
		if s.db.Dialect().Dangling(err) {
			return user.OrganizationNotEmpty(id)
		}
		return err
	}))
}

// userTaken tells a taken id from a taken email address, by the name of the
// index (PostgreSQL) or column (SQLite).
func userTaken(id, where string) error {
	if strings.Contains(where, "email") {
		return user.EmailTaken()
	}
	return user.UserExists(id)
}

// CreateUser implements user.UserStore.
func (s *Store) CreateUser(ctx context.Context, u user.User) error {
	return insert(ctx, s, s.users, u, func(where string) error { return userTaken(u.ID, where) })
}

// GetUser implements user.UserStore.
func (s *Store) GetUser(ctx context.Context, tenant, id string) (user.User, error) {
	u, err := get(ctx, s, s.users, user.UserNotFound(id), tenant, id)
	u.Tenant = tenant
	return u, err
}

// ListUsers implements user.UserStore.
func (s *Store) ListUsers(ctx context.Context, tenant string, list query.List) ([]user.User, *query.Cursor, error) {
	return page(ctx, s, s.users, list, tenant)
}

// UpdateUser implements user.UserStore.
func (s *Store) UpdateUser(ctx context.Context, u user.User) error {
	return update(ctx, s, s.users, u, u.Revision, func(where string) error { return userTaken(u.ID, where) })
}

// CreateRole implements user.RoleStore.
func (s *Store) CreateRole(ctx context.Context, r user.Role) error {
	return insert(ctx, s, s.roles, r, func(string) error { return user.RoleExists(r.ID) })
}

// GetRole implements user.RoleStore.
func (s *Store) GetRole(ctx context.Context, tenant, id string) (user.Role, error) {
	r, err := get(ctx, s, s.roles, user.RoleNotFound(id), tenant, id)
	r.Tenant = tenant
	return r, err
}

// ListRoles implements user.RoleStore.
func (s *Store) ListRoles(ctx context.Context, tenant string, list query.List) ([]user.Role, *query.Cursor, error) {
	return page(ctx, s, s.roles, list, tenant)
}

// UpdateRole implements user.RoleStore.
func (s *Store) UpdateRole(ctx context.Context, r user.Role) error {
	return update(ctx, s, s.roles, r, r.Revision, func(string) error { return user.RoleExists(r.ID) })
}

// DeleteRole implements user.RoleStore.
func (s *Store) DeleteRole(ctx context.Context, tenant, id string, revision int64) error {
	return known(s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		ok, err := s.roles.Delete(ctx, q, revision, tenant, id)
		switch {
		case s.db.Dialect().Dangling(err):
			return user.RoleInUse(id)
		case err != nil || ok:
			return err
		case revision != 0:
			if _, err := s.roles.Get(ctx, q, "", tenant, id); err == nil {
				return sqldb.ErrStale
			}
		}
		return user.RoleNotFound(id)
	}))
}
