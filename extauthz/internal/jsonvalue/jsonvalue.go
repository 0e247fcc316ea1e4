// Package jsonvalue reads JSON that others wrote into the value that expressions
// read, strictly.
package jsonvalue

import (
	"errors"

	"google.golang.org/protobuf/types/known/structpb"

	"weir.dev/extauthz/jose"
)

// Parse reads one JSON value by the rules of jose.ParseStruct. It is parsed as the
// one member of an object, which a text cannot add others to unseen. Its size is
// for the caller to bound; errors quote nothing of it.
func Parse(raw []byte) (*structpb.Value, error) {
	wrapped := make([]byte, 0, len(raw)+len(`{"value":}`))
	wrapped = append(wrapped, `{"value":`...)
	wrapped = append(wrapped, raw...)
	wrapped = append(wrapped, '}')
	object, err := jose.ParseStruct(wrapped)
	if err != nil {
		return nil, err
	}
	value := object.GetFields()["value"]
	if value == nil || len(object.GetFields()) != 1 {
		return nil, errors.New("is not JSON")
	}
	return value, nil
}
