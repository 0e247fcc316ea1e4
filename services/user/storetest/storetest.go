// Package storetest is the conformance suite of user.Store: every
// implementation passes it.
package storetest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
	"weir.dev/services/internal/query"
	"weir.dev/services/user"
)

// Run checks the stores that newStore makes; each call gives an empty one.
func Run(t *testing.T, newStore func(t *testing.T) user.Store) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, user.Store){
		"organizations":     organizations,
		"users":             users,
		"roles":             roles,
		"memberships":       memberships,
		"owners":            owners,
		"tenants":           tenants,
		"lists":             lists,
		"concurrent emails": concurrentEmails,
		"concurrent owners": concurrentOwners,
		"concurrent users":  concurrentUsers,
		"API keys":          apiKeys,
		"concurrent keys":   concurrentKeys,
	} {
		t.Run(name, func(t *testing.T) { test(t, newStore(t)) })
	}
}

func version(tenant string) user.Version {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_000, time.UTC)
	return user.Version{Tenant: tenant, CreateTime: at, UpdateTime: at, Revision: 1}
}

func requireCode(t *testing.T, err error, code codes.Code, reason string) {
	t.Helper()
	require.Error(t, err)
	coded := fault.From(err)
	require.Equal(t, reason, coded.Reason, "%v", err)
	require.Equal(t, code, coded.Kind)
}

func organization(tenant, id string) user.Organization {
	return user.Organization{Version: version(tenant), ID: id, DisplayName: "Org " + id}
}

func account(tenant, id string) user.User {
	return user.User{Version: version(tenant), ID: id, Email: id + "@Example.com", DisplayName: "User " + id}
}

func membership(tenant, organization, member string, roles ...string) user.Membership {
	return user.Membership{Version: version(tenant), Organization: organization, User: member, Roles: roles}
}

// seed makes an organization with users, the first n of them owners.
func seed(t *testing.T, store user.Store, id string, owners int, members ...string) {
	t.Helper()
	ctx := t.Context()
	require.NoError(t, store.CreateOrganization(ctx, organization("acme", id)))
	for i, member := range members {
		if _, err := store.GetUser(ctx, "acme", member); err != nil {
			require.NoError(t, store.CreateUser(ctx, account("acme", member)))
		}
		role := "viewer"
		if i < owners {
			role = user.RoleOwner
		}
		require.NoError(t, store.CreateMembership(ctx, membership("acme", id, member, role)))
	}
}

func organizations(t *testing.T, store user.Store) {
	ctx := t.Context()
	o := organization("acme", "sales")
	require.NoError(t, store.CreateOrganization(ctx, o))
	requireCode(t, store.CreateOrganization(ctx, o), codes.AlreadyExists, "ORGANIZATION_ALREADY_EXISTS")
	got, err := store.GetOrganization(ctx, "acme", "sales")
	require.NoError(t, err)
	require.Equal(t, o, got)
	o.DisplayName, o.Revision, o.UpdateTime = "Sales ☃", 2, o.UpdateTime.Add(time.Hour)
	require.NoError(t, store.UpdateOrganization(ctx, o))
	require.ErrorIs(t, store.UpdateOrganization(ctx, o), user.ErrStale)
	got, err = store.GetOrganization(ctx, "acme", "sales")
	require.NoError(t, err)
	require.Equal(t, o, got)
	require.NoError(t, store.CreateUser(ctx, account("acme", "ada")))
	require.NoError(t, store.CreateMembership(ctx, membership("acme", "sales", "ada", "owner")))
	requireCode(t, store.DeleteOrganization(ctx, "acme", "sales", 0, false), codes.FailedPrecondition, "ORGANIZATION_NOT_EMPTY")
	require.ErrorIs(t, store.DeleteOrganization(ctx, "acme", "sales", 1, true), user.ErrStale)
	require.NoError(t, store.DeleteOrganization(ctx, "acme", "sales", 2, true))
	requireCode(t, store.DeleteOrganization(ctx, "acme", "sales", 0, true), codes.NotFound, "ORGANIZATION_NOT_FOUND")
	_, err = store.GetMembership(ctx, "acme", "sales", "ada")
	requireCode(t, err, codes.NotFound, "MEMBERSHIP_NOT_FOUND")
	_, err = store.GetUser(ctx, "acme", "ada")
	require.NoError(t, err)
}

