package erxds

import (
	"errors"
	"fmt"

	rlsconfv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"weir.dev/ratelimit/erconfig"
)

// MaxResources bounds the resources of one answer.
const MaxResources = 10_000

type (
	document struct {
		Domain      string       `yaml:"domain,omitempty"`
		Descriptors []descriptor `yaml:"descriptors,omitempty"`
	}
	descriptor struct {
		Key            string         `yaml:"key,omitempty"`
		Value          string         `yaml:"value,omitempty"`
		RateLimit      *limit         `yaml:"rate_limit,omitempty"`
		ShadowMode     bool           `yaml:"shadow_mode,omitempty"`
		QuotaMode      bool           `yaml:"quota_mode,omitempty"`
		DetailedMetric bool           `yaml:"detailed_metric,omitempty"`
		Metadata       map[string]any `yaml:"metadata,omitempty"`
		Descriptors    []descriptor   `yaml:"descriptors,omitempty"`
	}
	limit struct {
		Unit            string              `yaml:"unit,omitempty"`
		RequestsPerUnit uint32              `yaml:"requests_per_unit"`
		Unlimited       bool                `yaml:"unlimited,omitempty"`
		Name            string              `yaml:"name,omitempty"`
		Replaces        []map[string]string `yaml:"replaces,omitempty"`
	}
)

// Files makes of resources what the configuration's files would be; each has the
// name of its resource. The error names every resource that cannot be read.
func Files(resources []*anypb.Any) ([]erconfig.File, error) {
	if len(resources) > MaxResources {
		return nil, fmt.Errorf("%d resources are more than %d", len(resources), MaxResources)
	}
	files := make([]erconfig.File, 0, len(resources))
	var errs []error
	for i, resource := range resources {
		file, err := fileOf(resource)
		if err != nil {
			errs = append(errs, fmt.Errorf("resource %d: %w", i, err))
			continue
		}
		files = append(files, file)
	}
	return files, errors.Join(errs...)
}

func fileOf(resource *anypb.Any) (erconfig.File, error) {
	message := &rlsconfv3.RateLimitConfig{}
	if err := resource.UnmarshalTo(message); err != nil {
		return erconfig.File{}, fmt.Errorf("is no RateLimitConfig: %w", err)
	}
	descriptors, err := descriptorsOf(message.GetDescriptors(), 1)
	if err != nil {
		return erconfig.File{}, fmt.Errorf("%q: %w", message.GetName(), err)
	}
	content, err := yaml.Marshal(document{Domain: message.GetDomain(), Descriptors: descriptors})
	if err != nil {
		return erconfig.File{}, fmt.Errorf("%q: %w", message.GetName(), err)
	}
	return erconfig.File{Name: message.GetName(), Content: content}, nil
}

func descriptorsOf(messages []*rlsconfv3.RateLimitDescriptor, depth int) ([]descriptor, error) {
	if depth > erconfig.MaxDepth+1 {
		return nil, fmt.Errorf("nests deeper than %d levels", erconfig.MaxDepth)
	}
	made := make([]descriptor, 0, len(messages))
	for _, message := range messages {
		inner, err := descriptorsOf(message.GetDescriptors(), depth+1)
		if err != nil {
			return nil, err
		}
		one := descriptor{
			Key: message.GetKey(), Value: message.GetValue(), ShadowMode: message.GetShadowMode(), QuotaMode: message.GetQuotaMode(),
			DetailedMetric: message.GetDetailedMetric(), RateLimit: limitOf(message.GetRateLimit()), Descriptors: inner,
		}
		if message.GetMetadata() != nil {
			one.Metadata = message.GetMetadata().AsMap()
		}
		made = append(made, one)
	}
	return made, nil
}

func limitOf(message *rlsconfv3.RateLimitPolicy) *limit {
	if message == nil {
		return nil
	}
	made := &limit{RequestsPerUnit: message.GetRequestsPerUnit(), Unlimited: message.GetUnlimited(), Name: message.GetName()}
	if message.GetUnit() != rlsconfv3.RateLimitUnit_UNKNOWN {
		made.Unit = message.GetUnit().String()
	}
	for _, replaced := range message.GetReplaces() {
		made.Replaces = append(made.Replaces, map[string]string{"name": replaced.GetName()})
	}
	return made
}
