package policy

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// SecretField reports whether a field holds a secret, which its proto says by the
// option debug_redact.
func SecretField(field protoreflect.FieldDescriptor) bool {
	options, ok := field.Options().(*descriptorpb.FieldOptions)
	return ok && options.GetDebugRedact()
}

// WithoutSecrets returns a copy of a message in which the secrets, at any depth,
// are empty; the message itself where it has none. It is for what is shown.
func WithoutSecrets(message proto.Message) proto.Message {
	if !hasSecret(message.ProtoReflect()) {
		return message
	}
	bare := proto.Clone(message)
	removeSecrets(bare.ProtoReflect())
	return bare
}

func hasSecret(message protoreflect.Message) bool {
	found := false
	visitSecrets(message, func(protoreflect.Message, protoreflect.FieldDescriptor) { found = true })
	return found
}

func removeSecrets(message protoreflect.Message) {
	visitSecrets(message, func(of protoreflect.Message, field protoreflect.FieldDescriptor) { of.Clear(field) })
}

// visitSecrets calls found with each secret field that is set.
func visitSecrets(message protoreflect.Message, found func(of protoreflect.Message, field protoreflect.FieldDescriptor)) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case SecretField(field):
			found(message, field)
		case field.IsMap():
			if field.MapValue().Message() != nil {
				value.Map().Range(func(_ protoreflect.MapKey, element protoreflect.Value) bool {
					visitSecrets(element.Message(), found)
					return true
				})
			}
		case field.Message() == nil:
		case field.IsList():
			for i := range value.List().Len() {
				visitSecrets(value.List().Get(i).Message(), found)
			}
		default:
			visitSecrets(value.Message(), found)
		}
		return true
	})
}
