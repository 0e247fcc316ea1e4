package usergrpc

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	keysv1 "weir.dev/api/gen/weir/keys/v1"
	userv1 "weir.dev/api/gen/weir/user/v1"
	"weir.dev/services/user"
)

// Server implements userv1.UserServiceServer. Safe for concurrent use.
type Server struct {
	userv1.UnimplementedUserServiceServer
	service *user.Service
}

// Register serves service and feed on registrar.
func Register(registrar grpc.ServiceRegistrar, service *user.Service, feed *user.KeyFeed) {
	userv1.RegisterUserServiceServer(registrar, &Server{service: service})
	userv1.RegisterApiKeyServiceServer(registrar, &keyServer{service: service, clock: time.Now})
	keysv1.RegisterApiKeyFeedServiceServer(registrar, &feedServer{feed: feed})
}

// CreateOrganization implements userv1.UserServiceServer.
func (s *Server) CreateOrganization(ctx context.Context, in *userv1.CreateOrganizationRequest) (*userv1.Organization, error) {
	organization, err := s.service.CreateOrganization(ctx, in.GetOrganizationId(), user.Organization{DisplayName: in.GetOrganization().GetDisplayName()})
	return answer(organization, err, toOrganization)
}

// GetOrganization implements userv1.UserServiceServer.
func (s *Server) GetOrganization(ctx context.Context, in *userv1.GetOrganizationRequest) (*userv1.Organization, error) {
	organization, err := s.service.GetOrganization(ctx, in.GetName())
	return answer(organization, err, toOrganization)
}

// ListOrganizations implements userv1.UserServiceServer.
func (s *Server) ListOrganizations(ctx context.Context, in *userv1.ListOrganizationsRequest) (*userv1.ListOrganizationsResponse, error) {
	page, next, err := s.service.ListOrganizations(ctx, request(in))
	if err != nil {
		return nil, err
	}
	return &userv1.ListOrganizationsResponse{Organizations: all(page, toOrganization), NextPageToken: next}, nil
}

// UpdateOrganization implements userv1.UserServiceServer.
func (s *Server) UpdateOrganization(ctx context.Context, in *userv1.UpdateOrganizationRequest) (*userv1.Organization, error) {
	organization, err := s.service.UpdateOrganization(ctx, in.GetOrganization().GetName(), user.Organization{DisplayName: in.GetOrganization().GetDisplayName()},
		in.GetOrganization().GetEtag(), in.GetUpdateMask().GetPaths())
	return answer(organization, err, toOrganization)
}

// DeleteOrganization implements userv1.UserServiceServer.
func (s *Server) DeleteOrganization(ctx context.Context, in *userv1.DeleteOrganizationRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.service.DeleteOrganization(ctx, in.GetName(), in.GetEtag(), in.GetForce())
}

// CreateUser implements userv1.UserServiceServer.
func (s *Server) CreateUser(ctx context.Context, in *userv1.CreateUserRequest) (*userv1.User, error) {
	account, err := s.service.CreateUser(ctx, in.GetUserId(), user.User{Email: in.GetUser().GetEmail(), DisplayName: in.GetUser().GetDisplayName()})
	return answer(account, err, toUser)
}

// GetUser implements userv1.UserServiceServer.
func (s *Server) GetUser(ctx context.Context, in *userv1.GetUserRequest) (*userv1.User, error) {
	account, err := s.service.GetUser(ctx, in.GetName())
	return answer(account, err, toUser)
}

// ListUsers implements userv1.UserServiceServer.
func (s *Server) ListUsers(ctx context.Context, in *userv1.ListUsersRequest) (*userv1.ListUsersResponse, error) {
	page, next, err := s.service.ListUsers(ctx, request(in))
	if err != nil {
		return nil, err
	}
	return &userv1.ListUsersResponse{Users: all(page, toUser), NextPageToken: next}, nil
}

// UpdateUser implements userv1.UserServiceServer.
func (s *Server) UpdateUser(ctx context.Context, in *userv1.UpdateUserRequest) (*userv1.User, error) {
	account, err := s.service.UpdateUser(ctx, in.GetUser().GetName(), user.User{Email: in.GetUser().GetEmail(), DisplayName: in.GetUser().GetDisplayName()},
		in.GetUser().GetEtag(), in.GetUpdateMask().GetPaths())
	return answer(account, err, toUser)
}

