package usergrpc_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	userv1 "weir.dev/api/gen/weir/user/v1"
	"weir.dev/services/internal/servicetest"
	"weir.dev/services/pgtest"
	"weir.dev/services/user"
	"weir.dev/services/user/store"
	"weir.dev/services/user/store/postgres"
	"weir.dev/services/user/store/sqlite"
	"weir.dev/services/user/usergrpc"
)

func serve(t testing.TB, storage *store.Store, err error) userv1.UserServiceClient {
	t.Helper()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, storage.Close()) })
	return userv1.NewUserServiceClient(serveOn(t, storage))
}

func serveOn(t testing.TB, storage *store.Store) grpc.ClientConnInterface {
	t.Helper()
	feed := user.NewKeyFeed(storage)
	service := user.New(user.Options{Store: storage, PageSecret: []byte("0123456789abcdef"), KeysChanged: feed.Changed})
	return servicetest.Serve(t, func(r grpc.ServiceRegistrar) { usergrpc.Register(r, service, feed) })
}

// TestService runs every scenario on both databases: the answers are equal.
func TestService(t *testing.T) {
	for name, start := range map[string]func(testing.TB) userv1.UserServiceClient{
		"sqlite": func(t testing.TB) userv1.UserServiceClient {
			storage, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "user.db"))
			return serve(t, storage, err)
		},
		"postgres": func(t testing.TB) userv1.UserServiceClient {
			url, err := pgtest.New(t).Database(t.Context())
			require.NoError(t, err)
			storage, err := postgres.Open(t.Context(), url)
			return serve(t, storage, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := start(t)
			for name, scenario := range map[string]func(*testing.T, context.Context, userv1.UserServiceClient){
				"organizations": organizations, "users": users, "roles": roles, "memberships": memberships,
				"pages": pages, "tenants": tenants,
			} {
				t.Run(name, func(t *testing.T) {
					scenario(t, servicetest.As(t.Context(), "tenant of "+t.Name()), client)
				})
			}
		})
	}
}

func requireFault(t *testing.T, err error, code codes.Code, reason string, fields ...string) {
	t.Helper()
	require.Equal(t, code, status.Code(err), "%v", err)
	require.Equal(t, reason, servicetest.Reason(err), "%v", err)
	if len(fields) > 0 {
		require.ElementsMatch(t, fields, servicetest.Fields(err), "%v", err)
	}
}

func mask(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }

func newOrganization(t *testing.T, ctx context.Context, client userv1.UserServiceClient, id string) *userv1.Organization {
	t.Helper()
	o, err := client.CreateOrganization(ctx, &userv1.CreateOrganizationRequest{OrganizationId: id, Organization: &userv1.Organization{DisplayName: "Org " + id}})
	require.NoError(t, err)
	return o
}

func newUser(t *testing.T, ctx context.Context, client userv1.UserServiceClient, id string) *userv1.User {
	t.Helper()
	u, err := client.CreateUser(ctx, &userv1.CreateUserRequest{UserId: id, User: &userv1.User{Email: id + "@example.com", DisplayName: "User " + id}})
	require.NoError(t, err)
	return u
}

func newMember(t *testing.T, ctx context.Context, client userv1.UserServiceClient, organization, id string, roles ...string) *userv1.Membership {
	t.Helper()
	m, err := client.CreateMembership(ctx, &userv1.CreateMembershipRequest{
		Parent: "organizations/" + organization, Membership: &userv1.Membership{User: "users/" + id, Roles: roles},
	})
	require.NoError(t, err)
	return m
}

