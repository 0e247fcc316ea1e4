module weir.dev/e2e

go 1.26.0

require (
	github.com/stretchr/testify v1.12.1
	google.golang.org/genproto/googleapis/api v0.0.0-20261005182115-fad411399dd8
	google.golang.org/genproto/googleapis/rpc v0.0.0-20261005182115-fad411399dd8
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
)

require (
	go.yaml.in/yaml/v3 v3.0.6 // indirect
	golang.org/x/net v0.61.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)

replace (
	golang.org/x/exp => golang.org/x/exp v0.0.0-20260709172345-9ea1abe57597
	weir.dev/api => ../api
	weir.dev/kit => ../kit
	weir.dev/services => ../services
)
