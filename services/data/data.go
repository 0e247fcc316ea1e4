package data

import (
	"time"

	"weir.dev/services/internal/query"
	"weir.dev/services/internal/resource"
)

// Bounds.
const (
	// MaxRecordBytes bounds a record's data as canonical JSON.
	MaxRecordBytes = 256 << 10
	// MaxSchemaBytes bounds a collection's schema as canonical JSON.
	MaxSchemaBytes = 64 << 10
	// MaxDepth bounds the nesting of data and schemas.
	MaxDepth = 32
	// MaxRequestIDBytes bounds an idempotency key.
	MaxRequestIDBytes = 255
	// ResultsKept is how long the result of an idempotency key is kept, at
	// least.
	ResultsKept = 48 * time.Hour
)

// Collection is a set of records of one kind.
type Collection struct {
	Tenant      string `json:"-"`
	ID          string
	DisplayName string
	// Schema is the JSON Schema of the records' data; nil accepts any object.
	Schema     Document
	CreateTime time.Time
	UpdateTime time.Time
	// Revision counts the versions, from 1.
	Revision int64
}

// Name is the resource name.
func (c Collection) Name() string { return "collections/" + c.ID }

// Etag identifies this version.
func (c Collection) Etag() string { return resource.Etag(c.CreateTime, c.Revision) }

// Record is one JSON object in a collection.
type Record struct {
	Tenant     string `json:"-"`
	Collection string
	ID         string
	Data       Document
	CreateTime time.Time
	UpdateTime time.Time
	// Revision counts the versions, from 1.
	Revision int64
}

// Name is the resource name.
func (r Record) Name() string { return recordName(r.Collection, r.ID) }

// Etag identifies this version.
func (r Record) Etag() string { return resource.Etag(r.CreateTime, r.Revision) }

func recordName(collection, id string) string {
	return "collections/" + collection + "/records/" + id
}

// Patterns of the resource names.
const (
	CollectionPattern = "collections/*"
	RecordPattern     = "collections/*/records/*"
)

// CollectionFields are the fields of collections in filters and orders.
func CollectionFields() query.Schema {
	return query.Schema{
		"name":         {Kind: query.Text, Value: resource.NameFilter(CollectionPattern)},
		"display_name": {Kind: query.Text},
		"create_time":  {Kind: query.Time},
		"update_time":  {Kind: query.Time},
	}
}

// RecordFields are the fields of records in filters and orders.
func RecordFields() query.Schema {
	return query.Schema{
		"name":        {Kind: query.Text, Value: resource.NameFilter(RecordPattern)},
		"data":        {Kind: query.Document},
		"create_time": {Kind: query.Time},
		"update_time": {Kind: query.Time},
	}
}
