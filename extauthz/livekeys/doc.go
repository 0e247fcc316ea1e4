// Package livekeys keeps the API keys that the user service issues: it watches
// the service's feed, has every key at hand for extauthz, and keeps them in a
// file, so that neither an outage of the service nor a restart of either side
// changes what is accepted. A revocation is in the file before it counts.
//
// How long keys are gone by without hearing of the service is bounded
// (Options.MaxAge); after that they are refused. It decides nothing about
// requests and knows nothing of Envoy.
package livekeys