func organizations(t *testing.T, ctx context.Context, client userv1.UserServiceClient) {
	o := newOrganization(t, ctx, client, "sales")
	require.Equal(t, "organizations/sales", o.GetName())
	require.Regexp(t, `^organizations/[a-z][a-z0-9]{20,}$`, newOrganization(t, ctx, client, "").GetName())
	got, err := client.GetOrganization(ctx, &userv1.GetOrganizationRequest{Name: o.GetName()})
	require.NoError(t, err)
	require.Equal(t, o.String(), got.String())
	_, err = client.CreateOrganization(ctx, &userv1.CreateOrganizationRequest{OrganizationId: "sales", Organization: &userv1.Organization{DisplayName: "x"}})
	requireFault(t, err, codes.AlreadyExists, "ORGANIZATION_ALREADY_EXISTS")
	for _, name := range []string{"", " ", strings.Repeat("x", 201), "a\nb"} {
		_, err = client.CreateOrganization(ctx, &userv1.CreateOrganizationRequest{Organization: &userv1.Organization{DisplayName: name}})
		requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT", "organization.display_name")
	}
	updated, err := client.UpdateOrganization(ctx, &userv1.UpdateOrganizationRequest{
		Organization: &userv1.Organization{Name: o.GetName(), DisplayName: "Sales", Etag: o.GetEtag()}, UpdateMask: mask("display_name"),
	})
	require.NoError(t, err)
	require.Equal(t, "Sales", updated.GetDisplayName())
	require.True(t, updated.GetUpdateTime().AsTime().After(o.GetCreateTime().AsTime()))
	_, err = client.UpdateOrganization(ctx, &userv1.UpdateOrganizationRequest{Organization: &userv1.Organization{Name: o.GetName(), DisplayName: "x", Etag: o.GetEtag()}})
	requireFault(t, err, codes.Aborted, "ETAG_MISMATCH")
	_, err = client.UpdateOrganization(ctx, &userv1.UpdateOrganizationRequest{Organization: &userv1.Organization{Name: o.GetName()}, UpdateMask: mask("name")})
	requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT", "update_mask")
	_, err = client.UpdateOrganization(ctx, &userv1.UpdateOrganizationRequest{Organization: &userv1.Organization{Name: o.GetName()}, UpdateMask: mask("*")})
	requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT", "organization.display_name")
	newUser(t, ctx, client, "ada")
	newMember(t, ctx, client, "sales", "ada", "roles/owner")
	_, err = client.DeleteOrganization(ctx, &userv1.DeleteOrganizationRequest{Name: o.GetName()})
	requireFault(t, err, codes.FailedPrecondition, "ORGANIZATION_NOT_EMPTY")
	_, err = client.DeleteOrganization(ctx, &userv1.DeleteOrganizationRequest{Name: o.GetName(), Force: true, Etag: o.GetEtag()})
	requireFault(t, err, codes.Aborted, "ETAG_MISMATCH")
	_, err = client.DeleteOrganization(ctx, &userv1.DeleteOrganizationRequest{Name: o.GetName(), Force: true, Etag: updated.GetEtag()})
	require.NoError(t, err)
	_, err = client.GetOrganization(ctx, &userv1.GetOrganizationRequest{Name: o.GetName()})
	requireFault(t, err, codes.NotFound, "ORGANIZATION_NOT_FOUND")
}

func users(t *testing.T, ctx context.Context, client userv1.UserServiceClient) {
	u := newUser(t, ctx, client, "ada")
	_, err := client.CreateUser(ctx, &userv1.CreateUserRequest{User: &userv1.User{Email: "ADA@Example.Com"}})
	requireFault(t, err, codes.AlreadyExists, "EMAIL_ALREADY_EXISTS", "user.email")
	for _, email := range []string{"", "ada", "Ada <a@example.com>", "a@b@c", "a@example.com, b@example.com", strings.Repeat("x", 250) + "@example.com"} {
		_, err := client.CreateUser(ctx, &userv1.CreateUserRequest{User: &userv1.User{Email: email, DisplayName: "a\tb"}})
		requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT", "user.email", "user.display_name")
	}
	updated, err := client.UpdateUser(ctx, &userv1.UpdateUserRequest{User: &userv1.User{Name: u.GetName(), Email: "Countess@example.com"}})
	require.NoError(t, err)
	require.Equal(t, "User ada", updated.GetDisplayName())
	updated, err = client.UpdateUser(ctx, &userv1.UpdateUserRequest{User: &userv1.User{Name: u.GetName()}, UpdateMask: mask("display_name")})
	require.NoError(t, err)
	require.Empty(t, updated.GetDisplayName())
	require.Equal(t, "Countess@example.com", updated.GetEmail())
	list, err := client.ListUsers(ctx, &userv1.ListUsersRequest{Filter: `email = "COUNTESS@EXAMPLE.COM"`})
	require.NoError(t, err)
	require.Len(t, list.GetUsers(), 1)
	_, err = client.UpdateUser(ctx, &userv1.UpdateUserRequest{User: &userv1.User{Name: "users/none", Email: "x@example.com"}})
	requireFault(t, err, codes.NotFound, "USER_NOT_FOUND")
	_, err = client.DeleteUser(ctx, &userv1.DeleteUserRequest{Name: u.GetName(), Etag: updated.GetEtag()})
	require.NoError(t, err)
	_, err = client.GetUser(ctx, &userv1.GetUserRequest{Name: u.GetName()})
	requireFault(t, err, codes.NotFound, "USER_NOT_FOUND")
}

