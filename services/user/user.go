package user

import (
	"slices"
	"time"

	"weir.dev/services/internal/query"
	"weir.dev/services/internal/resource"
)

// Bounds.
const (
	// MaxEmailBytes is what RFC 5321 section 4.5.3.1.3 leaves for an address.
	MaxEmailBytes = 254
	// MaxRoles bounds the roles of a membership.
	MaxRoles = 20
	// MaxPermissions bounds the permissions of a role.
	MaxPermissions = 100
)

// RoleOwner is the predefined role that an organization with members must not
// run out of.
const RoleOwner = "owner"

// Predefined reports whether id names a role that every tenant has.
func Predefined(id string) bool {
	return slices.Contains([]string{"viewer", "editor", "admin", RoleOwner}, id)
}

// Version is what all resources have.
type Version struct {
	Tenant     string
	CreateTime time.Time
	UpdateTime time.Time
	// Revision counts the versions, from 1.
	Revision int64
}

// Etag identifies this version.
func (v Version) Etag() string { return resource.Etag(v.CreateTime, v.Revision) }

func (v *Version) next(now time.Time) { v.UpdateTime, v.Revision = now, v.Revision+1 }

// Organization is a group of users that work together.
type Organization struct {
	Version
	ID          string
	DisplayName string
}

// Name is the resource name.
func (o Organization) Name() string { return "organizations/" + o.ID }

// User is a person or a program. Email and DisplayName are personal data.
type User struct {
	Version
	ID          string
	Email       string
	DisplayName string
}

// Name is the resource name.
func (u User) Name() string { return "users/" + u.ID }

// Membership says that a user belongs to an organization, and as what.
type Membership struct {
	Version
	Organization string
	// User is the user's id, and the membership's within the organization.
	User string
	// Roles are role ids, sorted.
	Roles []string
}

// Name is the resource name.
func (m Membership) Name() string { return membershipName(m.Organization, m.User) }

func membershipName(organization, user string) string {
	return "organizations/" + organization + "/memberships/" + user
}

// Role is a named set of permissions.
type Role struct {
	Version
	ID          string
	DisplayName string
	Permissions []string
	// Predefined roles belong to every tenant and can't be changed.
	Predefined bool
}

// Name is the resource name.
func (r Role) Name() string { return "roles/" + r.ID }

// StrandsOthers reports whether changing a member's roles from before to after
// (nil when the member leaves) would leave other members without any owner.
func StrandsOthers(before, after []string, otherOwners, otherMembers int64) bool {
	return slices.Contains(before, RoleOwner) && !slices.Contains(after, RoleOwner) && otherOwners == 0 && otherMembers > 0
}

// Patterns of the resource names.
const (
	OrganizationPattern = "organizations/*"
	UserPattern         = "users/*"
	MembershipPattern   = "organizations/*/memberships/*"
	RolePattern         = "roles/*"
)

func fields(pattern string, more query.Schema) query.Schema {
	more["name"] = query.Field{Kind: query.Text, Value: resource.NameFilter(pattern)}
	more["create_time"] = query.Field{Kind: query.Time}
	more["update_time"] = query.Field{Kind: query.Time}
	return more
}

// OrganizationFields are the fields of organizations in filters and orders.
func OrganizationFields() query.Schema {
	return fields(OrganizationPattern, query.Schema{"display_name": {Kind: query.Text}})
}

// UserFields are the fields of users in filters and orders.
func UserFields() query.Schema {
	return fields(UserPattern, query.Schema{
		"display_name": {Kind: query.Text},
		"email":        {Kind: query.Text, Value: func(literal string) (string, error) { return EmailKey(literal), nil }},
	})
}

// MembershipFields are the fields of memberships in filters and orders.
func MembershipFields() query.Schema {
	return fields(MembershipPattern, query.Schema{
		"user":  {Kind: query.Text, Value: resource.NameFilter(UserPattern)},
		"roles": {Kind: query.Texts, Unordered: true, Value: resource.NameFilter(RolePattern)},
	})
}

// RoleFields are the fields of roles in filters and orders.
func RoleFields() query.Schema {
	return fields(RolePattern, query.Schema{
		"display_name": {Kind: query.Text},
		"predefined":   {Kind: query.Bool, Unordered: true},
	})
}
