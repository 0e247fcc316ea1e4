package rlscodec

import (
	"unicode/utf8"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Tags: the number of a field, and how it is written (varint 0, bytes 2).
const (
	domainTag      = 1<<3 | 2 // RateLimitRequest
	descriptorsTag = 2<<3 | 2
	requestHitsTag = 3 << 3
	entriesTag     = 1<<3 | 2 // RateLimitDescriptor
	hitsTag        = 3<<3 | 2
	keyTag         = 1<<3 | 2 // RateLimitDescriptor.Entry
	valueTag       = 2<<3 | 2
	wrappedTag     = 1 << 3 // google.protobuf.UInt64Value
)

// wire is what is left of a message.
type wire string

func (w *wire) varint() (value uint64, ok bool) {
	for i := 0; i < len(*w) && i < 10; i++ {
		b := (*w)[i]
		if i == 9 && b > 1 {
			return 0, false
		}
		value |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			*w = (*w)[i+1:]
			return value, true
		}
	}
	return 0, false
}

func (w *wire) bytes() (value wire, ok bool) {
	length, ok := w.varint()
	if !ok || length > uint64(len(*w)) {
		return "", false
	}
	value, *w = (*w)[:length], (*w)[length:]
	return value, true
}

func (w *wire) text() (value string, ok bool) {
	found, ok := w.bytes()
	return string(found), ok && utf8.ValidString(string(found))
}

// read reads a request into one that is empty. False says that it doesn't know how,
// and that nothing was read.
func read(text string, request *rlsv3.RateLimitRequest) bool {
	if request.Domain != "" || request.Descriptors != nil || request.HitsAddend != 0 {
		return false
	}
	descriptors, entries, ok := count(wire(text))
	if !ok {
		return false
	}
	into := room{}
	switch {
	case descriptors == 0:
	case descriptors <= fewDescriptors && entries <= fewEntries:
		small := &smallRoom{}
		into = room{descriptors: small.descriptors[:], entries: small.entries[:], places: small.places[:0]}
		request.Descriptors = small.list[:0]
	default:
		into = room{
			descriptors: make([]ratelimitv3.RateLimitDescriptor, descriptors), entries: make([]ratelimitv3.RateLimitDescriptor_Entry, entries),
			places: make([]*ratelimitv3.RateLimitDescriptor_Entry, 0, entries),
		}
		request.Descriptors = make([]*ratelimitv3.RateLimitDescriptor, 0, descriptors)
	}
	if into.request(wire(text), request) {
		return true
	}
	request.Domain, request.Descriptors, request.HitsAddend = "", nil, 0
	return false
}

// count says how many descriptors and entries there are.
func count(message wire) (descriptors, entries int, ok bool) {
	for message != "" {
		tag, _ := message.varint()
		switch tag {
		case requestHitsTag:
			_, ok = message.varint()
		case domainTag:
			_, ok = message.bytes()
		case descriptorsTag:
			var descriptor wire
			descriptor, ok = message.bytes()
			descriptors++
			for ok && descriptor != "" {
				tag, _ := descriptor.varint()
				if tag == entriesTag {
					entries++
				}
				_, ok = descriptor.bytes()
				ok = ok && (tag == entriesTag || tag == hitsTag)
			}
		default:
			ok = false
		}
		if !ok {
			return 0, 0, false
		}
	}
	return descriptors, entries, true
}

// room is what the parts of a request are made of, counted beforehand.
type room struct {
	descriptors []ratelimitv3.RateLimitDescriptor
	entries     []ratelimitv3.RateLimitDescriptor_Entry
	places      []*ratelimitv3.RateLimitDescriptor_Entry
}

// fewEntries is how many entries most requests have at most, all their descriptors
// together.
const fewEntries = 4

// smallRoom is that of a request of few parts, in one allocation.
type smallRoom struct {
	descriptors [fewDescriptors]ratelimitv3.RateLimitDescriptor
	entries     [fewEntries]ratelimitv3.RateLimitDescriptor_Entry
	places      [fewEntries]*ratelimitv3.RateLimitDescriptor_Entry
	list        [fewDescriptors]*ratelimitv3.RateLimitDescriptor
}

func (r *room) request(message wire, into *rlsv3.RateLimitRequest) bool {
	for message != "" {
		tag, _ := message.varint()
		ok := false
		switch tag {
		case domainTag:
			into.Domain, ok = message.text()
		case requestHitsTag:
			var hits uint64
			hits, ok = message.varint()
			into.HitsAddend = uint32(hits) //nolint:gosec // as Protocol Buffers does
		case descriptorsTag:
			var descriptor wire
			if descriptor, ok = message.bytes(); ok {
				made := &r.descriptors[0]
				r.descriptors = r.descriptors[1:]
				into.Descriptors = append(into.Descriptors, made)
				ok = r.descriptor(descriptor, made)
			}
		}
		if !ok {
			return false
		}
	}
	return true
}

func (r *room) descriptor(message wire, into *ratelimitv3.RateLimitDescriptor) bool {
	first := len(r.places)
	for message != "" {
		tag, _ := message.varint()
		part, ok := message.bytes()
		if !ok {
			return false
		}
		switch tag {
		case entriesTag:
			made := &r.entries[0]
			r.entries = r.entries[1:]
			r.places = append(r.places, made)
			ok = entry(part, made)
		case hitsTag:
			if into.HitsAddend == nil {
				into.HitsAddend = &wrapperspb.UInt64Value{}
			}
			ok = wrapped(part, into.HitsAddend)
		}
		if !ok {
			return false
		}
	}
	if len(r.places) > first {
		into.Entries = r.places[first:len(r.places):len(r.places)]
	}
	return true
}

func entry(message wire, into *ratelimitv3.RateLimitDescriptor_Entry) bool {
	for message != "" {
		tag, _ := message.varint()
		ok := false
		switch tag {
		case keyTag:
			into.Key, ok = message.text()
		case valueTag:
			into.Value, ok = message.text()
		}
		if !ok {
			return false
		}
	}
	return true
}

func wrapped(message wire, into *wrapperspb.UInt64Value) bool {
	for message != "" {
		tag, _ := message.varint()
		if tag != wrappedTag {
			return false
		}
		var ok bool
		if into.Value, ok = message.varint(); !ok {
			return false
		}
	}
	return true
}
