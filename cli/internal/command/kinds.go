package command

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"weir.dev/policy"
)

// kindNames are the names that a user may give a kind, in lower case, as
// kubectl takes them: the kind, its plural and its short name.
type kindNames map[string]string

func newKindNames() (kindNames, error) {
	parser, err := policy.NewParser()
	if err != nil {
		return nil, err
	}
	names := kindNames{}
	for _, known := range parser.Kinds() {
		kind := strings.ToLower(known.Kind)
		names[kind], names[pluralKind(kind)] = kind, kind
	}
	for short, kind := range map[string]string{
		"gw": "gateway", "lset": "listenerset", "gc": "gatewayclass", "refgrant": "referencegrant", "btlspolicy": "backendtlspolicy",
		"cm": "configmap", "svc": "service",
		"wauth": "authpolicy", "wbe": "backend", "wcon": "consumer", "wedge": "edgepolicy", "wext": "extensionpolicy",
		"whdr": "headerpolicy", "wrate": "ratelimitpolicy", "wtls": "tlspolicy", "wtp": "trafficpolicy",
	} {
		if _, known := names[kind]; known {
			names[short] = kind
		}
	}
	return names, nil
}

func pluralKind(kind string) string {
	switch {
	case strings.HasSuffix(kind, "cy"):
		return strings.TrimSuffix(kind, "y") + "ies"
	case strings.HasSuffix(kind, "s"):
		return kind + "es"
	}
	return kind + "s"
}

// find returns the kind that a user means, in lower case.
func (k kindNames) find(given string) (string, error) {
	if kind, known := k[strings.ToLower(given)]; known {
		return kind, nil
	}
	if kind, _, one := strings.Cut(given, "/"); one && k[strings.ToLower(kind)] != "" {
		return "", usageError{fmt.Errorf("%q is one object: see it with `weir describe %s`, or all with `weir get %s`", given, given, kind)}
	}
	kinds := slices.Compact(slices.Sorted(maps.Values(k)))
	return "", usageError{fmt.Errorf("%q is no kind of object; there are %s", given, strings.Join(kinds, ", "))}
}

// kindNamed is find with a fresh set of names.
func kindNamed(given string) (string, error) {
	names, err := newKindNames()
	if err != nil {
		return "", err
	}
	return names.find(given)
}
