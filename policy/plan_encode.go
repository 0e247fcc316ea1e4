package policy

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

// maxEncodedPlan bounds what DecodePlan unpacks, in bytes.
const maxEncodedPlan = 512 << 20

// encodedPlan is a Plan's JSON: messages have an encoding of their own.
type encodedPlan struct {
	Digest         string
	Ports          []Port
	Backends       []Backend
	Infrastructure []Infrastructure
	AuthRoutes     []json.RawMessage
	Consumers      []json.RawMessage
	RateLimits     []json.RawMessage
	Statuses       []ObjectStatus
}

// EncodePlan packs a Plan for DecodePlan of the same version of Weir: for
// looking at and comparing, not for serving and not for storing. Hashes of keys
// and secrets are left out, and so are descriptor sets, which are large.
func EncodePlan(plan *Plan) ([]byte, error) {
	out := encodedPlan{Digest: plan.Digest, Ports: plan.Ports, Infrastructure: plan.Infrastructure, Statuses: plan.Statuses}
	for _, backend := range plan.Backends {
		if backend.Transcoding != nil {
			transcoding := *backend.Transcoding
			transcoding.DescriptorSet = nil
			backend.Transcoding = &transcoding
		}
		out.Backends = append(out.Backends, backend)
	}
	var errs []error
	add := func(to *[]json.RawMessage, message proto.Message) {
		raw, err := protojson.Marshal(message)
		errs = append(errs, err)
		*to = append(*to, raw)
	}
	for _, message := range plan.AuthRoutes {
		add(&out.AuthRoutes, WithoutSecrets(message))
	}
	for _, message := range plan.Consumers {
		bare, _ := WithoutSecrets(proto.Clone(message)).(*consumer)
		for _, key := range bare.GetApiKeys() {
			key.Sha256 = nil
		}
		add(&out.Consumers, bare)
	}
	for _, message := range plan.RateLimits {
		add(&out.RateLimits, message)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("encode the plan: %w", err)
	}
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	if err := errors.Join(json.NewEncoder(writer).Encode(out), writer.Close()); err != nil {
		return nil, fmt.Errorf("encode the plan: %w", err)
	}
	return packed.Bytes(), nil
}

// DecodePlan unpacks what EncodePlan packed.
func DecodePlan(packed []byte) (*Plan, error) {
	reader, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("decode the plan: %w", err)
	}
	var in encodedPlan
	decoder := json.NewDecoder(io.LimitReader(reader, maxEncodedPlan))
	decoder.DisallowUnknownFields() // another version's: what is not known would be ignored
	if err := decoder.Decode(&in); err != nil {
		return nil, fmt.Errorf("decode the plan (is the control plane of this version?): %w", err)
	}
	plan := &Plan{Digest: in.Digest, Ports: in.Ports, Backends: in.Backends, Infrastructure: in.Infrastructure, Statuses: in.Statuses}
	plan.AuthRoutes, err = decodeMessages[authRoute](in.AuthRoutes)
	if err == nil {
		plan.Consumers, err = decodeMessages[rulesv1.Consumer](in.Consumers)
	}
	if err == nil {
		plan.RateLimits, err = decodeMessages[limitRule](in.RateLimits)
	}
	if err != nil {
		return nil, fmt.Errorf("decode the plan: %w", err)
	}
	return plan, nil
}

func decodeMessages[T any, M interface {
	*T
	proto.Message
}](raw []json.RawMessage) ([]*T, error) {
	var messages []*T
	for _, one := range raw {
		message := new(T)
		if err := protojson.Unmarshal(one, M(message)); err != nil {
			return nil, err
		}
		messages = append(messages, message)
	}
	return messages, nil
}
