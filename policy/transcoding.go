package policy

import (
	"cmp"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"weir.dev/policy/v1alpha1"
)

// transcoding reads the descriptor set and makes sure that it is whole and
// holds the services, since Envoy would reject the configuration otherwise.
func (r *resolver) transcoding(namespace string, spec *v1alpha1.Transcoding) (*Transcoding, error) {
	raw, err := r.configMapValue(namespace, spec.DescriptorSetRef)
	if err != nil {
		return nil, err
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(raw, &set); err != nil {
		return nil, fmt.Errorf("the descriptor set is not a FileDescriptorSet: %w", err)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return nil, fmt.Errorf("the descriptor set is not whole (build it with imports): %w", err)
	}
	streams := false
	for _, name := range spec.Services {
		found, err := files.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			return nil, fmt.Errorf("the descriptor set has no service %q", name)
		}
		service, ok := found.(protoreflect.ServiceDescriptor)
		if !ok {
			return nil, fmt.Errorf("%q is not a service in the descriptor set", name)
		}
		for i := range service.Methods().Len() {
			streams = streams || service.Methods().Get(i).IsStreamingClient()
		}
	}
	return &Transcoding{
		DescriptorSet: raw, Services: spec.Services, Streams: streams,
		MaxRequestBytes: uint32(cmp.Or(spec.MaxRequestBytes, defaultTranscodingBytes)), //nolint:gosec // validated
	}, nil
}
