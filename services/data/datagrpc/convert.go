package datagrpc

import (
	"strings"

	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	datav1 "weir.dev/api/gen/weir/data/v1"
	"weir.dev/services/data"
	"weir.dev/services/internal/query"
	"weir.dev/services/internal/resource"
)

// object is nil for a message that isn't there.
func object(s *structpb.Struct) data.Object {
	if s == nil {
		return nil
	}
	return s.AsMap()
}

func toStruct(d data.Document) (*structpb.Struct, error) {
	o, err := d.Object()
	if o == nil || err != nil {
		return nil, err
	}
	return structpb.NewStruct(o)
}

func toCollection(c data.Collection) (*datav1.Collection, error) {
	schema, err := toStruct(c.Schema)
	return &datav1.Collection{
		Name: c.Name(), DisplayName: c.DisplayName, Schema: schema,
		CreateTime: timestamppb.New(c.CreateTime), UpdateTime: timestamppb.New(c.UpdateTime), Etag: c.Etag(),
	}, err
}

func toRecord(r data.Record) (*datav1.Record, error) { return readMask{}.record(r) }

// readMask says which fields of a record are returned; the zero value means
// all of them.
type readMask struct {
	set    bool
	fields map[string]bool
	paths  [][]string
}

func parseReadMask(mask *fieldmaskpb.FieldMask) (readMask, error) {
	if len(mask.GetPaths()) == 0 {
		return readMask{}, nil
	}
	invalid := resource.Invalid("the read mask can't be used")
	m := readMask{set: true, fields: map[string]bool{}}
	if len(mask.GetPaths()) > 100 {
		return m, invalid.WithField("read_mask", "at most 100 paths are allowed")
	}
	for _, path := range mask.GetPaths() {
		top, rest, nested := strings.Cut(path, ".")
		switch {
		case path == "*":
			return readMask{}, nil
		case top == "data" && nested:
			segments := strings.Split(rest, ".")
			if err := query.CheckPath(segments); err != nil {
				return m, invalid.WithField("read_mask", err.Error())
			}
			m.paths = append(m.paths, segments)
		case !nested && (top == "name" || top == "data" || top == "create_time" || top == "update_time" || top == "etag"):
			m.fields[top] = true
		default:
			return m, invalid.WithField("read_mask", "a record has no field "+path)
		}
	}
	return m, nil
}

func (m readMask) wants(field string) bool { return !m.set || m.fields[field] }

func (m readMask) record(r data.Record) (*datav1.Record, error) {
	out := &datav1.Record{}
	if m.wants("name") {
		out.Name = r.Name()
	}
	if m.wants("etag") {
		out.Etag = r.Etag()
	}
	if m.wants("create_time") {
		out.CreateTime = timestamppb.New(r.CreateTime)
	}
	if m.wants("update_time") {
		out.UpdateTime = timestamppb.New(r.UpdateTime)
	}
	var err error
	if m.wants("data") {
		out.Data, err = toStruct(r.Data)
		return out, err
	}
	if len(m.paths) == 0 {
		return out, nil
	}
	kept, err := r.Data.Project(m.paths)
	if err != nil {
		return nil, err
	}
	out.Data, err = structpb.NewStruct(kept)
	return out, err
}
