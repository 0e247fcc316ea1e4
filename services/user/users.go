package user

import (
	"context"

	"weir.dev/services/internal/query"
	"weir.dev/services/internal/resource"
)

// CreateUser adds a user; of u only Email and DisplayName count. An empty id
// means a generated one.
func (s *Service) CreateUser(ctx context.Context, id string, u User) (User, error) {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return User{}, err
	}
	u.Version = s.version(tenant)
	if u.ID, err = resource.ID(id, "user_id", u.CreateTime); err != nil {
		return User{}, err
	}
	if err := checkUser(u); err != nil {
		return User{}, err
	}
	if err := s.store.CreateUser(ctx, u); err != nil {
		return User{}, err
	}
	return u, nil
}

func checkUser(u User) error {
	c := newChecks("user")
	c.add("user.email", checkEmail(u.Email))
	c.add("user.display_name", resource.CheckText(u.DisplayName, false, resource.MaxDisplayName))
	return c.err()
}

// GetUser returns one user.
func (s *Service) GetUser(ctx context.Context, name string) (User, error) {
	tenant, ids, err := scope(ctx, name, UserPattern, "name")
	if err != nil {
		return User{}, err
	}
	return s.store.GetUser(ctx, tenant, ids[0])
}

// ListUsers returns a page of users and the token of the next.
func (s *Service) ListUsers(ctx context.Context, request query.Request) ([]User, string, error) {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return nil, "", err
	}
	return list(s, request, UserFields(), []string{"users", tenant}, func(l query.List) ([]User, *query.Cursor, error) {
		return s.store.ListUsers(ctx, tenant, l)
	})
}

// UpdateUser changes the fields that mask names, or those that are set in u
// without one. A non-empty etag must be the current one.
func (s *Service) UpdateUser(ctx context.Context, name string, u User, etag string, mask []string) (User, error) {
	tenant, ids, err := scope(ctx, name, UserPattern, "user.name")
	if err != nil {
		return User{}, err
	}
	chosen, err := masked(mask, []string{"email", "display_name"},
		map[string]bool{"email": u.Email != "", "display_name": u.DisplayName != ""})
	if err != nil {
		return User{}, err
	}
	return change(etag,
		func() (User, error) { return s.store.GetUser(ctx, tenant, ids[0]) },
		func(current *User) error {
			if chosen["email"] {
				current.Email = u.Email
			}
			if chosen["display_name"] {
				current.DisplayName = u.DisplayName
			}
			current.next(resource.Now(s.clock))
			return checkUser(*current)
		},
		func(changed User) error { return s.store.UpdateUser(ctx, changed) })
}

// DeleteUser deletes a user and their memberships.
func (s *Service) DeleteUser(ctx context.Context, name, etag string) error {
	tenant, ids, err := scope(ctx, name, UserPattern, "name")
	if err != nil {
		return err
	}
	return remove(etag, name,
		func() (User, int64, error) {
			u, err := s.store.GetUser(ctx, tenant, ids[0])
			return u, u.Revision, err
		},
		func(revision int64) error { return s.store.DeleteUser(ctx, tenant, ids[0], revision) })
}
