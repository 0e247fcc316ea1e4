package call

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Files looks descriptors up; protoregistry.Files is one.
type Files interface {
	FindDescriptorByName(protoreflect.FullName) (protoreflect.Descriptor, error)
	RangeFiles(func(protoreflect.FileDescriptor) bool)
}

// Method finds package.Service/Method; package.Service.Method and a leading
// slash will do, too. prefix limits the services that an error suggests.
func Method(files Files, name, prefix string) (protoreflect.MethodDescriptor, error) {
	trimmed := strings.TrimPrefix(name, "/")
	service, method, ok := strings.Cut(trimmed, "/")
	if !ok {
		if dot := strings.LastIndexByte(trimmed, '.'); dot > 0 {
			service, method = trimmed[:dot], trimmed[dot+1:]
		}
	}
	found, err := files.FindDescriptorByName(protoreflect.FullName(service))
	descriptor, isService := found.(protoreflect.ServiceDescriptor)
	if err != nil || !isService {
		return nil, fmt.Errorf("method %q: no service %q; known are %s", name, service, strings.Join(Services(files, prefix), ", "))
	}
	if m := descriptor.Methods().ByName(protoreflect.Name(method)); m != nil {
		return m, nil
	}
	var known []string
	for i := range descriptor.Methods().Len() {
		known = append(known, string(descriptor.Methods().Get(i).Name()))
	}
	return nil, fmt.Errorf("method %q: %s has no method %q; it has %s", name, service, method, strings.Join(known, ", "))
}

// Services lists the full names of the services whose name starts with prefix.
func Services(files Files, prefix string) []string {
	var names []string
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			if name := string(file.Services().Get(i).FullName()); strings.HasPrefix(name, prefix) {
				names = append(names, name)
			}
		}
		return true
	})
	slices.Sort(names)
	return names
}

// DescriptorSet is every service whose name starts with prefix, with all that
// their files import, in an order that readers accept.
func DescriptorSet(files Files, prefix string) *descriptorpb.FileDescriptorSet {
	set := &descriptorpb.FileDescriptorSet{}
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(file protoreflect.FileDescriptor) {
		if seen[file.Path()] {
			return
		}
		seen[file.Path()] = true
		for i := range file.Imports().Len() {
			add(file.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(file))
	}
	var wanted []protoreflect.FileDescriptor
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if file.Services().Len() > 0 && strings.HasPrefix(string(file.Package()), strings.TrimSuffix(prefix, ".")) {
			wanted = append(wanted, file)
		}
		return true
	})
	slices.SortFunc(wanted, func(a, b protoreflect.FileDescriptor) int { return strings.Compare(a.Path(), b.Path()) })
	for _, file := range wanted {
		add(file)
	}
	return set
}
