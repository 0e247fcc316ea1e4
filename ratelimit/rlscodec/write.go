package rlscodec

import (
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/durationpb"
)

// simple says whether an answer has no fields but those that are written here, all
// text in it is UTF-8, and no part is missing. Answers are this server's own, so
// they have no fields that are unknown.
func simple(response *rlsv3.RateLimitResponse) bool {
	if response == nil || response.RequestHeadersToAdd != nil || response.RawBody != nil || response.DynamicMetadata != nil || response.Quota != nil {
		return false
	}
	for _, status := range response.Statuses {
		if status == nil || status.Quota != nil {
			return false
		}
		if limit := status.CurrentLimit; limit != nil && (limit.UnitMultiplier != nil || !utf8.ValidString(limit.Name)) {
			return false
		}
	}
	for _, header := range response.ResponseHeadersToAdd {
		if header == nil || header.RawValue != nil || !utf8.ValidString(header.Key) || !utf8.ValidString(header.Value) {
			return false
		}
	}
	return true
}

func sizeOf(response *rlsv3.RateLimitResponse) (size int) {
	size = numberSize(uint64(response.OverallCode)) //nolint:gosec // as Protocol Buffers does
	for _, status := range response.Statuses {
		size += messageSize(statusSize(status))
	}
	for _, header := range response.ResponseHeadersToAdd {
		size += messageSize(headerSize(header))
	}
	return size
}

// All fields have numbers below 16, and so tags of one byte.

func messageSize(size int) int { return 1 + protowire.SizeBytes(size) }

func numberSize(value uint64) int {
	if value == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(value)
}

func textSize(text string) int {
	if text == "" {
		return 0
	}
	return 1 + protowire.SizeBytes(len(text))
}

func statusSize(status *rlsv3.RateLimitResponse_DescriptorStatus) int {
	size := numberSize(uint64(status.Code)) + numberSize(uint64(status.LimitRemaining)) //nolint:gosec // as Protocol Buffers does
	if status.CurrentLimit != nil {
		size += messageSize(limitSize(status.CurrentLimit))
	}
	if status.DurationUntilReset != nil {
		size += messageSize(durationSize(status.DurationUntilReset))
	}
	return size
}

func limitSize(limit *rlsv3.RateLimitResponse_RateLimit) int {
	return numberSize(uint64(limit.RequestsPerUnit)) + numberSize(uint64(limit.Unit)) + textSize(limit.Name) //nolint:gosec // as Protocol Buffers does
}

func durationSize(duration *durationpb.Duration) int {
	return numberSize(uint64(duration.Seconds)) + numberSize(uint64(duration.Nanos)) //nolint:gosec // as Protocol Buffers does
}

func headerSize(header *corev3.HeaderValue) int { return textSize(header.Key) + textSize(header.Value) }

func appendNumber(buffer []byte, field protowire.Number, value uint64) []byte {
	if value == 0 {
		return buffer
	}
	return protowire.AppendVarint(append(buffer, byte(field<<3)), value)
}

func appendText(buffer []byte, field protowire.Number, text string) []byte {
	if text == "" {
		return buffer
	}
	return protowire.AppendString(append(buffer, byte(field<<3|2)), text)
}

func appendLength(buffer []byte, field protowire.Number, size int) []byte {
	return protowire.AppendVarint(append(buffer, byte(field<<3|2)), uint64(size)) //nolint:gosec // not negative
}

func appendResponse(buffer []byte, response *rlsv3.RateLimitResponse) []byte {
	buffer = appendNumber(buffer, 1, uint64(response.OverallCode)) //nolint:gosec // as Protocol Buffers does
	for _, status := range response.Statuses {
		buffer = appendStatus(appendLength(buffer, 2, statusSize(status)), status)
	}
	for _, header := range response.ResponseHeadersToAdd {
		buffer = appendLength(buffer, 3, headerSize(header))
		buffer = appendText(appendText(buffer, 1, header.Key), 2, header.Value)
	}
	return buffer
}

func appendStatus(buffer []byte, status *rlsv3.RateLimitResponse_DescriptorStatus) []byte {
	buffer = appendNumber(buffer, 1, uint64(status.Code)) //nolint:gosec // as Protocol Buffers does
	if limit := status.CurrentLimit; limit != nil {
		buffer = appendLength(buffer, 2, limitSize(limit))
		buffer = appendNumber(buffer, 1, uint64(limit.RequestsPerUnit))
		buffer = appendNumber(buffer, 2, uint64(limit.Unit)) //nolint:gosec // as Protocol Buffers does
		buffer = appendText(buffer, 3, limit.Name)
	}
	buffer = appendNumber(buffer, 3, uint64(status.LimitRemaining))
	if duration := status.DurationUntilReset; duration != nil {
		buffer = appendLength(buffer, 4, durationSize(duration))
		buffer = appendNumber(buffer, 1, uint64(duration.Seconds)) //nolint:gosec // as Protocol Buffers does
		buffer = appendNumber(buffer, 2, uint64(duration.Nanos))   //nolint:gosec // as Protocol Buffers does
	}
	return buffer
}
