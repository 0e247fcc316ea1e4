package datagrpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	datav1 "weir.dev/api/gen/weir/data/v1"
	"weir.dev/services/data"
	"weir.dev/services/internal/query"
)

// Server implements datav1.DataServiceServer. Safe for concurrent use.
type Server struct {
	datav1.UnimplementedDataServiceServer
	service *data.Service
}

// Register serves service on registrar.
func Register(registrar grpc.ServiceRegistrar, service *data.Service) {
	datav1.RegisterDataServiceServer(registrar, &Server{service: service})
}

// CreateCollection implements datav1.DataServiceServer.
func (s *Server) CreateCollection(ctx context.Context, in *datav1.CreateCollectionRequest) (*datav1.Collection, error) {
	c, err := s.service.CreateCollection(ctx, data.NewCollection{
		ID: in.GetCollectionId(), DisplayName: in.GetCollection().GetDisplayName(),
		Schema: object(in.GetCollection().GetSchema()), RequestID: in.GetRequestId(),
	})
	if err != nil {
		return nil, err
	}
	return toCollection(c)
}

// GetCollection implements datav1.DataServiceServer.
func (s *Server) GetCollection(ctx context.Context, in *datav1.GetCollectionRequest) (*datav1.Collection, error) {
	c, err := s.service.GetCollection(ctx, in.GetName())
	if err != nil {
		return nil, err
	}
	return toCollection(c)
}

// ListCollections implements datav1.DataServiceServer.
func (s *Server) ListCollections(ctx context.Context, in *datav1.ListCollectionsRequest) (*datav1.ListCollectionsResponse, error) {
	page, next, err := s.service.ListCollections(ctx, query.Request{
		PageSize: in.GetPageSize(), PageToken: in.GetPageToken(), Filter: in.GetFilter(), OrderBy: in.GetOrderBy(),
	})
	if err != nil {
		return nil, err
	}
	out := &datav1.ListCollectionsResponse{NextPageToken: next, Collections: make([]*datav1.Collection, len(page))}
	for i, c := range page {
		if out.Collections[i], err = toCollection(c); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// UpdateCollection implements datav1.DataServiceServer.
func (s *Server) UpdateCollection(ctx context.Context, in *datav1.UpdateCollectionRequest) (*datav1.Collection, error) {
	c, err := s.service.UpdateCollection(ctx, data.CollectionUpdate{
		Name: in.GetCollection().GetName(), DisplayName: in.GetCollection().GetDisplayName(),
		Schema: object(in.GetCollection().GetSchema()), Etag: in.GetCollection().GetEtag(), Mask: in.GetUpdateMask().GetPaths(),
	})
	if err != nil {
		return nil, err
	}
	return toCollection(c)
}

// DeleteCollection implements datav1.DataServiceServer.
func (s *Server) DeleteCollection(ctx context.Context, in *datav1.DeleteCollectionRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.service.DeleteCollection(ctx, in.GetName(), in.GetEtag(), in.GetForce())
}

// CreateRecord implements datav1.DataServiceServer.
func (s *Server) CreateRecord(ctx context.Context, in *datav1.CreateRecordRequest) (*datav1.Record, error) {
	r, err := s.service.CreateRecord(ctx, data.NewRecord{
		Parent: in.GetParent(), ID: in.GetRecordId(), Data: object(in.GetRecord().GetData()), RequestID: in.GetRequestId(),
	})
	if err != nil {
		return nil, err
	}
	return toRecord(r)
}

// GetRecord implements datav1.DataServiceServer.
func (s *Server) GetRecord(ctx context.Context, in *datav1.GetRecordRequest) (*datav1.Record, error) {
	mask, err := parseReadMask(in.GetReadMask())
	if err != nil {
		return nil, err
	}
	r, err := s.service.GetRecord(ctx, in.GetName())
	if err != nil {
		return nil, err
	}
	return mask.record(r)
}

// ListRecords implements datav1.DataServiceServer.
func (s *Server) ListRecords(ctx context.Context, in *datav1.ListRecordsRequest) (*datav1.ListRecordsResponse, error) {
	mask, err := parseReadMask(in.GetReadMask())
	if err != nil {
		return nil, err
	}
	page, next, err := s.service.ListRecords(ctx, in.GetParent(), query.Request{
		PageSize: in.GetPageSize(), PageToken: in.GetPageToken(), Filter: in.GetFilter(), OrderBy: in.GetOrderBy(),
	})
	if err != nil {
		return nil, err
	}
	out := &datav1.ListRecordsResponse{NextPageToken: next, Records: make([]*datav1.Record, len(page))}
	for i, r := range page {
		if out.Records[i], err = mask.record(r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// UpdateRecord implements datav1.DataServiceServer.
func (s *Server) UpdateRecord(ctx context.Context, in *datav1.UpdateRecordRequest) (*datav1.Record, error) {
	r, err := s.service.UpdateRecord(ctx, data.RecordUpdate{
		Name: in.GetRecord().GetName(), Data: object(in.GetRecord().GetData()),
		Etag: in.GetRecord().GetEtag(), Mask: in.GetUpdateMask().GetPaths(),
	})
	if err != nil {
		return nil, err
	}
	return toRecord(r)
}

// DeleteRecord implements datav1.DataServiceServer.
func (s *Server) DeleteRecord(ctx context.Context, in *datav1.DeleteRecordRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.service.DeleteRecord(ctx, in.GetName(), in.GetEtag())
}

// ImportRecords implements datav1.DataServiceServer.
func (s *Server) ImportRecords(stream grpc.ClientStreamingServer[datav1.ImportRecordsRequest, datav1.ImportRecordsResponse]) error {
	result, err := s.service.ImportRecords(stream.Context(), func() (data.ImportItem, error) {
		in, err := stream.Recv()
		return data.ImportItem{Parent: in.GetParent(), ID: in.GetRecordId(), Data: object(in.GetData())}, err
	})
	if err != nil {
		return err
	}
	out := &datav1.ImportRecordsResponse{Imported: result.Imported, Failed: result.Failed}
	for _, failure := range result.Errors {
		out.Errors = append(out.Errors, &datav1.ImportError{
			Index: failure.Index, RecordId: failure.ID, Code: failure.Code, Message: failure.Message,
		})
	}
	return stream.SendAndClose(out)
}

// ExportRecords implements datav1.DataServiceServer.
func (s *Server) ExportRecords(in *datav1.ExportRecordsRequest, stream grpc.ServerStreamingServer[datav1.ExportRecordsResponse]) error {
	mask, err := parseReadMask(in.GetReadMask())
	if err != nil {
		return err
	}
	return s.service.ExportRecords(stream.Context(), in.GetParent(), in.GetFilter(), func(r data.Record) error {
		record, err := mask.record(r)
		if err != nil {
			return err
		}
		return stream.Send(&datav1.ExportRecordsResponse{Record: record})
	})
}
