package standalone

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

// MaxFileBytes bounds a file of rules.
const MaxFileBytes = 16 << 20

// Parse reads a file: YAML, or JSON, of a weir.rules.v1.StandaloneRules with the
// names of its fields in lowerCamelCase or as they are in the proto. Digests are
// hex or base64. Unknown fields are mistakes.
func Parse(content []byte) (*rulesv1.StandaloneRules, error) {
	if len(content) > MaxFileBytes {
		return nil, fmt.Errorf("the file is %d bytes long; the most is %d", len(content), MaxFileBytes)
	}
	var document any
	decoder := yaml.NewDecoder(strings.NewReader(string(content)))
	if err := decoder.Decode(&document); err != nil {
		return nil, fmt.Errorf("the file is not YAML: %w", err)
	}
	if err := decoder.Decode(new(any)); err == nil {
		return nil, errors.New("the file has more than one document")
	}
	hexDigests(document)
	raw, err := json.Marshal(document)
	if err != nil {
		return nil, fmt.Errorf("the file has a key that is not a text: %w", err)
	}
	parsed := &rulesv1.StandaloneRules{}
	if err := protojson.Unmarshal(raw, parsed); err != nil {
		// protobuf puts spaces of two kinds into its errors, at random.
		return nil, errors.New(strings.ReplaceAll(err.Error(), "\u00a0", " "))
	}
	return parsed, nil
}

// hexDigests turns the digests that people write into those of JSON.
func hexDigests(node any) {
	switch value := node.(type) {
	case map[string]any:
		for key, inner := range value {
			text, isText := inner.(string)
			if raw, err := hex.DecodeString(text); isText && key == "sha256" && err == nil && len(raw) == sha256.Size {
				value[key] = base64.StdEncoding.EncodeToString(raw)
				continue
			}
			hexDigests(inner)
		}
	case []any:
		for _, inner := range value {
			hexDigests(inner)
		}
	}
}

// compiled is a file taken apart.
type compiled struct {
	table     *Table
	routes    map[string]*rulesv1.AuthRoute
	consumers map[string]*rulesv1.Consumer
}

// compile gives each route an id that changes with what it says, as the control
// plane does: a request that was given the old one finds the old rules.
func compile(source *rulesv1.StandaloneRules) (*compiled, error) {
	c := &compiled{routes: map[string]*rulesv1.AuthRoute{}, consumers: map[string]*rulesv1.Consumer{}}
	var errs []error
	ids := map[string]string{}
	for i, virtual := range source.GetVirtualHosts() {
		for j, listed := range virtual.GetRoutes() {
			field := fmt.Sprintf("virtual_hosts[%d].routes[%d].auth", i, j)
			if listed.GetAuth() == nil {
				errs = append(errs, fmt.Errorf("%s: is required", field))
				continue
			}
			if listed.GetAuth().GetRouteId() != "" || listed.GetAuth().GetDigest() != "" {
				errs = append(errs, fmt.Errorf("%s: route_id and digest are filled in; leave them out", field))
				continue
			}
			raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(listed.GetAuth())
			errs = append(errs, err)
			digest := sha256.Sum256(raw)
			name := virtual.GetName() + "/" + listed.GetName()
			auth := proto.CloneOf(listed.GetAuth())
			auth.RouteId, auth.Digest = name+"~"+hex.EncodeToString(digest[:4]), hex.EncodeToString(digest[:])
			if auth.Policy == "" {
				auth.Policy = name
			}
			ids[name], c.routes[auth.RouteId] = auth.RouteId, auth
		}
	}
	table, err := NewTable(source, func(host, route string) string { return ids[host+"/"+route] })
	errs = append(errs, err)
	for i, consumer := range source.GetConsumers() {
		if c.consumers[consumer.GetName()] != nil {
			errs = append(errs, fmt.Errorf("consumers[%d].name: %q is used twice", i, consumer.GetName()))
		}
		c.consumers[consumer.GetName()] = consumer
	}
	c.table = table
	return c, errors.Join(errs...)
}
