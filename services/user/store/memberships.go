package store

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
	"weir.dev/services/internal/query"
	"weir.dev/services/internal/sqldb"
	"weir.dev/services/user"
)

// lockOrganization serialises the changes of an organization's memberships, so
// that two owners can't leave at once.
func (s *Store) lockOrganization(ctx context.Context, q sqldb.Querier, tenant, id string) (user.Organization, error) {
	return locked(ctx, q, s.organizations, s.db.Dialect().ForUpdate(), user.OrganizationNotFound(id), tenant, id)
}

// CreateMembership implements user.MembershipStore.
func (s *Store) CreateMembership(ctx context.Context, m user.Membership) error {
	return s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		if _, err := s.lockOrganization(ctx, q, m.Tenant, m.Organization); err != nil {
			return err
		}
		if _, err := locked(ctx, q, s.users, s.db.Dialect().ForShare(), user.MemberNotFound(m.User), m.Tenant, m.User); err != nil {
			return err
		}
		err := s.memberships.Insert(ctx, q, m)
		if _, taken := s.db.Dialect().Duplicate(err); taken {
			return user.MembershipExists(m.Organization, m.User)
		}
		if err != nil {
			return err
		}
		return s.grant(ctx, q, m)
	})
}

// grant writes the roles of a membership that has none.
func (s *Store) grant(ctx context.Context, q sqldb.Querier, m user.Membership) error {
	for _, role := range m.Roles {
		if _, err := locked(ctx, q, s.roles, s.db.Dialect().ForShare(), user.MemberRoleNotFound(role), m.Tenant, role); err != nil {
			return err
		}
		owner := m.Tenant
		if user.Predefined(role) {
			owner = ""
		}
		if _, err := q.ExecContext(ctx,
			"INSERT INTO user_membership_roles (tenant, organization, member, role, role_tenant) VALUES ($1, $2, $3, $4, $5)",
			m.Tenant, m.Organization, m.User, role, owner); err != nil {
			return err
		}
	}
	return nil
}

// GetMembership implements user.MembershipStore.
func (s *Store) GetMembership(ctx context.Context, tenant, organization, member string) (user.Membership, error) {
	m, err := get(ctx, s, s.memberships, user.MembershipNotFound(organization, member), tenant, organization, member)
	m.Tenant = tenant
	return m, err
}

// ListMemberships implements user.MembershipStore.
func (s *Store) ListMemberships(ctx context.Context, tenant, organization string, list query.List) ([]user.Membership, *query.Cursor, error) {
	rows, next, err := page(ctx, s, s.memberships, list, tenant, organization)
	if err == nil && len(rows) == 0 {
		_, err = s.GetOrganization(ctx, tenant, organization)
	}
	return rows, next, err
}

// mayChange returns user.LastOwner if the change would strand the others.
func (s *Store) mayChange(ctx context.Context, q sqldb.Querier, m user.Membership, after []string) error {
	if !slices.Contains(m.Roles, user.RoleOwner) {
		return nil
	}
	var members, owners int64
	err := q.QueryRowContext(ctx, "SELECT COUNT(*) FROM user_memberships WHERE tenant = $1 AND organization = $2 AND member <> $3",
		m.Tenant, m.Organization, m.User).Scan(&members)
	if err != nil {
		return err
	}
	err = q.QueryRowContext(ctx, "SELECT COUNT(*) FROM user_membership_roles WHERE tenant = $1 AND organization = $2 AND member <> $3 AND role = $4",
		m.Tenant, m.Organization, m.User, user.RoleOwner).Scan(&owners)
	if err != nil {
		return err
	}
	if user.StrandsOthers(m.Roles, after, owners, members) {
		return user.LastOwner(m.Organization, m.User)
	}
	return nil
}

// lockMembership reads a membership under its organization's lock. The caller
// gets ErrStale unless the revision is the expected one (zero for any).
func (s *Store) lockMembership(ctx context.Context, q sqldb.Querier, revision int64, tenant, organization, member string) (user.Membership, error) {
	if _, err := s.lockOrganization(ctx, q, tenant, organization); err != nil {
		return user.Membership{}, err
	}
	m, err := locked(ctx, q, s.memberships, "", user.MembershipNotFound(organization, member), tenant, organization, member)
	if err != nil {
		return m, err
	}
	m.Tenant = tenant
	if revision != 0 && m.Revision != revision {
		return m, sqldb.ErrStale
	}
	return m, nil
}

// UpdateMembership implements user.MembershipStore.
func (s *Store) UpdateMembership(ctx context.Context, m user.Membership) error {
	return known(s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		current, err := s.lockMembership(ctx, q, m.Revision-1, m.Tenant, m.Organization, m.User)
		if err != nil {
			return err
		}
		if err := s.mayChange(ctx, q, current, m.Roles); err != nil {
			return err
		}
		if _, err := s.memberships.Update(ctx, q, m, m.Revision-1); err != nil {
			return err
		}
		if _, err := q.ExecContext(ctx, "DELETE FROM user_membership_roles WHERE tenant = $1 AND organization = $2 AND member = $3",
			m.Tenant, m.Organization, m.User); err != nil {
			return err
		}
		return s.grant(ctx, q, m)
	}))
}

// DeleteMembership implements user.MembershipStore.
func (s *Store) DeleteMembership(ctx context.Context, tenant, organization, member string, revision int64) error {
	return known(s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		current, err := s.lockMembership(ctx, q, revision, tenant, organization, member)
		if err != nil {
			return err
		}
		if err := s.mayChange(ctx, q, current, nil); err != nil {
			return err
		}
		_, err = s.memberships.Delete(ctx, q, 0, tenant, organization, member)
		return err
	}))
}

// DeleteUser implements user.UserStore.
func (s *Store) DeleteUser(ctx context.Context, tenant, id string, revision int64) error {
	return known(s.db.Write(ctx, func(ctx context.Context, q sqldb.Querier) error {
		current, err := locked(ctx, q, s.users, s.db.Dialect().ForUpdate(), user.UserNotFound(id), tenant, id)
		if err != nil {
			return err
		}
		if revision != 0 && current.Revision != revision {
			return sqldb.ErrStale
		}
		organizations, err := s.organizationsOf(ctx, q, tenant, id)
		if err != nil {
			return err
		}
		for _, organization := range organizations {
			m, err := s.lockMembership(ctx, q, 0, tenant, organization, id)
			if err != nil && fault.From(err).Kind == codes.NotFound { // gone meanwhile
				continue
			}
			if err != nil {
				return err
			}
			if err := s.mayChange(ctx, q, m, nil); err != nil {
				return err
			}
			if _, err := s.memberships.Delete(ctx, q, 0, tenant, organization, id); err != nil {
				return err
			}
		}
		_, err = s.users.Delete(ctx, q, 0, tenant, id)
		return err
	}))
}

// organizationsOf lists where a user is a member, in the order in which they
// are to be locked.
func (s *Store) organizationsOf(ctx context.Context, q sqldb.Querier, tenant, id string) (organizations []string, err error) {
	rows, err := q.QueryContext(ctx, "SELECT organization FROM user_memberships WHERE tenant = $1 AND member = $2 ORDER BY organization", tenant, id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var organization string
		if err := rows.Scan(&organization); err != nil {
			return nil, err
		}
		organizations = append(organizations, organization)
	}
	return organizations, rows.Err()
}
