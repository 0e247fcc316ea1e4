package usergrpc

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	userv1 "weir.dev/api/gen/weir/user/v1"
	"weir.dev/services/internal/query"
	"weir.dev/services/user"
)

func toOrganization(o user.Organization) *userv1.Organization {
	return &userv1.Organization{
		Name: o.Name(), DisplayName: o.DisplayName,
		CreateTime: timestamppb.New(o.CreateTime), UpdateTime: timestamppb.New(o.UpdateTime), Etag: o.Etag(),
	}
}

func toUser(u user.User) *userv1.User {
	return &userv1.User{
		Name: u.Name(), Email: u.Email, DisplayName: u.DisplayName,
		CreateTime: timestamppb.New(u.CreateTime), UpdateTime: timestamppb.New(u.UpdateTime), Etag: u.Etag(),
	}
}

func toMembership(m user.Membership) *userv1.Membership {
	roles := make([]string, len(m.Roles))
	for i, id := range m.Roles {
		roles[i] = user.Role{ID: id}.Name()
	}
	return &userv1.Membership{
		Name: m.Name(), User: user.User{ID: m.User}.Name(), Roles: roles,
		CreateTime: timestamppb.New(m.CreateTime), UpdateTime: timestamppb.New(m.UpdateTime), Etag: m.Etag(),
	}
}

func toRole(r user.Role) *userv1.Role {
	return &userv1.Role{
		Name: r.Name(), DisplayName: r.DisplayName, Permissions: r.Permissions, Predefined: r.Predefined,
		CreateTime: timestamppb.New(r.CreateTime), UpdateTime: timestamppb.New(r.UpdateTime), Etag: r.Etag(),
	}
}

// all converts a page.
func all[T, M any](page []T, convert func(T) M) []M {
	out := make([]M, len(page))
	for i, row := range page {
		out[i] = convert(row)
	}
	return out
}

// listing is what every list request has.
type listing interface {
	GetPageSize() int32
	GetPageToken() string
	GetFilter() string
	GetOrderBy() string
}

func request(in listing) query.Request {
	return query.Request{PageSize: in.GetPageSize(), PageToken: in.GetPageToken(), Filter: in.GetFilter(), OrderBy: in.GetOrderBy()}
}

// answer converts a result unless there is an error.
func answer[T, M any](row T, err error, convert func(T) *M) (*M, error) {
	if err != nil {
		return nil, err
	}
	return convert(row), nil
}
