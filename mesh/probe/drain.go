package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"
)

// What Envoy counts of connections that it serves by a configuration of before
// (Envoy's listener manager, gauges).
const draining = `^listener_manager\.total_(filter_chains|listeners)_draining$`

// Draining implements apply.Mesh.
func (m *Mesh) Draining(ctx context.Context, since time.Time) ([]string, error) {
	gateways, err := m.Gateways(ctx)
	if err != nil {
		return nil, err
	}
	return eachPod(gateways, func(pod Pod) ([]string, error) {
		stats, err := m.reach.Get(ctx, pod, proxyPort, "/stats?format=json&filter="+url.QueryEscape(draining))
		if err != nil {
			return nil, err
		}
		count, err := drains(stats)
		if err != nil {
			return nil, fmt.Errorf("gateway %s: %w", pod, err)
		}
		if count == 0 {
			return nil, nil
		}
		info, err := m.reach.Get(ctx, pod, proxyPort, "/server_info")
		if err != nil {
			return nil, err
		}
		within, err := drainTime(info)
		if err != nil {
			return nil, fmt.Errorf("gateway %s: %w", pod, err)
		}
		if time.Since(since) > within {
			return nil, nil // what drains now has begun to later
		}
		return []string{fmt.Sprintf("gateway %s serves connections by what it had before, for %s at most", pod, within)}, nil
	})
}

// drains is how many listeners and filter chains drain. It is an error if the answer
// does not say.
func drains(stats []byte) (int, error) {
	var said struct {
		Stats []struct {
			Name  string `json:"name"`
			Value *int   `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(stats, &said); err != nil {
		return 0, fmt.Errorf("its statistics: %w", err)
	}
	total, seen := 0, 0
	for _, stat := range said.Stats {
		if stat.Value != nil {
			total, seen = total+*stat.Value, seen+1
		}
	}
	if seen != 2 {
		return 0, fmt.Errorf("it has %d of the 2 statistics %s", seen, draining)
	}
	return total, nil
}

// drainTime is how long a proxy serves connections by a configuration that it has no
// more (--drain-time-s).
func drainTime(info []byte) (time.Duration, error) {
	var said struct {
		Options struct {
			DrainTime string `json:"drain_time"`
		} `json:"command_line_options"`
	}
	if err := json.Unmarshal(info, &said); err != nil {
		return 0, fmt.Errorf("its /server_info: %w", err)
	}
	within, err := time.ParseDuration(said.Options.DrainTime)
	if err != nil {
		return 0, fmt.Errorf("its drain time: %w", err)
	}
	return within, nil
}
