package stack

import (
	"fmt"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	"weir.dev/cli/state"
	"weir.dev/kit/certs"
)

// maxAdminAnswer bounds one answer of the admin API.
const maxAdminAnswer = 256 << 20

// Admin connects to the running control plane's admin API. The caller closes the
// connection.
func Admin(dir state.Dir, record state.Record) (adminv1.AdminServiceClient, *grpc.ClientConn, error) {
	for _, c := range record.Components {
		if c.Name != ControlPlane {
			continue
		}
		tls, err := certs.FilesIn(filepath.Join(dir.Certs(), identityCLI)).ClientConfig(certs.PeerID("controlplane"))
		if err != nil {
			return nil, nil, fmt.Errorf("certificate of the commands: %w", err)
		}
		conn, err := grpc.NewClient("passthrough:///"+c.Address, grpc.WithTransportCredentials(credentials.NewTLS(tls)), grpc.WithNoProxy(),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAdminAnswer), grpc.MaxCallSendMsgSize(MaxPolicyBytes)))
		if err != nil {
			return nil, nil, err
		}
		return adminv1.NewAdminServiceClient(conn), conn, nil
	}
	return nil, nil, fmt.Errorf("there is no %s", ControlPlane)
}
