package stack

import (
	"slices"
	"strings"

	"weir.dev/kit/certs"
)

// Names of the components.
const (
	Envoy        = "envoy"
	ControlPlane = "controlplaned"
	ExtAuthz     = "extauthzd"
	RateLimit    = "ratelimitd"
	User         = "userd"
	Data         = "datad"
)

// component is what is fixed about one of Weir's own daemons.
type component struct {
	name string
	// identity is its SPIFFE path and certificate folder.
	identity string
	// peers may call it.
	peers                 []string
	startStage, stopStage int
	// secrets are the environment variables that only some components may see.
	secrets []string
}

// Identities of components that are not daemons of ours.
const (
	identityIngress = "ingress"
	identityCLI     = "cli"
)

// Stages: the control plane feeds the others, and Envoy needs them all. Stopping
// goes the other way round, along a request's path.
const (
	stageFirst = iota
	stageMiddle
	stageLast
	stageEnd
)

func daemons() []component {
	return []component{
		{name: ControlPlane, identity: "controlplane", peers: []string{identityIngress, "extauthz", "ratelimit", identityCLI}, startStage: stageFirst, stopStage: stageEnd},
		{name: ExtAuthz, identity: "extauthz", peers: []string{identityIngress}, startStage: stageMiddle, stopStage: stageLast, secrets: []string{envRedis}},
		{name: RateLimit, identity: "ratelimit", peers: []string{identityIngress}, startStage: stageMiddle, stopStage: stageLast, secrets: []string{envRedis}},
		{name: User, identity: "user", peers: []string{identityIngress}, startStage: stageMiddle, stopStage: stageMiddle, secrets: []string{envPostgres}},
		{name: Data, identity: "data", peers: []string{identityIngress}, startStage: stageMiddle, stopStage: stageMiddle, secrets: []string{envPostgres}},
	}
}

// Names lists all components as they are shown.
func Names() []string {
	names := []string{Envoy}
	for _, d := range daemons() {
		names = append(names, d.name)
	}
	return names
}

// Identities lists what has a certificate of its own.
func Identities() []string {
	names := []string{identityIngress, identityCLI}
	for _, d := range daemons() {
		names = append(names, d.identity)
	}
	return names
}

// uses lists what needs a port.
func uses() []string {
	all := []string{Envoy + useAdmin}
	for _, d := range daemons() {
		all = append(all, d.name+useGRPC, d.name+useAdmin)
	}
	return append(all, ControlPlane+useREST)
}

func peerIDs(identities []string) []string {
	ids := make([]string, 0, len(identities))
	for _, identity := range identities {
		ids = append(ids, certs.PeerID(identity))
	}
	return ids
}

// Environment variables that hold secrets.
const (
	envRedis    = "WEIR_REDIS_URL"
	envPostgres = "WEIR_POSTGRES_URL"
)

// envFor is the environment for a component: the user's, less the secrets that
// it has no use for.
func envFor(env, allowed []string) []string {
	kept := make([]string, 0, len(env))
	for _, entry := range env {
		key, _, _ := strings.Cut(entry, "=")
		if (key == envRedis || key == envPostgres) && !slices.Contains(allowed, key) {
			continue
		}
		kept = append(kept, entry)
	}
	return kept
}
