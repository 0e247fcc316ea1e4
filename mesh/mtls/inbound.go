package mtls

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// blackhole is the port of Istio's inbound listener itself, which nobody is served on.
const blackhole = 15006

// Inbound is how a sidecar takes connections, as its proxy has it.
type Inbound struct {
	// Ports are the modes of ports; 0 is that of all others.
	Ports map[uint32]Mode
	// Rejected is why the proxy refused its latest configuration; "" is that it did not.
	Rejected string
	// logs are the names of the access logs of each way for plaintext, and at last of
	// the way of connections that no other takes.
	logs []string
}

type chain struct {
	Name  string `json:"name"`
	Match struct {
		Port uint32 `json:"destination_port"`
	} `json:"filter_chain_match"`
	Socket *struct {
		Config struct {
			Required bool `json:"require_client_certificate"`
		} `json:"typed_config"`
	} `json:"transport_socket"`
	Filters []struct {
		Config struct {
			Logs []struct {
				Name string `json:"name"`
			} `json:"access_log"`
		} `json:"typed_config"`
	} `json:"filters"`
}

func (c *chain) mutual() bool { return c.Socket != nil && c.Socket.Config.Required }

// logsOf are the names of the chain's access logs, as one text.
func (c *chain) logsOf() string {
	var names []string
	for _, filter := range c.Filters {
		for _, one := range filter.Config.Logs {
			names = append(names, one.Name)
		}
	}
	return strings.Join(names, " ")
}

type inboundListener struct {
	Name      string `json:"name"`
	Direction string `json:"traffic_direction"`
	Address   struct {
		Socket struct {
			Port uint32 `json:"port_value"`
		} `json:"socket_address"`
	} `json:"address"`
	Chains  []chain `json:"filter_chains"`
	Default *chain  `json:"default_filter_chain"`
}

// ReadInbound reads what /config_dump?resource=dynamic_listeners of a proxy answers.
// A proxy without inbound listeners is an error: nothing is known of it.
func ReadInbound(dump []byte) (Inbound, error) {
	var answer struct {
		Configs []struct {
			Active *struct {
				Listener inboundListener `json:"listener"`
			} `json:"active_state"`
			Error *struct {
				Details string `json:"details"`
			} `json:"error_state"`
		} `json:"configs"`
	}
	if err := json.Unmarshal(dump, &answer); err != nil {
		return Inbound{}, fmt.Errorf("the proxy's listeners: %w", err)
	}
	read := Inbound{Ports: map[uint32]Mode{}}
	some := false
	for i := range answer.Configs {
		config := &answer.Configs[i]
		if config.Error != nil {
			read.Rejected = config.Error.Details
		}
		if config.Active == nil || config.Active.Listener.Direction != "INBOUND" {
			continue
		}
		some = true
		read.add(&config.Active.Listener)
	}
	if !some {
		return Inbound{}, fmt.Errorf("the proxy has no inbound listener: it is not configured yet, or is no sidecar")
	}
	return read, nil
}

// add reads one listener; what is not of the virtual one is about its own port.
func (in *Inbound) add(listener *inboundListener) {
	plain, mutual := map[uint32]bool{}, map[uint32]bool{}
	for i := range listener.Chains {
		one := &listener.Chains[i]
		port := one.Match.Port
		if port == blackhole {
			continue
		}
		if port == 0 && listener.Address.Socket.Port != blackhole {
			port = listener.Address.Socket.Port
		}
		if one.mutual() {
			mutual[port] = true
			continue
		}
		plain[port] = true
		in.logs = append(in.logs, one.logsOf())
	}
	for port := range mutual {
		in.Ports[port] = Strict
	}
	for port := range plain {
		in.Ports[port] = Disable
		if mutual[port] {
			in.Ports[port] = Permissive
		}
	}
	if listener.Default == nil {
		in.logs = append(in.logs, "")
	} else {
		in.logs = append(in.logs, listener.Default.logsOf())
	}
}

// Observed reports whether every connection in plaintext, and every one that is
// refused, is logged by the access log of a name.
func (in *Inbound) Observed(log string) bool {
	return !slices.ContainsFunc(in.logs, func(names string) bool { return !slices.Contains(strings.Fields(names), log) })
}

// Differs says where the proxy is not in the modes of a setting yet; "" when it is.
func (in *Inbound) Differs(want Setting) string {
	for _, port := range slices.Sorted(maps.Keys(in.Ports)) {
		if has := in.Ports[port]; has != want.At(port) {
			where := "other ports"
			if port != 0 {
				where = fmt.Sprintf("port %d", port)
			}
			return fmt.Sprintf("%s of it: %s, want %s", where, has, want.At(port))
		}
	}
	return ""
}
