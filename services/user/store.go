package user

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
	"weir.dev/services/internal/query"
)

// ErrStale is returned by a store when a change was decided on a version that
// isn't current any more. The service decides again.
var ErrStale = errors.New("the version has changed")

// OrganizationStore keeps organizations. Every method sees only the rows of the
// tenant that its arguments name, returns coded errors of this package
// (OrganizationNotFound, ...), and is safe for concurrent use. A nil error of a
// change means that it survives the death of the process. Updates replace the
// version before the given one, and deletes the given revision (zero for any);
// otherwise they return ErrStale.
type OrganizationStore interface {
	CreateOrganization(ctx context.Context, o Organization) error
	GetOrganization(ctx context.Context, tenant, id string) (Organization, error)
	ListOrganizations(ctx context.Context, tenant string, list query.List) ([]Organization, *query.Cursor, error)
	UpdateOrganization(ctx context.Context, o Organization) error
	// DeleteOrganization deletes the memberships too when force is set, and
	// returns OrganizationNotEmpty if there are any otherwise.
	DeleteOrganization(ctx context.Context, tenant, id string, revision int64, force bool) error
}

// UserStore keeps users, under the contract of OrganizationStore.
type UserStore interface {
	// CreateUser and UpdateUser return EmailTaken when another user of the
	// tenant has the address, compared by EmailKey.
	CreateUser(ctx context.Context, u User) error
	GetUser(ctx context.Context, tenant, id string) (User, error)
	ListUsers(ctx context.Context, tenant string, list query.List) ([]User, *query.Cursor, error)
	UpdateUser(ctx context.Context, u User) error
	// DeleteUser deletes the user's memberships too, or returns LastOwner
	// when StrandsOthers holds for any of them.
	DeleteUser(ctx context.Context, tenant, id string, revision int64) error
}

// MembershipStore keeps memberships, under the contract of OrganizationStore.
type MembershipStore interface {
	// CreateMembership returns OrganizationNotFound, MemberNotFound or
	// MemberRoleNotFound if one of them doesn't exist.
	CreateMembership(ctx context.Context, m Membership) error
	GetMembership(ctx context.Context, tenant, organization, user string) (Membership, error)
	// ListMemberships returns OrganizationNotFound rather than an empty page
	// for an organization that isn't there.
	ListMemberships(ctx context.Context, tenant, organization string, list query.List) ([]Membership, *query.Cursor, error)
	// UpdateMembership and DeleteMembership return LastOwner when
	// StrandsOthers holds.
	UpdateMembership(ctx context.Context, m Membership) error
	DeleteMembership(ctx context.Context, tenant, organization, user string, revision int64) error
}

// RoleStore keeps roles, under the contract of OrganizationStore. Predefined
// roles are in every tenant's reads; the service never changes them.
type RoleStore interface {
	CreateRole(ctx context.Context, r Role) error
	GetRole(ctx context.Context, tenant, id string) (Role, error)
	ListRoles(ctx context.Context, tenant string, list query.List) ([]Role, *query.Cursor, error)
	UpdateRole(ctx context.Context, r Role) error
	// DeleteRole returns RoleInUse while a membership has the role.
	DeleteRole(ctx context.Context, tenant, id string, revision int64) error
}

// Store is all that the service needs.
type Store interface {
	OrganizationStore
	UserStore
	MembershipStore
	RoleStore
	APIKeyStore
	KeyFeedStore
}

// OrganizationNotFound is the error of an organization that the tenant doesn't
// have.
func OrganizationNotFound(id string) *fault.Error {
	return fault.New(codes.NotFound, "ORGANIZATION_NOT_FOUND", "organizations/%s does not exist", id)
}

// OrganizationExists is the error of an id that is taken.
func OrganizationExists(id string) *fault.Error {
	return fault.New(codes.AlreadyExists, "ORGANIZATION_ALREADY_EXISTS", "organizations/%s exists already", id)
}

// OrganizationNotEmpty is the error of deleting an organization with members.
func OrganizationNotEmpty(id string) *fault.Error {
	return fault.New(codes.FailedPrecondition, "ORGANIZATION_NOT_EMPTY", "organizations/%s has memberships; set force to delete them too", id)
}

// UserNotFound is the error of a user that the tenant doesn't have.
func UserNotFound(id string) *fault.Error {
	return fault.New(codes.NotFound, "USER_NOT_FOUND", "users/%s does not exist", id)
}

// UserExists is the error of an id that is taken.
func UserExists(id string) *fault.Error {
	return fault.New(codes.AlreadyExists, "USER_ALREADY_EXISTS", "users/%s exists already", id)
}

// EmailTaken is the error of an email address that another user has.
func EmailTaken() *fault.Error {
	return fault.New(codes.AlreadyExists, "EMAIL_ALREADY_EXISTS", "another user has this email address").
		WithField("user.email", "is taken")
}

// MembershipNotFound is the error of a membership that isn't there.
func MembershipNotFound(organization, user string) *fault.Error {
	return fault.New(codes.NotFound, "MEMBERSHIP_NOT_FOUND", "%s does not exist", membershipName(organization, user))
}

// MembershipExists is the error of adding a member twice.
func MembershipExists(organization, user string) *fault.Error {
	return fault.New(codes.AlreadyExists, "MEMBERSHIP_ALREADY_EXISTS", "%s exists already", membershipName(organization, user))
}

// MemberNotFound is the error of a membership for a user that doesn't exist.
func MemberNotFound(id string) *fault.Error {
	return fault.New(codes.FailedPrecondition, "MEMBER_NOT_FOUND", "users/%s does not exist; create the user first", id).
		WithField("membership.user", "does not exist")
}

// MemberRoleNotFound is the error of a membership with a role that doesn't
// exist.
func MemberRoleNotFound(id string) *fault.Error {
	return fault.New(codes.FailedPrecondition, "MEMBER_ROLE_NOT_FOUND", "roles/%s does not exist; create the role first", id).
		WithField("membership.roles", "roles/"+id+" does not exist")
}

// LastOwner is the error of a change that StrandsOthers.
func LastOwner(organization, user string) *fault.Error {
	return fault.New(codes.FailedPrecondition, "LAST_OWNER",
		"users/%s is the last owner of organizations/%s, which has other members; make one of them an owner first", user, organization)
}

// RoleNotFound is the error of a role that the tenant doesn't have.
func RoleNotFound(id string) *fault.Error {
	return fault.New(codes.NotFound, "ROLE_NOT_FOUND", "roles/%s does not exist", id)
}

// RoleExists is the error of an id that is taken.
func RoleExists(id string) *fault.Error {
	return fault.New(codes.AlreadyExists, "ROLE_ALREADY_EXISTS", "roles/%s exists already", id)
}

// RoleInUse is the error of deleting a role that memberships have.
func RoleInUse(id string) *fault.Error {
	return fault.New(codes.FailedPrecondition, "ROLE_IN_USE", "roles/%s is used by memberships; take it from them first", id)
}

// RolePredefined is the error of changing a predefined role.
func RolePredefined(id string) *fault.Error {
	return fault.New(codes.FailedPrecondition, "ROLE_PREDEFINED", "roles/%s is predefined and can't be changed or deleted", id)
}
