package data

import (
	"context"
	"errors"
	"slices"

	"weir.dev/services/internal/query"
	"weir.dev/services/internal/resource"
)

// NewCollection is a request to create a collection.
type NewCollection struct {
	// ID may be empty: then one is generated.
	ID          string
	DisplayName string
	// Schema is nil for a collection of any objects.
	Schema Object
	// RequestID is the idempotency key, empty for none.
	RequestID string
}

// CreateCollection adds a collection.
func (s *Service) CreateCollection(ctx context.Context, request NewCollection) (Collection, error) {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return Collection{}, err
	}
	created, err := newCollection(request)
	if err != nil {
		return Collection{}, err
	}
	earlier := Collection{Tenant: tenant}
	fingerprint, replayed, err := s.remember(ctx, tenant, request.RequestID,
		[]string{"collection", request.ID, created.DisplayName, string(created.Schema)}, &earlier)
	if err != nil || replayed {
		return earlier, err
	}
	now := resource.Now(s.clock)
	created.Tenant, created.CreateTime, created.UpdateTime, created.Revision = tenant, now, now, 1
	if created.ID, err = resource.ID(request.ID, "collection_id", now); err != nil {
		return Collection{}, err
	}
	result, err := newResult(request.RequestID, fingerprint, created, now)
	if err != nil {
		return Collection{}, err
	}
	lost, err := s.store.CreateCollection(ctx, created, result)
	if err != nil {
		return Collection{}, err
	}
	if lost != nil {
		return earlier, replay(lost, fingerprint, &earlier)
	}
	return created, nil
}

// newCollection checks everything but the id.
func newCollection(request NewCollection) (Collection, error) {
	if err := checkCollection(request.DisplayName, request.Schema); err != nil {
		return Collection{}, err
	}
	c := Collection{DisplayName: request.DisplayName}
	if request.Schema == nil {
		return c, nil
	}
	var err error
	c.Schema, err = document(request.Schema, MaxSchemaBytes, "collection.schema")
	return c, err
}

func checkCollection(displayName string, schema Object) error {
	invalid := resource.Invalid("the collection can't be used")
	if problem := resource.CheckText(displayName, false, resource.MaxDisplayName); problem != "" {
		invalid = invalid.WithField("collection.display_name", problem)
	}
	if schema != nil {
		// Bounded before it is compiled.
		if _, err := NewDocument(schema, MaxSchemaBytes); err != nil {
			invalid = invalid.WithField("collection.schema", err.Error())
		} else if _, err := CompileSchema(schema); err != nil {
			invalid.Reason = "SCHEMA_INVALID"
			invalid = invalid.WithField("collection.schema", err.Error())
		}
	}
	return invalidIf(invalid)
}

// GetCollection returns one collection.
func (s *Service) GetCollection(ctx context.Context, name string) (Collection, error) {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return Collection{}, err
	}
	ids, err := resource.ParseName(name, CollectionPattern, "name")
	if err != nil {
		return Collection{}, err
	}
	return s.store.GetCollection(ctx, tenant, ids[0])
}

// ListCollections returns a page of collections and the token of the next.
func (s *Service) ListCollections(ctx context.Context, request query.Request) ([]Collection, string, error) {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return nil, "", err
	}
	list, err := s.pager.Parse(request, CollectionFields(), "collections", tenant)
	if err != nil {
		return nil, "", err
	}
	page, next, err := s.store.ListCollections(ctx, tenant, list)
	return page, s.pager.Token(next, request, "collections", tenant), err
}

// CollectionUpdate is a request to change a collection.
type CollectionUpdate struct {
	Name        string
	DisplayName string
	Schema      Object
	// Etag, if not empty, must be the current one.
	Etag string
	Mask []string
}

// UpdateCollection changes a collection. Records that exist stay as they are
// when the schema changes.
func (s *Service) UpdateCollection(ctx context.Context, update CollectionUpdate) (Collection, error) {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return Collection{}, err
	}
	ids, err := resource.ParseName(update.Name, CollectionPattern, "collection.name")
	if err != nil {
		return Collection{}, err
	}
	var populated []string
	if update.DisplayName != "" {
		populated = append(populated, "display_name")
	}
	if update.Schema != nil {
		populated = append(populated, "schema")
	}
	mask, err := resource.Mask(update.Mask, []string{"display_name", "schema"}, populated)
	if err != nil {
		return Collection{}, err
	}
	for range maxAttempts {
		current, err := s.store.GetCollection(ctx, tenant, ids[0])
		if err != nil {
			return Collection{}, err
		}
		if err := resource.CheckEtag(update.Etag, current.Etag(), current.Name()); err != nil {
			return Collection{}, err
		}
		changed, err := update.apply(current, mask)
		if err != nil {
			return Collection{}, err
		}
		changed.UpdateTime, changed.Revision = resource.Now(s.clock), current.Revision+1
		err = s.store.UpdateCollection(ctx, changed)
		if !errors.Is(err, ErrStale) {
			return changed, err
		}
	}
	return Collection{}, resource.Contended("collections/" + ids[0])
}

func (u CollectionUpdate) apply(current Collection, mask []string) (Collection, error) {
	invalid := resource.Invalid("the update mask can't be used")
	for _, path := range mask {
		if path != "display_name" && path != "schema" {
			invalid = invalid.WithField("update_mask", path+" can't be changed on its own; name schema as a whole")
		}
	}
	if err := invalidIf(invalid); err != nil {
		return Collection{}, err
	}
	request := NewCollection{}
	if slices.Contains(mask, "display_name") {
		request.DisplayName = u.DisplayName
	}
	if slices.Contains(mask, "schema") {
		request.Schema = u.Schema
	}
	checked, err := newCollection(request)
	if err != nil {
		return Collection{}, err
	}
	if slices.Contains(mask, "display_name") {
		current.DisplayName = checked.DisplayName
	}
	if slices.Contains(mask, "schema") {
		current.Schema = checked.Schema
	}
	return current, nil
}

// DeleteCollection deletes a collection, with its records if force is set.
func (s *Service) DeleteCollection(ctx context.Context, name, etag string, force bool) error {
	tenant, err := resource.Tenant(ctx)
	if err != nil {
		return err
	}
	ids, err := resource.ParseName(name, CollectionPattern, "name")
	if err != nil {
		return err
	}
	current, err := s.store.GetCollection(ctx, tenant, ids[0])
	if err != nil {
		return err
	}
	if err := resource.CheckEtag(etag, current.Etag(), name); err != nil {
		return err
	}
	err = s.store.DeleteCollection(ctx, tenant, ids[0], expected(etag, current.Revision), force)
	if errors.Is(err, ErrStale) {
		return resource.EtagMismatch(name)
	}
	return err
}
