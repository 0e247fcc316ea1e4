// Command pilot-agent is the stock agent beside Istio's proxies, built from its
// public Go module.
package main

import (
	"os"

	mesh "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/cmd/pilot-agent/app"
	agent "istio.io/istio/pkg/istio-agent"
	"istio.io/istio/pkg/log"
	"istio.io/istio/pkg/security"
	"istio.io/istio/security/pkg/nodeagent/sds"
)

func main() {
	log.EnableKlogWithCobra()
	newSDS := func(options *security.Options, secrets security.SecretManager, keys *mesh.PrivateKeyProvider) agent.SDSService {
		return sds.NewServer(options, secrets, keys)
	}
	if err := app.NewRootCommand(newSDS).Execute(); err != nil {
		log.Error(err)
		os.Exit(1)
	}
}
