package authzexpr

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"
)

// Bounds of an input. The cost of an expression is estimated with them, so who
// makes an Input keeps to them; Check tells.
const (
	// MaxTextBytes bounds path, query and one header's value.
	MaxTextBytes = 64 << 10
	// MaxValues bounds the headers and the parameters of a query.
	MaxValues = 256
	// maxElements bounds other lists and maps, such as claims.
	maxElements = 4 << 10
)

// Input is what an expression is evaluated over. The zero value is a request of
// nobody with nothing in it. It is read only while being evaluated, but keeps
// what it has parsed: one goroutine at a time.
type Input struct {
	Request  Request
	Identity Identity
	Consumer Consumer
	Route    Route
	Source   Source
	// Time is when the request is decided.
	Time time.Time
	// Metadata is what external sources said, by name; nil when none was asked.
	Metadata *structpb.Struct

	objects [variables]object
	query   map[string][]string
	headers map[string][]string
	address netip.Addr
}

// Request is the variable "request".
type Request struct {
	// Method as sent; Path is canonical and without query; RawQuery is without
	// "?"; Host is lower-case and without port.
	Method, Path, RawQuery, Host, Protocol string
	// Size is the declared length of the body in bytes, -1 when it is not known.
	Size int64
	// Headers may be nil when none are read.
	Headers Values
	// Body is the decoded body; nil when the route does not ask for it.
	Body *structpb.Value
}

// Values are the headers of a request. Implementations leave out credentials.
type Values interface {
	// Lookup returns the first value of a lower-case name and how many there are.
	Lookup(name string) (value string, count int)
	// All lists every value by lower-case name. The caller does not change it.
	All() map[string][]string
}

// MapValues are Values of a map.
type MapValues map[string][]string

// Lookup implements Values.
func (m MapValues) Lookup(name string) (string, int) {
	values := m[name]
	if len(values) == 0 {
		return "", 0
	}
	return values[0], len(values)
}

// All implements Values.
func (m MapValues) All() map[string][]string { return m }

// Identity is the variable "identity": the verified caller.
type Identity struct {
	Consumer, Subject, Tenant, Tier string
	Authenticator, Issuer           string
	Scopes                          []string
	// Roles are as the policy reads them of the claims.
	Roles []string
	// Claims of the token; nil for other methods. Shared: never changed.
	Claims *structpb.Struct
	// Certificate describes the client certificate; nil for other methods. Shared:
	// never changed.
	Certificate *structpb.Struct
}

// Consumer is the variable "consumer"; empty when the caller is none.
type Consumer struct {
	// Name is "namespace/name".
	Name, Tenant, Tier string
}

// Route is the variable "route".
type Route struct {
	// ID is stable; Kind, Namespace and Name are those of the route's object.
	ID, Kind, Namespace, Name string
	// Hostnames are those of the route; only given when an expression reads them.
	Hostnames []string
}

// Source is the variable "source": the peer that Envoy trusts as the client.
type Source struct {
	// Address is an IP address without port, in text.
	Address string
	// Port is 0 when it is not known.
	Port int64
	// Principal is the identity of the client's certificate; empty without one.
	Principal string
}

var errBadQuery = errors.New("the query has parameters that can be read in more than one way")

var errManyParameters = errors.New("the query has too many parameters")

// parameters is the parsed query. A separator ";" and broken escapes are errors:
// servers differ in what they make of them.
func (in *Input) parameters() (map[string][]string, error) {
	if in.query != nil {
		return in.query, nil
	}
	if strings.Count(in.Request.RawQuery, "&") >= MaxValues {
		return nil, errManyParameters
	}
	parsed, err := url.ParseQuery(in.Request.RawQuery)
	if err != nil {
		return nil, errBadQuery
	}
	for name, values := range parsed {
		valid := strings.ToValidUTF8(name, "\uFFFD")
		if valid != name {
			return nil, errBadQuery
		}
		for i := range values {
			values[i] = strings.ToValidUTF8(values[i], "\uFFFD")
		}
	}
	in.query = parsed
	return parsed, nil
}

func (in *Input) allHeaders() map[string][]string {
	if in.headers == nil {
		in.headers = map[string][]string{}
		if in.Request.Headers != nil {
			in.headers = in.Request.Headers.All()
		}
	}
	return in.headers
}

var errNoAddress = errors.New("the client's address is not known")

func (in *Input) ip() (netip.Addr, error) {
	if !in.address.IsValid() {
		address, err := netip.ParseAddr(in.Source.Address)
		if err != nil {
			return netip.Addr{}, errNoAddress
		}
		in.address = address.Unmap().WithZone("")
	}
	return in.address, nil
}

var errRepeated = errors.New("the request has the value more than once")

// one is the only value of a name, empty when there is none.
func (in *Input) header(name string) (string, error) {
	if in.Request.Headers == nil {
		return "", nil
	}
	value, count := in.Request.Headers.Lookup(name)
	if count > 1 {
		return "", errRepeated
	}
	return value, nil
}

func (in *Input) parameter(name string) (string, error) {
	if in.Request.RawQuery == "" {
		return "", nil
	}
	all, err := in.parameters()
	if err != nil {
		return "", err
	}
	switch values := all[name]; len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	default:
		return "", errRepeated
	}
}

// Check reports the bound that the input is over.
func (in *Input) Check() error {
	switch {
	case len(in.Request.Path) > MaxTextBytes, len(in.Request.RawQuery) > MaxTextBytes:
		return errors.New("the request's target is too long")
	case len(in.Identity.Scopes) > maxElements || len(in.Identity.Roles) > maxElements:
		return errors.New("the caller has too many scopes or roles")
	}
	return nil
}

// SetMetadata adds what a source said; nil is null.
func (in *Input) SetMetadata(name string, value *structpb.Value) {
	if in.Metadata == nil {
		in.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{}}
	}
	if value == nil {
		value = structpb.NewNullValue()
	}
	in.Metadata.Fields[name] = value
}