func roles(t *testing.T, ctx context.Context, client userv1.UserServiceClient) {
	list, err := client.ListRoles(ctx, &userv1.ListRolesRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetRoles(), 4)
	for _, r := range list.GetRoles() {
		require.True(t, r.GetPredefined())
		_, err := client.UpdateRole(ctx, &userv1.UpdateRoleRequest{Role: &userv1.Role{Name: r.GetName(), DisplayName: "x"}})
		requireFault(t, err, codes.FailedPrecondition, "ROLE_PREDEFINED")
		_, err = client.DeleteRole(ctx, &userv1.DeleteRoleRequest{Name: r.GetName()})
		requireFault(t, err, codes.FailedPrecondition, "ROLE_PREDEFINED")
		_, err = client.CreateRole(ctx, &userv1.CreateRoleRequest{RoleId: strings.TrimPrefix(r.GetName(), "roles/"), Role: &userv1.Role{DisplayName: "x"}})
		requireFault(t, err, codes.AlreadyExists, "ROLE_ALREADY_EXISTS")
	}
	r, err := client.CreateRole(ctx, &userv1.CreateRoleRequest{RoleId: "auditor", Role: &userv1.Role{DisplayName: "Auditor", Permissions: []string{"audit.read"}}})
	require.NoError(t, err)
	require.False(t, r.GetPredefined())
	_, err = client.CreateRole(ctx, &userv1.CreateRoleRequest{Role: &userv1.Role{Permissions: []string{"Bad one"}}})
	requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT", "role.display_name", "role.permissions")
	r, err = client.UpdateRole(ctx, &userv1.UpdateRoleRequest{Role: &userv1.Role{Name: r.GetName()}, UpdateMask: mask("permissions")})
	require.NoError(t, err)
	require.Empty(t, r.GetPermissions())
	newOrganization(t, ctx, client, "sales")
	newUser(t, ctx, client, "ada")
	newMember(t, ctx, client, "sales", "ada", r.GetName())
	_, err = client.DeleteRole(ctx, &userv1.DeleteRoleRequest{Name: r.GetName()})
	requireFault(t, err, codes.FailedPrecondition, "ROLE_IN_USE")
	_, err = client.DeleteUser(ctx, &userv1.DeleteUserRequest{Name: "users/ada"})
	require.NoError(t, err)
	_, err = client.DeleteRole(ctx, &userv1.DeleteRoleRequest{Name: r.GetName()})
	require.NoError(t, err)
}

func memberships(t *testing.T, ctx context.Context, client userv1.UserServiceClient) {
	newOrganization(t, ctx, client, "sales")
	newUser(t, ctx, client, "ada")
	newUser(t, ctx, client, "bob")
	ada := newMember(t, ctx, client, "sales", "ada", "roles/owner", "roles/admin")
	require.Equal(t, "organizations/sales/memberships/ada", ada.GetName())
	require.Equal(t, []string{"roles/admin", "roles/owner"}, ada.GetRoles())
	bob := newMember(t, ctx, client, "sales", "bob", "roles/viewer")
	create := func(parent, member string, roles ...string) error {
		_, err := client.CreateMembership(ctx, &userv1.CreateMembershipRequest{Parent: parent, Membership: &userv1.Membership{User: member, Roles: roles}})
		return err
	}
	requireFault(t, create("organizations/sales", "users/ada", "roles/viewer"), codes.AlreadyExists, "MEMBERSHIP_ALREADY_EXISTS")
	requireFault(t, create("organizations/none", "users/ada", "roles/viewer"), codes.NotFound, "ORGANIZATION_NOT_FOUND")
	requireFault(t, create("organizations/sales", "users/none", "roles/viewer"), codes.FailedPrecondition, "MEMBER_NOT_FOUND", "membership.user")
	requireFault(t, create("organizations/sales", "ada"), codes.InvalidArgument, "INVALID_ARGUMENT", "membership.user", "membership.roles")
	requireFault(t, create("organizations/sales", "users/ada", "roles/viewer", "roles/viewer"), codes.InvalidArgument, "INVALID_ARGUMENT", "membership.roles")
	newUser(t, ctx, client, "cy")
	requireFault(t, create("organizations/sales", "users/cy", "roles/none"), codes.FailedPrecondition, "MEMBER_ROLE_NOT_FOUND", "membership.roles")

	_, err := client.DeleteMembership(ctx, &userv1.DeleteMembershipRequest{Name: ada.GetName()})
	requireFault(t, err, codes.FailedPrecondition, "LAST_OWNER")
	_, err = client.UpdateMembership(ctx, &userv1.UpdateMembershipRequest{Membership: &userv1.Membership{Name: ada.GetName(), Roles: []string{"roles/admin"}}})
	requireFault(t, err, codes.FailedPrecondition, "LAST_OWNER")
	_, err = client.DeleteUser(ctx, &userv1.DeleteUserRequest{Name: "users/ada"})
	requireFault(t, err, codes.FailedPrecondition, "LAST_OWNER")
	_, err = client.UpdateMembership(ctx, &userv1.UpdateMembershipRequest{Membership: &userv1.Membership{Name: bob.GetName(), User: "users/ada", Roles: []string{"roles/owner"}}})
	requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT", "membership.user")
	updated, err := client.UpdateMembership(ctx, &userv1.UpdateMembershipRequest{Membership: &userv1.Membership{Name: bob.GetName(), Roles: []string{"roles/owner"}, Etag: bob.GetEtag()}})
	require.NoError(t, err)
	require.Equal(t, []string{"roles/owner"}, updated.GetRoles())
	list, err := client.ListMemberships(ctx, &userv1.ListMembershipsRequest{Parent: "organizations/sales", Filter: `roles:"roles/owner"`, OrderBy: "user desc"})
	require.NoError(t, err)
	require.Equal(t, "users/bob", list.GetMemberships()[0].GetUser())
	require.Len(t, list.GetMemberships(), 2)
	_, err = client.DeleteMembership(ctx, &userv1.DeleteMembershipRequest{Name: ada.GetName()})
	require.NoError(t, err)
	_, err = client.GetMembership(ctx, &userv1.GetMembershipRequest{Name: ada.GetName()})
	requireFault(t, err, codes.NotFound, "MEMBERSHIP_NOT_FOUND")
	_, err = client.DeleteMembership(ctx, &userv1.DeleteMembershipRequest{Name: bob.GetName(), Etag: bob.GetEtag()})
	requireFault(t, err, codes.Aborted, "ETAG_MISMATCH")
	_, err = client.DeleteMembership(ctx, &userv1.DeleteMembershipRequest{Name: bob.GetName()})
	require.NoError(t, err, "the last one may go")
}

