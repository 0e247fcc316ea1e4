package admin

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/encoding/protojson"

	gateway "weir.dev/controlplane/admin/gen/adminv1"
	"weir.dev/kit/fault"
)

// maxBody bounds a REST request, in bytes.
const maxBody = 64 << 20

// REST serves the same as JSON over HTTP, by the paths of the proto's
// google.api.http options. It belongs behind a TLS listener that asks for
// certificates: who calls is taken from there. Errors are problem details
// (RFC 9457).
func (s *Server) REST(ctx context.Context) (http.Handler, error) {
	mux := runtime.NewServeMux(
		runtime.WithErrorHandler(writeProblem),
		runtime.WithRoutingErrorHandler(func(ctx context.Context, mux *runtime.ServeMux, m runtime.Marshaler, w http.ResponseWriter, r *http.Request, status int) {
			code := codes.NotFound
			if status == http.StatusMethodNotAllowed {
				code = codes.Unimplemented
			}
			writeProblem(ctx, mux, m, w, r, fault.New(code, reasonInvalid, "there is no %s %s", r.Method, r.URL.Path))
		}),
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{
			MarshalOptions: protojson.MarshalOptions{EmitUnpopulated: false}, UnmarshalOptions: protojson.UnmarshalOptions{},
		}),
	)
	if err := gateway.RegisterAdminServiceHandlerServer(ctx, mux, s); err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if r.TLS != nil {
			r = r.WithContext(peer.NewContext(r.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: *r.TLS}}))
		}
		w.Header().Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r)
	}), nil
}

func writeProblem(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	problem := fault.From(err).Problem("")
	w.Header().Set("Content-Type", fault.ProblemContentType)
	w.WriteHeader(problem.Status)
	_ = json.NewEncoder(w).Encode(problem) // The client is gone when this fails.
}
