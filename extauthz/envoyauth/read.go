package envoyauth

import (
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"weir.dev/extauthz"
)

// readCheck reads a CheckRequest off the wire (protobuf.dev/programming-guides/encoding)
// as toRequest would its message. Strings of the request are parts of raw. What a
// request has no use for is passed over. Numbers of fields are those of
// envoy/service/auth/v3/attribute_context.proto and envoy/config/core/v3.
func readCheck(raw string) (*extauthz.Request, error) {
	r := reader{request: &extauthz.Request{Size: -1}}
	err := fields(raw, func(number protowire.Number, value wire) error {
		if number != 1 { // attributes
			return nil
		}
		return value.message(r.attributes)
	})
	if err != nil {
		return nil, err
	}
	r.request.Headers = r.headers
	if len(r.headers) == 0 {
		r.request.Headers = r.joined
	}
	for i := range r.request.Headers {
		r.request.Headers[i].Name = strings.ToLower(r.request.Headers[i].Name)
	}
	r.request.Body = r.rawBody
	if len(r.rawBody) == 0 && r.body != "" {
		r.request.Body = []byte(r.body)
	}
	complete(r.request)
	return r.request, nil
}

type reader struct {
	request *extauthz.Request
	// headers are the raw list, joined those of the map.
	headers, joined []extauthz.Header
	body            string
	rawBody         []byte
}

func (r *reader) attributes(number protowire.Number, value wire) error {
	switch number {
	case 1: // source
		return value.message(r.source)
	case 2: // destination
		return value.message(r.destination)
	case 4: // request
		return value.message(func(number protowire.Number, value wire) error {
			if number != 2 { // http
				return nil
			}
			return value.message(r.http)
		})
	case 10: // context_extensions
		name, text, err := value.entry()
		switch {
		case err != nil:
		case name == RouteExtension:
			r.request.Route = text
		case name == BodyExtension:
			r.request.SendsBody = text != ""
		}
		return err
	}
	return nil
}

func (r *reader) source(number protowire.Number, value wire) error {
	switch number {
	case 1:
		return address(value, &r.request.Source, &r.request.SourcePort)
	case 4:
		return value.text(&r.request.SourcePrincipal)
	case 5:
		return value.text(&r.request.Certificate)
	}
	return nil
}

func (r *reader) destination(number protowire.Number, value wire) error {
	if number != 1 {
		return nil
	}
	var ignored string
	return address(value, &ignored, &r.request.Port)
}

// address reads an Address: of what it may be, the last one counts.
func address(value wire, ip *string, port *uint32) error {
	return value.message(func(number protowire.Number, value wire) error {
		switch number {
		case 1: // socket_address
			return value.message(func(number protowire.Number, value wire) error {
				switch number {
				case 2:
					return value.text(ip)
				case 3:
					value.uint32(port)
				case 4: // named_port
					*port = 0
				}
				return nil
			})
		case 2, 3: // pipe, envoy_internal_address
			*ip, *port = "", 0
		}
		return nil
	})
}

func (r *reader) http(number protowire.Number, value wire) error {
	switch number {
	case 2:
		return value.text(&r.request.Method)
	case 3: // headers
		name, text, err := value.entry()
		if err == nil {
			r.join(name, text)
		}
		return err
	case 4:
		return value.text(&r.request.Target)
	case 5:
		return value.text(&r.request.Authority)
	case 6:
		return value.text(&r.request.Scheme)
	case 9:
		value.int64(&r.request.Received)
	case 10:
		return value.text(&r.request.Protocol)
	case 11:
		return value.text(&r.body)
	case 12:
		if value.kind == protowire.BytesType {
			r.rawBody = []byte(value.data)
		}
	case 13: // header_map
		return value.message(func(number protowire.Number, value wire) error {
			if number != 1 {
				return nil
			}
			return r.header(value)
		})
	}
	return nil
}

func (r *reader) header(value wire) error {
	if r.headers == nil {
		r.headers = make([]extauthz.Header, 0, typicalHeaders)
	}
	var name, text, raw string
	err := value.message(func(number protowire.Number, value wire) error {
		switch number {
		case 1:
			return value.text(&name)
		case 2:
			return value.text(&text)
		case 3:
			value.bytes(&raw)
		}
		return nil
	})
	if raw != "" {
		text = raw
	}
	r.headers = append(r.headers, extauthz.Header{Name: name, Value: text})
	return err
}

// typicalHeaders is about how many a request has.
const typicalHeaders = 24

// join takes an entry of the map of headers: of equal names the last one counts.
func (r *reader) join(name, text string) {
	for i := range r.joined {
		if r.joined[i].Name == name {
			r.joined[i].Value = text
			return
		}
	}
	r.joined = append(r.joined, extauthz.Header{Name: name, Value: text})
}