func pages(t *testing.T, ctx context.Context, client userv1.UserServiceClient) {
	for i := range 25 {
		newUser(t, ctx, client, fmt.Sprintf("u%02d", i))
	}
	var seen []string
	request := &userv1.ListUsersRequest{PageSize: 10, OrderBy: "email desc", Filter: `name != "users/u07"`}
	for {
		page, err := client.ListUsers(ctx, request)
		require.NoError(t, err)
		for _, u := range page.GetUsers() {
			seen = append(seen, u.GetName())
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			break
		}
	}
	require.Len(t, seen, 24)
	require.IsDecreasing(t, seen)
	first, err := client.ListUsers(ctx, &userv1.ListUsersRequest{PageSize: 10})
	require.NoError(t, err)
	_, err = client.ListRoles(ctx, &userv1.ListRolesRequest{PageToken: first.GetNextPageToken()})
	requireFault(t, err, codes.InvalidArgument, "INVALID_PAGE_TOKEN", "page_token")
	_, err = client.ListUsers(servicetest.As(t.Context(), "other"), &userv1.ListUsersRequest{PageToken: first.GetNextPageToken()})
	requireFault(t, err, codes.InvalidArgument, "INVALID_PAGE_TOKEN", "page_token")
	_, err = client.ListUsers(ctx, &userv1.ListUsersRequest{Filter: "password = 1"})
	requireFault(t, err, codes.InvalidArgument, "INVALID_FILTER", "filter")
}

func tenants(t *testing.T, ctx context.Context, client userv1.UserServiceClient) {
	newOrganization(t, ctx, client, "sales")
	newUser(t, ctx, client, "ada")
	newMember(t, ctx, client, "sales", "ada", "roles/owner")
	evil := servicetest.As(t.Context(), "evil of "+t.Name())
	_, err := client.GetUser(evil, &userv1.GetUserRequest{Name: "users/ada"})
	requireFault(t, err, codes.NotFound, "USER_NOT_FOUND")
	_, err = client.DeleteOrganization(evil, &userv1.DeleteOrganizationRequest{Name: "organizations/sales", Force: true})
	requireFault(t, err, codes.NotFound, "ORGANIZATION_NOT_FOUND")
	_, err = client.ListMemberships(evil, &userv1.ListMembershipsRequest{Parent: "organizations/sales"})
	requireFault(t, err, codes.NotFound, "ORGANIZATION_NOT_FOUND")
	newUser(t, evil, client, "ada")
	list, err := client.ListUsers(evil, &userv1.ListUsersRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetUsers(), 1)
	_, err = client.ListOrganizations(t.Context(), &userv1.ListOrganizationsRequest{})
	requireFault(t, err, codes.PermissionDenied, "TENANT_REQUIRED")
}