// DeleteUser implements userv1.UserServiceServer.
func (s *Server) DeleteUser(ctx context.Context, in *userv1.DeleteUserRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.service.DeleteUser(ctx, in.GetName(), in.GetEtag())
}

// CreateMembership implements userv1.UserServiceServer.
func (s *Server) CreateMembership(ctx context.Context, in *userv1.CreateMembershipRequest) (*userv1.Membership, error) {
	membership, err := s.service.CreateMembership(ctx, in.GetParent(), in.GetMembership().GetUser(), in.GetMembership().GetRoles())
	return answer(membership, err, toMembership)
}

// GetMembership implements userv1.UserServiceServer.
func (s *Server) GetMembership(ctx context.Context, in *userv1.GetMembershipRequest) (*userv1.Membership, error) {
	membership, err := s.service.GetMembership(ctx, in.GetName())
	return answer(membership, err, toMembership)
}

// ListMemberships implements userv1.UserServiceServer.
func (s *Server) ListMemberships(ctx context.Context, in *userv1.ListMembershipsRequest) (*userv1.ListMembershipsResponse, error) {
	page, next, err := s.service.ListMemberships(ctx, in.GetParent(), request(in))
	if err != nil {
		return nil, err
	}
	return &userv1.ListMembershipsResponse{Memberships: all(page, toMembership), NextPageToken: next}, nil
}

// UpdateMembership implements userv1.UserServiceServer.
func (s *Server) UpdateMembership(ctx context.Context, in *userv1.UpdateMembershipRequest) (*userv1.Membership, error) {
	membership, err := s.service.UpdateMembership(ctx, in.GetMembership().GetName(), in.GetMembership().GetUser(), in.GetMembership().GetRoles(),
		in.GetMembership().GetEtag(), in.GetUpdateMask().GetPaths())
	return answer(membership, err, toMembership)
}

// DeleteMembership implements userv1.UserServiceServer.
func (s *Server) DeleteMembership(ctx context.Context, in *userv1.DeleteMembershipRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.service.DeleteMembership(ctx, in.GetName(), in.GetEtag())
}

// CreateRole implements userv1.UserServiceServer.
func (s *Server) CreateRole(ctx context.Context, in *userv1.CreateRoleRequest) (*userv1.Role, error) {
	role, err := s.service.CreateRole(ctx, in.GetRoleId(), user.Role{DisplayName: in.GetRole().GetDisplayName(), Permissions: in.GetRole().GetPermissions()})
	return answer(role, err, toRole)
}

// GetRole implements userv1.UserServiceServer.
func (s *Server) GetRole(ctx context.Context, in *userv1.GetRoleRequest) (*userv1.Role, error) {
	role, err := s.service.GetRole(ctx, in.GetName())
	return answer(role, err, toRole)
}

// ListRoles implements userv1.UserServiceServer.
func (s *Server) ListRoles(ctx context.Context, in *userv1.ListRolesRequest) (*userv1.ListRolesResponse, error) {
	page, next, err := s.service.ListRoles(ctx, request(in))
	if err != nil {
		return nil, err
	}
	return &userv1.ListRolesResponse{Roles: all(page, toRole), NextPageToken: next}, nil
}

// UpdateRole implements userv1.UserServiceServer.
func (s *Server) UpdateRole(ctx context.Context, in *userv1.UpdateRoleRequest) (*userv1.Role, error) {
	role, err := s.service.UpdateRole(ctx, in.GetRole().GetName(), user.Role{DisplayName: in.GetRole().GetDisplayName(), Permissions: in.GetRole().GetPermissions()},
		in.GetRole().GetEtag(), in.GetUpdateMask().GetPaths())
	return answer(role, err, toRole)
}

// DeleteRole implements userv1.UserServiceServer.
func (s *Server) DeleteRole(ctx context.Context, in *userv1.DeleteRoleRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.service.DeleteRole(ctx, in.GetName(), in.GetEtag())
}
