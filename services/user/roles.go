package user

import (
	"context"

	"weir.dev/services/internal/query"
	"weir.dev/services/internal/resource"
)

// CreateRole adds a custom role; of r only DisplayName and Permissions count.
// An empty id means a generated one.
func (s *Service) CreateRole(ctx context.Context, id string, r Role) (Role, error) {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return Role{}, err
	}
	r.Version, r.Predefined = s.version(tenant), false
	if r.ID, err = resource.ID(id, "role_id", r.CreateTime); err != nil {
		return Role{}, err
	}
	if err := checkRole(r); err != nil {
		return Role{}, err
	}
	if Predefined(r.ID) {
		return Role{}, RoleExists(r.ID)
	}
	if err := s.store.CreateRole(ctx, r); err != nil {
		return Role{}, err
	}
	return r, nil
}

func checkRole(r Role) error {
	c := newChecks("role")
	c.add("role.display_name", resource.CheckText(r.DisplayName, true, resource.MaxDisplayName))
	c.add("role.permissions", checkPermissions(r.Permissions))
	return c.err()
}

// GetRole returns one role.
func (s *Service) GetRole(ctx context.Context, name string) (Role, error) {
	tenant, ids, err := scope(ctx, name, RolePattern, "name")
	if err != nil {
		return Role{}, err
	}
	return s.store.GetRole(ctx, tenant, ids[0])
}

// ListRoles returns a page of roles and the token of the next.
func (s *Service) ListRoles(ctx context.Context, request query.Request) ([]Role, string, error) {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return nil, "", err
	}
	return list(s, request, RoleFields(), []string{"roles", tenant}, func(l query.List) ([]Role, *query.Cursor, error) {
		return s.store.ListRoles(ctx, tenant, l)
	})
}

// UpdateRole changes the fields that mask names, or those that are set in r
// without one. A non-empty etag must be the current one.
func (s *Service) UpdateRole(ctx context.Context, name string, r Role, etag string, mask []string) (Role, error) {
	tenant, ids, err := scope(ctx, name, RolePattern, "role.name")
	if err != nil {
		return Role{}, err
	}
	if Predefined(ids[0]) {
		return Role{}, RolePredefined(ids[0])
	}
	chosen, err := masked(mask, []string{"display_name", "permissions"},
		map[string]bool{"display_name": r.DisplayName != "", "permissions": len(r.Permissions) > 0})
	if err != nil {
		return Role{}, err
	}
	return change(etag,
		func() (Role, error) { return s.store.GetRole(ctx, tenant, ids[0]) },
		func(current *Role) error {
			if chosen["display_name"] {
				current.DisplayName = r.DisplayName
			}
			if chosen["permissions"] {
				current.Permissions = r.Permissions
			}
			current.next(resource.Now(s.clock))
			return checkRole(*current)
		},
		func(changed Role) error { return s.store.UpdateRole(ctx, changed) })
}

// DeleteRole deletes a custom role that no membership has.
func (s *Service) DeleteRole(ctx context.Context, name, etag string) error {
	tenant, ids, err := scope(ctx, name, RolePattern, "name")
	if err != nil {
		return err
	}
	if Predefined(ids[0]) {
		return RolePredefined(ids[0])
	}
	return remove(etag, name,
		func() (Role, int64, error) {
			r, err := s.store.GetRole(ctx, tenant, ids[0])
			return r, r.Revision, err
		},
		func(revision int64) error { return s.store.DeleteRole(ctx, tenant, ids[0], revision) })
}
