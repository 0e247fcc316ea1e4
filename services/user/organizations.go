package user

import (
	"context"

	"weir.dev/services/internal/query"
	"weir.dev/services/internal/resource"
)

// CreateOrganization adds an organization; of o only DisplayName counts. An
// empty id means a generated one.
func (s *Service) CreateOrganization(ctx context.Context, id string, o Organization) (Organization, error) {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return Organization{}, err
	}
	o.Version = s.version(tenant)
	if o.ID, err = resource.ID(id, "organization_id", o.CreateTime); err != nil {
		return Organization{}, err
	}
	if err := checkOrganization(o); err != nil {
		return Organization{}, err
	}
	if err := s.store.CreateOrganization(ctx, o); err != nil {
		return Organization{}, err
	}
	return o, nil
}

func checkOrganization(o Organization) error {
	c := newChecks("organization")
	c.add("organization.display_name", resource.CheckText(o.DisplayName, true, resource.MaxDisplayName))
	return c.err()
}

// GetOrganization returns one organization.
func (s *Service) GetOrganization(ctx context.Context, name string) (Organization, error) {
	tenant, ids, err := scope(ctx, name, OrganizationPattern, "name")
	if err != nil {
		return Organization{}, err
	}
	return s.store.GetOrganization(ctx, tenant, ids[0])
}

// ListOrganizations returns a page of organizations and the token of the next.
func (s *Service) ListOrganizations(ctx context.Context, request query.Request) ([]Organization, string, error) {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return nil, "", err
	}
	return list(s, request, OrganizationFields(), []string{"organizations", tenant}, func(l query.List) ([]Organization, *query.Cursor, error) {
		return s.store.ListOrganizations(ctx, tenant, l)
	})
}

// UpdateOrganization changes the fields that mask names, or those that are set
// in o without one. A non-empty etag must be the current one.
func (s *Service) UpdateOrganization(ctx context.Context, name string, o Organization, etag string, mask []string) (Organization, error) {
	tenant, ids, err := scope(ctx, name, OrganizationPattern, "organization.name")
	if err != nil {
		return Organization{}, err
	}
	chosen, err := masked(mask, []string{"display_name"}, map[string]bool{"display_name": o.DisplayName != ""})
	if err != nil {
		return Organization{}, err
	}
	return change(etag,
		func() (Organization, error) { return s.store.GetOrganization(ctx, tenant, ids[0]) },
		func(current *Organization) error {
			if chosen["display_name"] {
				current.DisplayName = o.DisplayName
			}
			current.next(resource.Now(s.clock))
			return checkOrganization(*current)
		},
		func(changed Organization) error { return s.store.UpdateOrganization(ctx, changed) })
}

// DeleteOrganization deletes an organization, with its memberships if force is
// set.
func (s *Service) DeleteOrganization(ctx context.Context, name, etag string, force bool) error {
	tenant, ids, err := scope(ctx, name, OrganizationPattern, "name")
	if err != nil {
		return err
	}
	return remove(etag, name,
		func() (Organization, int64, error) {
			o, err := s.store.GetOrganization(ctx, tenant, ids[0])
			return o, o.Revision, err
		},
		func(revision int64) error { return s.store.DeleteOrganization(ctx, tenant, ids[0], revision, force) })
}