func users(t *testing.T, store user.Store) {
	ctx := t.Context()
	u := account("acme", "ada")
	require.NoError(t, store.CreateUser(ctx, u))
	got, err := store.GetUser(ctx, "acme", "ada")
	require.NoError(t, err)
	require.Equal(t, u, got)
	other := account("acme", "ada")
	other.Email = "other@example.com"
	requireCode(t, store.CreateUser(ctx, other), codes.AlreadyExists, "USER_ALREADY_EXISTS")
	other.ID, other.Email = "bob", "ADA@example.COM"
	requireCode(t, store.CreateUser(ctx, other), codes.AlreadyExists, "EMAIL_ALREADY_EXISTS")
	other.Tenant = "beta"
	require.NoError(t, store.CreateUser(ctx, other))
	bob := account("acme", "bob")
	require.NoError(t, store.CreateUser(ctx, bob))
	bob.Email, bob.Revision = "ada@EXAMPLE.com", 2
	requireCode(t, store.UpdateUser(ctx, bob), codes.AlreadyExists, "EMAIL_ALREADY_EXISTS")
	bob.Email = "BOB@example.com"
	require.NoError(t, store.UpdateUser(ctx, bob))
	require.ErrorIs(t, store.UpdateUser(ctx, bob), user.ErrStale)
	require.ErrorIs(t, store.DeleteUser(ctx, "acme", "bob", 1), user.ErrStale)
	require.NoError(t, store.DeleteUser(ctx, "acme", "bob", 2))
	requireCode(t, store.DeleteUser(ctx, "acme", "bob", 0), codes.NotFound, "USER_NOT_FOUND")
}

func roles(t *testing.T, store user.Store) {
	ctx := t.Context()
	for _, id := range []string{"viewer", "editor", "admin", "owner"} {
		r, err := store.GetRole(ctx, "acme", id)
		require.NoError(t, err)
		require.True(t, r.Predefined)
		require.NotEmpty(t, r.Permissions)
		requireCode(t, store.DeleteRole(ctx, "acme", id, 0), codes.NotFound, "ROLE_NOT_FOUND")
	}
	r := user.Role{Version: version("acme"), ID: "auditor", DisplayName: "Auditor", Permissions: []string{"audit.read", "*.list"}}
	require.NoError(t, store.CreateRole(ctx, r))
	requireCode(t, store.CreateRole(ctx, r), codes.AlreadyExists, "ROLE_ALREADY_EXISTS")
	got, err := store.GetRole(ctx, "acme", "auditor")
	require.NoError(t, err)
	require.Equal(t, r, got)
	r.Permissions, r.Revision = []string{}, 2
	require.NoError(t, store.UpdateRole(ctx, r))
	require.ErrorIs(t, store.UpdateRole(ctx, r), user.ErrStale)
	seed(t, store, "sales", 1, "ada")
	require.NoError(t, store.CreateUser(ctx, account("acme", "bob")))
	require.NoError(t, store.CreateMembership(ctx, membership("acme", "sales", "bob", "auditor", "viewer")))
	requireCode(t, store.DeleteRole(ctx, "acme", "auditor", 0), codes.FailedPrecondition, "ROLE_IN_USE")
	m := membership("acme", "sales", "bob", "viewer")
	m.Revision = 2
	require.NoError(t, store.UpdateMembership(ctx, m))
	require.ErrorIs(t, store.DeleteRole(ctx, "acme", "auditor", 1), user.ErrStale)
	require.NoError(t, store.DeleteRole(ctx, "acme", "auditor", 2))
}

func memberships(t *testing.T, store user.Store) {
	ctx := t.Context()
	seed(t, store, "sales", 1, "ada")
	require.NoError(t, store.CreateUser(ctx, account("acme", "bob")))
	m := membership("acme", "sales", "bob", "editor", "viewer")
	require.NoError(t, store.CreateMembership(ctx, m))
	got, err := store.GetMembership(ctx, "acme", "sales", "bob")
	require.NoError(t, err)
	require.Equal(t, m, got)
	requireCode(t, store.CreateMembership(ctx, m), codes.AlreadyExists, "MEMBERSHIP_ALREADY_EXISTS")
	requireCode(t, store.CreateMembership(ctx, membership("acme", "none", "bob", "viewer")), codes.NotFound, "ORGANIZATION_NOT_FOUND")
	requireCode(t, store.CreateMembership(ctx, membership("acme", "sales", "nobody", "viewer")), codes.FailedPrecondition, "MEMBER_NOT_FOUND")
	m.Roles, m.Revision = []string{"none"}, 2
	requireCode(t, store.UpdateMembership(ctx, m), codes.FailedPrecondition, "MEMBER_ROLE_NOT_FOUND")
	m.Roles = []string{"admin"}
	require.NoError(t, store.UpdateMembership(ctx, m))
	require.ErrorIs(t, store.UpdateMembership(ctx, m), user.ErrStale)
	got, err = store.GetMembership(ctx, "acme", "sales", "bob")
	require.NoError(t, err)
	require.Equal(t, m, got)
	require.ErrorIs(t, store.DeleteMembership(ctx, "acme", "sales", "bob", 1), user.ErrStale)
	require.NoError(t, store.DeleteMembership(ctx, "acme", "sales", "bob", 2))
	requireCode(t, store.DeleteMembership(ctx, "acme", "sales", "bob", 0), codes.NotFound, "MEMBERSHIP_NOT_FOUND")
	_, _, err = store.ListMemberships(ctx, "acme", "none", query.List{Limit: 1})
	requireCode(t, err, codes.NotFound, "ORGANIZATION_NOT_FOUND")
}

