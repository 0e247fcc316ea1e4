package httpsig

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"weir.dev/extauthz"
)

// message is a request as a signature sees it.
type message struct {
	request                         *extauthz.Request
	method, scheme, authority, path string
	// query is with its question mark, and empty when there is none.
	query string
}

// newMessage reads a request as the client sent it. scheme is the one that
// clients use, authority one of those that they may have sent.
func newMessage(request *extauthz.Request, scheme, authority string) *message {
	method, target := request.Sent()
	m := &message{request: request, method: method, scheme: scheme, authority: strings.ToLower(authority), path: target}
	if at := strings.IndexByte(target, '?'); at >= 0 {
		m.path, m.query = target[:at], target[at:]
	}
	port := ":443"
	if scheme == "http" {
		port = ":80"
	}
	m.authority = strings.TrimSuffix(m.authority, port)
	if m.path == "" {
		m.path = "/"
	}
	return m
}

// signatureBase is what a signature is over (RFC 9421 section 2.5).
func (m *message) signatureBase(input *member) (string, error) {
	var b strings.Builder
	seen := map[string]bool{}
	for i := range input.items {
		component := &input.items[i]
		var id strings.Builder
		writeItem(&id, component)
		if seen[id.String()] {
			return "", fmt.Errorf("the signature covers %s twice", id.String())
		}
		seen[id.String()] = true
		value, err := m.component(component)
		if err != nil {
			return "", fmt.Errorf("component %.200s: %w", id.String(), err)
		}
		b.WriteString(id.String())
		b.WriteString(": ")
		b.WriteString(value)
		b.WriteByte('\n')
	}
	b.WriteString(`"@signature-params": `)
	writeList(&b, input)
	return b.String(), nil
}

// component is the value of one (RFC 9421 sections 2.1 and 2.2). Parameters that
// change how a header is read are not supported, but for the one that names a
// query parameter.
func (m *message) component(component *item) (string, error) {
	name, ok := component.value.(string)
	if !ok || name == "" {
		return "", errors.New("it is not a text")
	}
	if name == "@query-param" {
		return m.queryParameter(component.parameters)
	}
	if len(component.parameters) > 0 {
		return "", errors.New("its parameters are not supported")
	}
	switch name {
	case "@method":
		return m.method, nil
	case "@target-uri":
		return m.scheme + "://" + m.authority + m.path + m.query, nil
	case "@authority":
		return m.authority, nil
	case "@scheme":
		return m.scheme, nil
	case "@path":
		return m.path, nil
	case "@query":
		if m.query == "" {
			return "?", nil
		}
		return m.query, nil
	}
	if name[0] == '@' {
		return "", errors.New("it is not supported")
	}
	return m.header(name)
}

// header joins the values of a header (RFC 9421 section 2.1). A value that holds
// a line break could forge another component.
func (m *message) header(name string) (string, error) {
	if name != strings.ToLower(name) {
		return "", errors.New("it is not in lower case")
	}
	if name == headerSignature || name == headerSignatureInput {
		return "", errors.New("it cannot be covered")
	}
	var values []string
	for i := range m.request.Headers {
		if m.request.Headers[i].Name != name {
			continue
		}
		value := strings.Trim(m.request.Headers[i].Value, " \t")
		if strings.ContainsAny(value, "\r\n\x00") {
			return "", errors.New("its value holds a line break")
		}
		values = append(values, value)
	}
	if values == nil {
		return "", errors.New("the request has no such header")
	}
	return strings.Join(values, ", "), nil
}

// queryParameter is the value of one parameter of the query (RFC 9421 section
// 2.2.8). One that is there twice must not be covered.
func (m *message) queryParameter(parameters []parameter) (string, error) {
	if len(parameters) != 1 || parameters[0].name != "name" {
		return "", errors.New("it needs the parameter name and takes no other")
	}
	wanted, ok := parameters[0].value.(string)
	if !ok {
		return "", errors.New("its name is not a text")
	}
	wanted, err := url.QueryUnescape(wanted)
	if err != nil {
		return "", errors.New("its name is not encoded as in a query")
	}
	found, value := 0, ""
	for pair := range strings.SplitSeq(strings.TrimPrefix(m.query, "?"), "&") {
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, err1 := url.QueryUnescape(rawName)
		text, err2 := url.QueryUnescape(rawValue)
		if err1 != nil || err2 != nil {
			return "", errors.New("the query has an escape that is cut off")
		}
		if name == wanted && pair != "" {
			found, value = found+1, text
		}
	}
	if found != 1 {
		return "", fmt.Errorf("the query has it %d times", found)
	}
	// Percent-encoded as the query percent-encode set asks, spaces included.
	return strings.ReplaceAll(url.QueryEscape(value), "+", "%20"), nil
}
