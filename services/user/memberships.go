package user

import (
	"context"

	"weir.dev/services/internal/query"
	"weir.dev/services/internal/resource"
)

// CreateMembership adds a user to an organization. user and roles are resource
// names.
func (s *Service) CreateMembership(ctx context.Context, parent, user string, roles []string) (Membership, error) {
	tenant, parents, err := scope(ctx, parent, OrganizationPattern, "parent")
	if err != nil {
		return Membership{}, err
	}
	c := newChecks("membership")
	member, err := resource.ParseName(user, UserPattern, "membership.user")
	if err != nil {
		c.add("membership.user", "must have the form "+UserPattern)
	}
	ids, problem := roleIDs(roles)
	c.add("membership.roles", problem)
	if err := c.err(); err != nil {
		return Membership{}, err
	}
	m := Membership{Version: s.version(tenant), Organization: parents[0], User: member[0], Roles: ids}
	if err := s.store.CreateMembership(ctx, m); err != nil {
		return Membership{}, err
	}
	return m, nil
}

// GetMembership returns one membership.
func (s *Service) GetMembership(ctx context.Context, name string) (Membership, error) {
	tenant, ids, err := scope(ctx, name, MembershipPattern, "name")
	if err != nil {
		return Membership{}, err
	}
	return s.store.GetMembership(ctx, tenant, ids[0], ids[1])
}

// ListMemberships returns a page of an organization's memberships and the
// token of the next.
func (s *Service) ListMemberships(ctx context.Context, parent string, request query.Request) ([]Membership, string, error) {
	tenant, ids, err := scope(ctx, parent, OrganizationPattern, "parent")
	if err != nil {
		return nil, "", err
	}
	return list(s, request, MembershipFields(), []string{"memberships", tenant, ids[0]}, func(l query.List) ([]Membership, *query.Cursor, error) {
		return s.store.ListMemberships(ctx, tenant, ids[0], l)
	})
}

// UpdateMembership replaces the roles. user, if not empty, must be the member:
// it can't be changed. A non-empty etag must be the current one.
func (s *Service) UpdateMembership(ctx context.Context, name, user string, roles []string, etag string, mask []string) (Membership, error) {
	tenant, ids, err := scope(ctx, name, MembershipPattern, "membership.name")
	if err != nil {
		return Membership{}, err
	}
	chosen, err := masked(mask, []string{"roles"}, map[string]bool{"roles": len(roles) > 0})
	if err != nil {
		return Membership{}, err
	}
	c := newChecks("membership")
	if user != "" && user != "users/"+ids[1] {
		c.add("membership.user", "can't be changed")
	}
	var replacement []string
	if chosen["roles"] {
		var problem string
		replacement, problem = roleIDs(roles)
		c.add("membership.roles", problem)
	}
	if err := c.err(); err != nil {
		return Membership{}, err
	}
	return change(etag,
		func() (Membership, error) { return s.store.GetMembership(ctx, tenant, ids[0], ids[1]) },
		func(current *Membership) error {
			if chosen["roles"] {
				current.Roles = replacement
			}
			current.next(resource.Now(s.clock))
			return nil
		},
		func(changed Membership) error { return s.store.UpdateMembership(ctx, changed) })
}

// DeleteMembership removes a user from an organization.
func (s *Service) DeleteMembership(ctx context.Context, name, etag string) error {
	tenant, ids, err := scope(ctx, name, MembershipPattern, "name")
	if err != nil {
		return err
	}
	return remove(etag, name,
		func() (Membership, int64, error) {
			m, err := s.store.GetMembership(ctx, tenant, ids[0], ids[1])
			return m, m.Revision, err
		},
		func(revision int64) error {
			return s.store.DeleteMembership(ctx, tenant, ids[0], ids[1], revision)
		})
}