func owners(t *testing.T, store user.Store) {
	ctx := t.Context()
	seed(t, store, "sales", 1, "ada", "bob")
	seed(t, store, "solo", 1, "ada")
	requireCode(t, store.DeleteMembership(ctx, "acme", "sales", "ada", 0), codes.FailedPrecondition, "LAST_OWNER")
	demoted := membership("acme", "sales", "ada", "admin")
	demoted.Revision = 2
	requireCode(t, store.UpdateMembership(ctx, demoted), codes.FailedPrecondition, "LAST_OWNER")
	requireCode(t, store.DeleteUser(ctx, "acme", "ada", 0), codes.FailedPrecondition, "LAST_OWNER")
	_, err := store.GetMembership(ctx, "acme", "solo", "ada")
	require.NoError(t, err, "a refused delete must leave everything")
	promoted := membership("acme", "sales", "bob", "owner")
	promoted.Revision = 2
	require.NoError(t, store.UpdateMembership(ctx, promoted))
	require.NoError(t, store.DeleteUser(ctx, "acme", "ada", 0))
	for _, id := range []string{"sales", "solo"} {
		_, err := store.GetMembership(ctx, "acme", id, "ada")
		requireCode(t, err, codes.NotFound, "MEMBERSHIP_NOT_FOUND")
	}
	require.NoError(t, store.DeleteMembership(ctx, "acme", "sales", "bob", 0))
}

// tenants checks that no method reaches another tenant's rows.
func tenants(t *testing.T, store user.Store) {
	ctx := t.Context()
	seed(t, store, "sales", 1, "ada")
	require.NoError(t, store.CreateRole(ctx, user.Role{Version: version("acme"), ID: "auditor", DisplayName: "A", Permissions: []string{}}))
	_, err := store.GetOrganization(ctx, "evil", "sales")
	requireCode(t, err, codes.NotFound, "ORGANIZATION_NOT_FOUND")
	_, err = store.GetUser(ctx, "evil", "ada")
	requireCode(t, err, codes.NotFound, "USER_NOT_FOUND")
	_, err = store.GetMembership(ctx, "evil", "sales", "ada")
	requireCode(t, err, codes.NotFound, "MEMBERSHIP_NOT_FOUND")
	_, err = store.GetRole(ctx, "evil", "auditor")
	requireCode(t, err, codes.NotFound, "ROLE_NOT_FOUND")
	requireCode(t, store.DeleteOrganization(ctx, "evil", "sales", 0, true), codes.NotFound, "ORGANIZATION_NOT_FOUND")
	requireCode(t, store.DeleteUser(ctx, "evil", "ada", 0), codes.NotFound, "USER_NOT_FOUND")
	requireCode(t, store.DeleteMembership(ctx, "evil", "sales", "ada", 0), codes.NotFound, "ORGANIZATION_NOT_FOUND")
	requireCode(t, store.DeleteRole(ctx, "evil", "auditor", 0), codes.NotFound, "ROLE_NOT_FOUND")
	o := organization("evil", "sales")
	o.Revision = 2
	require.ErrorIs(t, store.UpdateOrganization(ctx, o), user.ErrStale)
	require.NoError(t, store.CreateOrganization(ctx, organization("evil", "theirs")))
	requireCode(t, store.CreateMembership(ctx, membership("evil", "theirs", "ada", "viewer")), codes.FailedPrecondition, "MEMBER_NOT_FOUND")
	require.NoError(t, store.CreateUser(ctx, account("evil", "eve")))
	requireCode(t, store.CreateMembership(ctx, membership("evil", "theirs", "eve", "auditor")), codes.FailedPrecondition, "MEMBER_ROLE_NOT_FOUND")
	rows, _, err := store.ListUsers(ctx, "evil", query.List{Limit: 10})
	require.NoError(t, err)
	require.Len(t, rows, 1)
	all, _, err := store.ListRoles(ctx, "evil", query.List{Limit: 10})
	require.NoError(t, err)
	require.Len(t, all, 4)
}

