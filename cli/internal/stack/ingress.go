package stack

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"weir.dev/cli/state"
)

// IngressURL is where the ingress listens now: the policy's ports may have been
// edited since the start. It is the record's when Envoy does not tell.
func IngressURL(ctx context.Context, record state.Record) string {
	for _, c := range record.Components {
		if c.Name != Envoy || c.Probe == "" {
			continue
		}
		addresses := listening(ctx, strings.TrimSuffix(c.Probe, "/ready"))
		if slices.Contains(addresses, HostOf(record.IngressHTTP)) {
			return record.IngressHTTP
		}
		for i, address := range slices.Backward(addresses) {
			secured := slices.Contains(record.IngressHTTPS, "https://"+address)
			if !secured {
				return "http://" + address
			}
			if i == 0 {
				return "https://" + address
			}
		}
	}
	return record.IngressHTTP
}

// listening asks Envoy's admin interface for its listeners' host:port.
func listening(ctx context.Context, admin string) []string {
	body, err := send(ctx, http.MethodGet, admin+"/listeners?format=json")
	if err != nil {
		return nil
	}
	var answer struct {
		Statuses []struct {
			Address struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if json.Unmarshal([]byte(body), &answer) != nil {
		return nil
	}
	var addresses []string
	for _, status := range answer.Statuses {
		if status.Address.Socket.Port != 0 {
			addresses = append(addresses, local(status.Address.Socket.Port))
		}
	}
	return addresses
}
