package user

import (
	"context"
	"errors"
	"fmt"
	"net/mail"
	"regexp"
	"slices"
	"strings"
	"time"

	"weir.dev/kit/fault"
	"weir.dev/services/internal/query"
	"weir.dev/services/internal/resource"
)

// maxAttempts bounds how often a change that lost a race is decided again.
const maxAttempts = 8

// Options are what a Service is made from.
type Options struct {
	Store Store
	// PageSecret keys the page tokens; see query.Pager.
	PageSecret []byte
	// Clock tells the time; nil means time.Now.
	Clock func() time.Time
	// KeysChanged, if not nil, is told of each change of an API key once it is
	// kept.
	KeysChanged func()
}

// Service is the user service. Each method acts for the tenant of the identity
// in its context, and fails with TENANT_REQUIRED without one. All errors are
// coded. Safe for concurrent use.
type Service struct {
	store   Store
	pager   query.Pager
	clock   func() time.Time
	changed func()
}

// New makes a service.
func New(options Options) *Service {
	if options.Clock == nil {
		options.Clock = time.Now
	}
	if options.KeysChanged == nil {
		options.KeysChanged = func() {}
	}
	return &Service{
		store: options.Store, pager: query.Pager{Secret: options.PageSecret}, clock: options.Clock, changed: options.KeysChanged,
	}
}

func (s *Service) version(tenant string) Version {
	now := resource.Now(s.clock)
	return Version{Tenant: tenant, CreateTime: now, UpdateTime: now, Revision: 1}
}

// scope is the tenant and the ids in a resource name.
func scope(ctx context.Context, name, pattern, field string) (tenant string, ids []string, err error) {
	if tenant, err = resource.Tenant(ctx); err != nil {
		return "", nil, err
	}
	ids, err = resource.ParseName(name, pattern, field)
	return tenant, ids, err
}

// versioned is a resource that has versions.
type versioned interface {
	Name() string
	Etag() string
}

// change reads a resource, applies a change to it and writes it, again as long
// as others change it meanwhile. etag, if not empty, must be the current one.
func change[T versioned](etag string, read func() (T, error), apply func(*T) error, write func(T) error) (T, error) {
	var zero T
	name := ""
	for range maxAttempts {
		current, err := read()
		if err != nil {
			return zero, err
		}
		name = current.Name()
		if err := resource.CheckEtag(etag, current.Etag(), name); err != nil {
			return zero, err
		}
		if err := apply(&current); err != nil {
			return zero, err
		}
		if err := write(current); !errors.Is(err, ErrStale) {
			return current, err
		}
	}
	return zero, resource.Contended(name)
}

// remove deletes a resource; with an etag only the version that it names.
func remove[T versioned](etag, name string, read func() (T, int64, error), drop func(revision int64) error) error {
	revision := int64(0)
	if etag != "" {
		current, version, err := read()
		if err != nil {
			return err
		}
		if err := resource.CheckEtag(etag, current.Etag(), name); err != nil {
			return err
		}
		revision = version
	}
	err := drop(revision)
	if errors.Is(err, ErrStale) {
		return resource.EtagMismatch(name)
	}
	return err
}

// list parses a list request, reads the page and makes the token of the next.
func list[T any](s *Service, request query.Request, schema query.Schema, scope []string,
	read func(query.List) ([]T, *query.Cursor, error),
) ([]T, string, error) {
	parsed, err := s.pager.Parse(request, schema, scope...)
	if err != nil {
		return nil, "", err
	}
	page, next, err := read(parsed)
	return page, s.pager.Token(next, request, scope...), err
}

// masked resolves an update mask; populated says of each known field whether
// the request sets it.
func masked(mask, known []string, populated map[string]bool) (map[string]bool, error) {
	var set []string
	for _, field := range known {
		if populated[field] {
			set = append(set, field)
		}
	}
	paths, err := resource.Mask(mask, known, set)
	if err != nil {
		return nil, err
	}
	chosen := map[string]bool{}
	for _, path := range paths {
		if !slices.Contains(known, path) {
			return nil, resource.Invalid("the update mask can't be used").
				WithField("update_mask", path+" can't be changed on its own")
		}
		chosen[path] = true
	}
	return chosen, nil
}

// checks collects what is wrong with a request's fields.
type checks struct{ found *fault.Error }

func newChecks(what string) *checks { return &checks{resource.Invalid("the %s can't be used", what)} }

func (c *checks) add(field, problem string) {
	if problem != "" {
		c.found = c.found.WithField(field, problem)
	}
}

func (c *checks) err() error {
	if len(c.found.Fields) == 0 {
		return nil
	}
	return c.found
}

// EmailKey is what makes an address unique: its lower case.
func EmailKey(email string) string { return strings.ToLower(email) }

// checkEmail says what is wrong with an email address, empty for nothing.
func checkEmail(email string) string {
	if problem := resource.CheckText(email, true, MaxEmailBytes); problem != "" {
		return problem
	}
	if len(email) > MaxEmailBytes {
		return fmt.Sprintf("has more than %d bytes", MaxEmailBytes)
	}
	parsed, err := mail.ParseAddress(email)
	if err != nil || parsed.Address != email || parsed.Name != "" {
		return "is not an email address, such as ada@example.com"
	}
	return ""
}

var permissionPattern = regexp.MustCompile(`^(\*|[a-z][a-z0-9_-]{0,62})(\.(\*|[a-z][a-z0-9_-]{0,62})){0,4}$`) // immutable

func checkPermissions(permissions []string) string {
	if len(permissions) > MaxPermissions {
		return fmt.Sprintf("has more than %d entries", MaxPermissions)
	}
	for i, permission := range permissions {
		if !permissionPattern.MatchString(permission) {
			return fmt.Sprintf("entry %d is not a permission, such as records.write or records.*", i)
		}
		if slices.Contains(permissions[:i], permission) {
			return fmt.Sprintf("names %q twice", permission)
		}
	}
	return ""
}

// roleIDs takes the ids out of role names, sorted.
func roleIDs(names []string) (ids []string, problem string) {
	if len(names) == 0 {
		return nil, "is required: name at least one role, such as roles/viewer"
	}
	if len(names) > MaxRoles {
		return nil, fmt.Sprintf("has more than %d entries", MaxRoles)
	}
	for _, name := range names {
		parsed, err := resource.ParseName(name, RolePattern, "membership.roles")
		if err != nil {
			return nil, "entries must have the form roles/*"
		}
		if slices.Contains(ids, parsed[0]) {
			return nil, "names roles/" + parsed[0] + " twice"
		}
		ids = append(ids, parsed[0])
	}
	slices.Sort(ids)
	return ids, ""
}