func lists(t *testing.T, store user.Store) {
	ctx := t.Context()
	seed(t, store, "sales", 2, "ada", "bob", "cy", "di")
	require.NoError(t, store.CreateRole(ctx, user.Role{Version: version("acme"), ID: "auditor", DisplayName: "A", Permissions: []string{}}))
	for _, test := range []struct {
		filter string
		want   int
	}{
		{"", 4},
		{`roles:"roles/owner"`, 2},
		{`NOT roles:"roles/owner"`, 2},
		{`roles:"roles/admin"`, 0},
		{`user = "users/ada"`, 1},
		{`user > "users/ada" AND roles:"roles/viewer"`, 2},
	} {
		filter, err := query.ParseFilter(test.filter, user.MembershipFields())
		require.NoError(t, err)
		rows, _, err := store.ListMemberships(ctx, "acme", "sales", query.List{Filter: filter, Limit: 10})
		require.NoError(t, err)
		require.Len(t, rows, test.want, test.filter)
	}
	filter, err := query.ParseFilter(`email = "ADA@example.com" OR display_name = "User di"`, user.UserFields())
	require.NoError(t, err)
	order, err := query.ParseOrder("email desc", user.UserFields())
	require.NoError(t, err)
	first, next, err := store.ListUsers(ctx, "acme", query.List{Filter: filter, Order: order, Limit: 1})
	require.NoError(t, err)
	require.NotNil(t, next)
	require.Equal(t, "di", first[0].ID)
	second, next, err := store.ListUsers(ctx, "acme", query.List{Filter: filter, Order: order, Limit: 1, After: next})
	require.NoError(t, err)
	require.Nil(t, next)
	require.Equal(t, "ada", second[0].ID)
	for text, want := range map[string]int{`predefined = true`: 4, `predefined = false`: 1, `predefined != true`: 1, ``: 5} {
		filter, err := query.ParseFilter(text, user.RoleFields())
		require.NoError(t, err)
		rows, _, err := store.ListRoles(ctx, "acme", query.List{Filter: filter, Limit: 10})
		require.NoError(t, err)
		require.Len(t, rows, want, text)
	}
}

func concurrentEmails(t *testing.T, store user.Store) {
	var won atomic.Int64
	parallel(12, func(i int) {
		u := account("acme", fmt.Sprintf("u%d", i))
		u.Email = "same@example.com"
		if err := store.CreateUser(t.Context(), u); err == nil {
			won.Add(1)
		} else if fault.From(err).Reason != "EMAIL_ALREADY_EXISTS" {
			t.Errorf("create: %v", err)
		}
	})
	require.EqualValues(t, 1, won.Load())
}

// concurrentOwners lets two owners leave at once, over and over: one stays.
func concurrentOwners(t *testing.T, store user.Store) {
	for round := range 8 {
		id := fmt.Sprintf("org%d", round)
		seed(t, store, id, 2, "ada", "bob", "cy")
		var left atomic.Int64
		parallel(2, func(i int) {
			err := store.DeleteMembership(t.Context(), "acme", id, []string{"ada", "bob"}[i], 0)
			if err == nil {
				left.Add(1)
			} else if fault.From(err).Reason != "LAST_OWNER" {
				t.Errorf("delete: %v", err)
			}
		})
		require.EqualValues(t, 1, left.Load())
	}
}

// concurrentUsers deletes users while they are added to organizations: no
// membership of a deleted user may stay.
func concurrentUsers(t *testing.T, store user.Store) {
	ctx := t.Context()
	seed(t, store, "sales", 1, "ada")
	for round := range 8 {
		id := fmt.Sprintf("u%d", round)
		require.NoError(t, store.CreateUser(ctx, account("acme", id)))
		parallel(2, func(i int) {
			if i == 0 {
				if err := store.DeleteUser(ctx, "acme", id, 0); err != nil {
					t.Errorf("delete: %v", err)
				}
				return
			}
			err := store.CreateMembership(ctx, membership("acme", "sales", id, "viewer"))
			if err != nil && fault.From(err).Reason != "MEMBER_NOT_FOUND" {
				t.Errorf("create: %v", err)
			}
		})
	}
	rows, _, err := store.ListMemberships(ctx, "acme", "sales", query.List{Limit: 100})
	require.NoError(t, err)
	require.Len(t, rows, 1)
}

func parallel(n int, work func(i int)) {
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { work(i) })
	}
	group.Wait()
}
