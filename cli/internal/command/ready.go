package command

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	"weir.dev/cli/internal/call"
	"weir.dev/cli/internal/stack"
	"weir.dev/cli/state"
)

// printReady shows what runs, what is wrong with the policy, and what to try.
func (a *App) printReady(ctx context.Context, dir state.Dir, record state.Record) error {
	defer a.printPolicy(ctx, record)
	printTable(a.Stdout, reportOf(record), record.Notes)
	credentials, err := a.credentials(dir)
	if err != nil {
		return err
	}
	descriptors, err := writeDescriptors(dir)
	if err != nil {
		return err
	}
	base := record.IngressHTTP
	for _, secured := range record.IngressHTTPS {
		fmt.Fprintf(a.Stdout, "TLS        %s (by the names in its certificates: curl --connect-to)\n", secured)
	}
	if strings.HasPrefix(base, "https://") {
		_, err = fmt.Fprintf(a.Stdout, "\nserving    %s at %s\nAPI key    %s\ntoken      %s\n\nMore: %[5]s status, %[5]s logs -f, %[5]s doctor, %[5]s down\n",
			record.PolicyDir, base, credentials.APIKey, credentials.Token, a.self())
		return err
	}
	const method = "weir.user.v1.UserService/ListOrganizations"
	key := quote("X-API-Key: " + credentials.APIKey)
	_, err = fmt.Fprintf(a.Stdout, `
serving    %[1]s at %[2]s
API key    %[3]s
token      %[4]s
           (good for an hour; %[5]s credentials prints a fresh one)

Paste one of these:
  REST      curl -sS -H %[6]s %[2]s/v1/organizations
  gRPC      %[5]s call %[7]s
  gRPC-web  printf '\000\000\000\000\000' | curl -sS -H 'Content-Type: application/grpc-web+proto' -H %[6]s --data-binary @- %[2]s/%[7]s | tr -cd '[:print:]\n'
  (grpcurl, if you have it: grpcurl -plaintext -protoset %[8]s -H %[6]s %[9]s %[7]s)

More: %[5]s status, %[5]s logs -f, %[5]s doctor, %[5]s down
`, record.PolicyDir, base, credentials.APIKey, credentials.Token, a.self(), key, method, quote(descriptors), stack.HostOf(base))
	return err
}

// writeDescriptors leaves the services' descriptors for tools such as grpcurl.
func writeDescriptors(dir state.Dir) (string, error) {
	content, err := proto.MarshalOptions{Deterministic: true}.Marshal(call.DescriptorSet(protoregistry.GlobalFiles, servicePrefix))
	if err != nil {
		return "", fmt.Errorf("descriptors: %w", err)
	}
	path := filepath.Join(dir.Root(), "descriptors.binpb")
	if old, err := os.ReadFile(path); err == nil && string(old) == string(content) {
		return path, nil
	}
	return path, state.WriteFile(path, content)
}
